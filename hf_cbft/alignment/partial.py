# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of an architecture whose symmetries can be confirmed, where the whole is not known."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_cbft.alignment.gate import Gate
from hf_cbft.alignment.symmetries import Family, Specification

logger = logging.getLogger(__name__)


def guess_family(model: Any) -> Family:
    """In each block of layers, the units between a layer that makes a width wider and one that makes it narrow again.

    A guess: it counts only for what the gate confirms.
    """
    flows: dict[str, str] = {}
    for number, layers in enumerate(_blocks(model)):
        sizes = {name: _sizes(layer) for name, layer in layers.items()}
        width, _ = Counter(size for pair in sizes.values() for size in pair).most_common(1)[0]
        for name, (before, after) in sizes.items():
            if before == width != after:
                flows[name] = f"-> units.{number}.{after}"
            elif after == width != before:
                flows[name] = f"units.{number}.{before} ->"
    prefix = getattr(model, "base_model_prefix", "")
    start = f"{prefix}." if prefix else ""
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    named = {name.removeprefix(start): flow for name, flow in flows.items()}
    return Family(model_type, (), named, float32_inside=True)


def _blocks(model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """The linear layers of every block: of each module in a list that holds no such list itself."""
    lists = (nn.ModuleList, nn.Sequential)
    blocks = [
        (f"{name}.{child}", block)
        for name, module in model.named_modules()
        if isinstance(module, lists)
        for child, block in module.named_children()
    ]
    for name, block in blocks:
        layers = {f"{name}.{n}": m for n, m in block.named_modules() if n and isinstance(m, (nn.Linear, Conv1D))}
        inner = any(other.startswith(f"{name}.") for other, _ in blocks)
        if len(layers) > 1 and not inner:
            yield layers


def _sizes(layer: Any) -> tuple[int, int]:
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    return layer.in_features, layer.out_features


def confirmed(gate: Gate, specification: Specification) -> Specification:
    """The spaces of a specification that may be moved, each by itself and all together.

    Raises:
        ValueError: none of them.
    """
    roots = specification.roots
    held = [
        root for root in roots if gate.passes(own := specification.without(set(roots) - {root}), own.random(seed=0))
    ]
    found = specification.without(set(roots) - set(held))
    if not held or not gate.passes(found, found.random(seed=1)):
        raise ValueError(
            f"No part of {specification.name} could be confirmed: whatever was moved, the logits changed. It needs a "
            "specification of its own."
        )
    if len(held) < len(roots):
        logger.warning(
            "%d of %d spaces of %s stay in place: moving them changes the logits.",
            len(roots) - len(held),
            len(roots),
            specification.name,
        )
    return found
