# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts from measured arrays: barriers, and what each end relies on. NumPy alone."""
