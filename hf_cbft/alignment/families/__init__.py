# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The symmetries of the architectures that are known, one file for those that are built alike."""
