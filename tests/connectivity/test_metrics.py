# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics against scikit-learn and by hand, by name, module or function; none of it reaches for the network."""

import functools
import math
import socket

import datasets
import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from hf_cbft.connectivity.metrics import Outcome, resolve_metrics

PREDICTIONS, REFERENCES = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 0])


def classified(predictions=PREDICTIONS, references=REFERENCES, groups=None) -> Outcome:
    """A point on a classification set."""
    correct = (predictions == references).astype(np.float64)
    return Outcome(1.5 - correct, np.ones_like(correct), correct, predictions, references, groups)


def tokens(groups=None) -> Outcome:
    """A point on a language model's set: 10, 30 and no counted tokens; what the last one holds must not matter."""
    return Outcome(
        np.array([1.0, 3.0, np.nan]), np.array([10.0, 30.0, 0.0]), np.array([0.5, 0.1, np.nan]), groups=groups
    )


def value_of(metric, outcome: Outcome) -> float:
    (compute,) = resolve_metrics([metric]).values()
    return compute(outcome)


class ErrorCount(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"error_count": int(np.sum(np.asarray(predictions) != np.asarray(references)))}


class TwoFeatures(ErrorCount):
    """Like `evaluate`'s own F1: several labels a row, or one."""

    def _info(self):
        one = {name: datasets.Value("int32") for name in ("predictions", "references")}
        several = {name: datasets.Sequence(feature) for name, feature in one.items()}
        features = [datasets.Features(several), datasets.Features(one)]
        return evaluate.MetricInfo(description="", citation="", features=features)


class Accuracy(ErrorCount):
    """Named like a built-in metric."""


class WorstGroupLoss(evaluate.Metric):
    def _info(self):
        features = {
            "losses": datasets.Value("float64"),
            "weights": datasets.Value("float64"),
            "groups": datasets.Value("string"),
        }
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

    def _compute(self, losses, weights, groups):
        losses, weights, groups = map(np.asarray, (losses, weights, groups))
        members = [groups == group for group in np.unique(groups)]
        return {"worst_group_loss": max(np.average(losses[own], weights=weights[own]) for own in members)}


class NeedsScores(ErrorCount):
    def _info(self):
        features = {"prediction_scores": datasets.Value("float32"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))


def name_of(metric):
    return metric if isinstance(metric, str) else getattr(metric, "name", None) or metric.__name__


def share_of_zeros(predictions, references):
    return float(np.mean(predictions == 0))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"connects to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_the_fraction_that_agrees(seed, dtype):
    """A wrong accuracy, or one that keeps the rows of the call before."""
    generator = np.random.default_rng(seed)
    for size in (1, 7, 100):
        predictions, references = generator.integers(0, 3, size=(2, size)).astype(dtype)
        expected = accuracy_score(references, predictions)
        assert value_of("accuracy", classified(predictions, references)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("num_classes", [2, 5, 40])
def test_f1_is_that_of_scikit_learn(num_classes):
    """Classes that only one side holds are where definitions part: 40 classes in 30 rows leave many."""
    generator = np.random.default_rng(num_classes)
    for size in (1, 30, 200):
        predictions, references = generator.integers(0, num_classes, size=(2, size))
        expected = f1_score(references, predictions, average="macro", zero_division=0)
        assert value_of("f1", classified(predictions, references)) == pytest.approx(expected, abs=1e-14)


def test_worst_group_by_hand():
    """The mean over all rows, or over the groups, would hide the group that fails."""
    groups = np.array(["a", "a", "b", "b"])
    assert value_of("worst_group_accuracy", classified(groups=groups)) == 0.0
    assert value_of("accuracy", classified(groups=groups)) == 0.5
    outcome = classified(PREDICTIONS, np.array([0, 1, 2, 2]), np.array(["a", "b", "b", "c"]))
    assert value_of("worst_group_accuracy", outcome) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_worst_group_is_the_lowest_accuracy_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    predictions, references = generator.integers(0, 3, size=(2, 60))
    groups = generator.choice(["land", "water", "air"], size=60)
    expected = min(accuracy_score(references[groups == g], predictions[groups == g]) for g in np.unique(groups))
    assert value_of("worst_group_accuracy", classified(predictions, references, groups)) == pytest.approx(expected)


def test_metrics_of_tokens_count_tokens():
    """A mean over sequences would let a short one count as much as a long one; one without tokens counts nothing."""
    assert value_of("accuracy", tokens()) == pytest.approx((0.5 * 10 + 0.1 * 30) / 40)
    assert value_of("perplexity", tokens()) == pytest.approx(math.exp((1.0 * 10 + 3.0 * 30) / 40))
    assert value_of("worst_group_accuracy", tokens(np.array(["a", "b", "c"]))) == pytest.approx(0.1)


def test_perplexity_on_its_own():
    outcome = Outcome(np.array([1.0, 3.0]), np.array([10.0, 30.0]), np.zeros(2))
    assert value_of("perplexity", outcome) == pytest.approx(math.exp(2.5))


def test_perplexity_too_large_for_a_float_is_infinite(recwarn):
    """In the middle of a path losses explode; a warning for each point would bury the result."""
    assert value_of("perplexity", Outcome(np.array([1e4]), np.ones(1), np.zeros(1))) == math.inf
    assert not recwarn.list


@pytest.mark.parametrize("metric", ["accuracy", "perplexity", "worst_group_accuracy"])
def test_nothing_counted_is_not_a_number(metric):
    """A zero would read as a result."""
    outcome = Outcome(np.array([np.nan]), np.zeros(1), np.array([np.nan]), groups=np.array(["a"]))
    assert math.isnan(value_of(metric, outcome))


def test_metrics_by_name_module_and_function():
    """What a user may pass, under the name that the result shows, in the order given."""
    resolved = resolve_metrics([share_of_zeros, "accuracy", ErrorCount(keep_in_memory=True), "f1"])
    assert list(resolved) == ["share_of_zeros", "accuracy", "error_count", "f1"]
    assert [compute(classified()) for compute in resolved.values()] == [0.25, 0.5, 2, pytest.approx(4 / 9)]


def test_a_module_gets_what_it_asks_for_by_name():
    """It goes through `evaluate`, which must not keep the rows of the point before."""
    outcome = classified(groups=np.array(["a", "b", "b", "a"]))
    (compute,) = resolve_metrics([WorstGroupLoss(keep_in_memory=True)]).values()
    for _ in range(2):
        assert compute(outcome) == 1.0  # both groups have a right row (0.5) and a wrong one (1.5)
    halved = Outcome(outcome.losses, np.array([1, 1, 1, 3]), outcome.correct, groups=outcome.groups)
    assert compute(halved) == pytest.approx((0.5 + 3 * 1.5) / 4)


def test_module_with_features_to_choose_from():
    assert value_of(TwoFeatures(keep_in_memory=True), classified()) == 2


def test_callable_object_goes_by_its_class():
    """An object that can be called has no `__name__`."""

    class Constant:
        def __call__(self, predictions, references):
            return 3.0

    resolved = resolve_metrics([Constant(), functools.partial(share_of_zeros)])
    assert {name: compute(classified()) for name, compute in resolved.items()} == {"Constant": 3.0, "partial": 0.25}


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        (["bleu"], ValueError, r"The metric 'bleu' is not built in \(accuracy, worst_group_accuracy, perplexity, f1"),
        (["accuracy", "accuracy"], ValueError, "The metric 'accuracy' is given twice"),
        (["accuracy", Accuracy()], ValueError, "The metric 'accuracy' is given twice"),
        ([share_of_zeros, share_of_zeros], ValueError, "The metric 'share_of_zeros' is given twice"),
        ([3], TypeError, "A metric is a name, an evaluate module or a function; got a int"),
        ("accuracy", TypeError, "metrics = 'accuracy' is a single name: give a list"),
        (
            [NeedsScores()],
            ValueError,
            "'needs_scores' needs prediction_scores, which an evaluation does not have: it has losses, weights",
        ),
    ],
)
def test_refused_metrics(metrics, error, message):
    """A metric that is dropped or overwritten in silence is missed only after the sweep."""
    with pytest.raises(error, match=message):
        resolve_metrics(metrics)


