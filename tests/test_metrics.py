# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy against numpy, and metrics by name, module or function; none of it reaches for the network."""

import socket

import datasets
import evaluate
import numpy as np
import pytest

from hf_cbft.metrics import Accuracy, resolve_metrics

PREDICTIONS, REFERENCES = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 0])


class ErrorCount(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"error_count": int(np.sum(np.asarray(predictions) != np.asarray(references)))}


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
    (compute,) = resolve_metrics(["accuracy"]).values()
    for size in (1, 7, 100):
        predictions, references = generator.integers(0, 3, size=(2, size)).astype(dtype)
        expected = (predictions == references).sum() / size
        assert compute(predictions, references) == expected
        module = Accuracy(keep_in_memory=True)
        assert module.compute(predictions=predictions, references=references) == {"accuracy": expected}


def test_metrics_by_name_module_and_function():
    """What a user may pass, under the name that the result shows, in the order given."""
    resolved = resolve_metrics([share_of_zeros, "accuracy", ErrorCount(keep_in_memory=True)])
    assert list(resolved) == ["share_of_zeros", "accuracy", "error_count"]
    assert [compute(PREDICTIONS, REFERENCES) for compute in resolved.values()] == [0.25, 0.5, 2]


def test_callable_object_goes_by_its_class():
    """An object that can be called has no `__name__`."""

    class Constant:
        def __call__(self, predictions, references):
            return 3.0

    resolved = resolve_metrics([Constant()])
    assert {name: compute(PREDICTIONS, REFERENCES) for name, compute in resolved.items()} == {"Constant": 3.0}


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        (["f1"], ValueError, r"The metric 'f1' is not built in \(accuracy is\): pass the evaluate module itself"),
        (["accuracy", "accuracy"], ValueError, "The metric 'accuracy' is given twice"),
        (["accuracy", Accuracy()], ValueError, "The metric 'accuracy' is given twice"),
        ([share_of_zeros, share_of_zeros], ValueError, "The metric 'share_of_zeros' is given twice"),
        ([3], TypeError, "A metric is a name, an evaluate module or a function; got a int"),
    ],
)
def test_refused_metrics(metrics, error, message):
    """A metric that is dropped or overwritten in silence is missed only after the sweep."""
    with pytest.raises(error, match=message):
        resolve_metrics(metrics)
