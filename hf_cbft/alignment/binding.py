# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The symmetries of a family found in one model: flows held against the names, modules and shapes that are there."""

import math
import re
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_cbft.alignment.symmetries import Axis, Family, Site, Specification, moves

_REST = "*"


def bind(family: Family, model: Any, strict: bool = True) -> Specification:
    """The symmetries of a family in a model.

    Args:
        family ([`Family`]): see there.
        model (`torch.nn.Module`): the unwrapped model.
        strict (`bool`, *optional*, defaults to `True`): whether each of its tensors must have a flow.

    Raises:
        ValueError: tensors that no flow is for, two flows for one, sizes that do not go together, or tied tensors
        whose axes differ.
    """
    return _Binding(family, model).specification(strict)


class _Binding:
    def __init__(self, family: Family, model: Any) -> None:
        self.family, self.model = family, model
        self.config = family.config(getattr(model, "config", None))
        flows = family.flows(model) if callable(family.flows) else family.flows
        self.patterns = [(_pattern(name), flow) for name, flow in flows.items()]
        self.spaces = {_pattern(name): space for name, space in family.spaces.items()}
        self.sizes: dict[str, int] = {}
        self.parents: dict[str, str] = {}
        self.outputs: dict[str, tuple[tuple[int, ...], Axis]] = {}
        prefix = getattr(model, "base_model_prefix", "")
        self.prefix = f"{prefix}." if prefix else ""

    def specification(self, strict: bool) -> Specification:
        axes: dict[str, tuple[Axis, ...]] = {}
        sites: list[Site] = []
        unknown = []
        state = {n: t for n, t in self.model.state_dict(keep_vars=True).items() if torch.is_tensor(t) and t.dim() > 0}
        for name, module in self.model.named_modules():
            start = f"{name}." if name else ""
            own = [n for n in state if n.startswith(start) and "." not in n[len(start) :]]
            flow = self._flow(name) if own else None
            if flow is not None:
                found, seen = self._of_module(name, module, flow, {n: state[n] for n in own})
                axes |= found
                sites += seen
                continue
            for tensor_name in own:
                flow = self._flow(tensor_name)
                if flow is None:
                    unknown.append(tensor_name)
                    continue
                shape = state[tensor_name].shape
                last = self._axis(flow, shape[-1], tensor_name)
                axes[tensor_name] = (*((),) * (len(shape) - 1), last)
        if unknown and strict:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise ValueError(
                f"The symmetries of {self.family.name} do not say what {', '.join(unknown[:3])}{more} of this "
                f"{type(self.model).__name__} carries: align only the parts that can be confirmed with partial=True, "
                "or give a specification that names all tensors."
            )
        self._check_ties(axes)
        return Specification(
            self.family.name, axes, self.sizes, self.parents, sites, self.outputs, self.family.float32_inside
        )

    def _flow(self, name: str) -> str | None:
        name = name.removeprefix(self.prefix)
        found = [(match, flow) for pattern, flow in self.patterns if (match := pattern.fullmatch(name))]
        if len(found) > 1:
            raise ValueError(f"The specification of {self.family.name} has {len(found)} flows for {name}: leave one.")
        if not found:
            return None
        match, flow = found[0]
        return flow.format(**match.groupdict())

    def _of_module(
        self, name: str, module: nn.Module, flow: str, own: dict[str, torch.Tensor]
    ) -> tuple[dict[str, tuple[Axis, ...]], list[Site]]:
        start = f"{name}." if name else ""
        tensors = {n.removeprefix(start): tensor for n, tensor in own.items()}
        if "->" not in flow:
            first = [self._axis(flow, len(tensor), f"{start}{n}") for n, tensor in tensors.items()]
            self.outputs[name] = (-1, 1), first[0]
            return {f"{start}{n}": (axis,) for n, axis in zip(tensors, first, strict=True)}, []
        source, target = (side.strip() for side in flow.split("->"))
        transposed = isinstance(module, Conv1D)
        if isinstance(module, nn.Embedding):
            sizes, dims = (module.num_embeddings, module.embedding_dim), (0, 1)
        elif transposed:
            sizes, dims = (tensors["weight"].shape[0], tensors["weight"].shape[1]), (0, 1)
        elif "weight" in tensors and tensors["weight"].dim() >= 2:
            if getattr(module, "groups", 1) != 1:
                raise ValueError(
                    f"{name} is a grouped convolution: its flow is one text, `groups *`, or `channels` if depthwise."
                )
            sizes, dims = (tensors["weight"].shape[1], tensors["weight"].shape[0]), (1, 0)
        else:
            raise ValueError(f"{name} is a {type(module).__name__} without an input and an output axis: {flow!r}.")
        ends = self._axis(source, sizes[0], f"the input of {name}"), self._axis(target, sizes[1], f"{name}")
        weight: list[Axis] = [(), ()]
        weight[dims[0]], weight[dims[1]] = ends
        axes = {f"{start}weight": tuple(weight)}
        axes |= {f"{start}{n}": (ends[1],) for n in tensors if n != "weight"}
        dim = 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
        self.outputs[name] = (dim,), ends[1]
        sites = []
        for is_input, axis in ((True, ends[0]), (False, ends[1])):
            offset = 0
            for part in axis:
                length = math.prod(self.sizes[f] if isinstance(f, str) else f for f in part)
                if moves((part,)):
                    sites.append(Site(name, is_input, dim, offset, length, part))
                offset += length
        return axes, sites

    def _axis(self, text: str, length: int, what: str) -> Axis:
        """The axis of a text such as `heads.0 query.0 + heads.0 value.0`."""
        parts = [words.split() for words in text.split("+")] if text.strip() else []
        if not parts:
            return ()
        known = [[self._size(word) for word in words] for words in parts]
        open_words = {
            w
            for words, sizes in zip(parts, known, strict=True)
            for w, s in zip(words, sizes, strict=True)
            if s is None
        }
        if len(open_words) > 1 or (open_words and len(parts) > 1):
            raise ValueError(f"The specification leaves {len(open_words)} sizes of {what} open: {text!r}.")
        taken = sum(math.prod(s for s in sizes if s is not None) for sizes in known)
        if length % taken or (not open_words and length != taken):
            raise ValueError(
                f"{what} has {length} entries, which are not {text!r} with the sizes of the configuration ({taken}): "
                "were heads pruned? Give a model whose tensors are as its configuration says."
            )
        for word in open_words - {_REST}:
            self.sizes[word] = length // taken
        rest = length // taken
        axis = tuple(tuple(rest if w == _REST else w for w in words) for words in parts)
        for part in axis:
            for factor in part:
                parent = self.parents.get(factor) if isinstance(factor, str) else None
                if parent is not None and parent not in part:
                    raise ValueError(f"{factor} lies within {parent}, which is not in {text!r} of {what}.")
        return axis

    def _size(self, word: str) -> int | None:
        """How many units a space has; `None`: not known yet."""
        if word == _REST:
            return None
        for pattern, space in self.spaces.items():
            match = pattern.fullmatch(word)
            if match is None:
                continue
            if space.within is not None:
                self.parents[word] = space.within.format(**match.groupdict())
            if space.size is not None:
                self.sizes[word] = int(space.size(self.config))
        return self.sizes.get(word)

    def _check_ties(self, axes: dict[str, tuple[Axis, ...]]) -> None:
        first: dict[int, str] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            other = first.setdefault(id(tensor), name)
            if axes.get(other, ()) != axes.get(name, ()):
                raise ValueError(
                    f"{other} and {name} are one tensor (tied), but the specification of {self.family.name} moves "
                    "other axes of the one than of the other: give both the same."
                )


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(
        re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(name))
        .replace(r"\(", "(?:")
        .replace(r"\)", ")")
        .replace(r"\|", "|")
    )
