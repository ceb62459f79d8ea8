# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""All pairs of several checkpoints, measured with one live model, and the soup of those that are connected."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from inspect import signature
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hf_cbft.architectures import has_adapter
from hf_cbft.checkpoints.loading import LoadOptions, names_adapter, stored_weights
from hf_cbft.connectivity.ends import save_ordinary
from hf_cbft.connectivity.matrix_results import MatrixResult
from hf_cbft.connectivity.measuring import Measurer, Plan, check_measuring
from hf_cbft.connectivity.opening import check_labels, open_model
from hf_cbft.connectivity.points import Point
from hf_cbft.connectivity.soups import SOUP_FILE, Average, Soup, check_free, check_members, soup_card
from hf_cbft.connectivity.sweep import Store
from hf_cbft.distributed import on_main_rank
from hf_cbft.files import whole_folder, write_json, write_text
from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.paths.geometry import LinearPath, Weights, other_dtype
from hf_cbft.paths.interpolation import at_point, check_same_weights, moving, named_weights


def connectivity_matrix(
    checkpoints: Sequence[str | Path], datasets: Any, processing_class: Any = None, **options: Any
) -> MatrixResult:
    """The barriers of all pairs of checkpoints, and the clusters that are connected: [`MatrixEvaluator`], used once.

    Args:
        checkpoints, processing_class: as [`MatrixEvaluator`] takes them.
        datasets: as [`MatrixEvaluator.evaluate`] takes them.
        options: the other arguments of either.
    """
    own = {name: options.pop(name) for name in signature(MatrixEvaluator).parameters if name in options}
    return MatrixEvaluator(checkpoints, processing_class, **own).evaluate(datasets, **options)


