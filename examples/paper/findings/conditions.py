# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Conditions on means over seeds, each decided by an interval or not at all, and what follows of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from paper.findings.statistics import Estimate, rounded

# So many conditions are shown where not all of them are.
_SHOWN = 4


@dataclass(frozen=True)
class Condition:
    """That a mean over seeds lies above (`above=True`) or at most at a threshold: decided by its t-interval.

    Example:

    ```python
    >>> from paper.findings.conditions import Condition
    >>> from paper.findings.statistics import mean_interval
    >>> condition = Condition("RI of naive-small", mean_interval([0.80, 0.82, 0.84]), True, 0.5)
    >>> condition.holds, str(condition)
    (True, 'RI of naive-small 82.0 % (77.0 to 87.0), above 50.0: yes')

    ```
    """

    what: str
    estimate: Estimate
    above: bool
    threshold: float
    unit: str = "%"

    @property
    def holds(self) -> bool | None:
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None:
            return None
        if self.above:
            return True if low > self.threshold else False if high <= self.threshold else None
        return True if high <= self.threshold else False if low > self.threshold else None

    @property
    def margin(self) -> float:
        """How far the mean is on the right side."""
        return (self.estimate.mean - self.threshold) * (1 if self.above else -1)

    def __str__(self) -> str:
        scale, digits = (1.0, 2) if self.unit == "nats" else (100.0, 1)
        answer = {True: "yes", False: "no", None: "undecided"}[self.holds]
        relation = "above" if self.above else "at most"
        threshold = rounded(scale * self.threshold, digits)
        return f"{self.what} {self.estimate.sentence(scale, digits, self.unit)}, {relation} {threshold}: {answer}"


class Check(NamedTuple):
    """All of `conditions` must hold, and of those in a tuple at least one; `note` says what does not decide."""

    conditions: Sequence[Condition | tuple[Condition, ...]]
    note: str = ""


def holds(check: Check) -> bool | None:
    """`True` and `False` where the intervals decide, `None` where they do not."""
    parts = [_any(part) if isinstance(part, tuple) else part.holds for part in check.conditions]
    return False if False in parts else None if None in parts else True


def _any(conditions: tuple[Condition, ...]) -> bool | None:
    parts = [condition.holds for condition in conditions]
    return True if True in parts else None if None in parts else False


def flat(conditions: Sequence[Condition | tuple[Condition, ...]]) -> list[Condition]:
    return [one for part in conditions for one in (part if isinstance(part, tuple) else (part,))]


def deciding(check: Check) -> list[Condition]:
    """All conditions where they are few; else those that fail, those that are undecided, or the closest ones."""
    conditions = flat(check.conditions)
    if len(conditions) <= _SHOWN:
        return conditions
    wanted = holds(check)
    fitting = [condition for condition in conditions if condition.holds is wanted]
    return sorted(fitting, key=lambda condition: condition.margin)[:_SHOWN]
