# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""From losses along a path to a barrier: the conventions, its interval and the verdict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

BASELINES = ("chord", "mean", "max")
# Replicates are drawn in blocks of at most this many weights, which bounds the memory of the bootstrap.
_BLOCK = 4_000_000
# Up to this many weights (8 MB) stay for the next band.
_KEPT = 1 << 20
# Where fewer examples than this lie on a side of 0, a bootstrap knows too little of those that it has not seen.
_FEW = 10


@dataclass(frozen=True)
class Barrier:
    """The barrier of one path on one data set: nats for losses, fractions for errors.

    Attributes:
        height (`float`): signed maximum of the excess over the baseline, over the interior grid points. A path below
            its baseline has a negative one; the paper's barrier is `max(height, 0)`.
        alpha (`float`): where the maximum is.
        low, high (`float`, *optional*): simultaneous confidence band of the height; `None` without per-example losses,
            and where the examples are too few for a bound.
        connected (`bool`, *optional*): `True` when high <= tolerance, `False` when low > tolerance, else `None`:
            not decided.
        baseline, tolerance, confidence: as given to [`compute_barrier`].
    """

    height: float
    alpha: float
    low: float | None
    high: float | None
    connected: bool | None
    baseline: str
    tolerance: float
    confidence: float


def compute_barrier(
    alphas: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    baseline: str = "chord",
    *,
    tolerance: float = 0.1,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    weights: Sequence[float] | np.ndarray | None = None,
    errors: bool = False,
    guess_loss: float = 0.0,
) -> Barrier:
    r"""Height of the loss along a path above a baseline, with an interval where there are per-example losses.

    The excess at alpha is L(alpha) minus

    - `"chord"`: (1 - alpha) L(0) + alpha L(1) (Entezari et al., 2022; the paper's),
    - `"mean"`: the mean of the two end losses (Frankle et al., 2020),
    - `"max"`: the larger of the two end losses.

    The interval is a studentised simultaneous band: max_i (d_i -+ c_i s_i) over the interior points i, with d_i the
    mean per-example excess and s_i its standard error. The c_i are bootstrap quantiles of |t_i| at one common rank,
    chosen so that all points hold together (Beran, 1988). One c for all, the quantile of max_i |t_i|, would let a
    single point whose excess comes from one example blow up the band of every other. Examples are resampled whole, so
    that the correlation along the path is kept. (The percentile bootstrap of a maximum is biased upwards: where the
    truth is 0 it covers far less than it claims.)

    With `weights` the loss of the set is sum(w l) / sum(w), as for a language model, whose tokens count alike and
    whose sequences are independent: the sequence is what is resampled, and t is that of a ratio.

    No resampling knows of what the examples do not hold, and a few rare ones can carry the whole loss. So at each
    point, before the maximum is taken, a bound moves out by p r_i, with r_i the farthest that one example lies below
    (above) the mean there and p = 1 - (1 - confidence)^(1/N): where a share larger than p of all there are is of
    another kind, N examples would hold one of it with the given confidence. This takes those unseen to be no worse
    than the worst seen or than a guess, whichever is worse: a set whose losses are all close to 0 does not show that
    there are no others, and `guess_loss`, log K for a classifier of K classes, is how far a row lies from it of which
    a model knows nothing.

    With `errors` the band has a rule of its own in place of that one: no error in 20 examples is no proof that there
    is none, and how bad an error can be is known. Where fewer than 10 examples lie above the baseline (below it), the
    exact (Clopper-Pearson) bound on the share of such examples takes their place in the upper (lower) bound of that
    point.

    A band holds for its own set, or group, alone: of 20 sets without a barrier, one may well be called "not connected"
    at tolerance 0. No correction is made for their number.

    Args:
        alphas (`Sequence[float]`): (P,), strictly increasing from 0 to 1, P >= 3.
        losses (`Sequence[float]` or `np.ndarray`): (P,) mean losses, or (P, N) per-example losses, in nats; with
            `errors`, fractions.
        baseline (`str`, *optional*, defaults to `"chord"`): the convention.
        tolerance (`float`, *optional*, defaults to 0.1): the height in nats up to which the ends count as connected.
        confidence (`float`, *optional*, defaults to 0.95): level of the interval.
        num_resamples (`int`, *optional*, defaults to 1000): bootstrap replicates.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.
        weights (`Sequence[float]` or `np.ndarray`, *optional*): (N,), how many tokens each example counts; `losses`
            are then means over those. Examples of weight 0 are left out, whatever their loss.
        errors (`bool`, *optional*, defaults to `False`): whether `losses` are errors, 0 or 1 or a fraction of tokens.
        guess_loss (`float`, *optional*, defaults to 0.0): the loss of a guess, in nats: r_i is at least this.
            [`ConnectivityEvaluator`] gives log K for classifiers, and 0 for language models.

    Returns:
        [`Barrier`]

    Raises:
        ValueError: alphas unsorted, repeated or not from 0 to 1, an unknown baseline, shapes that do not fit, a loss
        that is not finite (the alpha is named), weights that are negative, not finite or all 0, or errors outside
        [0, 1].

    Example:

    ```python
    >>> from hf_cbft import compute_barrier
    >>> compute_barrier([0, 0.5, 1], [0.0, 1.5, 1.0]).height
    1.0
    >>> compute_barrier([0, 0.5, 1], [[0.0, 0.0], [2.0, 1.0], [0.0, 0.0]], weights=[30, 10]).height
    1.75

    ```
    """
    check_statistics(baseline, confidence, num_resamples)
    alphas, losses, weights = _checked(alphas, losses, weights)
    if errors and (losses.min() < 0.0 or losses.max() > 1.0):
        raise ValueError(f"errors lie between 0 and 1; got {losses.min():g} to {losses.max():g}.")
    excess = losses[1:-1] - baseline_losses(alphas, losses, weights, baseline)
    heights = weighted_means(excess, weights)
    top = int(heights.argmax())
    bounds = (-1.0, 1.0) if errors else None
    band = mean_band(excess, weights, confidence, num_resamples, seed, bounds=bounds, guess_loss=guess_loss)
    low, high = (finite_or_none(bound.max()) for bound in band)
    return Barrier(
        height=float(heights[top]),
        alpha=float(alphas[1 + top]),
        low=low,
        high=high,
        connected=_verdict(low, high, tolerance),
        baseline=baseline,
        tolerance=tolerance,
        confidence=confidence,
    )


