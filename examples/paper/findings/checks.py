# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What each claim asks of a run's records at one share of the cue: the conditions that have to hold."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from paper.findings.conditions import Check, Condition
from paper.findings.published import PAPER_NAMES, paper_order
from paper.findings.records import (
    FULL,
    SETS,
    TOLERANCE,
    Quantity,
    Record,
    Run,
    accuracy,
    barrier,
    barrier_removed,
    by_seed,
    in_common,
    lost_to_random_cue,
    path_barrier,
    worst_group,
)
from paper.findings.statistics import Estimate, mean_interval, paired_difference

# The criteria, as fractions: RI from which on a model keeps the cue, NC - RC that is "far", what still counts as no
# loss, how close to chance RI is "near", and how close to the best NC a rival has to be.
KEEPS, FAR, PART, NO_LOSS, NEAR, RIVAL = 0.5, 0.2, 0.1, 0.06, 0.06, 0.05
_NAIVE = ("naive-small", "naive-medium", "naive-large")
Checker = Callable[[Run, float | None], Check]


class MissingRecordsError(Exception):
    """The run has not the records that a claim needs; says which."""


def _of(records: Sequence[Record], quantity: Quantity, what: str) -> dict[int, float]:
    values = by_seed(records, quantity)
    if not values:
        raise MissingRecordsError(f"There are no records of {what}")
    return values


def _method(run: Run, share: float | None, method: str, quantity: Quantity) -> dict[int, float]:
    return _of(run.select(method=method, share=share), quantity, method)


def _mean(values: dict[int, float]) -> Estimate:
    return mean_interval(list(values.values()))


def _lead(first: dict[int, float], second: dict[int, float], what: str) -> Estimate:
    if not set(first) & set(second):
        raise MissingRecordsError(f"There is no seed in common for {what}")
    return paired_difference(*in_common(first, second))


def _chance(run: Run) -> float:
    if not run.num_classes:
        raise MissingRecordsError("The number of classes is not recorded, so chance is not known")
    return 1 / run.num_classes


def _connected(run: Run, share: float | None, method: str) -> Condition:
    height = _mean(_method(run, share, method, barrier))
    return Condition(f"barrier of {method} on C", height, False, TOLERANCE, "nats")


def _not_connected(run: Run, share: float | None, method: str) -> Condition:
    height = _mean(_method(run, share, method, barrier))
    return Condition(f"barrier of {method} on C", height, True, TOLERANCE, "nats")


def _only_cue(run: Run, share: float | None, method: str, above: bool, threshold: float) -> Condition:
    values = _method(run, share, method, accuracy("rand_input"))
    return Condition(f"RI of {method}", _mean(values), above, threshold)


def _lost(run: Run, share: float | None, method: str, above: bool, threshold: float) -> Condition:
    values = _method(run, share, method, lost_to_random_cue)
    return Condition(f"NC - RC of {method}", _mean(values), above, threshold, "points")


def small_rate(run: Run, share: float | None) -> Check:
    return Check(
        [
            _only_cue(run, share, "naive-small", True, KEEPS),
            _lost(run, share, "naive-small", True, FAR),
            _connected(run, share, "naive-small"),
        ]
    )


def medium_rate(run: Run, share: float | None) -> Check:
    return Check(
        [
            _only_cue(run, share, "naive-medium", True, _chance(run) + PART),
            _lost(run, share, "naive-medium", True, PART),
            _connected(run, share, "naive-medium"),
        ]
    )


def leaves_the_cue(run: Run, share: float | None) -> Check:
    return Check(
        [_lost(run, share, "cbft", False, NO_LOSS), _only_cue(run, share, "cbft", False, _chance(run) + NEAR)]
    )


def highest_and_lowest(run: Run, share: float | None) -> Check:
    """Means say who is close to the best NC; paired differences say who is ahead."""
    clean = {
        method: values
        for method in run.methods
        if (values := by_seed(run.select(method=method, share=share), accuracy("no_cue")))
    }
    if "cbft" not in clean or len(clean) < 2:
        raise MissingRecordsError("There are no records of cbft and of a rival")
    means = {method: float(np.mean(list(values.values()))) for method, values in clean.items()}
    best = max(means, key=lambda method: means[method])
    rivals = [name for name in clean if not name.startswith("cbft") and means[name] >= means[best] - RIVAL]
    conditions = []
    if best != "cbft":
        lead = _lead(clean[best], clean["cbft"], f"{best} and cbft")
        conditions.append(Condition(f"NC of {best} over cbft", lead, False, RIVAL, "points"))
    for rival in rivals:
        for part, sign in (("rand_cue", 1), ("rand_input", -1)):
            ours, theirs = (_method(run, share, name, accuracy(part)) for name in ("cbft", rival))
            pair = (ours, theirs) if sign > 0 else (theirs, ours)
            what = f"{SETS[part]} of cbft {'over' if sign > 0 else 'below'} {rival} by"
            conditions.append(Condition(what, _lead(*pair, what), True, 0.0, "points"))
    if not conditions:
        return Check([_own_place(clean["cbft"])], "no rival has NC within 5 points of the best")
    return Check(conditions, f"rivals with NC within 5 points of {best}: {', '.join(rivals) or 'none'}")


def _own_place(clean: dict[int, float]) -> Condition:
    """Where there is no rival at all, CBFT has only to be better than nothing."""
    return Condition("NC of cbft", _mean(clean), True, 0.0)


def not_linearly_connected(run: Run, share: float | None) -> Check:
    return Check([_not_connected(run, share, "cbft"), _connected(run, share, "naive-small")])


