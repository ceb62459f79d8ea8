# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and metrics along the path between two checkpoints, and the barriers on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCardData
from torch import nn

from hf_cbft.alignment.alignments import Alignment
from hf_cbft.alignment.matching import resolve_alignment
from hf_cbft.checkpoints.loading import LoadOptions, source_name
from hf_cbft.connectivity.ends import Ends, WeightEnds, save_ordinary
from hf_cbft.connectivity.measuring import Measurer, check_measuring
from hf_cbft.connectivity.opening import open_ends
from hf_cbft.connectivity.results import ConnectivityResult
from hf_cbft.distributed import on_main_rank
from hf_cbft.files import whole_folder, write_text
from hf_cbft.paths.geometry import PolylinePath, QuadraticPath, check_alpha
from hf_cbft.paths.interpolation import evaluation_mode


class ConnectivityEvaluator:
    """Measure loss and metrics along the path between two checkpoints of one architecture.

    One model is moved along the path: `start`, or for adapters the one whose adapter is scaled. Afterwards, and also
    after an exception, it is bit for bit what it was, its modes included; the other end is only read. Where both ends
    are folders or Hub ids, no second model is kept: `end` is read from its files at each point. Adapters on one base
    need that base alone.

    On several processes (`accelerate launch`) each makes the same calls with the same data: the batches are those of
    one process, dealt to the ranks, and every rank gets the whole result.

    Args:
        start (`str`, `Path` or `PreTrainedModel`):
            A folder, a Hub id, `org/name@revision`, a model, or an adapter: `base+adapter`, its folder, a `PeftModel`.
            Alpha = 0.
        end (`str`, `Path` or `PreTrainedModel`): the same. Alpha = 1.
        processing_class (*optional*):
            Image processor, tokenizer or feature extractor, for rows that hold an `image`, a `text` or an `audio`.
        data_collator (`Callable`, *optional*): from rows to a batch with `labels`; `None` uses [`InputCollator`].
        batch_size (`int`, *optional*, defaults to 32): rows in a forward pass; halved where memory runs out.
        metrics (`Sequence`, *optional*, defaults to `("accuracy",)`):
            Names (`"accuracy"`, `"worst_group_accuracy"`, `"perplexity"`, `"f1"`), `evaluate` modules, or functions of
            (predictions, references).
        calibration_dataset (*optional*): clean training rows on which BatchNorm statistics are estimated anew at each
            interior point. Models without BatchNorm do not need it.
        align (`str`, `Path` or `Alignment`, *optional*):
            Measure to `end` with its units in the order of `start`'s, for networks that were trained apart:
            `"weights"`, `"activations"` (compared on `calibration_dataset`), or what [`align`] gave, also its file.
            `end` stays the same function.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether code from a repository may run.
        head_from (`str`, *optional*):
            `"start"` or `"end"`: use its head all along the line, for ends whose heads have other sizes or classes in
            another order. `None` refuses such ends.
        dtype, device_map, token, allow_pickle (*optional*): see [`~hf_cbft.checkpoints.loading.LoadOptions`].

    Raises:
        ValueError: end points with other parameter names, shapes (the first three are named) or dtypes, NaN in their
        weights, an adapter on another base, an unknown metric, a batch size below 1, an empty calibration set, or what
        [`align`] refuses.
        NotImplementedError: a model that measures what is not known here; `align` with adapters or `head_from`.
    """

    def __init__(
        self,
        start: str | Path | nn.Module,
        end: str | Path | nn.Module,
        processing_class: Any = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        batch_size: int = 32,
        metrics: Sequence[Any] = ("accuracy",),
        calibration_dataset: Any = None,
        align: Any = None,
        trust_remote_code: bool = False,
        *,
        head_from: str | None = None,
        dtype: Any = None,
        device_map: Any = None,
        token: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        known = check_measuring(batch_size, metrics, calibration_dataset)
        self.names = {"start": source_name(start), "end": source_name(end)}
        if head_from is not None:
            self.names["head_from"] = head_from
        options = LoadOptions(dtype, device_map, token, allow_pickle, trust_remote_code)
        self._ends: Ends = open_ends(start, end, options, head_from)
        self.model = self._ends.model
        self.processing_class = processing_class
        self.measurer = Measurer(
            self.model, known, processing_class, data_collator, batch_size, calibration_dataset, options
        )
        self.alignment: Alignment | None = None
        if align is not None:
            self.alignment = self._align(align, end)
            self.names["align"] = self.alignment.summary()

    def _align(self, how: Any, end: Any) -> Alignment:
        """Find or read the alignment, and let the ends read the end in its new order."""
        ends = self._ends
        if not isinstance(ends, WeightEnds):
            raise NotImplementedError(
                "align does not go with adapters, nor with head_from: merge adapters (merge_and_unload), save both "
                "models, and give these folders; align needs all of both models."
            )
        if any(hasattr(parameter, "to_local") for parameter in self.model.parameters()):
            raise NotImplementedError(
                "The model is sharded, and its units cannot be moved across shards: align on one process "
                "(hf-cbft align), and give the aligned checkpoint as end."
            )
        measurer = self.measurer
        alignment = on_main_rank(
            lambda: resolve_alignment(
                how,
                self.model,
                end,
                measurer.calibration_dataset,
                processing_class=self.processing_class,
                data_collator=measurer.data_collator,
                batch_size=measurer.batch_size,
                **asdict(measurer.options),
            )
        )
        alignment.check(self.model)
        self._ends = WeightEnds(self.model, alignment.permuted(ends.end), measurer.options)
        return alignment

    def evaluate(
        self,
        datasets: Any,
        path: Any = "linear",
        num_points: int = 11,
        baseline: str = "chord",
        tolerance: float = 0.1,
        confidence: float = 0.95,
        num_resamples: int = 1000,
        seed: int = 0,
        *,
        alphas: Sequence[float] | None = None,
        error_tolerance: float = 0.05,
        group_column: str | None = None,
        resume_dir: str | Path | None = None,
    ) -> ConnectivityResult:
        """Sweep the path once: P points times D sets are P x D passes, and a calibration pass for each interior point.

        Args:
            datasets (a data set, or `dict[str, data set]`): what is measured on, for example the four sets of
                [`make_counterfactuals`]. A single one is called `"data"`.
            path (`str`, `QuadraticPath`, `PolylinePath` or a list of checkpoints, *optional*, defaults to `"linear"`):
                The straight line, a fitted curve (`hf_cbft.fit_curve`) or its folder, or checkpoints that the path
                goes through in straight segments, for example those of a training run.
            num_points (`int`, *optional*, defaults to 11): P, evenly spaced from 0 to 1, at least 3.
            baseline, tolerance, confidence, num_resamples, seed (*optional*): see [`compute_barrier`].
            alphas (`Sequence[float]`, *optional*): the points, from 0 to 1, instead of `num_points`.
            error_tolerance (`float`, *optional*, defaults to 0.05):
                The drop in accuracy, a fraction, up to which the ends count as connected in accuracy.
            group_column (`str`, *optional*): column that holds the group of a row; each group gets its own barrier.
            resume_dir (`str` or `Path`, *optional*):
                Folder that keeps every point as it is measured. A second call with the same models, data and arguments
                measures only what is missing.

        Returns:
            [`ConnectivityResult`]

        Raises:
            ValueError: an unknown path, fewer than 3 points, an empty set, no label column, labels beyond the model's
            classes, rows that are not the same each time they are read, a loss that is not finite, or a `resume_dir`
            of another evaluation.
            NotImplementedError: a model that does not give logits for what is labelled.
        """
        ends = self._ends.along(path)
        verdict = {"baseline": baseline, "tolerance": tolerance, "error_tolerance": error_tolerance}
        statistics = {**verdict, "confidence": confidence, "num_resamples": num_resamples, "seed": seed}
        plan = self.measurer.plan(datasets, check_grid(num_points, alphas), group_column, statistics)
        settings = {**self.names, "path": _path_name(path), **plan.settings}
        store = None if resume_dir is None else self.measurer.store(Path(resume_dir), plan, settings, ends)
        return self.measurer.along(plan, settings, ends, store)

    def save_point(self, alpha: float, folder: str | Path, path: Any = "linear") -> None:
        """Write the model at a point of the path as an ordinary checkpoint: a soup of both, where they are connected.

        BatchNorm statistics are those of `calibration_dataset`; an adapter is merged into its base. With the weights
        go the processing class and a model card.

        Args:
            alpha (`float`): in [0, 1].
            folder (`str` or `Path`): new, or empty.
            path (*optional*, defaults to `"linear"`): as in `evaluate`.

        Raises:
            ValueError: alpha outside [0, 1], or an unknown path.
            FileExistsError: the folder exists and is not empty.
        """
        ends = self._ends.along(path)
        check_alpha(alpha)
        with evaluation_mode(self.model), ends.moving() as move, whole_folder(folder) as written:
            move(alpha)
            if 0.0 < alpha < 1.0:
                self.measurer.runner().calibrate(self.measurer.calibration_dataset)
            save_ordinary(self.model, written)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(written)
            write_text(written / "README.md", _card(self.names, alpha, _path_name(path)))


def check_grid(num_points: int, alphas: Sequence[float] | None) -> np.ndarray:
    """The points, checked: at least 3, from 0 to 1."""
    if alphas is None:
        if num_points < 3:
            raise ValueError(f"num_points = {num_points}: a barrier needs at least 3, both ends among them.")
        return np.linspace(0.0, 1.0, num_points)
    grid = np.array(alphas, dtype=np.float64)
    if grid.ndim != 1 or grid.size < 3 or grid[0] != 0.0 or grid[-1] != 1.0 or not (np.diff(grid) > 0.0).all():
        raise ValueError(
            f"alphas = {list(alphas)}: give at least 3 points in rising order, from 0.0 to 1.0; a barrier needs both "
            "ends and something between them."
        )
    return grid


def _path_name(path: Any) -> str:
    if isinstance(path, QuadraticPath):
        return "quadratic"
    if isinstance(path, PolylinePath):
        return "polyline"
    return path if isinstance(path, str) else f"polyline through {', '.join(map(source_name, path))}"


def _card(names: Mapping[str, str], alpha: float, path: str) -> str:
    """The model card of a point, with the metadata that the Hub reads."""
    bases = [names[end] for end in ("start", "end") if "/" in names[end] and not Path(names[end]).exists()]
    aligned = ", its units in the order of the start's" if "align" in names else ""
    data = ModelCardData(library_name="transformers", tags=["hf_cbft", "merge"], base_model=bases or None)
    return (
        f"---\n{data.to_yaml()}\n---\n\n# A point between two checkpoints\n\n"
        f"The weights at alpha = {alpha:g} of the {path} path from {names['start']} (alpha 0) to {names['end']} "
        f"(alpha 1{aligned}), written by hf_cbft. Running statistics of BatchNorm, where there are any, were "
        "estimated anew.\n"
    )
