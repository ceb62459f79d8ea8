# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Activation matching: units that do the same on the same data are the same unit.

Both models see each batch once, and for every space one matrix of products is kept, so the memory does not grow with
the data. The units of a space are compared by their correlation over all observations (rows, and their tokens or
places), taken together from wherever the space can be seen. Source: Li et al., "Convergent Learning", ICLR 2016, and
Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023, section 3.1. Heads are compared by what they add to the
residual stream, so that the order of their inner units does not matter.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from hf_cbft.alignment.assignment import Similarities, assign, assign_tree, value_of
from hf_cbft.alignment.gate import run
from hf_cbft.alignment.symmetries import Permutations, Site, Spaces, Specification, spaces_of
from hf_cbft.alignment.weights import WeightMatching, Weights

logger = logging.getLogger(__name__)

# Units whose variance is below this share of the largest one of their space say nothing.
_DEAD = 1e-10
# What both models' sites may hold at once.
_HELD_BYTES = 2**27


@dataclass
class Products:
    """Sums over observations of the units of both models, where one or more sites show the same spaces.

    Each site is shifted by the means and divided by the scale of its first batch, so that sums of products neither
    cancel nor let one site outweigh the others; what is left of the means is taken off in the end.
    """

    cross: Any = None
    squares: list[Any] = field(default_factory=lambda: [0.0, 0.0])
    # (units of the outer spaces, n, n) within each of them, for the spaces with units inside.
    inner: list[Any] = field(default_factory=lambda: [0.0, 0.0])
    sums: dict[Site, list[Any]] = field(default_factory=dict)
    shifts: dict[Site, list[Any]] = field(default_factory=dict)
    counts: dict[Site, int] = field(default_factory=dict)

    def add(self, site: Site, ours: torch.Tensor, theirs: torch.Tensor, last: int | None) -> None:
        """
        Args:
            site ([`Site`]): where they were seen.
            ours, theirs (`torch.Tensor`): (observations, n), float32.
            last (`int`, *optional*): the number of units of the innermost space, where there are spaces within others.
        """
        if site not in self.shifts:
            self.shifts[site] = [(x.mean(0), _scale(x)) for x in (ours, theirs)]
            self.sums[site] = [torch.zeros(x.shape[1], dtype=torch.float64) for x in (ours, theirs)]
            self.counts[site] = 0
        both = [(x - mean) / scale for x, (mean, scale) in zip((ours, theirs), self.shifts[site], strict=True)]
        self.counts[site] += len(ours)
        if self.cross is None:
            self.cross = both[0].new_zeros(both[0].shape[1], both[1].shape[1])
        self.cross.addmm_(both[0].T, both[1])
        for side, x in enumerate(both):
            self.sums[site][side] += x.sum(0).double().cpu()
            self.squares[side] = self.squares[side] + x.square().sum(0).double().cpu()
            if last is not None:
                blocks = x.reshape(len(x), -1, last)
                self.inner[side] = self.inner[side] + torch.einsum("nhv,nhw->hvw", blocks, blocks)

    def _means(self, side: int) -> Iterator[tuple[int, np.ndarray]]:
        for site, count in self.counts.items():
            yield count, self.sums[site][side].numpy() / count

    def covariance(self) -> np.ndarray:
        """(n, n), summed over observations."""
        total = self.cross.cpu().double()
        for (count, ours), (_, theirs) in zip(self._means(0), self._means(1), strict=True):
            total.addr_(torch.from_numpy(ours), torch.from_numpy(theirs), alpha=-count)
        return total.numpy()

    def variances(self, side: int) -> np.ndarray:
        """(n,), likewise."""
        return self.squares[side].numpy() - sum(count * mean**2 for count, mean in self._means(side))

    def inner_covariances(self, side: int) -> np.ndarray:
        """(outer units, n, n), likewise."""
        total = self.inner[side].cpu().double().numpy()
        last = total.shape[-1]
        for count, mean in self._means(side):
            blocks = mean.reshape(-1, last)
            total -= count * blocks[:, :, None] * blocks[:, None, :]
        return total

    @property
    def observations(self) -> int:
        return sum(self.counts.values())


