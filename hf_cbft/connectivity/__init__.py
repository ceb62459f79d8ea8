# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and metrics along paths between checkpoints."""

from hf_cbft.connectivity.evaluator import ConnectivityEvaluator
from hf_cbft.connectivity.matrix import MatrixEvaluator, connectivity_matrix
from hf_cbft.connectivity.results import ConnectivityResult

__all__ = ["ConnectivityEvaluator", "ConnectivityResult", "MatrixEvaluator", "connectivity_matrix"]
