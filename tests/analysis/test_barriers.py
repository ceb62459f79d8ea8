# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Barriers by hand, the band against a naive loop, and its coverage where the true barrier is known."""

import dataclasses
import importlib.util
import json
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.stats import beta

from hf_cbft import compute_barrier
from hf_cbft.analysis import barriers
from hf_cbft.analysis.barriers import BASELINES, group_barriers

ALPHAS = [0.0, 0.25, 0.5, 1.0]
THREE = [0.0, 0.5, 1.0]
GRID = np.linspace(0.0, 1.0, 11)
BUMP = 4.0 * GRID * (1.0 - GRID)


def make_losses(seed=0, num_examples=40, alphas=GRID):
    """Per-example losses: level and drift of the example's own, noise of its own at each point."""
    generator = np.random.default_rng(seed)
    level, drift = generator.standard_normal((2, num_examples))
    noise = generator.standard_normal((len(alphas), num_examples))
    return 5.0 + level + np.outer(alphas, drift) + np.linspace(0.2, 0.8, len(alphas))[:, None] * noise


@pytest.mark.parametrize(
    ("losses", "heights", "at"),
    [
        # The chord is at 1.5 and 2, the mean at 2, the larger end at 3.
        ([1.0, 2.0, 2.25, 3.0], (0.5, 0.25, -0.75), (0.25, 0.5, 0.5)),
        # The same the other way round: the chord is at 2.5 and 2.
        ([3.0, 2.75, 2.5, 1.0], (0.5, 0.75, -0.25), (0.5, 0.25, 0.25)),
        # Below the chord at every point (1.75, 1.5): the height keeps its sign.
        ([2.0, 0.5, 1.25, 1.0], (-0.25, -0.25, -0.75), (0.5, 0.5, 0.5)),
        ([0.0, 2.0, 1.0, 0.0], (2.0, 2.0, 2.0), (0.25, 0.25, 0.25)),
    ],
)
def test_conventions_by_hand(losses, heights, at):
    """A barrier that is not the one of the paper it is compared with."""
    for baseline, height, alpha in zip(("chord", "mean", "max"), heights, at, strict=True):
        barrier = compute_barrier(ALPHAS, losses, baseline)
        assert (barrier.height, barrier.alpha, barrier.baseline) == (height, alpha, baseline)
        assert (barrier.low, barrier.high, barrier.connected) == (None, None, None)
    assert compute_barrier(ALPHAS, losses) == compute_barrier(ALPHAS, losses, "chord")


@pytest.mark.parametrize("baseline", BASELINES)
def test_per_example_losses_have_the_height_of_their_means(baseline):
    """The maximum (or the larger end) taken example by example is another, larger number."""
    for seed in range(5):
        losses = make_losses(seed)
        barrier, of_means = (compute_barrier(GRID, values, baseline) for values in (losses, losses.mean(axis=1)))
        assert barrier.height == pytest.approx(of_means.height, abs=1e-12)
        assert barrier.alpha == of_means.alpha
        assert barrier.low < barrier.height < barrier.high


@pytest.mark.parametrize("seed", range(5))
def test_chord_ignores_what_is_linear_along_the_path(seed):
    """A constant, or a line from end to end, is no barrier: the label noise of a set would count as one."""
    generator = np.random.default_rng(seed)
    alphas = np.concatenate([[0.0], np.sort(generator.uniform(size=7)), [1.0]])
    losses = make_losses(seed, alphas=alphas)
    level, slope = generator.standard_normal((2, losses.shape[1]))
    expected = compute_barrier(alphas, losses)
    for moved in (losses + 7.5, losses + level + np.outer(alphas, slope)):
        barrier = compute_barrier(alphas, moved)
        for name in ("height", "alpha", "low", "high"):
            assert getattr(barrier, name) == pytest.approx(getattr(expected, name), abs=1e-10)


