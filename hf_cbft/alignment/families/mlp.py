# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Plain stacks, `nn.Sequential`: linear and convolution layers, norms, and what acts on each unit by itself."""

from typing import Any

from torch import nn

from hf_cbft.alignment.symmetries import Family

_UNIT_BY_UNIT = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Softplus,
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def find_stack(model: nn.Module) -> tuple[str, nn.Sequential] | None:
    """The `nn.Sequential` that holds all weights of the model, and its name; `None` where there is none."""
    total = sum(1 for _ in model.parameters())
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential) and sum(1 for _ in module.parameters()) == total:
            known = (*_UNIT_BY_UNIT, *_WEIGHTED, *_NORMS, nn.Flatten)
            if all(isinstance(child, known) and _groups(child) != "some" for child in module.children()):
                return name, module
    return None


def _groups(module: nn.Module) -> str:
    """How a convolution joins channels: all with all, each with itself (depthwise), or some with some."""
    groups = getattr(module, "groups", 1)
    if groups == 1:
        return "all"
    return "each" if groups == module.in_channels == module.out_channels else "some"


def _joins(module: nn.Module) -> bool:
    return isinstance(module, _WEIGHTED) and _groups(module) == "all"


def _flows(model: Any) -> dict[str, str]:
    found = find_stack(model)
    if found is None:
        raise ValueError(f"{type(model).__name__} is no plain stack of layers: give a specification of its own.")
    name, stack = found
    prefix = getattr(model, "base_model_prefix", "")
    start = f"{name}.".removeprefix(f"{prefix}." if prefix else "") if name else ""
    weighted = [child for child, module in stack.named_children() if _joins(module)]
    flows: dict[str, str] = {}
    stream = ""
    for child, module in stack.named_children():
        if _joins(module):
            after = "" if child == weighted[-1] else f"units.{child}"
            flows[f"{start}{child}"] = f"{stream} -> {after}"
            stream = after
        elif isinstance(module, (*_WEIGHTED, *_NORMS)):
            flows[f"{start}{child}"] = stream
        elif isinstance(module, nn.Flatten) and stream and not stream.endswith("*"):
            # A channel becomes as many entries as it has places; one place is no change.
            stream = f"{stream} *"
    return flows


MLP = Family("MLP", ("mlp",), _flows)
