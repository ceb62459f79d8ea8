# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that differ in the order of their units, brought into one order, and the proof that nothing changed."""

from hf_cbft.alignment.alignments import Alignment
from hf_cbft.alignment.matching import align
from hf_cbft.alignment.symmetries import Family, Space

__all__ = ["Alignment", "Family", "Space", "align"]