def naive_band(excess, confidence, num_resamples, generator, block, unseen=True):
    """The balanced studentised band, replicate by replicate and point by point, with the share of unseen examples."""
    num_examples = excess.shape[1]
    t = []
    for first in range(0, num_resamples, block):
        for rows in generator.integers(0, num_examples, size=(min(block, num_resamples - first), num_examples)):
            errors = [np.std(point[rows], ddof=1) / num_examples**0.5 for point in excess]
            t.append([abs(p[rows].mean() - p.mean()) / error for p, error in zip(excess, errors, strict=True)])
    by_point = [sorted(values) for values in zip(*t, strict=True)]
    worst = sorted(max(by_point[i].index(value) for i, value in enumerate(replicate)) for replicate in t)
    rank = int(np.quantile(worst, confidence, method="higher"))
    errors = [np.std(point, ddof=1) / num_examples**0.5 for point in excess]
    # A share so large that all examples miss it with a chance of 1 - confidence only.
    share = 1.0 - (1.0 - confidence) ** (1.0 / num_examples) if unseen else 0.0
    return tuple(
        max(
            (1.0 - share) * point.mean() + share * worst_of(point) + sign * values[rank] * error
            for point, values, error in zip(excess, by_point, errors, strict=True)
        )
        for sign, worst_of in ((-1.0, min), (1.0, max))
    )


@pytest.mark.parametrize("block", [200, 64])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
@pytest.mark.parametrize("baseline", BASELINES)
def test_band_is_the_naive_one(baseline, confidence, block, monkeypatch):
    """A slip in the vectorised bootstrap (a factor, examples of another replicate) makes every verdict wrong."""
    losses = make_losses()
    monkeypatch.setattr(barriers, "_BLOCK", block * losses.shape[1])
    held_against = {
        "chord": np.outer(1.0 - GRID, losses[0]) + np.outer(GRID, losses[-1]),
        "mean": (losses[0] + losses[-1]) / 2.0,
        "max": max(losses[0], losses[-1], key=np.mean),
    }
    excess = (losses - held_against[baseline])[1:-1]
    expected = naive_band(excess, confidence, 200, np.random.default_rng(3), block)
    barrier = compute_barrier(GRID, losses, baseline, confidence=confidence, num_resamples=200, seed=3)
    np.testing.assert_allclose((barrier.low, barrier.high), expected, rtol=0.0, atol=1e-10)


