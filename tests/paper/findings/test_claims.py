# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Each claim on records that bear it out, that contradict it, that do not decide it and that are not there."""

import pytest

from paper.findings.claims import (
    GIT_REBASIN,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    RULES,
    THE_PAPER,
    THE_PROJECT,
    check_claims,
)
from paper.findings.conditions import Check, Condition, deciding, holds
from paper.findings.statistics import Estimate


def shift(method, part, points):
    """Add so many points to a method's accuracy; for `barrier`, nats to its height."""

    def change(record):
        variant = (record.get("variant") or {}).get("name")
        if method not in (record["method"], variant):
            return
        if part == "barrier":
            record["barrier"]["height"] += points
        else:
            record["accuracy"][part] += points / 100

    return change


def shift_path(name, part, nats):
    def change(record):
        path = record.get("path")
        if path and f"{path['pair']} {path['kind']}" == name:
            path["barriers"][part]["height"] += nats

    return change


def lower_by(nats):
    def change(record):
        for removed in ((record.get("path") or {}).get("removed") or {}).values():
            removed["mean"] += nats

    return change


def shift_group(method, points):
    def change(record):
        if record["method"] == method:
            record["worst_group"]["test"] += points / 100

    return change


def both(*changes):
    def change(record):
        for one in changes:
            one(record)

    return change


def nothing(record):
    pass


# By claim: its experiment, what makes the synthetic records bear it out, what makes them contradict it, and whose
# records it cannot do without.
CASES = {
    "small-rate": ("table1", nothing, shift("naive-small", "rand_input", -50), "naive-small"),
    "medium-rate": ("table1", nothing, shift("naive-medium", "barrier", 0.5), "naive-medium"),
    "cbft-leaves-the-cue": ("table1", nothing, shift("cbft", "rand_input", 20), "cbft"),
    "cbft-is-best": ("table1", nothing, shift("balanced", "rand_cue", 40), "cbft"),
    "cbft-is-not-connected": ("table1", nothing, shift("cbft", "barrier", -0.7), "naive-small"),
    "order-rc": ("table1", nothing, shift("llrt", "rand_cue", 40), "lp-ft"),
    "order-ri": (
        "table1",
        both(shift("naive-medium", "rand_input", 30), shift("lp-ft", "rand_input", 5)),
        nothing,
        "llrt",
    ),
    "large-rate": ("table1", nothing, shift("naive-large", "barrier", 0.4), "naive-large"),
    "default-is-ahead": ("table1", nothing, shift("naive-large", "no_cue", 6), "cbft-paper"),
    "clean-cue-path": ("paths", nothing, shift_path("clean-cue linear", "cue", -1.56), "clean-cue"),
    "cue-naive-path": ("paths", nothing, shift_path("cue-naive linear", "cue", 0.4), "cue-naive"),
    "cue-cbft-path": ("paths", nothing, shift_path("cue-cbft linear", "cue", -1.04), "cue-cbft"),
    "quadratic-path": ("paths", nothing, shift_path("clean-cue quadratic", "cue", 0.4), "clean-cue"),
    "alignment-lowers": ("symmetry", nothing, lower_by(-3.0), "clean-clean"),
    **{
        f"aligned-cue-cbft-{kind}": ("symmetry", nothing, shift_path(f"cue-cbft {kind}", "cue", nats), "cue-cbft")
        for kind, nats in (("weights", -0.6), ("activations", -0.3))
    },
    "ablation-barrier": (
        "ablation",
        nothing,
        both(shift("without L_B", "rand_cue", 25), shift("without L_B", "rand_input", -25)),
        "without L_B",
    ),
    "ablation-invariance": (
        "ablation",
        nothing,
        both(shift("without L_I", "rand_cue", 20), shift("without L_I", "rand_input", -8)),
        "without L_I",
    ),
    "worst-group-erm": ("groups", nothing, shift_group("pretrained", 45), "pretrained"),
    "worst-group-naive": ("groups", nothing, shift_group("naive-medium", 30), "naive-medium"),
    "worst-group-dfr": ("groups", nothing, shift_group("dfr", 12), "dfr"),
}


