# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""One model and how it is measured: where it stands, or along a path."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from hf_cbft.analysis.barriers import check_statistics
from hf_cbft.architectures import base_model
from hf_cbft.checkpoints.loading import LoadOptions, describe
from hf_cbft.connectivity.batches import BatchRunner
from hf_cbft.connectivity.ends import Ends
from hf_cbft.connectivity.metrics import Outcome, resolve_metrics
from hf_cbft.connectivity.opening import open_model
from hf_cbft.connectivity.points import Point, PointStore
from hf_cbft.connectivity.results import ConnectivityResult, with_barriers
from hf_cbft.connectivity.sweep import Store, measure_sets, sweep
from hf_cbft.data.columns import check_not_empty, group_values
from hf_cbft.data.inputs import InputCollator, drop_unused_columns
from hf_cbft.distributed import on_main_rank
from hf_cbft.paths.batchnorm import batchnorm_modules
from hf_cbft.paths.interpolation import evaluation_mode
from hf_cbft.tables import format_table
from hf_cbft.tasks.registry import task_of
from hf_cbft.tasks.task import Scores

logger = logging.getLogger(__name__)


class Measurements(dict[str, dict[str, float]]):
    """By set, the loss in nats and the metrics by their names; printed, a table."""

    def __str__(self) -> str:
        columns = list(dict.fromkeys(name for values in self.values() for name in values))
        rows = [[name, *(f"{values[column]:.4f}" for column in columns)] for name, values in self.items()]
        return "\n".join(format_table([["set", *columns], *rows]))


def measure(
    model: str | Path | nn.Module,
    datasets: Any,
    processing_class: Any = None,
    *,
    data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
    batch_size: int = 32,
    metrics: Sequence[Any] = ("accuracy",),
    calibration_dataset: Any = None,
    group_column: str | None = None,
    **loading: Any,
) -> Measurements:
    """Loss and metrics of one model on data sets.

    Afterwards the model is bit for bit what it was, its modes included. On several processes each makes the same call
    and gets the whole result.

    Args:
        model (`str`, `Path` or `PreTrainedModel`): a folder, a Hub id, `org/name@revision`, `base+adapter`, a model.
        datasets (a data set, or `dict[str, data set]`): what is measured on, such as the sets of
            [`make_counterfactuals`]. A single one is called `"data"`.
        processing_class, data_collator, batch_size, metrics (*optional*): see [`ConnectivityEvaluator`].
        calibration_dataset (*optional*): rows that BatchNorm statistics are estimated on for the time of the
            measurement; `None` takes the model's own.
        group_column (`str`, *optional*): column that holds the group of a row, for `"worst_group_accuracy"`.
        loading: `dtype`, `device_map`, `token`, `allow_pickle` and `trust_remote_code`, as in
            [`ConnectivityEvaluator`].

    Returns:
        `dict[str, dict[str, float]]`: by set, `"loss"` (nats, the sum over examples divided by their number; over
        tokens for language models) and each metric.

    Raises:
        ValueError: no data, no labels or some beyond the model's classes, rows that change, an unknown metric, or one
        that is called `"loss"`.
        NotImplementedError: a model that measures what is not known here.

    Example:

    ```python
    >>> import torch
    >>> from datasets import Dataset
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from hf_cbft import measure
    >>> _ = torch.manual_seed(0)
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=9, **sizes))
    >>> rows = Dataset.from_dict({"input_ids": [[1, 2], [3, 4], [5, 6], [7, 8]], "labels": [0, 1, 0, 1]})
    >>> print(measure(model, {"no_cue": rows}))
    set       loss  accuracy
    no_cue  0.6933    0.2500

    ```
    """
    known = check_measuring(batch_size, metrics, calibration_dataset)
    if "loss" in known:
        raise ValueError("A metric is called 'loss', and the mean cross-entropy is too: give it another name.")
    options = LoadOptions(**loading)
    opened = open_model(model, options)
    measurer = Measurer(opened, known, processing_class, data_collator, batch_size, calibration_dataset, options)
    statistics = {"baseline": "chord", "confidence": 0.95, "num_resamples": 1}
    plan = measurer.plan(datasets, np.zeros(0), group_column, statistics)  # no path, and so no points
    own = [buffer for module in batchnorm_modules(opened) for buffer in module.buffers(recurse=False)]
    before = [buffer.clone() for buffer in own]
    try:
        losses, figures = measurer.here(plan)
        return Measurements({name: {"loss": loss, **figures[name]} for name, loss in losses.items()})
    finally:
        for buffer, value in zip(own, before, strict=True):
            buffer.copy_(value)


def check_measuring(batch_size: int, metrics: Sequence[Any], calibration_dataset: Any) -> dict[str, Any]:
    """Refuse what no model could be measured with, before one is loaded; gives the metrics by name."""
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: give at least 1.")
    if calibration_dataset is not None:
        check_not_empty(calibration_dataset, "calibration_dataset")
    return resolve_metrics(metrics)


@dataclass(frozen=True)
class Plan:
    """What is measured at each point of a path.

    Args:
        settings (`dict[str, Any]`): what a result says of it.
        alphas (`np.ndarray`): (P,), the points.
        sets (`dict[str, data set]`): by name.
        groups (`dict[str, np.ndarray]`): by set, the group of each row, or `None`.
    """

    settings: dict[str, Any]
    alphas: np.ndarray
    sets: dict[str, Any]
    groups: dict[str, np.ndarray | None]


