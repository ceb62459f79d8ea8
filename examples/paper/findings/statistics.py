# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Means over seeds and the intervals that decide: Student's t, which a few seeds need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from hf_cbft.tables import format_band


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its interval; `low` and `high` are `None` with one seed, which says nothing of others.

    Example:

    ```python
    >>> from paper.findings.statistics import mean_interval
    >>> estimate = mean_interval([0.80, 0.82, 0.84])
    >>> print(estimate.cell(100, 1), "|", estimate.sentence(100, 1, "%"))
    82.0 ± 5.0 | 82.0 % (77.0 to 87.0)

    ```
    """

    mean: float
    low: float | None
    high: float | None
    number: int

    def cell(self, scale: float, digits: int) -> str:
        """`82.0 ± 5.0`, and `82.0 ± -` with one seed. `scale` is 100 for a fraction that is shown in percent."""
        half = "-" if self.high is None else f"{scale * (self.high - self.mean):.{digits}f}"
        return f"{rounded(scale * self.mean, digits)} ± {half}"

    def sentence(self, scale: float, digits: int, unit: str) -> str:
        """`82.0 % (77.0 to 87.0)`."""
        low, high = (None if end is None else round(scale * end, digits) + 0.0 for end in (self.low, self.high))
        return f"{rounded(scale * self.mean, digits)} {unit} ({format_band(low, high, digits)})"


def rounded(value: float, digits: int) -> str:
    # Adding 0 makes a plain zero of a negative one.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Estimate:
    """mean -+ t s / sqrt(N), with t the quantile of Student's distribution of N - 1 degrees of freedom.

    Args:
        values (`Sequence[float]`): (N,), one a seed.
        confidence (`float`, *optional*, defaults to 0.95): of the two-sided interval.

    Raises:
        ValueError: there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("A mean over seeds needs at least one value; got none.")
    mean, low, high = interval_band(array[:, None], confidence)
    if low is None or high is None:
        return Estimate(float(mean[0]), None, None, 1)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), array.size)


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Estimate:
    """Interval of the mean of `first - second`, seed by seed: what both share of a seed's luck drops out.

    Raises:
        ValueError: other numbers of seeds, or none.

    Example:

    ```python
    >>> from paper.findings.statistics import paired_difference
    >>> paired_difference([0.9, 0.7, 0.8], [0.8, 0.6, 0.7]).cell(100, 1)
    '10.0 ± 0.0'

    ```
    """
    if len(first) != len(second):
        raise ValueError(f"Pairs need as many values on both sides; got {len(first)} and {len(second)}.")
    return mean_interval(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), confidence)


def paired_barrier_difference(
    alphas: Sequence[float] | np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """How much higher the barrier of one path is than that of another, both measured on the same rows.

    Rows are drawn with replacement, the same for both paths, and both barriers (over the chord) are taken anew.

    Args:
        alphas (`Sequence[float]`): (P,), the points of both.
        first, second (`np.ndarray`): (P, N), the loss of each row at each point.
        confidence, num_resamples, seed (*optional*): of the percentile interval.

    Returns:
        `dict[str, float]`: `mean`, the difference in nats, and the ends `low` and `high` of its interval.
    """
    points = np.asarray(alphas, dtype=np.float64)[1:-1, None]
    excess = [x[1:-1] - (1 - points) * x[0] - points * x[-1] for x in (first, second)]
    number = excess[0].shape[1]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(number, np.full(number, 1 / number), size=num_resamples) / number
    drawn = [(counts @ x.T).max(axis=1) for x in excess]
    low, high = np.quantile(drawn[0] - drawn[1], [0.5 - confidence / 2, 0.5 + confidence / 2])
    mean = float(excess[0].mean(axis=1).max() - excess[1].mean(axis=1).max())
    return {"mean": mean, "low": float(low), "high": float(high)}


def interval_band(values: Any, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Mean, lower and upper end at each point of curves (seeds, points); the ends are `None` with one seed."""
    array = np.asarray(values, dtype=np.float64)
    number, mean = len(array), array.mean(axis=0)
    if number < 2:
        return mean, None, None
    half = student_t.ppf(0.5 + confidence / 2, number - 1) * array.std(axis=0, ddof=1) / np.sqrt(number)
    return mean, mean - half, mean + half