def claim_of(name, run):
    (claim,) = [claim for claim in check_claims([run]) if claim.name == name and claim.where]
    return claim


def test_every_claim_has_its_case():
    assert sorted(CASES) == sorted(rule.name for rule in RULES)
    assert {rule.source for rule in RULES} == {THE_PAPER, THE_PROJECT, GIT_REBASIN}


@pytest.mark.parametrize("name", CASES)
def test_records_that_bear_a_claim_out(make_run, name):
    """Five seeds that agree: the interval decides."""
    experiment, change, _, _ = CASES[name]
    claim = claim_of(name, make_run(experiment, seeds=range(5), change=change, jitter=0.1))
    assert claim.verdict == REPRODUCED, claim.evidence
    assert ": yes" in claim.evidence


@pytest.mark.parametrize("name", CASES)
def test_records_that_contradict_a_claim(make_run, name):
    """A page that says `reproduced` whatever the records say is worth nothing."""
    experiment, _, change, _ = CASES[name]
    claim = claim_of(name, make_run(experiment, seeds=range(5), change=change, jitter=0.1))
    assert claim.verdict == NOT_REPRODUCED, claim.evidence
    assert ": no" in claim.evidence


@pytest.mark.parametrize("name", CASES)
def test_one_seed_decides_nothing(make_run, name):
    """Whatever it looks like."""
    experiment, change, _, _ = CASES[name]
    claim = claim_of(name, make_run(experiment, seeds=(3,), change=change))
    assert claim.verdict == f"{NOT_TESTABLE} (1 seed does not decide)"
    assert "(- to -)" in claim.evidence


@pytest.mark.parametrize("name", CASES)
def test_records_that_are_missing_make_a_claim_untestable(make_run, name):
    """Neither an error nor a verdict."""
    experiment, _, _, needed = CASES[name]

    def drop(record):
        path = record.get("path") or {}
        return needed not in (record["method"], path.get("pair"), (record.get("variant") or {}).get("name"))

    claim = claim_of(name, make_run(experiment, change=drop))
    assert claim.verdict == NOT_TESTABLE
    assert claim.evidence.startswith(("There are no records of", "There is no seed"))


def test_seeds_that_disagree_decide_nothing(make_run):
    def change(record):
        if record["method"] == "cbft":
            record["accuracy"]["rand_input"] = (0.05, 0.30, 0.10)[record["seed"]]

    claim = claim_of("cbft-leaves-the-cue", make_run(change=change))
    assert claim.verdict == f"{NOT_TESTABLE} (3 seeds do not decide)"
    assert "RI of cbft 15.0 % (-17.9 to 47.9), at most 16.0: undecided" in claim.evidence


def test_quick_records_give_no_verdict(make_run):
    """Its figures mean nothing, so neither do verdicts on them."""
    run = make_run(seeds=range(5), jitter=0.1, quick=True)
    assert claim_of("small-rate", run).verdict == f"{NOT_TESTABLE} (--quick)"


def test_a_claim_without_a_run_is_listed_all_the_same(make_run):
    claims = {claim.name: claim for claim in check_claims([make_run()])}
    assert claims["worst-group-dfr"].verdict == NOT_TESTABLE
    assert claims["worst-group-dfr"].evidence == "There are no records of experiment groups."


def test_each_share_has_its_verdict_and_the_paper_has_no_order_at_1(make_run):
    claims = [c for c in check_claims([make_run(shares=(0.9, 1.0), jitter=0.1)]) if c.name == "order-rc"]
    assert [claim.where for claim in claims] == ["table1, digits, vit, share 0.9", "table1, digits, vit, share 1"]
    assert claims[1].evidence == "The paper's table has no such share of the cue."