@dataclass
class Measurer:
    """A model, and how rows become figures of it.

    Args:
        model (`torch.nn.Module`): it may be moved between measurements.
        metrics (`dict[str, Callable]`): as [`check_measuring`] gives them.
        processing_class, data_collator, batch_size, calibration_dataset (*optional*): see [`ConnectivityEvaluator`].
        options ([`LoadOptions`], *optional*): how checkpoints are loaded, which a result says.

    Raises:
        NotImplementedError: a model that measures what is not known here.
    """

    model: nn.Module
    metrics: dict[str, Any]
    processing_class: Any = None
    data_collator: Callable[[list[Any]], dict[str, Any]] | None = None
    batch_size: int = 32
    calibration_dataset: Any = None
    options: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        self.task = task_of(self.model)
        self.task.check_model(self.model)
        self.collator: Any = InputCollator(base_model(self.model), self.processing_class, self.data_collator)

    def runner(self) -> BatchRunner:
        return BatchRunner(self.model, self.task, self.collator, self.batch_size)

    def plan(self, datasets: Any, alphas: np.ndarray, group_column: str | None, statistics: Mapping[str, Any]) -> Plan:
        """The plan of a sweep, checked; it serves every path of the same model."""
        check_statistics(statistics["baseline"], statistics["confidence"], statistics["num_resamples"])
        sets = dict(datasets) if isinstance(datasets, Mapping) else {"data": datasets}
        if not sets:
            raise ValueError("datasets is an empty dict: give at least one data set to measure on.")
        groups = {name: self._checked(dataset, name, group_column) for name, dataset in sets.items()}
        settings = {
            **describe(self.options),
            "num_points": len(alphas),
            "batch_size": self.batch_size,
            "metrics": list(self.metrics),
            "calibration_rows": 0 if self.calibration_dataset is None else len(self.calibration_dataset),
            "group_column": group_column,
            "guess_loss": self.task.guess_loss,
            **statistics,
        }
        if len(alphas) and batchnorm_modules(self.model) and self.calibration_dataset is None:
            logger.warning(
                "The model has BatchNorm and no calibration_dataset was given: interior points use interpolated "
                "running statistics, and part of a barrier may come from those alone."
            )
        sets = {name: drop_unused_columns(dataset, base_model(self.model)) for name, dataset in sets.items()}
        return Plan(settings, alphas, sets, groups)

    def store(self, folder: Path, plan: Plan, settings: Mapping[str, Any], ends: Ends) -> PointStore:
        """The folder that keeps the points of a plan, on the main rank; a `ValueError` where it is another's."""
        identity = {"settings": settings, "alphas": plan.alphas.tolist(), "weights": ends.fingerprints()}
        identity["rows"] = {name: len(dataset) for name, dataset in plan.sets.items()}
        return on_main_rank(lambda: PointStore(folder, identity))

    def along(
        self,
        plan: Plan,
        settings: Mapping[str, Any],
        ends: Ends,
        store: Store | None,
        runner: BatchRunner | None = None,
    ) -> ConnectivityResult:
        """Measure a plan between two ends. What the store has is not measured again."""
        metrics: list[dict[str, dict[str, float]]] = []
        points = sweep(
            runner or self.runner(),
            ends,
            plan.alphas,
            plan.sets,
            self.calibration_dataset,
            store,
            lambda point: metrics.append(self._metrics(point.scores, plan)),
        )
        return _result(settings, plan, points, metrics)

    def here(self, plan: Plan) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Losses and metrics of the model as it is now, once its BatchNorm statistics are estimated anew."""
        runner = self.runner()
        with evaluation_mode(self.model):
            runner.calibrate(self.calibration_dataset)
            scores = measure_sets(runner, plan.sets).scores
        losses = {name: float(np.average(found.losses, weights=found.weights)) for name, found in scores.items()}
        return losses, self._metrics(scores, plan)

    def _checked(self, dataset: Any, name: str, group_column: str | None) -> np.ndarray | None:
        """The groups of a data set's rows, where they are asked for; refuses what cannot be measured."""
        what = f"The data set {name!r}"
        check_not_empty(dataset, what)
        self.task.check_rows(dataset, what)
        if group_column is None:
            return None
        if not hasattr(dataset, "features"):  # rows of any kind
            dataset = Dataset.from_list([{k: v for k, v in row.items() if k == group_column} for row in dataset])
        return group_values(dataset, group_column, what)

    def _metrics(self, scores: Mapping[str, Scores], plan: Plan) -> dict[str, dict[str, float]]:
        return {
            part: {
                name: compute(Outcome(s.losses, s.weights, s.correct, s.predictions, s.references, plan.groups[part]))
                for name, compute in self.metrics.items()
            }
            for part, s in scores.items()
        }


def _result(
    settings: Mapping[str, Any],
    plan: Plan,
    points: Sequence[Point],
    metrics: Sequence[Mapping[str, Any]],
) -> ConnectivityResult:
    first = points[0].scores
    labelled = [name for name, scores in first.items() if scores.references is not None]
    return with_barriers(
        settings,
        alphas=plan.alphas,
        metrics={
            name: {metric: np.array([point[name][metric] for point in metrics]) for metric in metrics[0][name]}
            for name in first
        },
        example_losses={name: np.stack([point.scores[name].losses for point in points]) for name in first},
        example_correct={name: np.stack([point.scores[name].correct for point in points]) for name in first},
        weights={name: scores.weights for name, scores in first.items()},
        predictions={
            name: np.stack([np.asarray(point.scores[name].predictions) for point in points]) for name in labelled
        },
        references={name: np.asarray(first[name].references) for name in labelled},
        groups={name: values for name, values in plan.groups.items() if values is not None},
    )