def check_statistics(baseline: str, confidence: float, num_resamples: int) -> None:
    """Refuse settings of [`compute_barrier`] that cannot work, with a `ValueError`."""
    if baseline not in BASELINES:
        raise ValueError(f"baseline {baseline!r} is unknown: use one of {', '.join(BASELINES)}.")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence} is not a level: give a number between 0 and 1.")
    if num_resamples < 1:
        raise ValueError(f"num_resamples = {num_resamples}: the interval needs at least 1 bootstrap replicate.")


def group_barriers(
    alphas: Sequence[float] | np.ndarray,
    losses: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    baseline: str = "chord",
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
    **statistics: Any,
) -> dict[str, Barrier]:
    """A barrier for each group of examples, by name in sorted order. Each band holds for its group alone.

    Args:
        alphas, losses, baseline, weights: see [`compute_barrier`]; `losses` are per example, (P, N).
        groups (`Sequence[str]`): (N,), the group of each example.
        names (`Sequence[str]`, *optional*): the groups that are wanted; `None` takes those that occur.
        statistics: the other arguments of [`compute_barrier`].

    Raises:
        ValueError: groups that do not fit the examples, a named group without examples, or what [`compute_barrier`]
        refuses.

    Example:

    ```python
    >>> losses = [[0.0, 0.0, 1.0], [0.5, 1.5, 1.0], [0.0, 0.0, 1.0]]
    >>> {name: barrier.height for name, barrier in group_barriers([0, 0.5, 1], losses, ["b", "b", "a"]).items()}
    {'a': 0.0, 'b': 1.0}

    ```
    """
    losses = np.asarray(losses, dtype=np.float64)
    groups = np.asarray([str(group) for group in groups])
    if losses.ndim != 2 or groups.shape != losses.shape[1:]:
        raise ValueError(
            f"{len(groups)} groups do not fit losses of shape {losses.shape}: give losses of shape (points, examples) "
            "and one group an example."
        )
    present = sorted(set(groups.tolist()))
    missing = sorted(set(names or ()) - set(present))
    if missing:
        raise ValueError(f"The group {missing[0]!r} has no examples; the groups are {', '.join(present)}.")
    found = {}
    for name in sorted(names or present):
        rows = groups == name
        of_group = None if weights is None else np.asarray(weights)[rows]
        found[name] = compute_barrier(alphas, losses.compress(rows, axis=1), baseline, weights=of_group, **statistics)
    return found


