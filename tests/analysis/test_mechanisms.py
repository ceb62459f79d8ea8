# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What the ends of a path rely on: by hand, for paired and unpaired sets, and what is said of it."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import beta

from hf_cbft import compute_barrier
from hf_cbft.analysis.barriers import mean_band
from hf_cbft.analysis.mechanisms import ENDS, IntervalEstimate, Intervention, MechanismReport, explain, mechanisms

SETTINGS = {"start": "pretrained", "end": "tuned", "confidence": 0.95, "num_resamples": 300, "seed": 0}


def make_result(correct, losses=None, labels=None, weights=None, connected=None, predictions=True):
    """A result of three points. `correct`: by set, what the two ends get right, 0 or 1 for each example."""
    correct = {name: np.array(values, dtype=float)[[0, 0, 1]] for name, values in correct.items()}
    references = {name: np.zeros(values.shape[1], dtype=int) for name, values in correct.items()}
    references.update({name: np.asarray(values) for name, values in (labels or {}).items()})
    given = connected or {}
    return SimpleNamespace(
        example_correct=correct,
        example_losses={
            name: np.array(losses[name])[[0, 0, 1]] if losses else 1.0 - values for name, values in correct.items()
        },
        weights={name: np.ones(values.shape[1]) for name, values in correct.items()} if weights is None else weights,
        references=references if predictions else {},
        # The right answer, or the one after it.
        predictions={n: references[n] + (v < 1.0) for n, v in correct.items()} if predictions else {},
        barriers={name: SimpleNamespace(connected=given.get(name, True)) for name in correct},
        settings=SETTINGS,
    )


def hits(count, of=400, first=0):
    """(of,): the examples from `first` on, `count` of them, are right."""
    return ((np.arange(of) >= first) & (np.arange(of) < first + count)).astype(float)


def test_changes_and_answers_by_hand():
    """The wrong sign, or a set or an end in the place of another, turns every verdict round."""
    result = make_result(
        {
            "no_cue": [hits(320), hits(300)],
            "cue": [hits(396), hits(304)],  # start +0.19, end +0.01
            "rand_cue": [hits(80), hits(290)],  # start -0.6, end -0.025
        },
        losses={
            "no_cue": [np.linspace(0, 1, 400), np.linspace(0, 2, 400)],
            "cue": [np.linspace(0, 1, 400) - 0.25, np.linspace(0, 2, 400)],
            "rand_cue": [np.linspace(0, 1, 400) + 3.0, np.linspace(0, 2, 400) + 0.125],
        },
    )
    report = mechanisms(result)
    assert [(one.base, one.changed, one.paired) for one in report.interventions] == [
        ("no_cue", "cue", True),
        ("no_cue", "rand_cue", True),
    ]
    changes = [[one.accuracy[end].value for end in ENDS] for one in report.interventions]
    np.testing.assert_allclose(changes, [[0.19, 0.01], [-0.6, -0.025]])
    losses = [[one.loss[end].value for end in ENDS] for one in report.interventions]
    np.testing.assert_allclose(losses, [[-0.25, 0.0], [3.0, 0.125]], atol=1e-12)
    np.testing.assert_allclose([one.difference.value for one in report.interventions], [-0.18, 0.575])
    # A change for the better is reliance too.
    assert [one.invariant for one in report.interventions] == [{"start": False, "end": True}] * 2
    assert report.similar is False
    assert report.agreement["rand_cue"].value == pytest.approx(1 - 210 / 400)
    assert (report.start, report.end, report.confidence, report.margin) == ("pretrained", "tuned", 0.95, 0.1)


@pytest.mark.parametrize(
    ("low", "high", "within"),
    [
        (-0.1, 0.1, True),
        (0.0, 0.11, None),
        (-0.11, 0.0, None),
        (-0.3, 0.3, None),
        (0.11, 0.2, False),
        (-0.2, -0.11, False),
        (None, 0.0, None),
        (0.0, None, None),
        (None, None, None),
        (0.2, None, False),
        (None, -0.2, False),
    ],
)
def test_answer_follows_from_the_whole_interval(low, high, within):
    """An answer from the estimate alone, or from a bound that is not there."""
    assert IntervalEstimate(0.0, low, high).within(0.1) is within


