# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What is claimed of CBFT and its rivals, each held against the records of the runs that it is about."""

from collections.abc import Sequence
from dataclasses import dataclass

from paper.findings.checks import (
    Checker,
    MissingRecordsError,
    alignment_lowers,
    default_is_ahead,
    highest_and_lowest,
    large_rate,
    leaves_the_cue,
    medium_rate,
    not_linearly_connected,
    ordering,
    path_barrier_of,
    quadratic_path,
    small_rate,
    without,
    worst_group_ahead,
)
from paper.findings.conditions import Check, deciding, flat, holds
from paper.findings.records import Run

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable here"
THE_PAPER, THE_PROJECT, GIT_REBASIN = "the paper", "this project", "Ainsworth et al., Git Re-Basin"


@dataclass(frozen=True)
class Claim:
    """A claim and what a run says of it.

    Attributes:
        name (`str`): short and unique within a run and share.
        text (`str`): the claim, with its criterion.
        source (`str`): who claims it.
        where (`str`): the run and the share of the cue; empty where there is no run for it.
        verdict (`str`): `reproduced`, `not reproduced` or `not testable here`, the last with its reason in brackets.
        evidence (`str`): the intervals that decide.
    """

    name: str
    text: str
    source: str
    where: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Rule:
    """A claim before it is held against a run."""

    name: str
    text: str
    source: str
    experiments: tuple[str, ...]
    check: Checker


def check_claims(runs: Sequence[Run]) -> list[Claim]:
    """Every claim held against every run and share that it is about; one that no run is about is not testable."""
    claims = []
    for rule in RULES:
        about = [run for run in runs if run.experiment in rule.experiments and run.records]
        claims += [check_claim(rule, run, share) for run in about for share in run.shares]
        if not about:
            missing = f"There are no records of experiment {' or '.join(rule.experiments)}."
            claims.append(Claim(rule.name, rule.text, rule.source, "", NOT_TESTABLE, missing))
    return claims


def check_claim(rule: Rule, run: Run, share: float | None) -> Claim:
    """One claim held against one run at one share of the cue."""
    where = run.title + ("" if share is None else f", share {share:g}")
    try:
        check = rule.check(run, share)
    except MissingRecordsError as missing:
        return Claim(rule.name, rule.text, rule.source, where, NOT_TESTABLE, f"{missing}.")
    if run.quick:
        verdict = f"{NOT_TESTABLE} (--quick)"
    else:
        verdict = _verdict(check, number=min(condition.estimate.number for condition in flat(check.conditions)))
    evidence = "; ".join([*map(str, deciding(check)), *([check.note] if check.note else [])])
    return Claim(rule.name, rule.text, rule.source, where, verdict, f"{evidence}.")


def _verdict(check: Check, number: int) -> str:
    decided = holds(check)
    if decided is None:
        return f"{NOT_TESTABLE} ({number} seed{'s do' if number > 1 else ' does'} not decide)"
    return REPRODUCED if decided else NOT_REPRODUCED


