# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and metrics along the path between two checkpoints, and the barriers on it."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_cbft.barriers import BASELINES, Barrier, check_statistics, compute_barrier
from hf_cbft.batchnorm import batchnorm_modules, recalibrate
from hf_cbft.checkpoints.loading import load_model, source_name
from hf_cbft.data.columns import check_not_empty, class_labels
from hf_cbft.data.inputs import InputCollator, drop_unused_columns
from hf_cbft.files import whole_folder, write_json
from hf_cbft.interpolation import at_point, check_same_weights, evaluation_mode, named_weights
from hf_cbft.metrics import resolve_metrics
from hf_cbft.paths import LinearPath

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 1
_VERDICTS = {True: "yes", False: "no", None: "undecided"}


@dataclass(frozen=True)
class ConnectivityResult:
    """What was measured along a path. P points, N examples in a set; losses in nats, metrics as they come.

    Attributes:
        alphas (`np.ndarray`): (P,), 0 is `start` and 1 is `end`.
        losses (`dict[str, np.ndarray]`): by set, (P,), mean cross-entropy over the examples.
        metrics (`dict[str, dict[str, np.ndarray]]`): by set and metric, (P,).
        barriers (`dict[str, Barrier]`): by set; `.height`, `.alpha`, `.low`, `.high`, `.connected`.
        example_losses (`dict[str, np.ndarray]`): by set, (P, N), float64.
        predictions (`dict[str, np.ndarray]`): by set, (P, N), the class with the largest logit.
        references (`dict[str, np.ndarray]`): by set, (N,), the labels.
        settings (`dict[str, Any]`): the end points and every argument of the evaluation.
    """

    alphas: np.ndarray
    losses: dict[str, np.ndarray]
    metrics: dict[str, dict[str, np.ndarray]]
    barriers: dict[str, Barrier]
    example_losses: dict[str, np.ndarray] = field(repr=False)
    predictions: dict[str, np.ndarray] = field(repr=False)
    references: dict[str, np.ndarray] = field(repr=False)
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, without the per-example arrays."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "settings": self.settings,
            "alphas": self.alphas.tolist(),
            "num_examples": {name: int(labels.size) for name, labels in self.references.items()},
            "losses": {name: values.tolist() for name, values in self.losses.items()},
            "metrics": {
                # JSON has no NaN: a metric that is undefined at a point is null.
                name: {m: [v if np.isfinite(v) else None for v in values.tolist()] for m, values in by_metric.items()}
                for name, by_metric in self.metrics.items()
            },
            "barriers": {name: asdict(barrier) for name, barrier in self.barriers.items()},
        }

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row for each set and point: `set`, `alpha`, `loss` and the metrics."""
        import pandas as pd

        return pd.concat(
            [
                pd.DataFrame({"set": name, "alpha": self.alphas, "loss": losses, **self.metrics[name]})
                for name, losses in self.losses.items()
            ],
            ignore_index=True,
        )

    def save(self, folder: str | Path) -> None:
        """Write `result.json` and `examples.safetensors` into a new folder.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """
        with whole_folder(folder) as written:
            write_json(written / "result.json", self.to_dict())
            arrays = {}
            for kind in ("example_losses", "predictions", "references"):
                arrays.update({f"{kind}/{name}": values for name, values in getattr(self, kind).items()})
            save_file(arrays, written / "examples.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> "ConnectivityResult":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no result in `folder`.
            ValueError: it was written by a version that is not known here.
        """
        folder = Path(folder)
        data = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if data.get("schema_version") != _SCHEMA_VERSION:
            raise ValueError(
                f"{folder} holds a result of schema version {data.get('schema_version')}, this version reads "
                f"{_SCHEMA_VERSION}: measure again, or use the version of hf_cbft that wrote it."
            )
        arrays = load_file(folder / "examples.safetensors")
        kinds: dict[str, dict[str, np.ndarray]] = {"example_losses": {}, "predictions": {}, "references": {}}
        for name in data["losses"]:
            for kind, values in kinds.items():
                values[name] = arrays[f"{kind}/{name}"]
        return cls(
            alphas=np.array(data["alphas"]),
            losses={name: np.array(values) for name, values in data["losses"].items()},
            metrics={
                name: {metric: np.array(values, dtype=np.float64) for metric, values in by_metric.items()}
                for name, by_metric in data["metrics"].items()
            },
            barriers={name: Barrier(**barrier) for name, barrier in data["barriers"].items()},
            settings=data["settings"],
            **kinds,
        )

    def plot(self, file: str | Path) -> None:
        """Draw the loss and the first metric of every set along the path; the suffix of `file` names the format."""
        from hf_cbft.plotting import plot_result

        plot_result(self.to_dict(), file)

    def __str__(self) -> str:
        lines = [
            f"{self.settings['path']} path, {len(self.alphas)} points, from {self.settings['start']} (alpha 0) to "
            f"{self.settings['end']} (alpha 1)"
        ]
        rows = [["set", "n", "loss at 0", "at 1", "barrier", "at alpha", self._band_title(), "connected"]]
        metric_names = list(next(iter(self.metrics.values()), {}))
        rows[0][4:4] = [f"{name} {end}" for name in metric_names for end in ("at 0", "at 1")]
        for name, barrier in self.barriers.items():
            ends = [f"{self.losses[name][0]:.3f}", f"{self.losses[name][-1]:.3f}"]
            for metric in metric_names:
                values = self.metrics[name][metric]
                ends += [f"{values[0]:.3f}", f"{values[-1]:.3f}"]
            band = format_band(barrier.low, barrier.high, digits=3)
            rows.append(
                [name, str(self.references[name].size), *ends, f"{barrier.height:.3f}", f"{barrier.alpha:.2f}", band]
                + [_VERDICTS[barrier.connected]]
            )
        lines += format_table(rows)
        lines.append("barrier in nats, by convention:")
        conventions = [["set", *BASELINES]]
        for name, losses in self.losses.items():
            heights = [compute_barrier(self.alphas, losses, baseline).height for baseline in BASELINES]
            conventions.append([name, *(f"{height:.3f}" for height in heights)])
        return "\n".join([*lines, *format_table(conventions)])

    def _band_title(self) -> str:
        return f"{100 * self.settings['confidence']:g} % band"