class MatrixEvaluator:
    """Measure the straight lines between all pairs of N checkpoints of one architecture.

    Each checkpoint is loaded once. One model is live, the first; the weights of the others stay in their files and are
    read at each point, so the memory is that of one model and the copy that an open point keeps, whatever N is. Each
    checkpoint itself is measured once, not for each of its pairs.

    Args:
        checkpoints (`Sequence[str]`): two or more folders, Hub ids or `org/name@revision`, all different.
        processing_class, data_collator, batch_size, metrics, calibration_dataset, trust_remote_code, dtype,
        device_map, token, allow_pickle (*optional*): see [`ConnectivityEvaluator`].

    Raises:
        ValueError: fewer than two checkpoints, one given twice, one whose weights do not fit (it is named), NaN, or
        what [`ConnectivityEvaluator`] refuses.
        NotImplementedError: an adapter.
    """

    def __init__(
        self,
        checkpoints: Sequence[str | Path],
        processing_class: Any = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        batch_size: int = 32,
        metrics: Sequence[Any] = ("accuracy",),
        calibration_dataset: Any = None,
        trust_remote_code: bool = False,
        *,
        dtype: Any = None,
        device_map: Any = None,
        token: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        self.checkpoints = check_checkpoints(checkpoints)
        known = check_measuring(batch_size, metrics, calibration_dataset)
        self.names = short_names(self.checkpoints)
        options = LoadOptions(dtype, device_map, token, allow_pickle, trust_remote_code)
        for source in self.checkpoints:
            if names_adapter(source, options):
                raise NotImplementedError(_adapter_message(source))
        self.model, self._stored = _opened(self.checkpoints, options)
        self._measurer = Measurer(
            self.model, known, processing_class, data_collator, batch_size, calibration_dataset, options
        )
        self._fingerprints: dict[int, str] = {}

    def evaluate(
        self,
        datasets: Any,
        on: str | None = None,
        num_points: int = 5,
        baseline: str = "chord",
        tolerance: float = 0.1,
        confidence: float = 0.95,
        num_resamples: int = 1000,
        seed: int = 0,
        *,
        error_tolerance: float = 0.05,
        group_column: str | None = None,
        resume_dir: str | Path | None = None,
    ) -> MatrixResult:
        """Sweep all N (N - 1) / 2 lines: for each set, N passes for the checkpoints and P - 2 for each pair.

        Args:
            datasets (a data set, or `dict[str, data set]`): as [`ConnectivityEvaluator.evaluate`] takes them.
            on (`str`, *optional*): the set whose barriers decide; `None` takes `"cue"`, else the first.
            num_points (`int`, *optional*, defaults to 5):
                P, evenly spaced from 0 to 1, at least 3. Few, because each costs a pass for each of the pairs, and the
                barrier between two checkpoints that were trained apart is widest and highest near the middle. A pair
                that matters deserves [`ConnectivityEvaluator`] with more.
            baseline, tolerance, confidence, num_resamples, seed (*optional*): see [`compute_barrier`].
            error_tolerance, group_column (*optional*): see [`ConnectivityEvaluator.evaluate`].
            resume_dir (`str` or `Path`, *optional*):
                Folder that keeps every point as it is measured. A second call with the same checkpoints, data and
                arguments measures only what is missing; one with more checkpoints behind the same first ones, too.

        Returns:
            [`MatrixResult`]

        Raises:
            ValueError: a set to decide that is not there, fewer than 3 points, or what [`ConnectivityEvaluator`]
            refuses.
        """
        if num_points < 3:
            raise ValueError(f"num_points = {num_points}: a barrier needs at least 3, both ends among them.")
        verdict = {"baseline": baseline, "tolerance": tolerance, "error_tolerance": error_tolerance}
        statistics = {**verdict, "confidence": confidence, "num_resamples": num_resamples, "seed": seed}
        plan = self._measurer.plan(datasets, np.linspace(0.0, 1.0, num_points), group_column, statistics)
        on = deciding_set(list(plan.sets), on)
        runner = self._measurer.runner()  # of all lines, so that the data are read once
        folder = None if resume_dir is None else Path(resume_dir)
        ends = [self._end(index, plan, folder) for index in range(len(self.checkpoints))]
        pairs = {
            (i, j): self._measurer.along(
                plan, self._settings(plan, i, j), self._line(i, j), self._store(i, j, plan, folder, ends), runner
            )
            for i, j in combinations(range(len(self.checkpoints)), 2)
        }
        settings = {"checkpoints": self.checkpoints, "on": on, "path": "linear", **plan.settings}
        return MatrixResult.of_pairs(self.names, pairs, settings)

    def soup(
        self,
        result: MatrixResult,
        members: Sequence[str],
        folder: str | Path,
        datasets: Any = None,
        *,
        across_barriers: bool = False,
    ) -> Soup:
        """Write the uniform average of some checkpoints as an ordinary checkpoint, and measure it.

        BatchNorm statistics are those of `calibration_dataset`. With the weights go the processing class, a model card
        and `soup.json`, which holds what is returned.

        Args:
            result ([`MatrixResult`]): of these checkpoints.
            members (`Sequence[str]`): names, for example one of `result.clusters`.
            folder (`str` or `Path`): new, or empty.
            datasets (*optional*): what the soup is measured on, as in `evaluate`; `None`: it is not.
            across_barriers (`bool`, *optional*, defaults to `False`):
                Whether checkpoints are averaged that are not connected, or undecided.

        Raises:
            ValueError: fewer than two members, a name that is not known, or a pair that is not connected.
            FileExistsError: the folder exists and is not empty.
        """
        if result.settings["checkpoints"] != self.checkpoints:
            raise ValueError("The result is that of other checkpoints: measure these ones first.")
        check_members(result, members, across_barriers)
        folder = Path(folder)
        on_main_rank(partial(check_free, folder))
        plan = Plan({}, np.zeros(1), {}, {})
        if datasets is not None:
            statistics = {name: result.settings[name] for name in ("baseline", "confidence", "num_resamples")}
            plan = self._measurer.plan(datasets, np.array([0.0]), result.settings["group_column"], statistics)
        average = Average([self._weights(self.names.index(name)) for name in members])
        with at_point(self.model, average, 0.0):
            soup = Soup(list(members), *self._measurer.here(plan))
            on_main_rank(partial(self._write, soup, result, folder))
        return soup

    def _write(self, soup: Soup, result: MatrixResult, folder: Path) -> None:
        with whole_folder(folder) as written:
            save_ordinary(self.model, written)
            if self._measurer.processing_class is not None:
                self._measurer.processing_class.save_pretrained(written)
            sources = [self.checkpoints[self.names.index(name)] for name in soup.members]
            write_text(written / "README.md", soup_card(soup, sources, result))
            write_json(written / SOUP_FILE, soup.to_dict())

    def _weights(self, index: int) -> Weights | None:
        return self._stored.get(index)  # the first is the live model

    def _line(self, i: int, j: int) -> Any:
        return _StraightLine(
            self.model, (self._weights(i), self._weights(j)), lambda: [self._fingerprint(k) for k in (i, j)]
        )

    def _fingerprint(self, index: int) -> str:
        if index not in self._fingerprints:
            weights = self._stored.get(index, named_weights(self.model))
            self._fingerprints[index] = fingerprint(weights)
        return self._fingerprints[index]

    def _settings(self, plan: Plan, i: int, j: int) -> dict[str, Any]:
        return {"start": self.checkpoints[i], "end": self.checkpoints[j], "path": "linear", **plan.settings}

    def _end(self, index: int, plan: Plan, folder: Path | None) -> "_End":
        if folder is None:
            return _End(None)
        settings, line = self._settings(plan, index, index), self._line(index, index)
        return _End(self._measurer.store(folder / f"end-{index}", plan, settings, line))

    def _store(self, i: int, j: int, plan: Plan, folder: Path | None, ends: Sequence["_End"]) -> "_PairStore":
        inner = None
        if folder is not None:
            inner = self._measurer.store(folder / f"{i}-{j}", plan, self._settings(plan, i, j), self._line(i, j))
        return _PairStore({"point-0000": ends[i], f"point-{len(plan.alphas) - 1:04d}": ends[j]}, inner)


class _StraightLine:
    """The straight line between two anchors; `None` is the live model."""

    def __init__(
        self, model: nn.Module, anchors: tuple[Weights | None, Weights | None], fingerprints: Callable[[], list[str]]
    ) -> None:
        self.model, self.anchors, self._fingerprints = model, anchors, fingerprints

    def moving(self) -> AbstractContextManager[Callable[[float], None]]:
        return moving(self.model, LinearPath(*self.anchors))

    def fingerprints(self) -> dict[str, str]:
        return {str(index): found for index, found in enumerate(self._fingerprints())}


class _End:
    """A checkpoint's own point, which all of its pairs share: in memory, and in a folder if there is one."""

    def __init__(self, folder: Store | None) -> None:
        self._folder = folder
        self._point: Point | None = None

    def load(self) -> Point | None:
        if self._point is None and self._folder is not None:
            self._point = self._folder.load("point-0000")
        return self._point

    def save(self, point: Point) -> None:
        self._point = point
        if self._folder is not None:
            self._folder.save("point-0000", point)


class _PairStore:
    """The points of a pair: those of its ends belong to the checkpoints, the others are kept if there is a folder."""

    def __init__(self, ends: Mapping[str, _End], inner: Store | None) -> None:
        self._ends, self._inner = ends, inner

    def load(self, name: str) -> Point | None:
        if name in self._ends:
            return self._ends[name].load()
        return None if self._inner is None else self._inner.load(name)

    def save(self, name: str, point: Point) -> None:
        if name in self._ends:
            self._ends[name].save(point)
        elif self._inner is not None:
            self._inner.save(name, point)


def check_checkpoints(checkpoints: Sequence[str | Path]) -> list[str]:
    """The checkpoints as text; a `ValueError` for fewer than two, or one given twice."""
    given = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    for source in given:
        if not isinstance(source, (str, Path)):
            raise TypeError(
                f"A matrix reads checkpoints from their files, not from memory ({type(source).__name__}): save the "
                "model (save_pretrained), and give its folder."
            )
    sources = [str(source) for source in given]
    if len(sources) < 2:
        raise ValueError(f"A matrix needs at least two checkpoints, and {len(sources)} came: give more.")
    places = [str(Path(source).resolve()) if Path(source).exists() else source for source in sources]
    twice = next((source for i, source in enumerate(sources) if places[i] in places[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice: give each checkpoint once.")
    return sources


def short_names(sources: Sequence[str]) -> list[str]:
    """As many of the last parts of each path or id as tell them apart.

    Example:

    ```python
    >>> from hf_cbft.connectivity.matrix import short_names
    >>> short_names(["runs/1/best", "runs/2/best"])
    ['1/best', '2/best']

    ```
    """
    parts = [Path(source).parts for source in sources]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)


def deciding_set(names: Sequence[str], on: str | None) -> str:
    """The set whose barriers decide who is connected; a `ValueError` where it is not among `names`."""
    if on is None:
        return "cue" if "cue" in names else names[0]
    if on not in names:
        raise ValueError(f"on = {on!r} is none of the data sets: give one of {', '.join(names)}.")
    return on


def _opened(checkpoints: Sequence[str], options: LoadOptions) -> tuple[nn.Module, dict[int, Weights]]:
    """The first checkpoint as a live model, and by number the weights of the others, which stay in their files."""
    model = open_model(checkpoints[0], options)
    if has_adapter(model):
        raise NotImplementedError(_adapter_message(checkpoints[0]))
    live = named_weights(model)
    stored: dict[int, Weights] = {}
    for index, source in enumerate(checkpoints[1:], start=1):
        weights = stored_weights(source, options)
        stored[index] = weights
        check_same_weights(live, weights, source)
        other = other_dtype(live, weights)
        if other is not None:
            raise ValueError(
                f"{other} is {live[other].dtype} in {checkpoints[0]} and {weights[other].dtype} in {source}, so "
                "rounding would move one of them: load all in one dtype, with dtype=."
            )
        check_labels(model, weights.config, f"Between {checkpoints[0]} and {source}")
    return model, stored


def _adapter_message(source: str) -> str:
    return (
        f"{source} is an adapter, and a matrix is measured between whole weights: merge it into its base "
        "(merge_and_unload), save that, and give the folder."
    )
