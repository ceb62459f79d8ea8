# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Means over seeds and their intervals, against scipy's own and against the definition."""

import numpy as np
import pytest
from scipy import stats

from hf_cbft.analysis.barriers import compute_barrier
from paper.findings.statistics import (
    interval_band,
    mean_interval,
    paired_barrier_difference,
    paired_difference,
)


@pytest.mark.parametrize("number", [2, 3, 5, 20])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_students(number, confidence):
    """A normal interval of three seeds is 2.2 times too narrow: it would call luck a finding."""
    values = np.random.default_rng(number).normal(0.8, 0.05, number)
    low, high = stats.t.interval(confidence, number - 1, values.mean(), stats.sem(values))
    estimate = mean_interval(values, confidence)
    assert (estimate.mean, estimate.number) == (pytest.approx(values.mean()), number)
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))


def test_one_seed_has_no_interval():
    """A table that shows 0 for it would call a single run certain."""
    estimate = mean_interval([0.5])
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, None, None)
    assert estimate.cell(100, 1) == "50.0 ± -"
    assert estimate.sentence(100, 1, "%") == "50.0 % (- to -)"


def test_pairs_drop_what_both_share_of_a_seed():
    """Taken as two samples, seeds that differ by more than the methods do would hide a certain difference."""
    first, second = np.array([0.9, 0.6, 0.3]), np.array([0.85, 0.56, 0.24])
    estimate = paired_difference(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert estimate.low > 0.0


def test_a_band_is_the_interval_of_each_point():
    curves = np.random.default_rng(0).normal(size=(4, 3))
    mean, low, high = interval_band(curves)
    for point in range(3):
        estimate = mean_interval(curves[:, point])
        assert (mean[point], low[point], high[point]) == pytest.approx((estimate.mean, estimate.low, estimate.high))
    assert interval_band(curves[:1])[1:] == (None, None)


def test_a_negative_zero_is_a_zero():
    assert mean_interval([-0.001, -0.001]).cell(1, 2) == "0.00 ± 0.00"
    assert mean_interval([-0.001, -0.001]).sentence(1, 2, "nats") == "0.00 nats (0.00 to 0.00)"


def test_what_has_no_mean_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_the_difference_of_two_barriers_on_the_same_rows():
    """Against drawing the rows by index; what both paths share of a row's luck drops out."""
    rng = np.random.default_rng(3)
    alphas = np.linspace(0, 1, 5)
    noise = np.outer([0, 0, 1, 0, 0], 5 * rng.normal(size=400))
    first = np.outer([0, 1, 2, 1, 0], np.ones(400)) + noise
    second = np.outer([0, 0, 1, 0, 0], np.ones(400)) + noise + 0.1 * rng.normal(size=(5, 400))
    found = paired_barrier_difference(alphas, first, second)
    heights = []
    for chosen in rng.integers(400, size=(500, 400)):
        one, other = first[:, chosen].mean(1), second[:, chosen].mean(1)
        heights.append(
            max((one - (1 - alphas) * one[0] - alphas * one[-1])[1:-1])
            - max((other - (1 - alphas) * other[0] - alphas * other[-1])[1:-1])
        )
    assert found["mean"] == pytest.approx(
        compute_barrier(alphas, first.mean(1)).height - compute_barrier(alphas, second.mean(1)).height
    )
    low, high = np.quantile(heights, [0.025, 0.975])
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
    assert found["low"] > 0.9, "each barrier alone is known to half a nat only"
