# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's experiments: a grid of jobs, which run.py starts, and findings/, which makes pages of its records."""
