# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The points of a path, measured one after the other."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from hf_cbft.connectivity.batches import BatchRunner, rows_changed
from hf_cbft.connectivity.ends import Ends
from hf_cbft.connectivity.points import Point
from hf_cbft.distributed import on_main_rank, rank
from hf_cbft.paths.interpolation import evaluation_mode


class Store(Protocol):
    """Where the points of a sweep are kept, by name."""

    def load(self, name: str) -> Point | None: ...

    def save(self, name: str, point: Point) -> None: ...


def sweep(
    runner: BatchRunner,
    ends: Ends,
    alphas: Sequence[float] | np.ndarray,
    sets: Mapping[str, Any],
    calibration_dataset: Any = None,
    store: Store | None = None,
    each: Callable[[Point], None] | None = None,
    strict: bool = True,
) -> list[Point]:
    """Put the model at each point of a path, and measure it there. Afterwards it is what it was.

    Args:
        runner ([`BatchRunner`]): of the model that the ends move.
        ends ([`Ends`]): what it is moved between.
        alphas (`Sequence[float]`): (P,), the points; 0 is the start.
        sets (`Mapping[str, data set]`): what is measured on, by name.
        calibration_dataset (*optional*): rows that BatchNorm statistics are estimated on at interior points.
        store ([`Store`], *optional*): keeps each point; what it has is not measured again.
        each (`Callable`, *optional*): is told each point at once, so that what fails does so at the first.
        strict (`bool`, *optional*, defaults to `True`): whether to show the progress and to refuse losses that are not
            finite, sets without a labelled token, and rows that change from point to point.

    Returns:
        `list[Point]`: (P,), the same on every rank.

    Raises:
        ValueError: what `strict` refuses.
    """
    points: list[Point] = []
    hidden = rank() > 0 or not strict or None  # None: where there is no terminal
    with (
        evaluation_mode(runner.model),
        ends.moving() as move,
        tqdm(total=len(alphas) * len(sets), desc="Path", disable=hidden) as progress,
    ):
        for index, alpha in enumerate(alphas):
            name = f"point-{index:04d}"
            point = None if store is None else on_main_rank(partial(store.load, name))
            if point is None:
                move(alpha)
                if 0.0 < alpha < 1.0:
                    runner.calibrate(calibration_dataset)
                point = measure_sets(runner, sets, strict, progress.update)
                if store is not None:
                    on_main_rank(partial(store.save, name, point))
            else:
                if not points:
                    runner.batch_size = point.batch_size
                    _check_same_data({part: runner.digest(rows, _called(part)) for part, rows in sets.items()}, point)
                progress.update(len(sets))
            if strict and points and point.batch_size == points[0].batch_size:
                _check_same_data(point.digests, points[0])
            if strict:
                _check_finite(point, alpha)
            points.append(point)
            if each is not None:
                each(point)
    return points


def measure_sets(
    runner: BatchRunner, sets: Mapping[str, Any], strict: bool = True, done: Callable[[], Any] | None = None
) -> Point:
    """Measure the model where it is; `strict` as in [`sweep`], and `done` is called after each set."""
    scores, digests = {}, {}
    for name, dataset in sets.items():
        scores[name], digests[name] = runner.scores(dataset, _called(name))
        if strict and not scores[name].weights.any():
            raise ValueError(f"The data set {name!r} has no labelled tokens: all of its labels are -100.")
        if done is not None:
            done()
    return Point(scores, digests, runner.batch_size)


def _called(name: str) -> str:
    return f"the data set {name!r}"


def _check_same_data(digests: Mapping[str, str], point: Point) -> None:
    changed = [name for name, digest in digests.items() if digest != point.digests[name]]
    if changed:
        raise rows_changed(_called(changed[0]))


def _check_finite(point: Point, alpha: float) -> None:
    for name, scores in point.scores.items():
        if not np.isfinite(scores.losses).all():
            raise ValueError(
                f"The loss at alpha = {alpha:g} is not finite on {name!r}, so the path has no barrier there to speak "
                "of: in half precision, try float32; else look at the weights there."
            )
