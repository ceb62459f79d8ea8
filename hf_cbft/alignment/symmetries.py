# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Permutation symmetries as data: which axes of which tensors carry the same permutation.

A *space* is a set of units that may trade places: the channels of a stage, the units of an MLP, the heads of a layer.
One may lie within another, as the value units lie within their head: then each unit of the outer one has a set of its
own, and takes it along. A *flow* says for a module which space it reads and which it writes:

| flow | what it says |
|---|---|
| `"residual -> units.{i}"` | a linear or convolution layer: its input axis, then its output axis |
| `"-> residual"` | the input stays in place (pixels, tokens, positions) |
| `"residual ->"` | the output stays in place (logits) |
| `"residual"` | a norm, a depthwise convolution: the first axis; of a bare parameter, the last one |
| `"groups.{i} *"` | a grouped convolution: whole groups trade places |
| `""` | nothing moves |
| `"heads.{i} value.{i}"` | an axis that is several spaces, the first one slowest; `*` is a part that stays |
| `"heads.{i} query.{i} + heads.{i} value.{i}"` | an axis that holds one piece after the other |

`{i}` is a number in the module's name. Everything that is derived from the flows is here; the flows themselves are in
`hf_cbft.alignment.families`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

Permutations = dict[str, np.ndarray]
# A part of an axis: names of spaces, or the size of what stays in place.
Part = tuple[str | int, ...]
# The pieces of an axis, one after the other; an axis that stays in place has none.
Axis = tuple[Part, ...]
Flows = Mapping[str, str]
# The spaces of a part, without what stays.
Spaces = tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Units that may trade places.

    Args:
        size (`Callable`, *optional*): how many there are, from the configuration; `None`: as many as the axis has.
        within (`str`, *optional*): the space whose units each have a set of these.
    """

    size: Callable[[Any], int] | None = None
    within: str | None = None


@dataclass(frozen=True)
class Family:
    """The symmetries of an architecture.

    Args:
        name (`str`): as papers call it.
        model_types (`tuple`): the `model_type` of the configurations it is for.
        flows (`dict`, or a function of the model that gives it): by name of a module or bare parameter, see above. The
            name is that below `base_model_prefix`; `(a|b)` stands for either, `{i}` for a number.
        spaces (`dict[str, Space]`, *optional*): those that are not simply an axis of their own.
        float32_inside (`bool`, *optional*): whether its modules compute in float32 whatever they are given.
        config (`Callable`, *optional*): the configuration that the sizes are of.
    """

    name: str
    model_types: tuple[str, ...]
    flows: Flows | Callable[[nn.Module], Flows]
    spaces: Mapping[str, Space] = field(default_factory=dict)
    float32_inside: bool = False
    config: Callable[[Any], Any] = lambda config: config


@dataclass(frozen=True)
class Site:
    """Where the activations of spaces can be seen.

    Args:
        module (`str`): its name.
        is_input (`bool`): whether they enter it, or leave it.
        dim (`int`): the axis of the activations.
        offset (`int`), length (`int`): which entries of that axis.
        part (`Part`): the spaces there.
    """

    module: str
    is_input: bool
    dim: int
    offset: int
    length: int
    part: Part

    @property
    def piece(self) -> slice:
        return slice(self.offset, self.offset + self.length)


class Specification:
    """A family's symmetries in one model.

    Args:
        name (`str`): the family's.
        axes (`dict[str, tuple[Axis, ...]]`): of each tensor; what is left out stays in place.
        sizes (`dict[str, int]`): how many units each space has (within each unit of the outer one).
        parents (`dict[str, str]`): of the spaces that lie within another.
        sites (`list[Site]`): where activations can be seen.
        outputs (`dict[str, tuple]`): of each module with a flow: which axes of its output may hold units, and which.
        float32_inside (`bool`): see [`Family`].
    """

    def __init__(
        self,
        name: str,
        axes: dict[str, tuple[Axis, ...]],
        sizes: dict[str, int],
        parents: dict[str, str],
        sites: list[Site],
        outputs: dict[str, tuple[tuple[int, ...], Axis]],
        float32_inside: bool,
    ) -> None:
        self.name, self.axes, self.sizes, self.parents = name, axes, sizes, parents
        self.sites, self.outputs, self.float32_inside = sites, outputs, float32_inside

    @property
    def roots(self) -> list[str]:
        """The spaces that lie within no other."""
        return [space for space in self.sizes if space not in self.parents]

    def children(self, root: str) -> list[str]:
        return [space for space, parent in self.parents.items() if parent == root]

    def shape(self, space: str) -> tuple[int, ...]:
        """Of the space's permutations: (n,), or (units of the outer space, n)."""
        parent = self.parents.get(space)
        return (self.sizes[space],) if parent is None else (self.sizes[parent], self.sizes[space])

    def length(self, part: Part) -> int:
        return math.prod(self.sizes[factor] if isinstance(factor, str) else factor for factor in part)

    def identity(self) -> Permutations:
        shapes = {space: self.shape(space) for space in self.sizes}
        return {space: np.broadcast_to(np.arange(shape[-1]), shape).copy() for space, shape in shapes.items()}

    def random(self, seed: int) -> Permutations:
        """Every symmetry at once, drawn uniformly."""
        rng = np.random.default_rng(seed)
        return {space: rng.permuted(p, axis=-1) for space, p in self.identity().items()}

    def inverse(self, permutations: Permutations) -> Permutations:
        """The permutations that undo them."""
        undone = {}
        for space, permutation in permutations.items():
            inverse = np.argsort(permutation, axis=-1)
            parent = self.parents.get(space)
            # The set of the unit that came to place g goes back with it.
            undone[space] = inverse if parent is None else inverse[np.argsort(permutations[parent])]
        return undone

    def compose(self, first: Permutations, second: Permutations) -> Permutations:
        """The permutations that do what `first` and then `second` do."""
        both = {}
        for space, later in second.items():
            parent = self.parents.get(space)
            earlier = first[space]
            if parent is None:
                both[space] = earlier[later]
            else:
                both[space] = np.take_along_axis(earlier[second[parent]], later, axis=-1)
        return both

    def index(self, part: Part, permutations: Permutations) -> np.ndarray:
        """(length of the part,), which unit comes to each place."""
        shape = tuple(self.sizes[factor] if isinstance(factor, str) else factor for factor in part)
        places = dict(zip(part, np.indices(shape, sparse=True), strict=True)) if len(set(part)) == len(part) else None
        if places is None:
            raise ValueError(f"A space stands twice in one part of an axis: {part}.")
        moved = []
        for factor, place in places.items():
            if isinstance(factor, int):
                moved.append(place)
            elif factor in self.parents:
                moved.append(permutations[factor][places[self.parents[factor]], place])
            else:
                moved.append(permutations[factor][place])
        return np.ravel_multi_index(np.broadcast_arrays(*moved), shape).reshape(-1)

    def axis_index(self, axis: Axis, permutations: Permutations) -> np.ndarray | None:
        """(length of the axis,), which entry comes to each place; `None` where all stay."""
        pieces, offset = [], 0
        for part in axis:
            pieces.append(offset + self.index(part, permutations))
            offset += self.length(part)
        whole = np.concatenate(pieces) if pieces else None
        return None if whole is None or np.array_equal(whole, np.arange(offset)) else whole

    def permuted(self, name: str, tensor: torch.Tensor, permutations: Permutations, skip: int = -1) -> torch.Tensor:
        """A tensor with its units in their new places, all axes but `skip`; the tensor itself where none moves."""
        for dim, axis in enumerate(self.axes.get(name, ())):
            index = self.axis_index(axis, permutations) if dim != skip else None
            if index is not None:
                tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
        return tensor

    @torch.no_grad()
    def permute_(self, model: nn.Module, permutations: Permutations) -> None:
        """Put the units of a model into their new places. Only slices of its largest tensor are held twice."""
        done = set()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not torch.is_tensor(tensor) or id(tensor) in done:
                continue
            done.add(id(tensor))
            for dim, axis in enumerate(self.axes.get(name, ())):
                index = self.axis_index(axis, permutations)
                if index is not None:
                    _select_in_place(tensor.data, dim, torch.from_numpy(index).to(tensor.device))

    def parts_of(self, root: str) -> Iterator[tuple[str, int, slice, Part]]:
        """Where a root or what lies within it is: tensor, axis, which entries of the axis, and the spaces there."""
        for name, axes in self.axes.items():
            for dim, axis in enumerate(axes):
                for piece, part in self.pieces(axis):
                    if root in part:
                        yield name, dim, piece, part

    def pieces(self, axis: Axis) -> Iterator[tuple[slice, Part]]:
        offset = 0
        for part in axis:
            yield slice(offset, offset + self.length(part)), part
            offset += self.length(part)

    def roots_of(self, name: str, skip: int = -1) -> set[str]:
        """The roots whose permutations a tensor carries, on all axes but `skip`."""
        axes = (axis for dim, axis in enumerate(self.axes.get(name, ())) if dim != skip)
        spaces = {factor for axis in axes for part in axis for factor in part if isinstance(factor, str)}
        return {space for space in spaces if space not in self.parents}

    def to_dict(self) -> dict[str, Any]:
        """Which space moves which axis of which tensor, for a JSON file."""
        axes = {name: own for name, own in self.axes.items() if any(own)}
        return {
            "name": self.name,
            "axes": axes,
            "sizes": self.sizes,
            "parents": self.parents,
            "float32_inside": self.float32_inside,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Specification":
        axes = {name: tuple(tuple(map(tuple, axis)) for axis in own) for name, own in data["axes"].items()}
        return cls(data["name"], axes, data["sizes"], data["parents"], [], {}, data["float32_inside"])

    def without(self, roots: set[str]) -> "Specification":
        """The same with some spaces, and what lies within them, left where they are."""
        gone = roots | {space for space, parent in self.parents.items() if parent in roots}

        def kept(part: Part) -> Part:
            return tuple(self.sizes[f] if isinstance(f, str) and f in gone else f for f in part)

        def still(axis: Axis) -> Axis:
            left = tuple(map(kept, axis))
            return left if moves(left) else ()

        sites = [replace(site, part=kept(site.part)) for site in self.sites]
        return Specification(
            self.name,
            {name: tuple(map(still, own)) for name, own in self.axes.items()},
            {space: size for space, size in self.sizes.items() if space not in gone},
            {space: parent for space, parent in self.parents.items() if space not in gone},
            [site for site in sites if moves((site.part,))],
            {name: (dims, still(axis)) for name, (dims, axis) in self.outputs.items()},
            self.float32_inside,
        )


def spaces_of(part: Part) -> Spaces:
    return tuple(factor for factor in part if isinstance(factor, str))


def moves(axis: Axis) -> bool:
    """Return `True` if a space moves any part of an axis."""
    return any(isinstance(factor, str) for part in axis for factor in part)


_SLICE_BYTES = 2**24


def _select_in_place(tensor: torch.Tensor, dim: int, index: torch.Tensor) -> None:
    others = [d for d in range(tensor.dim()) if d != dim]
    along = max(others, key=lambda d: tensor.shape[d], default=None)
    if along is None or tensor.nbytes <= _SLICE_BYTES:
        tensor.copy_(tensor.index_select(dim, index))
        return
    step = max(1, tensor.shape[along] * _SLICE_BYTES // tensor.nbytes)
    for part in tensor.split(step, along):
        part.copy_(part.index_select(dim, index))
