# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Which architectures have known symmetries, and how a model finds its own."""

import difflib
from typing import Any

from hf_cbft.alignment.binding import bind
from hf_cbft.alignment.families.bert import BERT, DISTILBERT, MPNET, ROBERTA
from hf_cbft.alignment.families.gpt2 import GPT2
from hf_cbft.alignment.families.llama import LLAMA
from hf_cbft.alignment.families.mlp import MLP, find_stack
from hf_cbft.alignment.families.resnet import CONVNEXT, RESNET
from hf_cbft.alignment.families.vit import CLIP_VISION, VIT
from hf_cbft.alignment.symmetries import Family

FAMILIES = (BERT, CLIP_VISION, CONVNEXT, DISTILBERT, GPT2, LLAMA, MLP, MPNET, RESNET, ROBERTA, VIT)


def find_family(model: Any) -> Family | None:
    """The family of a model, by the `model_type` of its configuration; a plain stack by its layers."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    found = next((family for family in FAMILIES if model_type in family.model_types), None)
    return found or (MLP if find_stack(model) is not None else None)


def unknown_family(model: Any) -> str:
    """The error message for a model of no known family."""
    model_type = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    types = sorted(known for family in FAMILIES for known in family.model_types)
    return (
        f"The symmetries of {model_type} are not known (the nearest is {_nearest(model, model_type, types)}; there is "
        f"{', '.join(types)}): give a specification (docs/alignment.md shows how to write one), or align only the "
        "parts that can be confirmed with partial=True."
    )


def _nearest(model: Any, model_type: str, types: list[str]) -> str:
    """The family that knows most of the model's tensors by their names; where none does, the one spelt most alike."""
    tensors = {family.model_types[0]: _tensors_known(family, model) for family in FAMILIES}
    nearest = max(tensors, key=lambda name: tensors[name])
    return nearest if tensors[nearest] else difflib.get_close_matches(model_type, types, n=1, cutoff=0.0)[0]


def _tensors_known(family: Family, model: Any) -> int:
    try:
        return sum(any(axes) for axes in bind(family, model, strict=False).axes.values())
    except (ValueError, AttributeError, KeyError, TypeError):  # its flows ask for another kind of model
        return 0