def _checked(
    alphas: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) alphas, (P, N) losses and (N,) relative weights; mean losses count as those of one example."""
    alphas, losses = np.asarray(alphas, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if alphas.ndim != 1 or len(alphas) < 3:
        raise ValueError(f"A barrier needs at least 3 points of the path, both ends among them; got {alphas.size}.")
    if losses.ndim not in (1, 2) or len(losses) != len(alphas) or losses.size == 0:
        raise ValueError(
            f"losses of shape {losses.shape} do not fit {len(alphas)} alphas: give one mean loss a point, shape "
            f"({len(alphas)},), or per-example losses, shape ({len(alphas)}, number of examples)."
        )
    if not (np.diff(alphas) > 0).all():
        raise ValueError(f"alphas must increase strictly, without repetition; got {alphas.tolist()}.")
    if alphas[0] != 0.0 or alphas[-1] != 1.0:
        raise ValueError(f"alphas must run from 0 to 1, the two ends; got {alphas[0]} to {alphas[-1]}.")
    if losses.ndim == 1 and weights is not None:
        raise ValueError("weights belong to examples, and these losses are means already: give per-example losses.")
    losses, weights = weighted_examples(losses if losses.ndim == 2 else losses[:, None], weights)
    finite = np.isfinite(losses).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"The loss at alpha = {alphas[~finite][0]:g} is not finite, so the path has no barrier there to speak of: "
            "look at the weights there, or leave out the rows that overflow."
        )
    return alphas, losses, weights


def weighted_examples(
    values: np.ndarray, weights: Sequence[float] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The columns of `values` (rows, N) that have a weight, and their weights divided by the mean weight.

    Raises:
        ValueError: weights of another shape, negative, not finite or all 0.
    """
    num_examples = values.shape[1]
    if weights is None:
        return values, np.ones(num_examples)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (num_examples,):
        raise ValueError(
            f"weights of shape {weights.shape} do not fit {num_examples} examples: give one number an example."
        )
    wrong = ~(np.isfinite(weights) & (weights >= 0.0))
    if wrong.any():
        raise ValueError(
            f"The weight of example {wrong.argmax()} is {weights[wrong][0]:g}: it is a number of tokens, finite and "
            "not below 0."
        )
    used = weights > 0.0
    if not used.any():
        raise ValueError("All weights are 0: no example counts a token, so there is no loss to speak of.")
    # What is left out is not drawn either: such examples change nothing. `compress` keeps the order in memory, and so
    # the order of sums.
    return values.compress(used, axis=1), weights[used] / weights[used].mean()


def baseline_losses(alphas: np.ndarray, losses: np.ndarray, weights: np.ndarray, baseline: str) -> np.ndarray:
    """The losses that a barrier is measured from: (P - 2, N) or, for a constant, (N,)."""
    start, end = losses[0], losses[-1]
    if baseline == "chord":
        inner = alphas[1:-1, None]
        return (1.0 - inner) * start + inner * end
    if baseline == "mean":
        return 0.5 * (start + end)
    larger_start = weighted_means(start[None], weights) >= weighted_means(end[None], weights)
    return start if larger_start else end