def format_band(low: float | None, high: float | None, digits: int) -> str:
    """`low to high`, with a dash for a bound that the examples do not give."""
    return " to ".join("-" if bound is None else f"{bound:.{digits}f}" for bound in (low, high))


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


class ConnectivityEvaluator:
    """Measure loss and metrics along the path between two checkpoints of one architecture.

    `start` is the model that is moved along the path; afterwards, and also after an exception, it is bit for bit what
    it was, its modes included. `end` is only read.

    Args:
        start (`str`, `Path` or `PreTrainedModel`): a folder, a Hub id, `org/name@revision`, or a model. Alpha = 0.
        end (`str`, `Path` or `PreTrainedModel`): the same. Alpha = 1.
        processing_class (*optional*): image processor or tokenizer, for rows that hold an `image` or a `text`.
        data_collator (`Callable`, *optional*): from rows to a batch with `labels`; `None` uses [`InputCollator`].
        batch_size (`int`, *optional*, defaults to 32): rows in a forward pass.
        metrics (`Sequence`, *optional*, defaults to `("accuracy",)`): names, `evaluate` modules, or functions of
            (predictions, references).
        calibration_dataset (*optional*): clean training rows on which BatchNorm statistics are estimated anew at each
            interior point. Models without BatchNorm do not need it.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether code from a repository may run.

    Raises:
        ValueError: end points with other parameter names, shapes (the first three are named) or dtypes, an unknown
        metric, a batch size below 1, an empty calibration set.
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
        trust_remote_code: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: give at least 1.")
        if calibration_dataset is not None:
            check_not_empty(calibration_dataset, "calibration_dataset")
        self.metrics = resolve_metrics(metrics)
        self.names = {"start": source_name(start), "end": source_name(end)}
        self.model = load_model(start, trust_remote_code)
        self.end_weights = named_weights(load_model(end, trust_remote_code))
        start_weights = named_weights(self.model)
        check_same_weights(start_weights, self.end_weights, "The end point")
        other = [name for name, weight in start_weights.items() if weight.dtype != self.end_weights[name].dtype]
        if other:
            raise ValueError(
                f"{other[0]} is {start_weights[other[0]].dtype} at the start and {self.end_weights[other[0]].dtype} "
                "at the end, so rounding would keep the path from its end: load both models in one dtype."
            )
        self.collator = InputCollator(self.model, processing_class, data_collator)
        self.batch_size = batch_size
        self.calibration_dataset = calibration_dataset

    def evaluate(
        self,
        datasets: Any,
        path: str = "linear",
        num_points: int = 11,
        baseline: str = "chord",
        tolerance: float = 0.1,
        confidence: float = 0.95,
        num_resamples: int = 1000,
        seed: int = 0,
    ) -> ConnectivityResult:
        """Sweep the path once: P points times D sets are P x D passes, and a calibration pass for each interior point.

        Args:
            datasets (a data set, or `dict[str, data set]`): what is measured on, for example the four sets of
                [`make_counterfactuals`]. A single one is called `"data"`.
            path (`str`, *optional*, defaults to `"linear"`): the straight line.
            num_points (`int`, *optional*, defaults to 11): P, evenly spaced from 0 to 1, at least 3.
            baseline, tolerance, confidence, num_resamples, seed (*optional*): see [`compute_barrier`].

        Returns:
            [`ConnectivityResult`]

        Raises:
            ValueError: an unknown path, fewer than 3 points, an empty set, no label column, labels beyond the model's
            classes, or a loss that is not finite.
            NotImplementedError: a model that does not give one row of class logits for each example.
        """
        if path != "linear":
            raise ValueError(f'The path {path!r} is unknown: "linear" is the straight line.')
        if num_points < 3:
            raise ValueError(f"num_points = {num_points}: a barrier needs at least 3, both ends among them.")
        check_statistics(baseline, confidence, num_resamples)
        sets = dict(datasets) if isinstance(datasets, Mapping) else {"data": datasets}
        if not sets:
            raise ValueError("datasets is an empty dict: give at least one data set to measure on.")
        num_classes = getattr(getattr(self.model, "config", None), "num_labels", None)
        for name, dataset in sets.items():
            check_not_empty(dataset, f"The data set {name!r}")
            class_labels(dataset, f"The data set {name!r}", num_classes)
        settings = {
            **self.names,
            "path": path,
            "num_points": num_points,
            "batch_size": self.batch_size,
            "metrics": list(self.metrics),
            "calibration_rows": 0 if self.calibration_dataset is None else len(self.calibration_dataset),
            "baseline": baseline,
            "tolerance": tolerance,
            "confidence": confidence,
            "num_resamples": num_resamples,
            "seed": seed,
        }
        alphas = np.linspace(0.0, 1.0, num_points)
        losses, predictions, references = self._sweep(
            alphas, {n: drop_unused_columns(d, self.model) for n, d in sets.items()}
        )
        return ConnectivityResult(
            alphas=alphas,
            losses={name: values.mean(axis=1) for name, values in losses.items()},
            metrics={
                name: {
                    metric: np.array(
                        [compute(point, references[name]) for point in predictions[name]], dtype=np.float64
                    )
                    for metric, compute in self.metrics.items()
                }
                for name in sets
            },
            barriers={
                name: compute_barrier(
                    alphas,
                    values,
                    baseline,
                    tolerance=tolerance,
                    confidence=confidence,
                    num_resamples=num_resamples,
                    seed=seed,
                )
                for name, values in losses.items()
            },
            example_losses=losses,
            predictions=predictions,
            references=references,
            settings=settings,
        )

    def _sweep(self, alphas: np.ndarray, sets: dict[str, Any]) -> tuple[dict[str, np.ndarray], ...]:
        """Per-example losses (P, N), predictions (P, N) and labels (N,) of each set."""
        losses: dict[str, list] = {name: [] for name in sets}
        predictions: dict[str, list] = {name: [] for name in sets}
        references: dict[str, np.ndarray] = {}
        path = LinearPath(start=None, end=self.end_weights)
        estimate = bool(batchnorm_modules(self.model))
        if estimate and self.calibration_dataset is None:
            logger.warning(
                "The model has BatchNorm and no calibration_dataset was given: interior points use interpolated "
                "running statistics, and part of a barrier may come from those alone."
            )
            estimate = False
        with evaluation_mode(self.model), tqdm(total=len(alphas) * len(sets), desc="Path", disable=None) as progress:
            for alpha in alphas:
                with at_point(self.model, path, alpha):
                    if estimate and 0.0 < alpha < 1.0:
                        recalibrate(self.model, self._batches(self.calibration_dataset), self._logits)
                    for name, dataset in sets.items():
                        point = [self._losses_of(batch) for batch in self._batches(dataset)]
                        by_kind = [np.concatenate(parts) for parts in zip(*point, strict=True)]
                        losses[name].append(by_kind[0])
                        predictions[name].append(by_kind[1])
                        references[name] = by_kind[2]
                        progress.update()
        return (
            {name: np.stack(values) for name, values in losses.items()},
            {name: np.stack(values) for name, values in predictions.items()},
            references,
        )

    def _batches(self, dataset: Any) -> Iterator[dict[str, torch.Tensor]]:
        """One pass in order. A last batch of one row, which has no batch statistics, joins the one before."""
        rows = range(len(dataset))
        batches = [list(rows[first : first + self.batch_size]) for first in range(0, len(rows), self.batch_size)]
        if self.batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [batches[-2] + batches[-1]]
        # A generator of its own: iterating a loader draws from the global one otherwise.
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.collator,
            generator=torch.Generator(),  # type: ignore[arg-type]
        )
        device = next(self.model.parameters()).device
        for batch in loader:
            yield {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}

    @torch.no_grad()
    def _logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs = self.model(**{name: value for name, value in batch.items() if name != "labels"})
        return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]

    def _losses_of(self, batch: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if "labels" not in batch:
            raise ValueError("The data_collator made a batch without labels: the loss needs them.")
        logits, labels = self._logits(batch), batch["labels"]
        if logits.ndim != 2 or labels.ndim != 1:
            raise NotImplementedError(
                f"{type(self.model).__name__} gives logits of shape {tuple(logits.shape)} for labels of shape "
                f"{tuple(labels.shape)}: the evaluator measures classification, one row of class logits an example."
            )
        losses = F.cross_entropy(logits.double(), labels, reduction="none")
        return losses.cpu().numpy(), logits.argmax(dim=-1).cpu().numpy(), labels.cpu().numpy()
