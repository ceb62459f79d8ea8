# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's experiments as one grid of jobs, and the pages, tables and figures that are made from it."""