def mean_band(
    values: np.ndarray,
    weights: np.ndarray,
    confidence: float,
    num_resamples: int,
    seed: int,
    bounds: Sequence[float] | np.ndarray | None = None,
    simultaneous: bool = True,
    guess_loss: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Band of the weighted means of `values`, (points, N): lower and upper bounds, (points,) each.

    A bound is infinite where the examples give none: too few of them, or one that carries a point alone. `bounds`,
    lowest <= 0 and highest >= 0, one pair or (points, 2), are for values many of which are 0; infinite ones, or none,
    are for all others, whose band is the mean alone where they do not differ at all. The band holds at all points
    together or, if not `simultaneous`, at each for itself. `guess_loss`: how far examples that are not there lie from
    the mean, at least.
    """
    num_points, num_examples = values.shape
    if num_examples < 2:
        return np.full(num_points, -np.inf), np.full(num_points, np.inf)
    limits = np.broadcast_to((-np.inf, np.inf) if bounds is None else np.asarray(bounds), (num_points, 2)).T
    values, outer, rare = _without_rare(values, weights, 1.0 - confidence, limits, simultaneous)
    means = weighted_means(values, weights)
    margins = np.zeros_like(means)
    # Points where all examples agree to rounding (an end repeated, say) have no error to speak of.
    spread = np.ptp(values, axis=1) > 1e-6 * np.maximum(np.abs(means), 1.0)
    if spread.any():
        t = _bootstrap_t(values[spread], weights, num_resamples, seed)
        levels = 1.0 - (1.0 - confidence) * (1.0 - rare[spread])
        margins[spread] = _quantiles(t, levels, simultaneous) * _standard_errors(values[spread], weights)
    outer += np.where(spread & np.isinf(limits), _unseen(values, weights, confidence, guess_loss), 0.0)
    return np.maximum(means - margins - outer[0], limits[0]), np.minimum(means + margins + outer[1], limits[1])


def _quantiles(t: np.ndarray, levels: np.ndarray, simultaneous: bool) -> np.ndarray:
    """(rows,) quantiles of (replicates, rows), at one rank that serves all rows together, or each at its own level."""
    by_size = np.sort(t, axis=0)
    worst = t.argsort(axis=0).argsort(axis=0).max(axis=1) if simultaneous else np.arange(len(t))
    ranks = [int(np.quantile(worst, level, method="higher")) for level in levels]
    return by_size[ranks, np.arange(t.shape[1])]


def _unseen(values: np.ndarray, weights: np.ndarray, confidence: float, guess_loss: float) -> np.ndarray:
    """(2, rows): how far the means can lie below and above for rows that the N examples do not hold.

    A share larger than p = 1 - (1 - confidence)^(1/N), about 3/N at 95 %, would have been seen; each of them pulls as
    hard as the one that pulls hardest, which is w (v - mean) to first order and exact for equal weights, or as one of
    the largest weight that lies `guess_loss` from the mean.
    """
    residuals = _residuals(values, weights)
    share = 1.0 - (1.0 - confidence) ** (1.0 / values.shape[1])
    farthest = np.stack([-residuals.min(axis=1), residuals.max(axis=1)])
    return share * np.maximum(farthest, guess_loss * weights.max())


def _without_rare(
    values: np.ndarray, weights: np.ndarray, risk: float, limits: np.ndarray, simultaneous: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`values` without those on a side of 0 where they are rare, what these can come to, and how many sides that were.

    Returns (points, N) values, (2, points) bounds on the mean of what was left out below and above 0, and the rare
    ones' share of the sides that hold together, (points,): all of them, or the two of a point. Each side has the same
    part of `risk`.
    """
    num_points, num_examples = values.shape
    reach = np.abs(limits)
    known = (reach > 0.0) & np.isfinite(reach)
    if not known.any():
        return values, np.zeros((2, num_points)), np.zeros(num_points)
    counts = np.stack([(values < -1e-6).sum(axis=1), (values > 1e-6).sum(axis=1)])
    rare = (counts < _FEW) & known
    level = 1.0 - risk / (rare.size if simultaneous else 2)
    shares = np.array([[_share_bound(int(n), num_examples, level) for n in side] for side in counts])
    # An example can weigh as much as the heaviest.
    outer = np.where(rare, reach * shares * weights.max(), 0.0)
    values = np.clip(values, np.where(rare[0], 0.0, -np.inf)[:, None], np.where(rare[1], 0.0, np.inf)[:, None])
    return values, outer, np.full(num_points, rare.mean()) if simultaneous else rare.mean(axis=0)


def _share_bound(events: int, num_examples: int, level: float) -> float:
    """How large a share can be if `events` of `num_examples` were seen: Clopper-Pearson, at one-sided `level`."""
    from scipy.special import betaincinv

    return float(betaincinv(events + 1, num_examples - events, level)) if events < num_examples else 1.0


def weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(rows,) means of `values` (rows, N); the mean of `weights` (N,) is 1, so this is sum(w v) / sum(w)."""
    return (weights * values).mean(axis=1)


def _residuals(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights * (values - weighted_means(values, weights)[:, None])


def _standard_errors(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(rows,) standard errors of [`weighted_means`]: of a mean, or of a ratio to first order."""
    num_examples = values.shape[1]
    return np.sqrt((_residuals(values, weights) ** 2).sum(axis=1) / (num_examples - 1)) / np.sqrt(num_examples)


def _draw(num_examples: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """(size, N) how often each replicate drew each example."""
    drawn = generator.integers(0, num_examples, size=(size, num_examples))
    drawn += num_examples * np.arange(size)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=size * num_examples).reshape(size, num_examples)
    return counts.astype(np.float64)


@lru_cache(maxsize=1)
def _kept_draws(num_examples: int, num_resamples: int, seed: int) -> np.ndarray:
    """All replicates at once, kept for the next band of as many examples: losses and errors of a set have the same."""
    return _draw(num_examples, num_resamples, np.random.default_rng(seed))


def _draws(num_examples: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The replicates in blocks of at most `_BLOCK` weights."""
    if num_examples * num_resamples <= _KEPT:
        yield _kept_draws(num_examples, num_resamples, seed)
        return
    generator, block = np.random.default_rng(seed), max(1, _BLOCK // num_examples)
    for first in range(0, num_resamples, block):
        yield _draw(num_examples, min(block, num_resamples - first), generator)


def _bootstrap_t(values: np.ndarray, weights: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """(num_resamples, rows) replicates of |t| of [`weighted_means`], the same draw for all rows.

    With m_i how often a replicate drew example i and c_i = w_i (v_i - mean), the mean moves by
    D = sum(m c) / sum(m w), and the replicate's own residuals are c_i - D w_i.
    """
    num_examples = values.shape[1]
    residuals = _residuals(values, weights).T
    squared, crossed = residuals**2, weights[:, None] * residuals
    replicates = []
    for drawn_as in _draws(num_examples, num_resamples, seed):
        total = (drawn_as @ weights / num_examples)[:, None]
        shift = drawn_as @ residuals / num_examples / total
        # In this order equal weights give, to the last bit, what the formula of a plain mean gives.
        squared_weights = (drawn_as @ weights**2 / num_examples)[:, None]
        moved = shift * (2.0 * (drawn_as @ crossed / num_examples) - shift * squared_weights)
        variance = (drawn_as @ squared / num_examples - moved) * num_examples / (num_examples - 1)
        error = np.sqrt(np.maximum(variance, 0.0) / num_examples) / total
        # A replicate that drew one example only has no error: its t is infinite unless it did not move either.
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates.append(np.nan_to_num(np.abs(shift) / error, nan=0.0, posinf=np.inf))
    return np.concatenate(replicates)


def finite_or_none(bound: float) -> float | None:
    """A bound as it is saved: JSON has no infinity."""
    return float(bound) if np.isfinite(bound) else None


def _verdict(low: float | None, high: float | None, tolerance: float) -> bool | None:
    if high is not None and high <= tolerance:
        return True
    return False if low is not None and low > tolerance else None
