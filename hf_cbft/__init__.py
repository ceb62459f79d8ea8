# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Mechanistic mode connectivity for Hugging Face Transformers."""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any
from warnings import warn

if TYPE_CHECKING:
    from hf_cbft import baselines as baselines
    from hf_cbft.alignment.alignments import Alignment as Alignment
    from hf_cbft.alignment.matching import align as align
    from hf_cbft.alignment.symmetries import Family as Family, Space as Space
    from hf_cbft.analysis.barriers import compute_barrier as compute_barrier
    from hf_cbft.analysis.mechanisms import MechanismReport as MechanismReport, mechanisms as mechanisms
    from hf_cbft.connectivity.evaluator import ConnectivityEvaluator as ConnectivityEvaluator
    from hf_cbft.connectivity.matrix import (
        MatrixEvaluator as MatrixEvaluator,
        connectivity_matrix as connectivity_matrix,
    )
    from hf_cbft.connectivity.matrix_results import MatrixResult as MatrixResult
    from hf_cbft.connectivity.measuring import measure as measure
    from hf_cbft.connectivity.results import ConnectivityResult as ConnectivityResult
    from hf_cbft.data.backgrounds import BackgroundCue as BackgroundCue
    from hf_cbft.data.balancing import balance_groups as balance_groups
    from hf_cbft.data.counterfactuals import add_cue as add_cue, make_counterfactuals as make_counterfactuals
    from hf_cbft.data.cues import BoxCue as BoxCue, ColorBoxCue as ColorBoxCue, DominoCue as DominoCue
    from hf_cbft.data.digits import load_digits as load_digits
    from hf_cbft.data.inputs import InputCollator as InputCollator
    from hf_cbft.data.pairing import pair_clean_with_cue as pair_clean_with_cue
    from hf_cbft.data.sentences import (
        generate_completions as generate_completions,
        generate_sentences as generate_sentences,
        word_tokenizer as word_tokenizer,
    )
    from hf_cbft.data.sources import load_sources as load_sources
    from hf_cbft.data.text_cues import StyleCue as StyleCue, TokenCue as TokenCue
    from hf_cbft.data.wilds import read_wilds_metadata as read_wilds_metadata
    from hf_cbft.paths.geometry import (
        LinearPath as LinearPath,
        PolylinePath as PolylinePath,
        QuadraticPath as QuadraticPath,
    )
    from hf_cbft.paths.interpolation import at_point as at_point
    from hf_cbft.tasks.causal_lm import CausalLM as CausalLM
    from hf_cbft.tasks.classification import Classification as Classification
    from hf_cbft.tasks.registry import register_task as register_task
    from hf_cbft.tasks.task import Task as Task
    from hf_cbft.tasks.token_classification import TokenClassification as TokenClassification
    from hf_cbft.training.callback import ConnectivityCallback as ConnectivityCallback
    from hf_cbft.training.config import CBFTConfig as CBFTConfig
    from hf_cbft.training.curves import fit_curve as fit_curve
    from hf_cbft.training.losses import barrier_loss as barrier_loss, invariance_loss as invariance_loss
    from hf_cbft.training.terms import (
        PathTerm as PathTerm,
        Representations as Representations,
        RepresentationTerm as RepresentationTerm,
    )
    from hf_cbft.training.trainer import CBFTTrainer as CBFTTrainer

# Where each public name lives. It is imported when it is first used, so that `import hf_cbft` loads no torch.
_NAMES = {
    "alignment.alignments": "Alignment",
    "alignment.matching": "align",
    "alignment.symmetries": "Family Space",
    "analysis.barriers": "compute_barrier",
    "analysis.mechanisms": "MechanismReport mechanisms",
    "connectivity.evaluator": "ConnectivityEvaluator",
    "connectivity.matrix": "MatrixEvaluator connectivity_matrix",
    "connectivity.matrix_results": "MatrixResult",
    "connectivity.measuring": "measure",
    "connectivity.results": "ConnectivityResult",
    "data.backgrounds": "BackgroundCue",
    "data.balancing": "balance_groups",
    "data.counterfactuals": "add_cue make_counterfactuals",
    "data.cues": "BoxCue ColorBoxCue DominoCue",
    "data.digits": "load_digits",
    "data.inputs": "InputCollator",
    "data.pairing": "pair_clean_with_cue",
    "data.sentences": "generate_completions generate_sentences word_tokenizer",
    "data.sources": "load_sources",
    "data.text_cues": "StyleCue TokenCue",
    "data.wilds": "read_wilds_metadata",
    "paths.geometry": "LinearPath PolylinePath QuadraticPath",
    "paths.interpolation": "at_point",
    "tasks.causal_lm": "CausalLM",
    "tasks.classification": "Classification",
    "tasks.registry": "register_task",
    "tasks.task": "Task",
    "tasks.token_classification": "TokenClassification",
    "training.callback": "ConnectivityCallback",
    "training.config": "CBFTConfig",
    "training.curves": "fit_curve",
    "training.losses": "barrier_loss invariance_loss",
    "training.terms": "PathTerm RepresentationTerm Representations",
    "training.trainer": "CBFTTrainer",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

# By folder, the modules of version 0.1 that went there, and what they are called there where that is another name.
_TAKEN_IN = {
    "analysis": "barriers mechanisms",
    "baselines": "feature_reweighting last_layer",
    "checkpoints": "curve_files",
    "connectivity": "endpoints:opening ends matrix matrix_results metrics points results soups sweep:batches",
    "paths": "batchnorm fingerprint interpolation",
    "references": "adapter_reference:adapter lora reference:weights",
    "reporting": "card_text plotting report:page report_chart:page_chart report_examples:page_examples",
    "tasks": "scoring:task",
    "training": "callbacks:callback checkpointing:exact_resume config curves losses model_card resume:run_state step "
    "task:plan trainer",
}
_MOVED: dict[str, tuple[str, ...]] = {
    "data.groups": ("data.backgrounds", "data.wilds"),
    "reproduce": (),
    "reproduce.recipes": ("cli.recipes",),
    **{
        old.partition(":")[0]: (f"{folder}.{old.rpartition(':')[2]}",)
        for folder, modules in _TAKEN_IN.items()
        for old in modules.split()
    },
}

__version__ = "0.1.0"
__all__ = sorted([*_MODULES, "baselines"])


def __getattr__(name: str) -> Any:
    if name == "baselines":
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """The package: a module that was called like a public name, as `mechanisms` was, does not hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _MODULES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


class _MovedModules:
    """Finds the modules of version 0.1 by their old paths, and says where they are."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        if package != __name__ or old not in _MOVED:
            return None
        public = ", ".join(sorted(public for public, module in _MODULES.items() if module in _MOVED[old]))
        now = ", ".join(f"hf_cbft.{module}" for module in _MOVED[old]) or "examples/paper of the repository"
        advice = f": write `from hf_cbft import {public}`." if public else "."
        text = f"{name} has moved to {now}, and this path goes with the next release{advice}"
        warn(text, DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, _MovedModules, is_package=not _MOVED[old])  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """An empty module, which [`exec_module`] fills."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        for new in _MOVED[module.__name__.partition(".")[2]]:
            found = vars(import_module(f"{__name__}.{new}"))
            vars(module).update({name: value for name, value in found.items() if not name.startswith("__")})


sys.modules[__name__].__class__ = _Package
sys.meta_path.append(_MovedModules)  # type: ignore[arg-type]