def test_seed_decides_the_interval():
    """A result that nobody can compute again."""
    first, again, other = (compute_barrier(GRID, make_losses(), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.height == other.height


def test_verdict_is_true_false_or_undecided():
    """A guess in place of `None`, or a verdict by the height alone; low <= tolerance < high decides nothing."""
    losses = make_losses() + 0.3 * BUMP[:, None]
    low, high = dataclasses.astuple(compute_barrier(GRID, losses))[2:4]
    tolerances = [low - 0.01, low, (low + high) / 2.0, high - 0.01, high, high + 0.01]
    verdicts = [compute_barrier(GRID, losses, tolerance=tolerance).connected for tolerance in tolerances]
    assert verdicts == [False, None, None, None, True, True]
    barrier = compute_barrier(GRID, losses, tolerance=0.2, confidence=0.9)
    assert (barrier.tolerance, barrier.confidence) == (0.2, 0.9)


@pytest.mark.parametrize(("tolerance", "connected"), [(0.4, False), (0.5, True)])
def test_excess_without_spread_leaves_no_doubt(tolerance, connected):
    """The same excess for every example: no error, and no division by it."""
    levels = np.array([1.0, 2.0, 4.0])
    barrier = compute_barrier(
        [0.0, 0.25, 0.5, 1.0], levels + np.array([[0.0], [0.25], [0.5], [0.0]]), tolerance=tolerance
    )
    assert (barrier.low, barrier.height, barrier.high) == (0.5, 0.5, 0.5)
    assert barrier.connected is connected


def test_point_without_spread_stays_in_the_band():
    """A grid point that repeats an end has no error of its own; its excess still counts."""
    losses = make_losses(num_examples=200)
    losses[1] = 0.9 * losses[0] + 0.1 * losses[-1] + 2.0
    barrier = compute_barrier(GRID, losses)
    assert (barrier.low, barrier.height, barrier.high) == pytest.approx((2.0, 2.0, 2.0))


def test_one_example_gives_no_interval():
    """One example has no spread: an interval from it would claim certainty."""
    barrier = compute_barrier([0.0, 0.5, 1.0], [[1.0], [2.0], [1.0]])
    assert (barrier.height, barrier.low, barrier.high, barrier.connected) == (1.0, None, None, None)


@pytest.mark.parametrize("num_examples", [2, 3])
@pytest.mark.parametrize("spread_everywhere", [True, False])
def test_few_examples_decide_nothing_and_can_be_saved(num_examples, spread_everywhere):
    """A warning, a verdict from nothing, or an infinite bound that fails to be saved after the whole sweep."""
    losses = make_losses(num_examples=num_examples)
    if not spread_everywhere:
        losses[1] = 0.9 * losses[0] + 0.1 * losses[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        barrier = compute_barrier(GRID, losses)
    assert barrier.connected is None
    json.dumps(dataclasses.asdict(barrier), allow_nan=False)


def test_example_that_moves_by_1e_7_is_no_doubt():
    """Saturated models: every loss 0 but one, by 1e-7 nats; most replicates miss it, and their t is infinite."""
    losses = np.zeros((11, 500))
    losses[5, 7] = 1e-7
    assert compute_barrier(GRID, losses).connected is True


def test_outlier_beside_an_end_does_not_hide_the_barrier():
    """One example of 200 fails early: its own point is uncertain, the barrier of 1 nat in the middle is not."""
    losses = make_losses(num_examples=200) + BUMP[:, None]
    losses[1] = 0.9 * losses[0] + 0.1 * losses[-1]
    losses[1, 0] += 3.0
    assert compute_barrier(GRID, losses).connected is False


@pytest.mark.parametrize(
    ("alphas", "losses", "settings", "message"),
    [
        ([0.0, 1.0], [1.0, 1.0], {}, "at least 3 points of the path, both ends among them; got 2"),
        ([0.0, 0.7, 0.3, 1.0], [1.0] * 4, {}, r"increase strictly, without repetition; got \[0.0, 0.7, 0.3, 1.0\]"),
        ([1.0, 0.5, 0.0], [1.0] * 3, {}, r"increase strictly, without repetition; got \[1.0, 0.5, 0.0\]"),
        ([0.0, 0.5, 0.5, 1.0], [1.0] * 4, {}, "increase strictly, without repetition"),
        ([0.1, 0.5, 1.0], [1.0] * 3, {}, "run from 0 to 1, the two ends; got 0.1 to 1.0"),
        ([0.0, 0.5, 0.9], [1.0] * 3, {}, "run from 0 to 1, the two ends; got 0.0 to 0.9"),
        ([0.0, float("nan"), 1.0], [1.0] * 3, {}, "alphas"),
        (THREE, [1.0] * 4, {}, r"losses of shape \(4,\) do not fit 3 alphas.* \(3,\).* \(3, number of examples\)"),
        (THREE, np.ones((5, 3)), {}, r"losses of shape \(5, 3\) do not fit 3 alphas"),
        (THREE, np.ones((3, 2, 2)), {}, r"losses of shape \(3, 2, 2\) do not fit 3 alphas"),
        (THREE, np.ones((3, 0)), {}, r"losses of shape \(3, 0\) do not fit 3 alphas"),
        (THREE, 1.0, {}, r"losses of shape \(\) do not fit 3 alphas"),
        (THREE, [1.0] * 3, {"baseline": "line"}, "baseline 'line' is unknown: use one of chord, mean, max"),
        *[
            (THREE, np.ones((3, 4)), {"confidence": level}, f"confidence = {level} is not a level")
            for level in (0.0, 1.0, 95, float("nan"))
        ],
        (THREE, make_losses(alphas=THREE), {"num_resamples": 0}, "num_resamples"),
        (THREE, [1.0, float("nan"), 1.0], {}, "loss at alpha = 0.5 is not finite"),
        (THREE, [1.0, 1.0, float("inf")], {}, "loss at alpha = 1 is not finite"),
        (THREE, [[1.0, 1.0], [1.0, 1.0], [2.0, -float("inf")]], {}, "loss at alpha = 1 is not finite"),
        (THREE, [[1.0, float("nan")], [1.0, 1.0], [2.0, 1.0]], {}, "loss at alpha = 0 is not finite"),
    ],
)
def test_refused_input(alphas, losses, settings, message):
    """A number that is not a barrier, given without a word."""
    with pytest.raises(ValueError, match=message):
        compute_barrier(alphas, losses, **settings)


def test_large_sets_are_quick_and_bounded_in_memory():
    """All replicates at once would take 1000 x 20000 weights, several times 160 MB."""
    losses = make_losses(num_examples=20_000, alphas=np.linspace(0.0, 1.0, 21))
    tracemalloc.start()
    started = time.process_time()
    compute_barrier(np.linspace(0.0, 1.0, 21), losses)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5.0
    assert peak < 300e6


def make_weights(seed=0, num_examples=40):
    return np.random.default_rng([seed, 1]).integers(1, 51, num_examples)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("num_examples", [2, 40, 537])
@pytest.mark.parametrize("weight", [1, 7])
def test_equal_weights_are_no_weights(weight, num_examples, baseline):
    """Bit for bit: a classification result that changes with the version, or with how its tokens are counted."""
    losses = make_losses(num_examples=num_examples)
    weighted = compute_barrier(GRID, losses, baseline, weights=np.full(num_examples, weight))
    assert weighted == compute_barrier(GRID, losses, baseline)


@pytest.mark.parametrize("baseline", BASELINES)
def test_weighted_height_is_that_of_the_mean_over_tokens(baseline):
    """The barrier of a language model is that of its perplexity, not of the mean of its sequences."""
    losses, weights = make_losses(), make_weights()
    over_tokens = np.repeat(losses, weights, axis=1).mean(axis=1)
    barrier, expected = (
        compute_barrier(GRID, losses, baseline, weights=weights),
        compute_barrier(GRID, over_tokens, baseline),
    )
    assert barrier.height == pytest.approx(expected.height, abs=1e-12)
    assert barrier.alpha == expected.alpha
    assert barrier.low < barrier.height < barrier.high


def test_larger_end_is_the_larger_over_tokens():
    """Start 4 against end 2 as means over examples, 1.3 against 2 over tokens."""
    losses = [[1.0, 7.0], [3.0, 3.0], [2.0, 2.0]]
    assert compute_barrier(THREE, losses, "max").height == -1.0
    assert compute_barrier(THREE, losses, "max", weights=[19, 1]).height == 1.0


@pytest.mark.parametrize("block", [200, 64])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_weighted_band_is_the_naive_one(confidence, block, monkeypatch):
    """A slip in the sums of the ratio gives a band that looks right and is not."""
    losses, weights = make_losses(), make_weights().astype(float)
    monkeypatch.setattr(barriers, "_BLOCK", block * losses.shape[1])
    excess = (losses - np.outer(1.0 - GRID, losses[0]) - np.outer(GRID, losses[-1]))[1:-1]
    num_examples = len(weights)

    def ratio_and_error(point, rows):
        ratio = np.sum(weights[rows] * point[rows]) / np.sum(weights[rows])
        squares = np.sum((weights[rows] * (point[rows] - ratio)) ** 2) * num_examples / (num_examples - 1)
        return ratio, squares**0.5 / np.sum(weights[rows])

    everything = [ratio_and_error(point, np.arange(num_examples)) for point in excess]
    t, generator = [], np.random.default_rng(3)
    for first in range(0, 200, block):
        for rows in generator.integers(0, num_examples, size=(min(block, 200 - first), num_examples)):
            drawn = [ratio_and_error(point, rows) for point in excess]
            t.append([abs(r - ratio) / error for (r, error), (ratio, _) in zip(drawn, everything, strict=True)])
    by_point = [sorted(values) for values in zip(*t, strict=True)]
    worst = sorted(max(by_point[i].index(value) for i, value in enumerate(replicate)) for replicate in t)
    rank = int(np.quantile(worst, confidence, method="higher"))
    share = 1.0 - (1.0 - confidence) ** (1.0 / num_examples)
    low, high = (
        max(
            ratio
            + sign * values[rank] * error
            + share * worst_of(w * (v - ratio) for w, v in zip(weights, point, strict=True)) / np.mean(weights)
            for point, (ratio, error), values in zip(excess, everything, by_point, strict=True)
        )
        for sign, worst_of in ((-1.0, min), (1.0, max))
    )
    barrier = compute_barrier(
        GRID, losses, confidence=confidence, num_resamples=200, seed=3, weights=weights.astype(int)
    )
    np.testing.assert_allclose((barrier.low, barrier.high), (low, high), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("baseline", BASELINES)
def test_examples_without_tokens_change_nothing(baseline):
    """A sequence of padding alone: its mean loss is 0 / 0, and it must not be drawn either."""
    losses, weights = make_losses(), make_weights()
    padded, counts = np.insert(losses, [0, 7, 40], np.nan, axis=1), np.insert(weights, [0, 7, 40], 0)
    expected = compute_barrier(GRID, losses, baseline, weights=weights)
    assert compute_barrier(GRID, padded, baseline, weights=counts) == expected
    one_left = np.zeros(43)
    one_left[5] = 3
    assert compute_barrier(GRID, padded, baseline, weights=one_left).low is None


def test_unit_of_weights_does_not_matter():
    """Tokens or thousands of tokens."""
    losses, weights = make_losses(), make_weights()
    barrier, scaled = (compute_barrier(GRID, losses, weights=w) for w in (weights, weights / 1000.0))
    for name in ("height", "low", "high"):
        assert getattr(barrier, name) == pytest.approx(getattr(scaled, name), abs=1e-10)


def test_sequence_is_one_example_however_long():
    """Its tokens counted as examples of their own would claim a band several times too narrow."""
    losses, weights = make_losses(), make_weights()
    by_sequence = compute_barrier(GRID, losses, weights=weights)
    by_token = compute_barrier(GRID, np.repeat(losses, weights, axis=1))
    assert by_sequence.height == pytest.approx(by_token.height, abs=1e-12)
    assert by_sequence.high - by_sequence.low > 3.0 * (by_token.high - by_token.low)


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        (make_losses(alphas=THREE), [1.0] * 39, r"weights of shape \(39,\) do not fit 40 examples"),
        (make_losses(alphas=THREE), np.ones((3, 40)), r"weights of shape \(3, 40\) do not fit 40 examples"),
        (make_losses(alphas=THREE), [1.0] * 38 + [-2.0, 1.0], "weight of example 38 is -2: .*finite and not below 0"),
        (make_losses(alphas=THREE), [float("nan")] + [1.0] * 39, "weight of example 0 is nan"),
        (make_losses(alphas=THREE), [1.0] * 39 + [float("inf")], "weight of example 39 is inf"),
        (make_losses(alphas=THREE), np.zeros(40), "All weights are 0"),
        ([1.0, 2.0, 1.0], [1.0], "weights belong to examples, and these losses are means already"),
    ],
)
def test_refused_weights(losses, weights, message):
    """A wrong count of tokens makes every barrier wrong without a word."""
    with pytest.raises(ValueError, match=message):
        compute_barrier(THREE, losses, weights=weights)


def test_groups_have_the_barriers_of_their_own_examples():
    """A group that is measured on rows of another, or without the weights of its rows."""
    losses, weights = make_losses(num_examples=60), make_weights(num_examples=60)
    groups = np.array(["water", "land", "air"])[np.arange(60) % 3]
    found = group_barriers(GRID, losses, groups, "mean", weights=weights, seed=5, tolerance=0.3)
    assert list(found) == ["air", "land", "water"]
    for start, name in enumerate(["water", "land", "air"]):
        own = np.ascontiguousarray(losses[:, start::3])
        expected = compute_barrier(GRID, own, "mean", weights=weights[start::3], seed=5, tolerance=0.3)
        assert found[name] == expected
    assert list(group_barriers(GRID, losses, groups, names=["water", "air"])) == ["air", "water"]


@pytest.mark.parametrize(
    ("losses", "groups", "names", "message"),
    [
        (np.ones((3, 4)), ["a", "b", "a", "b"], ["a", "c"], "The group 'c' has no examples; the groups are a, b"),
        (np.ones((3, 4)), ["a", "b"], None, r"2 groups do not fit losses of shape \(3, 4\)"),
        (np.ones(3), ["a", "b", "a"], None, r"3 groups do not fit losses of shape \(3,\)"),
    ],
)
def test_refused_groups(losses, groups, names, message):
    """A group that is asked for and silently left out reads as one without a barrier."""
    with pytest.raises(ValueError, match=message):
        group_barriers(THREE, losses, groups, names=names)


def test_no_error_in_few_examples_is_no_proof():
    """20 right answers at every point: the share of wrong ones can still be a quarter."""
    right = np.zeros((11, 20))
    barrier = compute_barrier(GRID, right, tolerance=0.05, errors=True)
    bound = 1.0 - (0.05 / 18) ** (1 / 20)
    assert (barrier.low, barrier.height, barrier.high) == pytest.approx((-bound, 0.0, bound))
    assert barrier.connected is None
    assert compute_barrier(GRID, np.zeros((11, 2000)), tolerance=0.05, errors=True).connected is True
    # A loss can be the same everywhere, and then it is.
    assert compute_barrier(GRID, right, tolerance=0.05).connected is True


def test_few_errors_get_the_exact_bound():
    """Three of 200 fail in the middle: a bootstrap that seldom or never draws them gives any bound, or none."""
    errors = np.zeros((3, 200))
    errors[1, :3] = 1.0
    barrier = compute_barrier(THREE, errors, errors=True)
    assert barrier.height == pytest.approx(3 / 200)
    assert barrier.low == pytest.approx(-beta.ppf(0.975, 1, 200))
    assert barrier.high == pytest.approx(beta.ppf(0.975, 4, 197))
    weights = np.r_[np.full(100, 1.0), np.full(100, 3.0)]
    weighted = compute_barrier(THREE, errors, errors=True, weights=weights)
    assert weighted.high == pytest.approx(1.5 * beta.ppf(0.975, 4, 197))


def test_one_side_of_few_errors_is_bounded_alone():
    """40 examples above the baseline, 3 below: the 40 are resampled as ever, only the 3 are bounded."""
    errors = np.zeros((3, 200))
    errors[1, :40] = 1.0
    errors[[0, 2], 40:43] = 1.0
    barrier = compute_barrier(THREE, errors, errors=True)
    above = np.zeros((3, 200))
    above[1, :40] = 1.0
    # The risk is dealt evenly to the sides, so the 40 have half of it.
    low, high = naive_band(above[1:2], 0.975, 1000, np.random.default_rng(0), 1000, unseen=False)
    assert barrier.height == pytest.approx(37 / 200)
    assert barrier.high == pytest.approx(high)
    assert barrier.low == pytest.approx(low - beta.ppf(0.975, 4, 197))


def test_many_errors_have_the_band_of_the_bootstrap_alone():
    """The care for few events must not widen the band where there are many, nor that for unseen losses add to it."""
    errors = (np.random.default_rng(0).random((11, 500)) < 0.5).astype(float)
    excess = (errors - np.outer(1.0 - GRID, errors[0]) - np.outer(GRID, errors[-1]))[1:-1]
    low, high = naive_band(excess, 0.95, 200, np.random.default_rng(0), 200, unseen=False)
    barrier = compute_barrier(GRID, errors, errors=True, num_resamples=200)
    assert (barrier.low, barrier.high) == pytest.approx((low, high))


def test_band_of_errors_stays_within_what_errors_can_be():
    """A drop in accuracy of more than everything."""
    errors = np.zeros((3, 12))
    errors[1, :11] = 1.0
    barrier = compute_barrier(THREE, errors, errors=True)
    assert barrier.low >= -1.0
    assert barrier.high == 1.0


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_errors_are_fractions(value):
    """Losses, or percentages, given as errors would get a band that means nothing."""
    with pytest.raises(ValueError, match=f"errors lie between 0 and 1; got {min(value, 0):g} to {max(value, 1):g}"):
        compute_barrier(THREE, [[0.0, 1.0], [value, 1.0], [0.0, 1.0]], errors=True)


def test_band_covers_seldom_errors():
    """Of 1,000 examples 30 fail somewhere on the path; a sample of 100 has seen about 3 of them."""
    generator = np.random.default_rng(0)
    population = np.zeros((11, 1000))
    for example in range(30):
        population[generator.integers(1, 5) : generator.integers(6, 10), example] = 1.0
    truth = population.mean(axis=1).max()
    covered = {True: 0, False: 0}
    for seed in range(200):
        drawn = population[:, np.random.default_rng(seed).integers(0, 1000, 100)]
        for errors in covered:
            barrier = compute_barrier(GRID, drawn, num_resamples=200, seed=seed, errors=errors)
            low = -1.0 if barrier.low is None else barrier.low
            high = 1.0 if barrier.high is None else barrier.high
            covered[errors] += low <= truth <= high
    assert covered[True] >= 0.95 * 200
    assert covered[False] < covered[True]


def test_band_minds_examples_that_the_sample_does_not_hold():
    """40 of 537 examples carry the loss, each at its own part of the path; without the share of the unseen, 0.89."""
    generator = np.random.default_rng(0)
    population = 0.01 * generator.standard_normal((11, 537))
    for example in range(40):
        centre = generator.uniform(0.2, 0.8)
        population[:, example] -= generator.exponential() * np.exp(-(((GRID - centre) / 0.3) ** 2)) * BUMP
    population -= (population - np.outer(1.0 - GRID, population[0]) - np.outer(GRID, population[-1])).mean(
        axis=1, keepdims=True
    )
    found = [
        compute_barrier(
            GRID,
            population[:, np.random.default_rng(seed).integers(0, 537, 500)],
            tolerance=0.0,
            num_resamples=200,
            seed=seed,
        )
        for seed in range(300)
    ]
    assert np.mean([barrier.low <= 0.0 <= barrier.high for barrier in found]) >= 0.93
    assert np.mean([barrier.connected is False for barrier in found]) <= 0.06


def test_unseen_examples_may_be_as_bad_as_the_worst_seen():
    """One of 60 lies 6 nats below, none above: the lower bound moves out by far more than the upper one."""
    losses = np.zeros((3, 60))
    losses[1] = 0.1 * np.random.default_rng(0).uniform(-1.0, 1.0, 60)
    losses[1, 0] = -6.0
    mean, share = losses[1].mean(), 1.0 - 0.05 ** (1 / 60)
    barrier = compute_barrier(THREE, losses)
    low, high = naive_band(losses[1:2], 0.95, 1000, np.random.default_rng(0), 1000, unseen=False)
    assert low - barrier.low == pytest.approx(share * (mean + 6.0))
    assert barrier.high - high == pytest.approx(share * (losses[1].max() - mean))
    assert share * 60 == pytest.approx(3.0, abs=0.1)


def test_band_of_single_rows_is_that_of_each_alone():
    """Rows that share their draws must not share their risk, whatever bounds each has."""
    generator = np.random.default_rng(0)
    values = np.stack([generator.standard_normal(80), generator.random(80) < 0.05, generator.random(80) < 0.5])
    bounds, weights = np.array([(-np.inf, np.inf), (0.0, 1.0), (-1.0, 1.0)]), np.ones(80)
    band = barriers.mean_band(values, weights, 0.95, 300, 7, bounds, simultaneous=False)
    for row in range(3):
        alone = barriers.mean_band(values[[row]], weights, 0.95, 300, 7, bounds[row])
        np.testing.assert_allclose([band[0][row], band[1][row]], [alone[0][0], alone[1][0]], rtol=0.0, atol=1e-12)


def simulated_losses(generator, noise, num_examples, truth):
    """Losses whose expected excess over the chord is `truth` * BUMP: an effect of the example, and noise."""
    draws = generator.standard_normal((1 + len(GRID), num_examples))
    if noise == "log-normal":
        draws = np.exp(draws) - np.exp(0.5)
    return 5.0 + 0.3 * GRID[:, None] + BUMP[:, None] * (truth + draws[0]) + 0.5 * draws[1:]


@pytest.mark.slow
@pytest.mark.sample
def test_interval_covers_the_known_barrier():
    """An interval that promises 95 % and keeps less makes every verdict a guess; the table is printed."""
    repetitions = 500
    cells = [
        (noise, n, truth) for noise in ("Gaussian", "log-normal") for n in (100, 500) for truth in (0.0, 0.05, 1.0)
    ]
    table = [
        "noise       n    truth  coverage  mean width  low > truth  high < truth  connected is False (tolerance 0)"
    ]
    failed = []
    for noise, num_examples, truth in cells:
        found = [
            compute_barrier(
                GRID,
                simulated_losses(np.random.default_rng([seed, num_examples]), noise, num_examples, truth),
                tolerance=0.0,
                num_resamples=300,
                seed=seed,
            )
            for seed in range(repetitions)
        ]
        above = np.mean([barrier.low > truth for barrier in found])
        below = np.mean([barrier.high < truth for barrier in found])
        width = np.mean([barrier.high - barrier.low for barrier in found])
        refused = np.mean([barrier.connected is False for barrier in found])
        coverage = 1.0 - above - below
        row = f"{noise:10}  {num_examples:3}  {truth:5.2f}  {coverage:8.3f}  {width:10.3f}"
        table.append(f"{row}  {above:11.3f}  {below:12.3f}  {refused:7.3f}")
        wanted = 0.90 if (noise, num_examples) == ("log-normal", 100) else 0.93
        if coverage < wanted or (truth == 0.0 and refused > 0.06):
            failed.append(table[-1])
    print("\n" + "\n".join(table))
    assert not failed


@pytest.fixture(scope="module")
def coverage_script():
    """tests/benchmarks/coverage.py, which is a script."""
    spec = importlib.util.spec_from_file_location(
        "coverage_script", Path(__file__).parents[1] / "benchmarks" / "coverage.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_script"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["coverage_script"]


@pytest.fixture(scope="module")
def measured_file(tmp_path_factory):
    """Examples of a path as a result saves them: losses with a long tail, a tenth of the predictions wrong."""
    generator = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("paths") / "tuned" / "examples.safetensors"
    file.parent.mkdir()
    arrays = {
        "example_losses/cue": generator.exponential(size=(11, 60)),
        "predictions/cue": (generator.random((11, 60)) < 0.1).astype(np.int64),
        "references/cue": np.zeros(60, dtype=np.int64),
    }
    save_file(arrays, file)
    return file


def test_populations_of_the_benchmark_have_the_barrier_they_claim(coverage_script, measured_file):
    """Coverage of a height that the population does not have says nothing of the band."""
    found = list(coverage_script.populations([measured_file], "cue"))
    assert [one.name for one in found] == [
        "Gaussian",
        "log-normal",
        "sequences",
        "tuned losses",
        "tuned errors",
        "skewed ends",
        "20 rare rows",
    ]
    for population in found:
        for height in population.heights:
            losses, weights = population.sample(np.random.default_rng(1), 40_000, height)
            weights = np.ones(40_000) if weights is None else weights
            excess = np.average(losses - coverage_script.chord(losses), axis=1, weights=weights)[1:-1]
            expected = height if population.errors else height * BUMP[1:-1]
            difference = excess.max() - expected if population.errors else excess - expected
            np.testing.assert_allclose(difference, 0.0, atol=0.12 if population.name == "skewed ends" else 0.04)


def test_benchmark_of_coverage_runs(coverage_script, measured_file, capsys):
    """The figures of docs/statistics.md that nobody can measure again."""
    assert coverage_script.main(["--quick", "--examples", str(measured_file)]) == 0
    printed = capsys.readouterr().out
    assert "10 of its 60 rows hold" in printed
    assert len([line for line in printed.splitlines() if "| 100 |" in line or "| 500 |" in line]) == 38
    assert "no --examples" not in printed


def test_benchmark_marks_what_misses(coverage_script):
    """A table that reads as if all were well."""
    found = [0.756, 0.146, 0.614, 0.02, 0.244, 0.0, 0.244]
    shown = ["75.6 %", "0.146", "61.4 %", "0.020", "24.4 %", "0.0 %", "24.4 %"]
    assert coverage_script.cells(found, False, False) == shown
    assert coverage_script.cells(found, True, True) == ["**75.6 %**", *shown[1:-1], "**24.4 %**"]


def test_unseen_examples_are_at_least_as_bad_as_a_guess():
    # 100 rows whose losses are all near 0 look like a population without rare rows: nothing in them says otherwise.
    losses = 0.01 * np.random.default_rng(0).standard_normal((11, 100))
    plain = compute_barrier(np.linspace(0.0, 1.0, 11), losses)
    guessed = compute_barrier(np.linspace(0.0, 1.0, 11), losses, guess_loss=np.log(10))
    assert guessed.height == plain.height
    margin = (1.0 - 0.05**0.01) * np.log(10)
    assert guessed.high == pytest.approx(plain.high + margin, abs=0.002)
    assert guessed.low == pytest.approx(plain.low - margin, abs=0.002)
    # Rows that lie farther than a guess already count as far as they lie.
    assert compute_barrier(np.linspace(0.0, 1.0, 11), 1000.0 * losses, guess_loss=0.1) == compute_barrier(
        np.linspace(0.0, 1.0, 11), 1000.0 * losses
    )
