# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that differ in the order of their units, brought into one order, and the proof that nothing changed."""

from typing import Any

_MODULES = {"Alignment": "alignments", "Family": "symmetries", "Space": "symmetries", "align": "matching"}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    # Imported when it is first used: the specifications need no search.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