_FOUR_SETS = ("table1", "text")
RULES = (
    Rule(
        "small-rate",
        "Naive fine-tuning with a small learning rate keeps the cue and stays linearly connected (RI above 50 %, NC - "
        "RC above 20 points, barrier on C within the tolerance)",
        THE_PAPER,
        _FOUR_SETS,
        small_rate,
    ),
    Rule(
        "medium-rate",
        "Naive fine-tuning with a medium learning rate keeps part of the cue and stays linearly connected (RI more "
        "than 10 points above chance, NC - RC above 10 points, barrier on C within the tolerance)",
        THE_PAPER,
        _FOUR_SETS,
        medium_rate,
    ),
    Rule(
        "cbft-leaves-the-cue",
        "CBFT leaves the cue (NC - RC at most 6 points, RI at most 6 points above chance)",
        THE_PAPER,
        _FOUR_SETS,
        leaves_the_cue,
    ),
    Rule(
        "cbft-is-best",
        "CBFT has the highest RC and the lowest RI of all methods whose NC is within 5 points of the best",
        THE_PAPER,
        _FOUR_SETS,
        highest_and_lowest,
    ),
    Rule(
        "cbft-is-not-connected",
        "CBFT is not linearly connected to the pretrained model on C, naive fine-tuning with a small rate is",
        THE_PAPER,
        _FOUR_SETS,
        not_linearly_connected,
    ),
    Rule(
        "order-rc",
        "FTM, FTS, LLR and LPFT have the paper's order in RC",
        THE_PAPER,
        ("table1",),
        ordering("rand_cue"),
    ),
    Rule(
        "order-ri",
        "FTM, FTS, LLR and LPFT have the paper's order in RI",
        THE_PAPER,
        ("table1",),
        ordering("rand_input"),
    ),
    Rule(
        "clean-cue-path",
        "A clean model and one that relies on the cue are not linearly connected on C",
        THE_PAPER,
        ("paths",),
        path_barrier_of("clean-cue", "linear", True),
    ),
    Rule(
        "cue-naive-path",
        "A model that relies on the cue and its naive fine-tuning are linearly connected on C",
        THE_PAPER,
        ("paths",),
        path_barrier_of("cue-naive", "linear", False),
    ),
    Rule(
        "cue-cbft-path",
        "A model that relies on the cue and its CBFT are not linearly connected on C",
        THE_PAPER,
        ("paths",),
        path_barrier_of("cue-cbft", "linear", True),
    ),
    Rule(
        "quadratic-path",
        "A quadratic path from a clean model to one that relies on the cue connects them on the data it was fitted on "
        "but not on RC or not on RI",
        THE_PAPER,
        ("paths",),
        quadratic_path,
    ),
    Rule(
        "alignment-lowers",
        "Two clean networks that were trained apart have a lower barrier between them on NC once the units of one are "
        "in the order of the other's",
        GIT_REBASIN,
        ("symmetry",),
        alignment_lowers("clean-clean", "no_cue"),
    ),
    *(
        Rule(
            f"aligned-cue-cbft-{kind}",
            "A model that relies on the cue and its CBFT are not linearly connected on C, also with the units aligned "
            f"by {kind}",
            THE_PAPER,
            ("symmetry",),
            path_barrier_of("cue-cbft", kind, True),
        )
        for kind in ("weights", "activations")
    ),
    Rule(
        "ablation-barrier",
        "Without L_B, CBFT has a lower RC or a higher RI",
        THE_PAPER,
        ("ablation",),
        without("without L_B"),
    ),
    Rule(
        "ablation-invariance",
        "Without L_I, CBFT has a lower RC or a higher RI",
        THE_PAPER,
        ("ablation",),
        without("without L_I"),
    ),
    Rule(
        "large-rate",
        "Naive fine-tuning with a large learning rate loses the cue without a barrier (RI at most 6 points above "
        "chance, barrier on C within the tolerance)",
        THE_PROJECT,
        _FOUR_SETS,
        large_rate,
    ),
    Rule(
        "default-is-ahead",
        "CBFT as it is by default is ahead of the paper's form of it and of the naive rate with the best RC, in NC "
        "and in RC",
        THE_PROJECT,
        _FOUR_SETS,
        default_is_ahead,
    ),
    Rule(
        "worst-group-erm",
        "CBFT has a higher worst-group accuracy than plain training (ERM)",
        THE_PROJECT,
        ("groups",),
        worst_group_ahead("erm", "pretrained"),
    ),
    Rule(
        "worst-group-naive",
        "CBFT has a higher worst-group accuracy than naive fine-tuning with a medium learning rate",
        THE_PROJECT,
        ("groups",),
        worst_group_ahead("naive-medium"),
    ),
    Rule(
        "worst-group-dfr",
        "CBFT, which is not told the groups, has a higher worst-group accuracy than DFR, which is",
        THE_PROJECT,
        ("groups",),
        worst_group_ahead("dfr"),
    ),
)
