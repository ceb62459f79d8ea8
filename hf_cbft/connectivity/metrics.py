# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics by name (no download), and any `evaluate` module or function beside them."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import evaluate
import numpy as np

from hf_cbft.tables import shorten


@dataclass(frozen=True)
class Outcome:
    """What one point of a path gives on one set: N examples, M classified things (rows, or the tokens with a label).

    Attributes:
        losses (`np.ndarray`): (N,) float64, in nats, the mean over the example's counted tokens.
        weights (`np.ndarray`): (N,) float64, how many tokens the example counts; 1 in classification.
        correct (`np.ndarray`): (N,) float64, the fraction of its counted tokens that are predicted right.
        predictions (`np.ndarray`, *optional*): (M,) int64; `None` for language models, which have too many.
        references (`np.ndarray`, *optional*): (M,) int64.
        groups (`np.ndarray`, *optional*): (N,) str, the group of each example.
    """

    losses: np.ndarray
    weights: np.ndarray
    correct: np.ndarray
    predictions: np.ndarray | None = None
    references: np.ndarray | None = None
    groups: np.ndarray | None = None


Metric = Callable[[Outcome], float]

# Built-in metrics, as functions of one point. `accuracy` and `worst_group_accuracy` need no predictions: they hold for
# the tokens of a language model too.
_BY_NAME: dict[str, Metric] = {
    "accuracy": lambda outcome: _weighted_mean(outcome.correct, outcome.weights),
    "worst_group_accuracy": lambda outcome: _lowest_mean(
        outcome.correct, outcome.weights, _given(outcome, "groups", "worst_group_accuracy")
    ),
    "perplexity": lambda outcome: _exp(_weighted_mean(outcome.losses, outcome.weights)),
    "f1": lambda outcome: _f1(_given(outcome, "predictions", "f1"), _given(outcome, "references", "f1")),
}


def resolve_metrics(metrics: Sequence[Any]) -> dict[str, Metric]:
    """Functions of an [`Outcome`], by name.

    The built-in names:

    - `"accuracy"`: the fraction of the counted rows or tokens that are predicted right
    - `"worst_group_accuracy"`: the lowest accuracy of a group
    - `"perplexity"`: exp of the mean loss
    - `"f1"`: F1 of a class, 2 TP / (2 TP + FP + FN), as the mean over the classes that occur

    Args:
        metrics (`Sequence`): names, `evaluate` modules, or functions of (predictions, references) that give a number;
            a function is called by its `__name__`. A module gets what it asks for, by the names of an [`Outcome`].

    Returns:
        `dict[str, Callable[[Outcome], float]]`. Each raises a `ValueError` that names the metric where the point lacks
        what it needs, where it fails, and where it gives anything but one number.

    Raises:
        ValueError: an unknown name, a name that comes twice, or a module that needs more than an evaluation has.
        TypeError: neither of the three.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_cbft.connectivity.metrics import Outcome, resolve_metrics
    >>> tokens = Outcome(losses=np.array([0.0, 2.0]), weights=np.array([3.0, 1.0]), correct=np.array([1.0, 0.0]))
    >>> {name: compute(tokens) for name, compute in resolve_metrics(["accuracy", "perplexity"]).items()}
    {'accuracy': 0.75, 'perplexity': 1.6487212707001282}

    ```
    """
    resolved: dict[str, Metric] = {}
    if isinstance(metrics, str):
        raise TypeError(f"metrics = {metrics!r} is a single name: give a list of metrics.")
    for metric in metrics:
        if isinstance(metric, str):
            if metric not in _BY_NAME:
                raise ValueError(
                    f"The metric {metric!r} is not built in ({', '.join(_BY_NAME)} are): pass the evaluate module "
                    "itself, or a function of (predictions, references)."
                )
            name, function = metric, _BY_NAME[metric]
        elif isinstance(metric, evaluate.EvaluationModule):
            name, function = metric.name, _of_module(metric)
        elif callable(metric):
            name = getattr(metric, "__name__", type(metric).__name__)
            function = _of_function(metric, name)
        else:
            raise TypeError(f"A metric is a name, an evaluate module or a function; got a {type(metric).__name__}.")
        if name in resolved:
            raise ValueError(f"The metric {name!r} is given twice: give each a name of its own.")
        resolved[name] = function
    return resolved