def test_paired_interval_is_that_of_the_mean_difference():
    """Noise that both sets share drops out; the interval of the difference is the band of a barrier with one point."""
    generator = np.random.default_rng(0)
    level, noise = 3.0 * generator.standard_normal(200), 0.1 * generator.standard_normal((2, 200))
    losses = {"a": [level, level], "b": [level + 0.5 + noise[0], level + noise[1]]}
    correct = {name: np.zeros((2, 200)) for name in losses}
    (one,) = mechanisms(make_result(correct, losses)).interventions
    for end, (base, changed) in zip(ENDS, zip(losses["a"], losses["b"], strict=True), strict=True):
        zero = np.zeros(200)
        band = compute_barrier([0, 0.5, 1], [zero, changed - base, zero], num_resamples=300)
        assert one.loss[end] == IntervalEstimate(
            pytest.approx(band.height), pytest.approx(band.low), pytest.approx(band.high)
        )
    assert one.loss["start"].high - one.loss["start"].low < 0.04


def test_sets_of_other_examples_are_unpaired():
    """Labels that differ say that row i is not the same example: the noise of both sets counts."""
    generator = np.random.default_rng(0)
    losses = {"a": generator.standard_normal((2, 400)), "b": 1.0 + 2.0 * generator.standard_normal((2, 100))}
    correct = {"a": [hits(320)] * 2, "b": [hits(40, of=100)] * 2}
    (one,) = mechanisms(make_result(correct, losses)).interventions
    assert not one.paired
    change = one.loss["start"]
    a, b = (compute_barrier([0, 0.5, 1], [0 * of[0], of[0], 0 * of[0]], num_resamples=300) for of in losses.values())
    assert change.value == pytest.approx(b.height - a.height)
    assert change.value - change.low == pytest.approx(np.hypot(b.height - b.low, a.high - a.height))
    assert change.high - change.value == pytest.approx(np.hypot(b.high - b.height, a.height - a.low))
    # Welch: sqrt(0.8 * 0.2 / 400 + 0.4 * 0.6 / 100) = 0.053, and 1.98 of it to each side.
    low, high = one.accuracy["start"].low, one.accuracy["start"].high
    assert one.accuracy["start"].value == pytest.approx(-0.4)
    assert (-0.4 - low, high + 0.4) == pytest.approx((0.104, 0.104), rel=0.2)
    same_length = make_result({"a": [hits(320)] * 2, "b": [hits(40)] * 2}, labels={"b": np.arange(400) % 2})
    assert not mechanisms(same_length).interventions[0].paired


def test_intervals_of_equal_weights_share_their_draws(monkeypatch):
    """Drawn anew for each of 19 intervals, the answer for 100,000 rows takes the better part of a minute."""
    calls = []

    def counted_band(values, *arguments, **options):
        calls.append(values.shape)
        return mean_band(values, *arguments, **options)

    monkeypatch.setattr("hf_cbft.analysis.mechanisms.mean_band", counted_band)
    sets = {name: [hits(300), hits(200)] for name in ("no_cue", "cue", "rand_cue", "rand_input")}
    shared = mechanisms(make_result(sets))
    # Three pairs of five intervals, and the agreement on four sets.
    assert calls == [(19, 400)]
    assert shared.interventions[0] == mechanisms(make_result({n: sets[n] for n in ("no_cue", "cue")})).interventions[0]
    calls.clear()
    tokens = {name: np.full(400, 1.0 + (name == "cue")) for name in sets}
    mechanisms(make_result(sets, weights=tokens, predictions=False))
    assert len(calls) == 2


def test_unpaired_shares_without_a_miss_claim_no_certainty():
    """20 of 20 right on both sets: the difference can still be an eighth or more."""
    result = make_result({"a": [np.ones(20)] * 2, "b": [np.ones(20)] * 2}, labels={"b": np.ones(20)})
    estimate = mechanisms(result).interventions[0].accuracy["start"]
    bound = beta.ppf(0.975, 1, 20)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.0, -bound, bound))


