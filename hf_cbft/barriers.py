# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""From losses along a path to a barrier: the conventions, its interval and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BASELINES = ("chord", "mean", "max")
# Replicates are drawn in blocks of at most this many weights, which bounds the memory of the bootstrap.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Barrier:
    """The barrier of one path on one data set. Losses are in nats.

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

    Args:
        alphas (`Sequence[float]`): (P,), strictly increasing from 0 to 1, P >= 3.
        losses (`Sequence[float]` or `np.ndarray`): (P,) mean losses, or (P, N) per-example losses, in nats.
        baseline (`str`, *optional*, defaults to `"chord"`): the convention.
        tolerance (`float`, *optional*, defaults to 0.1): the height in nats up to which the ends count as connected.
        confidence (`float`, *optional*, defaults to 0.95): level of the interval.
        num_resamples (`int`, *optional*, defaults to 1000): bootstrap replicates.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        [`Barrier`]

    Raises:
        ValueError: alphas unsorted, repeated or not from 0 to 1, an unknown baseline, shapes that do not fit, or a
        loss that is not finite (the alpha is named).

    Example:

    ```python
    >>> from hf_cbft import compute_barrier
    >>> compute_barrier([0, 0.5, 1], [0.0, 1.5, 1.0]).height
    1.0

    ```
    """
    alphas, losses = _checked(alphas, losses)
    check_statistics(baseline, confidence, num_resamples)
    per_example = losses if losses.ndim == 2 else losses[:, None]
    excess = per_example[1:-1] - _baseline(alphas, per_example, baseline)
    heights = excess.mean(axis=1)
    top = int(heights.argmax())
    low = high = None
    if excess.shape[1] > 1:
        low, high = _simultaneous_band(excess, confidence, num_resamples, np.random.default_rng(seed))
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


def _checked(alphas: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray) -> tuple[np.ndarray, ...]:
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
    finite = np.isfinite(losses.reshape(len(alphas), -1)).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"The loss at alpha = {alphas[~finite][0]:g} is not finite, so the path has no barrier there to speak of."
        )
    return alphas, losses


def _baseline(alphas: np.ndarray, losses: np.ndarray, baseline: str) -> np.ndarray:
    """What the interior losses are held against: (P - 2, N) or, for a constant, (N,)."""
    start, end = losses[0], losses[-1]
    if baseline == "chord":
        inner = alphas[1:-1, None]
        return (1.0 - inner) * start + inner * end
    if baseline == "mean":
        return 0.5 * (start + end)
    return start if start.mean() >= end.mean() else end


def _simultaneous_band(
    excess: np.ndarray, confidence: float, num_resamples: int, generator: np.random.Generator
) -> tuple[float | None, float | None]:
    """Band of the maximum of `excess`.mean(axis=1); `excess` is (interior points, N), N >= 2.

    A bound is `None` where the examples give none: too few of them, or one that carries a point alone.
    """
    num_examples = excess.shape[1]
    means = excess.mean(axis=1)
    # Points where all examples agree to rounding (an end repeated, say) have no error to speak of.
    spread = np.ptp(excess, axis=1) > 1e-6 * np.maximum(np.abs(means), 1.0)
    margins = np.zeros_like(means)
    if spread.any():
        errors = excess[spread].std(axis=1, ddof=1) / np.sqrt(num_examples)
        t = _bootstrap_t(excess[spread], num_resamples, generator)
        ranks = t.argsort(axis=0).argsort(axis=0)
        rank = np.quantile(ranks.max(axis=1), confidence, method="higher").astype(int)
        margins[spread] = np.sort(t, axis=0)[rank] * errors
    low, high = (means - margins).max(), (means + margins).max()
    return float(low) if np.isfinite(low) else None, float(high) if np.isfinite(high) else None


def _bootstrap_t(excess: np.ndarray, num_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """(num_resamples, points) replicates of |t| of the mean of each row of `excess`, the same draw for all points."""
    num_examples = excess.shape[1]
    centred = (excess - excess.mean(axis=1, keepdims=True)).T
    squared = centred**2
    replicates = []
    block = max(1, _BLOCK // num_examples)
    for first in range(0, num_resamples, block):
        size = min(block, num_resamples - first)
        drawn = generator.integers(0, num_examples, size=(size, num_examples))
        drawn += num_examples * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_examples).reshape(size, num_examples)
        weights = counts.astype(np.float64)
        shift = weights @ centred / num_examples
        variance = (weights @ squared / num_examples - shift**2) * num_examples / (num_examples - 1)
        error = np.sqrt(np.maximum(variance, 0.0) / num_examples)
        # A replicate that drew one example only has no error: its t is infinite unless it did not move either.
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates.append(np.nan_to_num(np.abs(shift) / error, nan=0.0, posinf=np.inf))
    return np.concatenate(replicates)


def _verdict(low: float | None, high: float | None, tolerance: float) -> bool | None:
    if high is not None and high <= tolerance:
        return True
    return False if low is not None and low > tolerance else None
