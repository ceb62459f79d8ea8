# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What a model is for: its labels, its loss, its predictions, and what a mean is a mean of. One file for each task."""
