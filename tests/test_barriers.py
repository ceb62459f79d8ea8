# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Barriers by hand, the band against a naive loop, and its coverage where the true barrier is known."""

import dataclasses
import json
import time
import tracemalloc
import warnings

import numpy as np
import pytest

from hf_cbft import barriers, compute_barrier
from hf_cbft.barriers import BASELINES

ALPHAS = [0.0, 0.25, 0.5, 1.0]
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


def naive_band(excess, confidence, num_resamples, generator, block):
    """The balanced studentised band, replicate by replicate and point by point."""
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
    return tuple(
        max(p.mean() + sign * values[rank] * error for p, values, error in zip(excess, by_point, errors, strict=True))
        for sign in (-1.0, 1.0)
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


THREE = [0.0, 0.5, 1.0]


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


def simulated_losses(generator, noise, num_examples, truth):
    """Losses whose expected excess over the chord is `truth` * BUMP: an effect of the example, and noise."""
    draws = generator.standard_normal((1 + len(GRID), num_examples))
    if noise == "log-normal":
        draws = np.exp(draws) - np.exp(0.5)
    return 5.0 + 0.3 * GRID[:, None] + BUMP[:, None] * (truth + draws[0]) + 0.5 * draws[1:]


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