def test_no_change_in_few_examples_is_undecided():
    """A paired difference of 0 for each of 20 rows is no proof of invariance; for 400 it is."""
    for of, invariant in ((20, None), (400, True)):
        result = make_result({"a": [hits(of // 2, of)] * 2, "b": [hits(of // 2, of)] * 2})
        (one,) = mechanisms(result).interventions
        assert one.invariant == {"start": invariant, "end": invariant}
        bound = 2.0 * beta.ppf(0.975, 1, of)
        assert one.accuracy["start"].high == pytest.approx(min(bound / 2.0, 1.0))
        assert one.difference.high == pytest.approx(bound)


def test_agreement_is_of_examples_or_of_their_tokens():
    """Tokens of one sentence are not independent: the sentence is the unit; and all equal is not certain."""
    result = make_result({"a": [hits(20, 20)] * 2, "b": [hits(20, 20)] * 2})
    agreement = mechanisms(result).agreement["a"]
    assert (agreement.value, agreement.low, agreement.high) == pytest.approx((1.0, 0.025 ** (1 / 20), 1.0))
    # Three sentences of 2, 0 and 4 tokens, of which the ends share 1 and 3.
    fractions = {name: np.zeros((2, 3)) for name in ("a", "b")}
    weights = {name: np.array([2.0, 0.0, 4.0]) for name in fractions}
    tokens = make_result(fractions, weights=weights)
    tokens.predictions = {"a": np.array([[0, 1, 2, 3, 4, 5], [9] * 6, [0, 9, 2, 3, 9, 5]])}
    agreement = mechanisms(tokens).agreement
    assert list(agreement) == ["a"]
    assert agreement["a"].value == pytest.approx(4 / 6)


def test_weights_count_tokens():
    """A language model's change of accuracy is over tokens, and a sequence without any changes nothing."""
    correct = {"a": [[1.0, 0.5, 0.0]] * 2, "b": [[0.0, 0.5, 1.0]] * 2}
    weights = {name: np.array([30.0, 10.0, 0.0]) for name in correct}
    losses = {"a": [[1.0, 1.0, np.nan]] * 2, "b": [[2.0, 1.0, np.nan]] * 2}
    report = mechanisms(make_result(correct, losses, weights=weights, predictions=False))
    (one,) = report.interventions
    assert one.paired
    assert one.accuracy["start"].value == pytest.approx(-0.75)
    assert one.loss["end"].value == pytest.approx(0.75)
    assert report.agreement == {}
    # The same number of rows that count other numbers of tokens are other rows.
    weights["b"] = np.array([10.0, 30.0, 0.0])
    (other,) = mechanisms(make_result(correct, losses, weights=weights, predictions=False)).interventions
    assert not other.paired
    assert other.accuracy["start"].value == pytest.approx((30 * 0.5) / 40 - (30 + 5) / 40)


@pytest.mark.parametrize(
    ("answers", "similar"),
    [
        ([(True, True), (False, False)], True),
        ([(True, True), (True, False)], False),
        ([(False, True), (None, None)], False),
        ([(True, True), (None, True)], None),
        ([(None, False)], None),
    ],
)
def test_similar_is_the_same_answer_to_every_intervention(answers, similar):
    """Similar by the interventions that happen to be decided, or dissimilar by one that is not."""
    right = {True: 200, False: 40, None: 164}
    sets = {"no_cue": [hits(200)] * 2}
    for number, pair in enumerate(answers):
        sets[f"set {number}"] = [hits(right[answer]) for answer in pair]
    report = mechanisms(make_result(sets))
    assert [tuple(one.invariant.values()) for one in report.interventions] == answers
    assert report.similar is similar


def test_same_answer_to_another_degree_is_said():
    """Both rely on the cue, one by 70 points and one by 20: the same answer, which must not hide the difference."""
    report = mechanisms(make_result({"cue": [hits(390), hits(390)], "rand_cue": [hits(110), hits(310)]}))
    assert report.similar is True
    assert report.other_degree == ["cue -> rand_cue"]
    assert "The same answer, but to another degree: cue -> rand_cue." in str(report)
    assert mechanisms(make_result({"cue": [hits(390)] * 2, "rand_cue": [hits(110)] * 2})).other_degree == []


def test_default_pairs_and_named_ones():
    """Without `no_cue` the first set is what the others are held against."""
    sets = {name: [hits(200)] * 2 for name in ("cue", "no_cue", "rand_input")}
    pairs = [(one.base, one.changed) for one in mechanisms(make_result(sets)).interventions]
    assert pairs == [("no_cue", "cue"), ("no_cue", "rand_input")]
    del sets["no_cue"]
    sets["rand_cue"] = sets["cue"]
    pairs = [(one.base, one.changed) for one in mechanisms(make_result(sets)).interventions]
    assert pairs == [("cue", "rand_input"), ("cue", "rand_cue")]
    named = mechanisms(make_result(sets), pairs=[["rand_cue", "cue"]])
    assert [(one.base, one.changed) for one in named.interventions] == [("rand_cue", "cue")]


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        (["cue"], {}, "between two sets, and the result has cue: measure on the data with and without"),
        (["a", "b"], {"pairs": [("a", "c")]}, r"\('a', 'c'\) is not one of two measured sets; those are a, b"),
        (["a", "b"], {"pairs": [("a", "a")]}, r"\('a', 'a'\) is not one of two measured sets"),
        (["a", "b"], {"pairs": ["ab", "abc"]}, "'abc' is not one of two measured sets"),
        (["a", "b"], {"pairs": []}, "pairs is empty: name at least one pair"),
        (["a", "b"], {"margin": 0.0}, "margin = 0.0 is no change of an accuracy"),
        (["a", "b"], {"margin": 10}, "margin = 10 is no change of an accuracy"),
    ],
)
def test_refused_input(sets, options, message):
    """A verdict on nothing, or a margin in percent by which every model is invariant to everything."""
    with pytest.raises(ValueError, match=message):
        mechanisms(make_result({name: [hits(200)] * 2 for name in sets}), **options)


@pytest.mark.parametrize(
    ("verdicts", "connected", "on"),
    [
        ({"a": True, "b": True}, True, ()),
        ({"a": True, "b": None}, None, ()),
        ({"a": None, "b": False}, False, ("b",)),
        ({"a": False, "b": False}, False, ("a", "b")),
    ],
)
def test_connected_means_on_every_set(verdicts, connected, on):
    """Mechanistically connected: no barrier on the counterfactual sets either."""
    report = mechanisms(make_result({"a": [hits(200)] * 2, "b": [hits(200)] * 2}, connected=verdicts))
    assert (report.connected, report.not_connected_on) == (connected, on)


@pytest.mark.parametrize(
    ("connected", "similar", "words"),
    [
        (True, True, ["Connected and similar:", "agrees with the paper's conjecture"]),
        (True, False, ["Connected but dissimilar:", "goes from a barrier to dissimilar mechanisms, not back"]),
        (False, True, ["Not connected but similar:", "against the paper's conjecture", "permutation of units"]),
        (False, False, ["Not connected and dissimilar:", "what the paper's conjecture expects", "is a conjecture"]),
        (None, True, ["Undecided whether they are connected: "]),
        (True, None, ["Undecided whether their mechanisms are similar: "]),
        (None, None, ["Undecided whether they are connected and whether their mechanisms are similar: "]),
    ],
)
def test_each_case_has_one_sentence(connected, similar, words):
    """The conjecture sold as a fact, or its reverse: that a path without a barrier means the same mechanism."""
    sentence = explain(connected, similar)
    assert sentence.count(".") == 1
    assert sentence.endswith(".")
    for part in words:
        assert part in sentence


def test_report_can_be_saved_and_read():
    """Bounds that are not there are null in JSON, and a dash in the table, not an infinity."""
    one_row = make_result({"a": [[1.0]] * 2, "b": [[0.0]] * 2})
    report = mechanisms(one_row)
    assert report.similar is None
    saved = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert saved["interventions"][0]["accuracy"]["start"] == {"value": -1.0, "low": None, "high": None}
    assert saved["explanation"] == report.explanation
    assert saved["agreement"]["a"]["value"] == 1.0
    assert "- to -" in str(report)


def test_table_says_what_was_found():
    """Columns under their titles; the verdicts, the sentence and what no interval promises beside them."""
    change = {"start": IntervalEstimate(-0.6, -0.65, -0.55), "end": IntervalEstimate(0.0, -0.02, 0.02)}
    one = Intervention(
        "no_cue", "rand_cue", False, change, change, IntervalEstimate(0.6, 0.5, 0.7), {"start": False, "end": True}
    )
    report = MechanismReport(
        "A", "B", (one,), {"cue": IntervalEstimate(0.9, 0.8, None)}, False, False, ("cue",), 0.1, 0.9
    )
    lines = str(report).splitlines()
    assert lines[0] == "What A (start) and B (end) rely on, by the change of the accuracy:"
    titles = re.split(" {2,}", lines[1])
    assert titles == ["intervention", "model", "accuracy", "90 % interval", "loss", "90 % interval", "answer"]
    name = "no_cue -> rand_cue (unpaired)"
    start, end, other = (re.split(" {2,}", line.rstrip()) for line in lines[2:5])
    assert start == [name, "start", "-0.600", "-0.650 to -0.550", "-0.600", "-0.650 to -0.550", "relies on it"]
    assert end == [name, "end", "+0.000", "-0.020 to +0.020", "+0.000", "-0.020 to +0.020", "invariant"]
    assert other == [name, "end - start", "+0.600", "+0.500 to +0.700", "other degree"]
    assert ["cue", "0.900", "0.800 to -"] in [re.split(" {2,}", line) for line in lines]
    assert "connected: no (on cue); mechanisms: dissimilar" in lines
    assert lines[-2] == explain(False, False)
    assert lines[-1].endswith("holds for its own row, not for all rows together.")
