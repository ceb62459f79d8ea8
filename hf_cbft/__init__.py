# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Mechanistic mode connectivity for Hugging Face Transformers."""

from importlib import import_module
from typing import Any

# Where each public name lives. It is imported when it is first used, so that `import hf_cbft` loads no torch.
_MODULES = {
    "BoxCue": "data.cues",
    "CBFTConfig": "training.config",
    "CBFTTrainer": "training.trainer",
    "ConnectivityCallback": "training.callback",
    "ConnectivityEvaluator": "connectivity.evaluator",
    "ConnectivityResult": "connectivity.results",
    "DominoCue": "data.cues",
    "LinearPath": "paths.geometry",
    "PolylinePath": "paths.geometry",
    "QuadraticPath": "paths.geometry",
    "TokenCue": "data.text_cues",
    "align": "alignment.matching",
    "at_point": "paths.interpolation",
    "barrier_loss": "training.losses",
    "compute_barrier": "analysis.barriers",
    "invariance_loss": "training.losses",
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
