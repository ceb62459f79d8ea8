# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""End points of a path: where they are, what they hold, whether they fit, and how they are loaded."""

from hf_cbft.checkpoints.compatibility import Compatibility, compare

__all__ = ["Compatibility", "compare"]
