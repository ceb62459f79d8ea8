# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics by name as local `evaluate` modules (no download), and any `evaluate` module or function beside them."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


class Accuracy(evaluate.Metric):
    """Fraction of the predictions that equal their reference.

    Example:

    ```python
    >>> from hf_cbft.metrics import Accuracy
    >>> Accuracy().compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2])
    {'accuracy': 0.75}

    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Fraction of the predictions that equal their reference.",
            citation="",
            inputs_description="predictions and references: one class a row.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


_BY_NAME: dict[str, type[evaluate.Metric]] = {"accuracy": Accuracy}


def resolve_metrics(metrics: Sequence[Any]) -> dict[str, Metric]:
    """Functions of (predictions, references), by name.

    Args:
        metrics (`Sequence`): names (`"accuracy"`), `evaluate` modules, or functions of (predictions, references) that
            give a number; a function is called by its `__name__`.

    Raises:
        ValueError: an unknown name, or a name that comes twice.
        TypeError: neither of the three.
    """
    resolved: dict[str, Metric] = {}
    if isinstance(metrics, str):
        raise TypeError(f"metrics = {metrics!r} is a single name: give a list of metrics.")
    for metric in metrics:
        if isinstance(metric, str):
            if metric not in _BY_NAME:
                raise ValueError(
                    f"The metric {metric!r} is not built in ({', '.join(_BY_NAME)} is): pass the evaluate module "
                    "itself, or a function of (predictions, references)."
                )
            name, function = metric, _of_module(_BY_NAME[metric](keep_in_memory=True), metric)
        elif isinstance(metric, evaluate.EvaluationModule):
            name, function = metric.name, _of_module(metric, metric.name)
        elif callable(metric):
            name, function = getattr(metric, "__name__", type(metric).__name__), metric
        else:
            raise TypeError(f"A metric is a name, an evaluate module or a function; got a {type(metric).__name__}.")
        if name in resolved:
            raise ValueError(f"The metric {name!r} is given twice: give each a name of its own.")
        resolved[name] = function
    return resolved


def _of_module(module: evaluate.EvaluationModule, name: str) -> Metric:
    def compute(predictions: np.ndarray, references: np.ndarray) -> float:
        return module.compute(predictions=predictions, references=references)[name]

    return compute
