# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""End points of a path: where they are, what they hold, whether they fit, and how they are loaded."""

from typing import Any

__all__ = ["Compatibility", "compare"]


def __getattr__(name: str) -> Any:
    # Imported when it is first used: loading a checkpoint needs no comparison.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hf_cbft.checkpoints import compatibility

    return getattr(compatibility, name)
