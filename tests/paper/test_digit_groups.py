# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Digits on backgrounds: the background must go with the class as often as said."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from hf_cbft import make_counterfactuals
from hf_cbft.data.backgrounds import BackgroundCue
from hf_cbft.data.columns import group_values
from hf_cbft.data.digits import load_digits
from paper.digit_groups import generate_digit_groups, halve_digits

FOUR = ["high on land", "high on water", "low on land", "low on water"]
STRIPE = round(0.3 * 255)  # at the default contrast


def pixels(rows: Dataset) -> np.ndarray:
    """(N, 24, 24, 3), float."""
    return np.stack([np.asarray(image) for image in rows["image"]]).astype(float)


def place_in(image: np.ndarray) -> int:
    """Read from the left edge, where there is hardly a stroke: an upright stripe, or the ends of level ones."""
    return int((image[:, 0, 0] == STRIPE).sum() < 18)


@pytest.fixture(scope="module")
def digits() -> DatasetDict:
    parts = load_digits()
    return DatasetDict({"pretrain": parts["pretrain"].select(range(200)), "finetune": parts["finetune"]})


@pytest.fixture(scope="module")
def grouped(digits) -> DatasetDict:
    return generate_digit_groups(digits, share=0.9)


def test_counterfactual_sets_of_plain_digits(digits):
    # The experiment's verdict rests on these sets: plain without the cue, and a random background in `rand_cue`.
    plain = halve_digits(digits)["pretrain"]
    sets = make_counterfactuals(plain, BackgroundCue())
    assert (pixels(sets["no_cue"]) == pixels(plain)).all()
    places = {name: [place_in(image) for image in pixels(sets[name])] for name in ("cue", "rand_cue", "rand_input")}
    labels = plain["label"][:]
    assert places["cue"] == places["rand_input"] == labels
    # Five standard deviations of 200 fair draws.
    assert np.mean(np.equal(places["rand_cue"], labels)) == pytest.approx(0.5, abs=0.18)


def test_groups_have_their_columns_and_names(digits, grouped):
    assert list(grouped) == list(digits)
    for name, rows in grouped.items():
        assert rows.column_names == ["image", "label", "place", "group"]
        assert rows.features["label"] == ClassLabel(names=["low", "high"])
        assert rows.features["place"] == ClassLabel(names=["land", "water"])
        assert [label >= 5 for label in digits[name]["label"]] == [label == 1 for label in rows["label"]]
        for label, place, group in zip(rows["label"], rows["place"], rows["group"], strict=True):
            assert group == f"{('low', 'high')[label]} on {('land', 'water')[place]}"
        assert [place_in(image) for image in pixels(rows)] == rows["place"][:], "the column says another background"
        assert sorted(set(group_values(rows, "group", "The data set"))) == FOUR
        assert set(group_values(rows, "place", "The data set")) == {"land", "water"}


def test_the_share_holds_in_each_class_of_pretrain_and_half_elsewhere(grouped):
    # With a share of another size no worst-group accuracy can be compared; in the other parts it must tell nothing.
    for name, share in {"pretrain": 0.9, "finetune": 0.5}.items():
        rows = grouped[name]
        agrees = np.equal(rows["label"], rows["place"])
        for label in (0, 1):
            of_class = agrees[np.equal(rows["label"], label)]
            assert abs(of_class.sum() - share * len(of_class)) <= 0.5


@pytest.mark.parametrize(("share", "groups"), [(1.0, {FOUR[1], FOUR[2]}), (0.0, {FOUR[0], FOUR[3]})])
def test_shares_at_the_ends_leave_two_groups(digits, share, groups):
    few = {"pretrain": digits["pretrain"].select(range(40))}
    assert set(generate_digit_groups(few, share)["pretrain"]["group"]) == groups


def test_backgrounds_hang_on_seed_and_image_not_on_the_order(digits, grouped):
    # Shuffled rows with other backgrounds would be another data set under the same name.
    rows = digits["finetune"]
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = generate_digit_groups({"finetune": rows.select(order)})["finetune"]
    places = np.array(grouped["finetune"]["place"])
    assert shuffled["place"][:] == places[order].tolist()
    other = np.array(generate_digit_groups({"finetune": rows}, seed=1)["finetune"]["place"])
    assert 0.3 < np.mean(other == places) < 0.7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate_digit_groups({}, share=1.5), r"on the background of their class is 1\.5; give a fraction"),
        (
            lambda: halve_digits({"test": Dataset.from_dict({"label": [3, 10]})}),
            r"The part 'test' has the label 10, but the classes are 0 to 9",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
