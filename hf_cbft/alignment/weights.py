# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
r"""Weight matching: the permutations that bring the end's weights closest to the start's.

    minimise || theta_start - P(theta_end) ||^2 over all P of the specification

One root space at a time is set to its optimum, the others held still, until none moves: a local optimum, and the
distance never grows. Source: Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from hf_cbft.alignment.assignment import Similarities, assign_tree, value_of
from hf_cbft.alignment.symmetries import Part, Permutations, Specification, spaces_of
from hf_cbft.paths.geometry import Weights

_MAX_SWEEPS = 100
# Large tensors are compared in strips, so that what is made on the way is small beside the models.
_STRIP_BYTES = 2**20
_UNITS = 256


class WeightMatching:
    """Two models' weights, and how far apart they are under permutations.

    Args:
        specification ([`Specification`]): of both.
        start, end (`Mapping[str, torch.Tensor]`): their parameters by name, tied ones once.
    """

    def __init__(self, specification: Specification, start: Weights, end: Weights) -> None:
        self.specification, self.start, self.end = specification, start, end
        self.norms = sum(_squares(w) for side in (start, end) for w in side.values())
        self.places: dict[str, list[tuple[str, int, slice, Part]]] = {
            root: [place for place in specification.parts_of(root) if place[0] in start]
            for root in specification.roots
        }

    def distance(self, permutations: Permutations) -> float:
        r"""|| theta_start - P(theta_end) ||^2"""
        total = 0.0
        for name, weight in self.start.items():
            ours, theirs = (torch.atleast_1d(w.detach()) for w in (weight, self.end[name]))
            axes = self.specification.axes.get(name, ())
            index = self.specification.axis_index(axes[0], permutations) if axes else None
            for rows in _strips(ours):
                there = rows if index is None else torch.from_numpy(index[rows]).to(theirs.device)
                other = self.specification.permuted(name, theirs[there], permutations, skip=0)
                total += _squares(ours[rows] - other.to(ours))
        return total

    def similarities(self, root: str, permutations: Permutations, known: Iterable[str] | None = None) -> Similarities:
        """The inner products of all slices of the start's tensors along a root with those of the end's.

        Args:
            root (`str`): whose units are compared.
            permutations (`dict`): where the other spaces stand.
            known (`Iterable[str]`, *optional*): count only tensors whose other axes are pinned or of these roots.
        """
        found: Similarities = {}
        pinned = None if known is None else set(known)
        for name, dim, piece, part in self.places[root]:
            if pinned is not None and not self.specification.roots_of(name, skip=dim) <= pinned:
                continue
            key = spaces_of(part)
            if key not in found:
                found[key] = np.zeros((self.specification.length(key),) * 2)
            self._add_products(found[key], name, dim, piece, part, permutations)
        return found

    def _add_products(
        self, total: np.ndarray, name: str, dim: int, piece: slice, part: Part, permutations: Permutations
    ) -> None:
        """total += ours @ theirs.T, (n, n), a block at a time."""
        length = piece.stop - piece.start
        ours, theirs = (side[name].detach().narrow(dim, piece.start, length) for side in (self.start, self.end))
        rows = self.slices(ours, dim, part)
        # What stays in place within a unit keeps its entries apart: these units are taken together.
        step = _UNITS if len(spaces_of(part)) == len(part) else length
        for first in range(0, length, step):
            strip = theirs.narrow(dim, first, min(step, length - first))
            strip = self.specification.permuted(name, strip, permutations, skip=dim).to(ours)
            columns = self.slices(strip, dim, part).T
            for top in range(0, len(rows), _UNITS):
                total[top : top + _UNITS, first : first + step] += (rows[top : top + _UNITS] @ columns).cpu().numpy()

    def slices(self, tensor: torch.Tensor, dim: int, part: Part) -> torch.Tensor:
        """(n, rest), a tensor's slices along the spaces of a part, which is the whole of its axis."""
        # Half precision would lose what tells units apart.
        moved = tensor.movedim(dim, 0).to(torch.promote_types(tensor.dtype, torch.float32))
        sizes = [self.specification.sizes[f] if isinstance(f, str) else f for f in part]
        order = [i for i, f in enumerate(part) if isinstance(f, str)]
        rest = [i for i in range(len(part)) if i not in order]
        if not rest:
            return moved.reshape(len(moved), -1)
        units = int(np.prod([sizes[i] for i in order]))
        shaped = moved.reshape(*sizes, -1)
        return shaped.permute(*order, *rest, len(part)).reshape(units, -1)

    def pinned_start(self) -> Permutations:
        """Permutations from what the input and output layers, which no symmetry moves, pin down.

        The space of which the most is pinned comes first, and pins its neighbours down in turn.
        """
        permutations = self.specification.identity()
        known: set[str] = set()
        totals = {root: sum(self.start[name].numel() for name, *_ in places) for root, places in self.places.items()}
        todo = [root for root in self.specification.roots if totals[root]]
        while todo:
            shares = {root: self._pinned_entries(root, known) / totals[root] for root in todo}
            root = max(todo, key=lambda r: shares[r])
            if shares[root] > 0:
                # Under no name: they would still be there while the next ones are made.
                permutations |= assign_tree(self.specification, root, self.similarities(root, permutations, known))
            known.add(root)
            todo.remove(root)
        return permutations

    def _pinned_entries(self, root: str, known: set[str]) -> int:
        pinned = (p for p in self.places[root] if self.specification.roots_of(p[0], skip=p[1]) <= known)
        return sum(self.start[name].numel() for name, *_ in pinned)

    def descend(
        self, permutations: Permutations, order: Callable[[], list[str]], step: Callable[[], None]
    ) -> Permutations:
        """Set one space after the other to its optimum until none gets better."""
        permutations = dict(permutations)
        settled: set[str] = set()
        for _ in range(_MAX_SWEEPS):
            for root in order():
                if root in settled:
                    continue
                step()
                if self._improve(root, permutations):
                    settled -= self._neighbours(root)
                settled.add(root)
            if len(settled) == len(self.specification.roots):
                break
        return permutations

    def _improve(self, root: str, permutations: Permutations) -> bool:
        """Set a root, and what lies within it, to its optimum; whether that is better than before."""
        if not self.places[root]:
            return False
        similarities = self.similarities(root, permutations)
        before = value_of(self.specification, similarities, permutations)
        found = assign_tree(self.specification, root, similarities)
        candidate = {**permutations, **found}
        scale = sum(float(np.abs(np.diagonal(matrix)).sum()) for matrix in similarities.values())
        # Below that, it is rounding, and a tie would change places for ever.
        if value_of(self.specification, similarities, candidate) - before <= 1e-9 * scale:
            return False
        if self._stands_twice(root) and self.distance(candidate) >= self.distance(permutations):
            return False  # the gain was that of one axis at a time
        permutations.update(found)
        return True

    def _stands_twice(self, root: str) -> bool:
        names = [name for name, *_ in self.places[root]]
        return len(names) > len(set(names))

    def _neighbours(self, root: str) -> set[str]:
        names = {name for name, *_ in self.places[root]}
        return {other for other, places in self.places.items() if other != root and any(p[0] in names for p in places)}