def _of_module(module: evaluate.EvaluationModule) -> Metric:
    # Several feature sets are one set of names with other types.
    features = module.features[0] if isinstance(module.features, list) else module.features
    missing = [name for name in features if name not in {field.name for field in fields(Outcome)}]
    if missing:
        raise ValueError(
            f"The metric {module.name!r} needs {', '.join(missing)}, which an evaluation does not have: it has "
            f"{', '.join(field.name for field in fields(Outcome))}."
        )

    def compute(outcome: Outcome) -> float:
        inputs = {name: _given(outcome, name, module.name) for name in features}
        return _as_number(_run(module.name, module.compute, **inputs), module.name)

    return compute


def _of_function(function: Callable[..., Any], name: str) -> Metric:
    def compute(outcome: Outcome) -> float:
        classes = [_given(outcome, field, name) for field in ("predictions", "references")]
        return _as_number(_run(name, function, *classes), name)

    return compute


def _given(outcome: Outcome, field: str, name: str) -> np.ndarray:
    values = getattr(outcome, field)
    if values is None and field == "groups":
        raise ValueError(f"The metric {name!r} needs groups, and the data has none: name their column (group_column).")
    if values is None:
        raise ValueError(
            f"The metric {name!r} needs the {field}, which are not kept for the tokens of a language model: use "
            "'perplexity' or 'accuracy'."
        )
    return values


def _run(name: str, function: Callable[..., Any], *arguments: Any, **inputs: Any) -> Any:
    try:
        return function(*arguments, **inputs)
    except Exception as error:  # a user's function may raise anything; which metric it was is what they need to know
        raise ValueError(f"The metric {name!r} failed: {type(error).__name__}: {error}") from error


def _as_number(value: Any, name: str) -> float:
    """The one number in what a metric returned."""
    found = value
    if isinstance(value, Mapping):
        if name not in value and len(value) != 1:
            keys = ", ".join(map(repr, value)) or "nothing"
            raise ValueError(
                f"The metric {name!r} returned a dict of {keys}: return one number, or give one of them its name."
            )
        found = value[name] if name in value else next(iter(value.values()))
    if hasattr(found, "item") and np.ndim(found) == 0:
        found = found.item()
    if not isinstance(found, numbers.Real):
        raise ValueError(f"The metric {name!r} returned {_described(found)}: return one number.")
    return float(found)


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)}"
    return f"{shorten(repr(value), 40)} (a {type(value).__name__})"


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """NaN where nothing is counted; an example without a counted token has no loss of its own, and is left out."""
    counted = weights > 0
    if not counted.any():
        return float("nan")
    return float(np.average(values[counted], weights=weights[counted]))


def _lowest_mean(values: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> float:
    counted = weights > 0
    values, weights, groups = values[counted], weights[counted], groups[counted]
    means = [_weighted_mean(values[groups == group], weights[groups == group]) for group in np.unique(groups)]
    return min(means, default=float("nan"))


def _exp(loss: float) -> float:
    with np.errstate(over="ignore"):  # a loss of 710 nats or more has no perplexity that float64 can hold: inf
        return float(np.exp(loss))


def _f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean over the classes that either side holds, as in scikit-learn's `f1_score(average="macro")`."""
    classes = np.union1d(predictions, references)
    right = predictions[predictions == references]
    hits, guesses, support = (
        np.array([np.count_nonzero(values == value) for value in classes])
        for values in (right, predictions, references)
    )
    return float(np.mean(2 * hits / (guesses + support)))