class ActivationMatching:
    """Match units by their activations: which units of two models do the same on the same data.

    Args:
        specification ([`Specification`]): of both models.
    """

    def __init__(self, specification: Specification) -> None:
        self.specification = specification
        self.sites = list(_chosen_sites(specification))
        self.products: dict[Spaces, Products] = {}

    @torch.no_grad()
    def observe(self, start: nn.Module, end: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Run both models on every batch, in evaluation mode, and keep the sums."""
        sizes: dict[Any, int] = {}
        for batch in batches:
            shapes = tuple(tuple(tensor.shape[1:]) for tensor in _tensors(batch))
            if shapes not in sizes:
                sizes[shapes] = 2 * self._held_bytes(start, _rows_of(batch, slice(1)))
            step = max(1, _HELD_BYTES // max(1, sizes[shapes]))
            for first in range(0, len(_tensors(batch)[0]), step):
                self._observe_rows(start, end, _rows_of(batch, slice(first, first + step)))

    def _held_bytes(self, model: nn.Module, batch: Any) -> int:
        """Of what passes the sites, each tensor once."""
        with _watching(model, self.sites) as values:
            run(model, batch)
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in values.values()}.values())

    def _observe_rows(self, start: nn.Module, end: nn.Module, batch: Any) -> None:
        seen = []
        for model in (start, end):
            with _watching(model, self.sites) as values:
                run(model, batch)
            seen.append(values)
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        done = set()
        for site in self.sites:
            ours, theirs = (values[site] for values in seen)
            # Query, key and value read one tensor: it counts once.
            here = (ours.data_ptr(), ours.shape, site.dim, site.offset, site.part)
            if here in done:
                continue
            done.add(here)
            key = spaces_of(site.part)
            inner = self.specification.sizes[key[-1]] if len(key) > 1 else None
            products = self.products.setdefault(key, Products())
            products.add(site, self._observations(ours, site, mask), self._observations(theirs, site, mask), inner)

    def _observations(self, values: torch.Tensor, site: Site, mask: torch.Tensor | None) -> torch.Tensor:
        """(observations, n), the units of a site; padded positions left out."""
        moved = values.movedim(site.dim, -1)
        rows = moved[mask.to(moved.device).bool()] if mask is not None and mask.shape == moved.shape[:-1] else moved
        rows = rows.reshape(-1, moved.shape[-1])[:, site.piece].to(torch.float32)
        sizes = [self.specification.sizes[f] if isinstance(f, str) else f for f in site.part]
        stays = [i for i, f in enumerate(site.part) if isinstance(f, int)]
        if stays:  # what stays in place within a unit is more observations of it
            units = [i for i in range(len(sizes)) if i not in stays]
            shaped = rows.reshape(-1, *sizes).permute(0, *(1 + i for i in stays), *(1 + i for i in units))
            rows = shaped.reshape(-1, int(np.prod([sizes[i] for i in units])))
        return rows

    def permutations(self, start: Weights, end: Weights) -> tuple[Permutations, float, float, dict[str, int]]:
        """The units that belong together.

        Args:
            start, end (`Mapping[str, torch.Tensor]`): the parameters, for what the data do not tell: how a head's
                units add to the residual stream, and units that never change.

        Returns:
            `tuple`: the permutations, the mean correlation before and after, and by root how many of the end's or
            start's units (the more) are dead.
        """
        specification = self.specification
        found = specification.identity()
        weights = WeightMatching(specification, start, end)
        dead: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        units, before, after = 0, 0.0, dict[str, float]()
        flat = [root for root in specification.roots if not specification.children(root)]
        nested = [root for root in specification.roots if specification.children(root)]
        for root in (*flat, *nested):
            own = {part: products for part, products in self.products.items() if root in part}
            if not own:
                continue
            # Those of one root at a time: together they would be as large as both models.
            correlations = {part: _correlation(products) for part, products in own.items()}
            scores = self._head_scores(root, own, weights, found) if root in nested else None
            found |= assign_tree(specification, root, correlations, scores)
            units += sum(map(len, correlations.values()))
            before += value_of(specification, correlations, specification.identity())
            after[root] = value_of(specification, correlations, found)
            del correlations
            if root in flat:
                dead[root] = _dead(own[root,])
        for root, (ours, theirs) in dead.items():
            if ours.any() or theirs.any():
                correlation = _correlation(self.products[root,])
                found[root] = _match_dead_last(root, found, ours, theirs, correlation, weights)
                after[root] = value_of(specification, {(root,): correlation}, found)
        self._warn(dead)
        counted = {root: int(max(ours.sum(), theirs.sum())) for root, (ours, theirs) in dead.items()}
        return (
            found,
            before / max(1, units),
            sum(after.values()) / max(1, units),
            {root: number for root, number in counted.items() if number},
        )

    def _head_scores(
        self, root: str, own: Mapping[Spaces, Products], weights: WeightMatching, found: Permutations
    ) -> Similarities | None:
        """How alike heads are in what they add to the residual stream: cosines, by part without its last space."""
        scores: Similarities = {}
        for part, products in own.items():
            places = [(n, d, piece, p) for n, d, piece, p in weights.places[root] if spaces_of(p) == part]
            # The layer that reads the heads: its output axis is another space, whose order is known by now.
            places = [place for place in places if weights.specification.roots_of(place[0], skip=place[1])]
            readers = [
                place for place in places if any(place[0] == f"{s.module}.weight" and s.is_input for s in self.sites)
            ]
            if len(part) < 2 or not readers:
                continue
            name, dim, piece, whole = readers[0]
            last = self.specification.sizes[part[-1]]
            theirs = weights.specification.permuted(name, weights.end[name].detach(), found, skip=dim)
            sides = [
                weights.slices(w.narrow(dim, piece.start, piece.stop - piece.start), dim, whole).double().cpu().numpy()
                for w in (weights.start[name].detach(), theirs)
            ]
            count = len(sides[0]) // last
            cross = (products.covariance() * (sides[0] @ sides[1].T)).reshape(count, last, count, last).sum((1, 3))
            norms = []
            for side, slices in enumerate(sides):
                rows = slices.reshape(count, last, -1)
                gram = np.einsum("hvr,hwr->hvw", rows, rows)
                norms.append(np.sqrt(np.maximum((products.inner_covariances(side) * gram).sum((1, 2)), 0.0)))
            scale = np.outer(*norms)
            cosines = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
            key = part[:-1]
            scores[key] = scores[key] + cosines if key in scores else cosines
        return scores or None

    def _warn(self, dead: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        short = {
            root: (self.products[root,].observations, self.specification.sizes[root])
            for root in dead
            if self.products[root,].observations < 2 * self.specification.sizes[root]
        }
        if short:
            root = max(short, key=lambda r: short[r][1] / max(1, short[r][0]))
            seen, units = short[root]
            logger.warning(
                "%s has %d units and was observed %d times, fewer than two times for each unit, and so were %d spaces "
                "in all: correlations from so few are chance. Give more data.",
                root,
                units,
                seen,
                len(short),
            )
        silent = {root: int(max(a.sum(), b.sum())) for root, (a, b) in dead.items() if a.any() or b.any()}
        if silent:
            logger.warning(
                "%d units of %s never change on these data (dead): they were matched last, by their weights.",
                sum(silent.values()),
                ", ".join(list(silent)[:3]) + (f" and {len(silent) - 3} more spaces" if len(silent) > 3 else ""),
            )


def _scale(first: torch.Tensor) -> torch.Tensor:
    """The standard deviation over a first batch; of one observation, which has none, the size."""
    scale = first.var(0, correction=0).mean().sqrt()
    scale = scale if scale > 0 else first.square().mean().sqrt()
    return scale if scale > 0 else torch.ones_like(scale)


def _rows_of(batch: Any, rows: slice) -> Any:
    if not isinstance(batch, Mapping):
        return batch[rows]
    number = len(_tensors(batch)[0])
    return {name: v[rows] if torch.is_tensor(v) and v.dim() and len(v) == number else v for name, v in batch.items()}


def _tensors(batch: Any) -> list[torch.Tensor]:
    """Those of a batch, the inputs first."""
    values = batch.values() if isinstance(batch, Mapping) else [batch]
    return [value for value in values if torch.is_tensor(value) and value.dim()]


def _chosen_sites(specification: Specification) -> Iterator[Site]:
    """The inputs of modules; for spaces that enter none (query and key units), the outputs."""
    readers = [site for site in specification.sites if site.is_input]
    seen = {space for site in readers for space in spaces_of(site.part)}
    yield from readers
    for site in specification.sites:
        if not site.is_input and not set(spaces_of(site.part)) <= seen:
            yield site


def _correlation(products: Products) -> np.ndarray:
    """(n, n); 0 for units that never change."""
    scales = []
    for side in (0, 1):
        variances = products.variances(side)
        alive = variances > _DEAD * max(variances.max(initial=0.0), 1e-30)
        scales.append(np.where(alive, 1 / np.sqrt(np.where(alive, variances, 1.0)), 0.0))
    found = products.covariance()
    found *= scales[0][:, None]
    found *= scales[1]
    return found


def _dead(products: Products) -> tuple[np.ndarray, np.ndarray]:
    """(n,) for the start and for the end: the units that never change."""
    ours, theirs = (products.variances(side) for side in (0, 1))
    limits = [_DEAD * max(variances.max(initial=0.0), 1e-30) for variances in (ours, theirs)]
    return ours <= limits[0], theirs <= limits[1]


def _match_dead_last(
    root: str,
    found: Permutations,
    ours: np.ndarray,
    theirs: np.ndarray,
    correlation: np.ndarray,
    weights: WeightMatching,
) -> np.ndarray:
    """The units that change by their correlation, and what is left, places and units, by their weights."""
    places, units = np.flatnonzero(~ours), np.flatnonzero(~theirs)
    permutation = np.full(len(ours), -1)
    if len(places) and len(units):
        rows, columns = linear_sum_assignment(correlation[np.ix_(places, units)], maximize=True)
        permutation[places[rows]] = units[columns]
    open_places = np.flatnonzero(permutation < 0)
    left = np.setdiff1d(np.arange(len(ours)), permutation)
    by_weight = weights.similarities(root, found)[root,]
    permutation[open_places] = left[assign(np.ascontiguousarray(by_weight[np.ix_(open_places, left)]))]
    return permutation


@contextmanager
def _watching(model: nn.Module, sites: list[Site]) -> Iterator[dict[Site, torch.Tensor]]:
    """Record the activations at the sites while the block runs."""
    values: dict[Site, torch.Tensor] = {}
    modules = dict(model.named_modules())
    handles = []

    def watch(site: Site) -> Any:
        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            values[site] = inputs[0]

        def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            values[site] = output

        module = modules[site.module]
        return module.register_forward_pre_hook(enter) if site.is_input else module.register_forward_hook(leave)

    try:
        handles = [watch(site) for site in sites]
        yield values
    finally:
        for handle in handles:
            handle.remove()
