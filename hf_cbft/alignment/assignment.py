# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Which unit goes to which place, from how alike they are: for units, and for units with units of their own inside."""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from hf_cbft.alignment.symmetries import Permutations, Spaces, Specification

# How alike the units of a part of an axis are: (n, n) over all its spaces, places of the start by units of the end.
Similarities = dict[Spaces, np.ndarray]


def assign(similarity: np.ndarray) -> np.ndarray:
    """(n,), the unit for each place that makes the sum of the similarities largest; (n, n)."""
    # In place and back again, as the matrix of a wide layer is large.
    np.negative(similarity, out=similarity)
    chosen = linear_sum_assignment(similarity)[1]
    np.negative(similarity, out=similarity)
    return chosen


def assign_tree(
    specification: Specification,
    root: str,
    similarities: Similarities,
    scores: Mapping[Spaces, np.ndarray] | None = None,
) -> Permutations:
    """The permutations of a root and of what lies within it that make the sum of the similarities largest.

    A root's units are compared by the best that the units inside them can do, so the optimum is that of all together;
    only where a part has two inner spaces (a head of a group and a value unit of it) they take turns.

    Args:
        specification ([`Specification`]): with the sizes.
        root (`str`): the outer space.
        similarities (`dict`): by part, see above.
        scores (`dict`, *optional*):
            How alike units are that is to count for the choice of the root and of these parts' first inner space,
            instead of `similarities`: by part, without its last space.
    """
    children = specification.children(root)
    if not children:
        return {root: assign(similarities[root,])}
    size = specification.sizes[root]
    blocks = {part: _blocks(specification, part, matrix) for part, matrix in similarities.items()}
    outer = np.zeros((size, size))
    inside: dict[tuple[int, int], Permutations] = {}
    judges = blocks if scores is None else {part: _blocks(specification, part, s) for part, s in scores.items()}
    judged = [child for child in children if scores is None or any(child in part for part in judges)]
    for place in range(size):
        for unit in range(size):
            inside[place, unit], outer[place, unit] = _assign_inside(specification, judged, judges, place, unit, {})
    chosen = assign(outer)
    found = [inside[place, unit] for place, unit in enumerate(chosen)]
    if scores is not None:
        found = [
            _assign_inside(specification, children, blocks, place, unit, found[place])[0]
            for place, unit in enumerate(chosen)
        ]
    return {root: chosen, **{child: np.stack([own[child] for own in found]) for child in children}}


def _blocks(specification: Specification, part: Spaces, matrix: np.ndarray) -> np.ndarray:
    shape = tuple(specification.sizes[space] for space in part)
    return matrix.reshape(shape + shape)


_TURNS = 10


def _assign_inside(
    specification: Specification,
    children: list[str],
    blocks: Mapping[Spaces, np.ndarray],
    place: int,
    unit: int,
    known: Permutations,
) -> tuple[Permutations, float]:
    """The best permutations of the inner spaces, were a unit of the root put in a place; and how well that fits."""
    own = {part[1:]: np.take(block[place], unit, axis=len(part) - 1) for part, block in blocks.items()}
    found = dict(known)
    wanted = [child for child in children if child not in known]
    for _ in range(_TURNS):
        before = dict(found)
        for child in wanted:
            along = (_along(child, inner, matrix, found) for inner, matrix in own.items() if child in inner)
            terms = [term for term in along if term is not None]
            if terms:
                found[child] = assign(np.sum(terms, axis=0))
        if all(child in before and np.array_equal(before[child], found[child]) for child in wanted if child in found):
            break
    for child in wanted:
        found.setdefault(child, np.arange(specification.sizes[child]))
    score = 0.0
    for inner, matrix in own.items():
        here = np.ix_(*(np.arange(specification.sizes[space]) for space in inner))
        there = np.ix_(*(found[space] for space in inner))
        score += float(matrix[(*here, *there)].sum()) if inner else float(matrix)
    return found, score


def _along(child: str, inner: Spaces, matrix: np.ndarray, found: Permutations) -> np.ndarray | None:
    """(n, n) of one inner space, the other of the part put where it is; `None` as long as that one is nowhere."""
    for space in inner:
        if space == child:
            continue
        if space not in found:
            return None
        axis = inner.index(space)
        matrix = np.moveaxis(matrix, (axis, len(inner) + axis), (0, 1))[
            np.arange(len(found[space])), found[space]
        ].sum(0)
    return matrix


def value_of(specification: Specification, similarities: Similarities, permutations: Permutations) -> float:
    """The sum of the similarities at given permutations."""
    total = 0.0
    for part, matrix in similarities.items():
        total += float(matrix[np.arange(len(matrix)), specification.index(part, permutations)].sum())
    return total
