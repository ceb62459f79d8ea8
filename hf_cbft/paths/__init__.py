# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Paths between weights, and a live model at a point of one."""

from hf_cbft.paths.geometry import LinearPath, PolylinePath, QuadraticPath, sample_alpha
from hf_cbft.paths.interpolation import at_point

__all__ = ["LinearPath", "PolylinePath", "QuadraticPath", "at_point", "sample_alpha"]