def _strips(tensor: torch.Tensor) -> Iterator[slice]:
    """Slices of the first axis, each of few bytes."""
    step = max(1, _STRIP_BYTES * len(tensor) // max(1, tensor.nbytes))
    for first in range(0, len(tensor), step):
        yield slice(first, min(first + step, len(tensor)))


def _squares(tensor: torch.Tensor) -> float:
    """The sum of the squares."""
    tensor = torch.atleast_1d(tensor.detach())
    return sum(float(tensor[rows].double().square().sum()) for rows in _strips(tensor))


def match_weights(
    specification: Specification,
    start: Weights,
    end: Weights,
    num_starts: int = 3,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> tuple[Permutations, float, float]:
    """The best of several descents.

    The first begins with what the fixed axes pin down, the others anywhere. A descent that ends worse than the order
    that the units have is not taken.

    Args:
        specification ([`Specification`]): of both models.
        start, end (`Mapping[str, torch.Tensor]`): their parameters.
        num_starts (`int`, *optional*, defaults to 3): how many descents.
        seed (`int`, *optional*, defaults to 0): of the starts and of the order of the steps.
        step (`Callable`, *optional*): called at each step of a descent.

    Returns:
        `tuple`: the permutations, and the squared distance before and after.
    """
    matching = WeightMatching(specification, start, end)
    best = specification.identity()
    before = least = matching.distance(best)
    pinned = matching.pinned_start()
    for number in range(num_starts):
        rng = np.random.default_rng((seed, number))
        # Counted from the pinned order, so that an end whose units were moved is treated alike.
        begin = (
            pinned if number == 0 else specification.compose(pinned, specification.random(int(rng.integers(2**31))))
        )
        found = matching.descend(begin, lambda rng=rng: list(rng.permutation(specification.roots)), step)  # type: ignore[misc]
        distance = matching.distance(found)
        if distance < least * (1 - 1e-12):
            best, least = found, distance
        if least <= 1e-12 * matching.norms:
            break  # the same network
    return best, before, least
