# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Mechanistic mode connectivity for Hugging Face Transformers."""

from importlib import import_module
from typing import Any

# Where each public name lives. It is imported when it is first used, so that `import hf_cbft` loads no torch.
_MODULES = {
    "BoxCue": "data.cues",
    "CBFTConfig": "config",
    "CBFTTrainer": "trainer",
    "ConnectivityCallback": "callbacks",
    "ConnectivityEvaluator": "connectivity",
    "ConnectivityResult": "results",
    "DominoCue": "data.cues",
    "LinearPath": "paths",
    "PolylinePath": "paths",
    "QuadraticPath": "paths",
    "TokenCue": "data.text_cues",
    "align": "alignment.matching",
    "at_point": "interpolation",
    "barrier_loss": "losses",
    "compute_barrier": "barriers",
    "invariance_loss": "losses",
    "make_counterfactuals": "data.counterfactuals",
    "pair_clean_with_cue": "data.pairing",
}

__version__ = "0.1.0"
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