@pytest.mark.parametrize("metric", ["f1", share_of_zeros, ErrorCount(keep_in_memory=True)], ids=name_of)
def test_metrics_that_need_predictions_where_there_are_none(metric):
    """A language model's tokens are not kept; the sentence says what can be asked instead."""
    message = r"needs the predictions, which are not kept for the tokens of a language model: use 'perplexity' or 'acc"
    with pytest.raises(ValueError, match=message):
        value_of(metric, tokens())


@pytest.mark.parametrize("metric", ["worst_group_accuracy", WorstGroupLoss(keep_in_memory=True)], ids=name_of)
def test_worst_group_without_groups(metric):
    message = f"'{name_of(metric)}' needs groups, and the data has none: name their col"
    with pytest.raises(ValueError, match=message):
        value_of(metric, classified())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("0.9", r"The metric 'metric' returned '0\.9' \(a str\): return one number\."),
        (np.array("0.9"), r"returned '0\.9' \(a str\)"),
        (None, r"The metric 'metric' returned None: return one number\."),
        ([0.5, 0.7], r"returned \[0\.5, 0\.7\] \(a list\)"),
        (np.array([0.5]), r"returned an array of shape \(1,\)"),
        (torch.tensor([0.5, 0.1]), r"returned an array of shape \(2,\)"),
        ({"precision": 0.5, "recall": 0.7}, r"returned a dict of 'precision', 'recall': return one number, or give"),
        ({}, r"returned a dict of nothing"),
        ({"metric": "high"}, r"returned 'high' \(a str\)"),
        (1 + 2j, r"returned \(1\+2j\) \(a complex\)"),
        ("long " * 100, r"returned 'long [a-z ]+\.\.\. \(a str\)"),
    ],
    ids=str,
)
def test_metrics_that_return_no_number(returned, message):
    """Found at the first point, not when the table is printed."""

    def metric(predictions, references):
        return returned

    with pytest.raises(ValueError, match=message):
        value_of(metric, classified())


@pytest.mark.parametrize(
    "returned",
    [0.25, np.float32(0.25), np.array(0.25), torch.tensor(0.25), {"value": 0.25}, {"metric": 0.25, "other": 1}],
    ids=str,
)
def test_metrics_that_return_a_number_in_some_form(returned):
    def metric(predictions, references):
        return returned

    assert value_of(metric, classified()) == 0.25
    assert type(value_of(metric, classified())) is float


def test_a_function_that_fails_is_named():
    """Its own exception stays behind the sentence, for `--debug`."""

    def inverse(predictions, references):
        return 1 / 0

    with pytest.raises(ValueError, match="The metric 'inverse' failed: ZeroDivisionError: division by zero") as caught:
        value_of(inverse, classified())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
