# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Compare the mechanisms of two ends: what each relies on, and what that says beside the barrier.

An intervention changes one attribute of the input. A model is invariant to it when the change leaves it as good as it
was, and two models are mechanistically similar when they are invariant to the same interventions (Lubana et al., ICML
2023, definitions 2-4). Here an intervention is a pair of data sets, one without the change and one with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_cbft.analysis.barriers import finite_or_none, mean_band, weighted_examples, weighted_means
from hf_cbft.tables import VERDICTS, format_band, format_table

ENDS = ("start", "end")
_ANY = (-np.inf, np.inf)
_SHARE = (0.0, 1.0)
_ANSWERS = {True: "invariant", False: "relies on it", None: "undecided"}
_SIMILAR = {True: "similar", False: "dissimilar", None: "undecided"}
# By (connected, similar). The conjecture: two models that cannot be linearly connected, up to the symmetries of the
# architecture, rely on dissimilar mechanisms (Lubana et al., conjecture 1). It does not say the reverse.
_EXPLANATIONS = {
    (
        True,
        True,
    ): "Connected and similar: no barrier, and the same answer to every intervention, which agrees with the "
    "paper's conjecture that models without a linear connection rely on dissimilar mechanisms.",
    (
        True,
        False,
    ): "Connected but dissimilar: the two do not rely on the same, though no barrier lies between them; the "
    "paper's conjecture goes from a barrier to dissimilar mechanisms, not back, so it does not exclude this.",
    (False, True): "Not connected but similar: against the paper's conjecture as it stands, unless a permutation of "
    "units would remove the barrier or the two differ in an intervention that was not measured.",
    (False, False): "Not connected and dissimilar: a barrier, and other answers to an intervention, which is what the "
    "paper's conjecture expects; it is a conjecture, and the one does not prove the other.",
}


@dataclass(frozen=True)
class IntervalEstimate:
    """A measured number with its interval; a bound is `None` where the examples give none."""

    value: float
    low: float | None
    high: float | None

    def within(self, margin: float) -> bool | None:
        """Compare with -margin to margin: `True` or `False` if the interval is inside or outside, else `None`."""
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        if -margin <= low and high <= margin:
            return True
        return False if low > margin or high < -margin else None

    def cells(self, sign: str = "") -> list[str]:
        """The value and its interval, as a table shows them."""
        return [f"{self.value:{sign}.3f}", format_band(self.low, self.high, digits=3, sign=sign)]


@dataclass(frozen=True)
class Intervention:
    """The effect of a change of the data on both ends.

    Attributes:
        base, changed (`str`): the two sets.
        paired (`bool`): whether row i of one was held against row i of the other.
        loss (`dict[str, IntervalEstimate]`): by end, loss on `changed` minus loss on `base`, in nats.
        accuracy (`dict[str, IntervalEstimate]`): by end, the same of the accuracy, a fraction.
        difference (`IntervalEstimate`): the change in accuracy of `end` minus that of `start`.
        invariant (`dict[str, bool | None]`): by end, `True`: invariant, `False`: relies on it, `None`: undecided.
    """

    base: str
    changed: str
    paired: bool
    loss: dict[str, IntervalEstimate]
    accuracy: dict[str, IntervalEstimate]
    difference: IntervalEstimate
    invariant: dict[str, bool | None]