def ordering(part: str) -> Checker:
    """The paper's order of FTM, FTS, LLR and LPFT on one set, neighbour by neighbour."""

    def check(run: Run, share: float | None) -> Check:
        order = paper_order(share, part)
        if order is None:
            raise MissingRecordsError("The paper's table has no such share of the cue")
        values = {method: _method(run, share, method, accuracy(part)) for method in order}
        conditions = [
            Condition(
                f"{SETS[part]} of {higher} over {lower} by",
                _lead(values[higher], values[lower], f"{higher} and {lower}"),
                True,
                0.0,
                "points",
            )
            for higher, lower in pairwise(order)
        ]
        found = sorted(values, key=lambda method: -np.mean(list(values[method].values())))
        theirs, ours = (" > ".join(PAPER_NAMES[method] for method in methods) for methods in (order, found))
        return Check(conditions, f"order in the paper (CIFAR-10, ResNet-18): {theirs}; here, by means: {ours}")

    return check


def large_rate(run: Run, share: float | None) -> Check:
    conditions = [
        _only_cue(run, share, "naive-large", False, _chance(run) + NEAR),
        _connected(run, share, "naive-large"),
    ]
    notes = []
    for other in ("naive-medium", "cbft"):
        ours, theirs = (
            by_seed(run.select(method=name, share=share), accuracy("no_cue")) for name in ("naive-large", other)
        )
        if set(ours) & set(theirs):
            cost = paired_difference(*in_common(ours, theirs)).sentence(100, 1, "points")
            notes.append(f"NC of naive-large minus NC of {other}: {cost}")
    return Check(conditions, "; ".join(notes))


def default_is_ahead(run: Run, share: float | None) -> Check:
    naive = {name: by_seed(run.select(method=name, share=share), accuracy("rand_cue")) for name in _NAIVE}
    known = {name: float(np.mean(list(values.values()))) for name, values in naive.items() if values}
    if not known:
        raise MissingRecordsError("There are no records of a naive rate")
    best = max(known, key=lambda name: known[name])
    conditions = []
    for rival in ("cbft-paper", best):
        for part in ("no_cue", "rand_cue"):
            ours, theirs = (_method(run, share, name, accuracy(part)) for name in ("cbft", rival))
            what = f"{SETS[part]} of cbft over {rival} by"
            conditions.append(Condition(what, _lead(ours, theirs, what), True, 0.0, "points"))
    return Check(conditions)


def without(name: str) -> Checker:
    """RC falls or RI rises when a part of the loss is left out."""

    def check(run: Run, share: float | None) -> Check:
        full = [record for key in FULL for record in run.select(share=share, variant=(key, None))]
        less = run.select(share=share, variant=(name, None))
        leads = []
        for part, sign in (("rand_cue", 1), ("rand_input", -1)):
            ours = _of(full, accuracy(part), "the full method")
            theirs = _of(less, accuracy(part), f"the variant {name}")
            pair = (ours, theirs) if sign > 0 else (theirs, ours)
            what = f"{SETS[part]} {'lost' if sign > 0 else 'gained'} {name}"
            leads.append(Condition(what, _lead(*pair, what), True, 0.0, "points"))
        return Check([tuple(leads)])

    return check


def _path(run: Run, share: float | None, pair: str, kind: str) -> list[Record]:
    records = run.select(share=share, pair=f"{pair} {kind}")
    if not records:
        raise MissingRecordsError(f"There are no records of the {kind} path {pair}")
    return records


def _path_condition(run: Run, records: Sequence[Record], pair: str, part: str, above: bool) -> Condition:
    height = _mean(_of(records, path_barrier(part), f"the path {pair} on {SETS[part]}"))
    return Condition(f"barrier {pair} on {SETS[part]}", height, above, TOLERANCE, "nats")


def path_barrier_of(pair: str, kind: str, above: bool) -> Checker:
    """The barrier on C of a pair's path lies above the tolerance, or at most there."""
    return lambda run, share: Check(
        [_path_condition(run, _path(run, share, pair, kind), f"{pair}, {kind},", "cue", above)]
    )


def alignment_lowers(pair: str, part: str) -> Checker:
    """Both ways to align lower the barrier of a pair."""

    def check(run: Run, share: float | None) -> Check:
        conditions = []
        for kind in ("weights", "activations"):
            values = by_seed(_path(run, share, pair, kind), barrier_removed(part))
            what = f"barrier {pair} on {SETS[part]} lowered by {kind} by"
            conditions.append(Condition(what, mean_interval(list(values.values())), True, 0.0, "nats"))
        return Check(conditions)

    return check


def quadratic_path(run: Run, share: float | None) -> Check:
    records = _path(run, share, "clean-cue", "quadratic")
    fitted = records[0]["path"].get("fitted_on") or "cue"
    name = "clean-cue, quadratic,"
    others = tuple(
        _path_condition(run, records, name, part, True) for part in ("rand_cue", "rand_input") if part != fitted
    )
    return Check([_path_condition(run, records, name, fitted, False), others])


def worst_group_ahead(*rivals: str) -> Checker:
    """CBFT's worst group against the first of the rivals that the run has."""

    def check(run: Run, share: float | None) -> Check:
        rival = next((name for name in rivals if run.select(method=name, share=share)), rivals[0])
        what = f"worst-group accuracy of cbft over {rival} by"
        ours, theirs = (_method(run, share, name, _lowest_group) for name in ("cbft", rival))
        return Check([Condition(what, _lead(ours, theirs, what), True, 0.0, "points")])

    return check


def _lowest_group(record: Record) -> float | None:
    parts = record.get("worst_group") or {}
    return worst_group("test" if "test" in parts else next(iter(parts), "test"))(record)