def test_rivals_far_below_the_best_nc_do_not_count(make_run):
    """A model that knows nothing has the lowest RI of all."""

    def change(record):
        if record["method"] == "lp-ft":
            record["accuracy"].update(no_cue=0.3, rand_cue=0.3, rand_input=0.01)

    claim = claim_of("cbft-is-best", make_run(seeds=range(5), change=change, jitter=0.1))
    assert claim.verdict == REPRODUCED
    assert "lp-ft" not in claim.evidence


def test_cbft_is_not_the_best_where_it_has_lost_its_accuracy(make_run):
    """The highest RC and the lowest RI among methods to which it does not belong."""
    run = make_run(seeds=range(5), change=shift("cbft", "no_cue", -8), jitter=0.1)
    claim = claim_of("cbft-is-best", run)
    assert claim.verdict == NOT_REPRODUCED
    assert "NC of naive-large over cbft" in claim.evidence


def test_chance_is_of_the_data_sets_own_classes(make_run):
    """16 % is near chance with ten classes and far from it with a hundred."""
    ten = make_run(seeds=range(5), change=shift("cbft", "rand_input", 3), jitter=0.1)
    assert claim_of("cbft-leaves-the-cue", ten).verdict == REPRODUCED
    hundred = make_run(seeds=range(5), change=shift("cbft", "rand_input", 3), jitter=0.1, num_classes=100)
    assert claim_of("cbft-leaves-the-cue", hundred).verdict == NOT_REPRODUCED
    unknown = make_run(seeds=range(5), jitter=0.1, dataset="someone/images")
    assert "number of classes is not recorded" in claim_of("cbft-leaves-the-cue", unknown).evidence


def test_the_quadratic_path_needs_one_counterfactual_set_that_is_not_connected(make_run):
    connected = both(
        shift_path("clean-cue quadratic", "rand_cue", -1.92), shift_path("clean-cue quadratic", "rand_input", -2.28)
    )
    run = make_run("paths", seeds=range(5), jitter=0.1, change=connected)
    assert claim_of("quadratic-path", run).verdict == NOT_REPRODUCED
    one = shift_path("clean-cue quadratic", "rand_cue", -1.92)
    assert claim_of("quadratic-path", make_run("paths", seeds=range(5), jitter=0.1, change=one)).verdict == REPRODUCED


def test_the_cost_of_the_large_rate_is_said(make_run):
    claim = claim_of("large-rate", make_run(seeds=range(5), jitter=0.1))
    assert "NC of naive-large minus NC of naive-medium: 1.0 points" in claim.evidence


YES, NO, OPEN = (
    Condition(name, Estimate(mean, mean - 0.1, mean + 0.1, 3), True, 0.5)
    for name, mean in (("a", 0.7), ("b", 0.3), ("c", 0.5))
)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([YES, YES], True),
        ([YES, OPEN], None),
        ([OPEN, NO], False),
        ([YES, (NO, YES)], True),
        ([YES, (NO, OPEN)], None),
        ([(NO, NO)], False),
    ],
)
def test_what_follows_of_several_conditions(conditions, expected):
    """An undecided part must not hide one that fails, nor pass for one that holds."""
    assert holds(Check(conditions)) is expected


def test_thresholds_are_on_the_right_side():
    estimate = Estimate(0.5, 0.4, 0.6, 3)
    for above, threshold, expected in (
        (True, 0.39, True),
        (True, 0.6, False),
        (True, 0.5, None),
        (False, 0.6, True),
        (False, 0.39, False),
        (False, 0.5, None),
    ):
        assert Condition("x", estimate, above, threshold).holds is expected


def test_of_many_conditions_those_that_decide_are_shown():
    assert deciding(Check([YES] * 4 + [NO])) == [NO]
    assert deciding(Check([YES] * 4 + [OPEN])) == [OPEN]
    assert deciding(Check([YES] * 6)) == [YES] * 4