@dataclass(frozen=True)
class MechanismReport:
    """The mechanisms of two models: what each relies on, and whether they are connected.

    Attributes:
        start, end (`str`): the two models.
        interventions (`tuple[Intervention, ...]`): as they were asked for.
        agreement (`dict[str, IntervalEstimate]`): by set, how often both predict the same; language models have none.
        similar (`bool`, *optional*): `True`: the same answer to every intervention, all decided; `False`: at least one
            to which both answers are decided and differ; `None`: undecided.
        connected (`bool`, *optional*): `True`: on every set; `False`: there is one on which they are not; `None`:
            undecided.
        not_connected_on (`tuple[str, ...]`): the sets on which they are not.
        margin (`float`): the change of the accuracy up to which a model counts as invariant.
        confidence (`float`): of each interval.
    """

    start: str
    end: str
    interventions: tuple[Intervention, ...]
    agreement: dict[str, IntervalEstimate]
    similar: bool | None
    connected: bool | None
    not_connected_on: tuple[str, ...]
    margin: float
    confidence: float

    @property
    def explanation(self) -> str:
        """One sentence on what the two verdicts say together."""
        return explain(self.connected, self.similar)

    @property
    def other_degree(self) -> list[str]:
        """Interventions to which both give the same answer, though one changes by more than the margin more."""
        return [
            f"{one.base} -> {one.changed}"
            for one in self.interventions
            if one.invariant["start"] == one.invariant["end"] is not None
            and one.difference.within(self.margin) is False
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {**asdict(self), "other_degree": self.other_degree, "explanation": self.explanation}

    def __str__(self) -> str:
        interval = f"{100 * self.confidence:g} % interval"
        rows = [["intervention", "model", "accuracy", interval, "loss", interval, "answer"]]
        for one in self.interventions:
            name = f"{one.base} -> {one.changed}" + ("" if one.paired else " (unpaired)")
            for end in ENDS:
                cells = [*one.accuracy[end].cells("+"), *one.loss[end].cells("+"), _ANSWERS[one.invariant[end]]]
                rows.append([name, end, *cells])
            degree = {True: "same degree", False: "other degree", None: "-"}[one.difference.within(self.margin)]
            rows.append([name, "end - start", *one.difference.cells("+"), "", "", degree])
        lines = [
            f"What {self.start} (start) and {self.end} (end) rely on, by the change of the accuracy:",
            *format_table(rows, left=2),
        ]
        if other := self.other_degree:
            lines.append(f"The same answer, but to another degree: {', '.join(other)}.")
        if self.agreement:
            shares = [[name, *share.cells()] for name, share in self.agreement.items()]
            lines += ["Both ends predict the same:", *format_table([["set", "share", interval], *shares])]
        on = f" (on {', '.join(self.not_connected_on)})" if self.not_connected_on else ""
        verdict = VERDICTS[self.connected] + (on if self.connected is False else "")
        lines += [
            f"connected: {verdict}; mechanisms: {_SIMILAR[self.similar]}",
            self.explanation,
            f"Invariant: the whole interval lies within {self.margin:g} of 0. Each interval holds for its own row, "
            "not for all rows together.",
        ]
        return "\n".join(lines)


def mechanisms(result: Any, pairs: Iterable[Sequence[str]] | None = None, margin: float = 0.1) -> MechanismReport:
    """Which interventions each end of a path is invariant to, and whether both are invariant to the same.

    An intervention is a pair of sets (base, changed). An end is invariant to it if the interval of its change in
    accuracy lies within +-`margin`, relies on what was changed if the interval lies outside, for better or worse, and
    is undecided else. The change of the loss stands beside it and decides nothing: how many nats a wrong answer costs
    depends on how sure a model is, so no one margin would serve two models.

    Rows are paired if both sets have the same labels and token counts row by row; otherwise the intervals of the two
    sets are joined as those of independent samples (Zou and Donner, 2008), which is wider where the rows belong
    together after all.

    Args:
        result ([`ConnectivityResult`]): measured on at least two sets.
        pairs (`Iterable[tuple[str, str]]`, *optional*): of set names; `None` holds every other set against `no_cue`,
            without one against the first set.
        margin (`float`, *optional*, defaults to 0.1): what change of the accuracy counts as none. With 500 rows an
            interval reaches about 4 points to each side, so that a margin of 0.05 would hardly ever be decided.

    Returns:
        [`MechanismReport`]; print it.

    Raises:
        ValueError: fewer than two sets, a pair that is not one of two measured sets, or a margin outside (0, 1).

    Example:

    ```python
    report = mechanisms(evaluator.evaluate(sets), pairs=[("cue", "rand_cue"), ("cue", "rand_input")])
    report.similar, report.interventions[0].invariant["end"]
    print(report)
    ```
    """
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin = {margin} is no change of an accuracy: give a fraction between 0 and 1.")
    settings = result.settings
    checked = _checked_pairs(result, pairs)
    questions = {key: question for pair in checked for key, question in _pair_questions(result, *pair).items()}
    questions |= {
        (name, "agreement"): _agreement(predictions, result.weights[name])
        for name, predictions in result.predictions.items()
    }
    statistics = {name: settings[name] for name in ("confidence", "num_resamples", "seed")}
    # Results of earlier versions do not have it.
    estimates = _answered(questions, {**statistics, "guess_loss": settings.get("guess_loss", 0.0)})
    found = tuple(_intervention(result, *pair, margin, estimates) for pair in checked)
    verdicts = {name: barrier.connected for name, barrier in result.barriers.items()}
    return MechanismReport(
        start=str(settings["start"]),
        end=str(settings["end"]),
        interventions=found,
        agreement={name: estimates[name, "agreement"] for name in result.predictions},
        similar=_same_answers(found),
        connected=False if False in verdicts.values() else None if None in verdicts.values() else True,
        not_connected_on=tuple(name for name, connected in verdicts.items() if connected is False),
        margin=margin,
        confidence=settings["confidence"],
    )


def explain(connected: bool | None, similar: bool | None) -> str:
    """One sentence on what connectivity and mechanistic similarity say together; `None` is undecided.

    Example:

    ```python
    >>> from hf_cbft.analysis.mechanisms import explain
    >>> print(explain(None, True))
    Undecided whether they are connected: the examples do not say which of the four cases this is.

    ```
    """
    if connected is not None and similar is not None:
        return _EXPLANATIONS[connected, similar]
    open_ones = [("they are connected", connected), ("their mechanisms are similar", similar)]
    undecided = " and whether ".join(question for question, answer in open_ones if answer is None)
    return f"Undecided whether {undecided}: the examples do not say which of the four cases this is."


def _checked_pairs(result: Any, pairs: Iterable[Sequence[str]] | None) -> list[tuple[str, str]]:
    names = list(result.example_losses)
    if len(names) < 2:
        raise ValueError(
            f"Mechanisms show between two sets, and the result has {', '.join(names) or 'none'}: measure on the data "
            "with and without a change."
        )
    if pairs is None:
        base = "no_cue" if "no_cue" in names else names[0]
        return [(base, name) for name in names if name != base]
    checked = []
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(names):
            raise ValueError(f"The pair {pair!r} is not one of two measured sets; those are {', '.join(names)}.")
        checked.append((pair[0], pair[1]))
    if not checked:
        raise ValueError("pairs is empty: name at least one pair of sets, or leave it out.")
    return checked


def _intervention(
    result: Any, base: str, changed: str, margin: float, estimates: Mapping[Any, IntervalEstimate]
) -> Intervention:
    paired = _same_rows(result, base, changed)

    def change(*quantity: str) -> IntervalEstimate:
        if paired:
            return estimates[(base, changed, *quantity)]
        return _difference(estimates[(base, *quantity)], estimates[(changed, *quantity)])

    accuracy = {end: change("accuracy", end) for end in ENDS}
    return Intervention(
        base=base,
        changed=changed,
        paired=paired,
        loss={end: change("loss", end) for end in ENDS},
        accuracy=accuracy,
        difference=change("accuracy", "end - start"),
        invariant={end: accuracy[end].within(margin) for end in ENDS},
    )


def _same_rows(result: Any, base: str, changed: str) -> bool:
    """Return `True` if row i of both sets has the same labels, as far as known, and counts the same tokens."""
    labels = [result.references[name] for name in (base, changed) if name in result.references]
    return np.array_equal(result.weights[base], result.weights[changed]) and (
        not labels or (len(labels) == 2 and np.array_equal(*labels))
    )


def _same_answers(interventions: Sequence[Intervention]) -> bool | None:
    answers = [(one.invariant["start"], one.invariant["end"]) for one in interventions]
    decided = [answer for answer in answers if None not in answer]
    if any(start != end for start, end in decided):
        return False
    return True if len(decided) == len(answers) else None


@dataclass(frozen=True, eq=False)
class _Question:
    """A weighted mean to estimate, of (N,) values that lie within `bounds`."""

    values: np.ndarray
    weights: np.ndarray
    bounds: tuple[float, float]


def _pair_questions(result: Any, base: str, changed: str) -> dict[tuple[str, ...], _Question]:
    """Of the change from row to row, where rows are paired; else of each set for itself."""
    of_base, of_changed = (_set_questions(result, name) for name in (base, changed))
    if not _same_rows(result, base, changed):
        return {(name, *key): q for name, of in ((base, of_base), (changed, of_changed)) for key, q in of.items()}
    return {
        (base, changed, *key): _Question(
            of_changed[key].values - one.values,
            one.weights,
            (one.bounds[0] - one.bounds[1], one.bounds[1] - one.bounds[0]),
        )
        for key, one in of_base.items()
    }


def _set_questions(result: Any, name: str) -> dict[tuple[str, str], _Question]:
    losses, correct, weights = (of[name] for of in (result.example_losses, result.example_correct, result.weights))
    ends = list(zip(ENDS, (0, -1), strict=True))
    return {
        **{("loss", end): _Question(losses[row], weights, _ANY) for end, row in ends},
        **{("accuracy", end): _Question(correct[row], weights, _SHARE) for end, row in ends},
        ("accuracy", "end - start"): _Question(correct[-1] - correct[0], weights, (-1.0, 1.0)),
    }


def _agreement(predictions: np.ndarray, weights: np.ndarray) -> _Question:
    """How often both ends predict the same: of the examples, or of their tokens, one example's after another's."""
    equal = (predictions[0] == predictions[-1]).astype(np.float64)
    owner = np.repeat(np.arange(len(weights)), weights.astype(int))
    by_example = np.bincount(owner, weights=equal, minlength=len(weights)) / np.maximum(weights, 1.0)
    return _Question(by_example, weights, _SHARE)


def _answered(questions: Mapping[Any, _Question], statistics: Mapping[str, Any]) -> dict[Any, IntervalEstimate]:
    """An estimate for each question; those of examples that weigh the same share the draws of the bootstrap."""
    alike: dict[bytes, list[Any]] = {}
    for key, question in questions.items():
        alike.setdefault(np.asarray(question.weights, dtype=np.float64).tobytes(), []).append(key)
    found = {
        key: estimate
        for keys in alike.values()
        for key, estimate in zip(keys, _estimates([questions[key] for key in keys], statistics), strict=True)
    }
    return {key: found[key] for key in questions}


def _estimates(questions: Sequence[_Question], statistics: Mapping[str, Any]) -> list[IntervalEstimate]:
    """Weighted means of per-example values, each with an interval of its own; the example is what is resampled."""
    values, weights = weighted_examples(np.stack([question.values for question in questions]), questions[0].weights)
    bounds = np.array([question.bounds for question in questions])
    # Misses are counted where hits are many: a few misses, or none, claim no certainty.
    shares = (bounds == _SHARE).all(axis=1)
    missed = shares & ((values > 0.0).sum(axis=1) > (values < 1.0).sum(axis=1))
    values[missed] = 1.0 - values[missed]
    band = mean_band(values, weights, **statistics, bounds=bounds, simultaneous=False)
    estimates = []
    for value, low, high, of_misses in zip(weighted_means(values, weights), *band, missed, strict=True):
        ordered = (1.0 - value, 1.0 - high, 1.0 - low) if of_misses else (value, low, high)
        estimates.append(IntervalEstimate(float(ordered[0]), *map(finite_or_none, ordered[1:])))
    return estimates


def _difference(base: IntervalEstimate, changed: IntervalEstimate) -> IntervalEstimate:
    """`changed` minus `base`, independent, from the interval of each (Zou and Donner, Statistics in Medicine 2008)."""
    value = changed.value - base.value
    low = high = None
    if changed.low is not None and base.high is not None:
        low = float(value - np.hypot(changed.value - changed.low, base.high - base.value))
    if changed.high is not None and base.low is not None:
        high = float(value + np.hypot(changed.high - changed.value, base.value - base.low))
    return IntervalEstimate(value, low, high)
