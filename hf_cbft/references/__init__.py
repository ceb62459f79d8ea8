# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The reference theta_C, which is alpha = 0 of a training path: kept as weights or as an adapter."""
