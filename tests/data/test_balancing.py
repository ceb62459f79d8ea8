# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Balanced groups: a group that comes up more often than another is the shortcut that balancing was to remove."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_cbft.data.balancing import balance_groups, balanced_rows, group_names, split_rows

SIZES = {"low on land": 20, "high on water": 11, "low on water": 3}
GROUPS = [group for group, size in SIZES.items() for _ in range(size)]


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_dict({"row": list(range(len(GROUPS))), "group": GROUPS})


@pytest.mark.parametrize(("how", "size"), [("oversample", 20), ("subsample", 3)])
def test_every_group_has_as_many_rows_as_the_largest_or_the_smallest(rows, how, size):
    balanced = balance_groups(rows, "group", how)
    assert Counter(balanced["group"]) == dict.fromkeys(SIZES, size)
    # Rows that lose their group have it of another row.
    assert all(GROUPS[row["row"]] == row["group"] for row in balanced)


def test_oversampling_uses_each_row_of_a_group_nearly_equally_often(rows):
    # Drawn with replacement, one of the three rare rows could be left out: the model then learns two by heart.
    counts = Counter(balance_groups(rows, "group", "oversample")["row"])
    for group in SIZES:
        of_group = [counts[row] for row, name in enumerate(GROUPS) if name == group]
        assert max(of_group) - min(of_group) <= 1, group


def test_subsampling_draws_no_row_twice_and_any_row_at_all(rows):
    drawn = [balance_groups(rows, "group", "subsample", seed)["row"][:] for seed in range(30)]
    assert all(len(set(numbers)) == len(numbers) for numbers in drawn)
    assert len({row for numbers in drawn for row in numbers}) == len(GROUPS)


def test_the_draw_and_the_order_hang_on_the_seed_alone(rows):
    # A resumed job that draws other rows gives another table.
    for how in ("oversample", "subsample"):
        first, again, other = (balance_groups(rows, "group", how, seed)["row"][:] for seed in (0, 0, 1))
        assert first == again
        assert first != other
        # Group after group, a loop that does not shuffle sees one class at a time.
        assert len(set(np.array(GROUPS)[first][:12])) > 1


@pytest.mark.parametrize(
    "groups",
    [
        [0] * 30 + [1] * 4,
        np.array(["a"] * 30 + ["b"] * 4),
        torch.tensor([0] * 30 + [1] * 4),
        [(0, "land")] * 30 + [(1, "land")] * 4,
    ],
    ids=["list", "array", "tensor", "tuples"],
)
def test_groups_can_be_given_beside_the_data_set(rows, groups):
    # Each element of a tensor hashes as an object of its own: 34 groups of one row.
    balanced = balance_groups(rows, groups)
    assert len(balanced) == 60
    assert sum(row >= 30 for row in balanced["row"]) == 30


def test_a_column_of_classes_can_be_the_groups():
    features = Features({"label": ClassLabel(names=["low", "high"])})
    balanced = balance_groups(Dataset.from_dict({"label": [0, 0, 0, 1]}, features=features), "label")
    assert Counter(balanced["label"]) == {0: 3, 1: 3}


def test_no_image_is_read():
    # Decoding a large data set to choose rows takes minutes; here it would fail.
    features = Features({"image": Image(), "group": Value("string")})
    lost = Dataset.from_dict({"image": ["lost.png"] * 3, "group": ["a", "a", "b"]}, features=features)
    assert len(balance_groups(lost, "group")) == 4


@pytest.mark.parametrize(
    ("groups", "how", "message"),
    [
        ("place", "oversample", r"The data set has no column 'place' \(groups\): it has row, group\."),
        ([0, 1], "oversample", r"2 groups do not fit a data set of 34 rows: give one a row\."),
        (["a"] * 34, "oversample", r"at least two groups, and all 34 rows are of 'a'\."),
        (["a"] * 33 + [None], "oversample", r"Row 33 has no group"),
        ([1.0] * 33 + [float("nan")], "subsample", r"Row 33 has no group"),
        (np.zeros((34, 2)), "oversample", r"Row 0 has 2 groups: give one group a row, of shape \(N,\)\."),
        ("group", "weights", r'by how="oversample" or how="subsample", not \'weights\'\.'),
    ],
)
def test_what_cannot_be_balanced_is_refused(rows, groups, how, message):
    with pytest.raises(ValueError, match=message):
        balance_groups(rows, groups, how)


def test_empty_sets_are_refused(rows):
    with pytest.raises(ValueError, match=r"The data set is empty\."):
        balance_groups(rows.select([]), "group")
    with pytest.raises(ValueError, match=r"at least two groups, and there are no rows\."):
        balanced_rows([])


def test_group_names_join_what_belongs_to_one_row():
    assert group_names([3, 7], np.array(["cue", "none"])).tolist() == ["3|cue", "7|none"]
    assert group_names(["low"], ["land"], separator=" on ").tolist() == ["low on land"]
    with pytest.raises(ValueError, match=r"attributes of one length, at least one; got lengths \[1, 2\]\."):
        group_names([0], ["a", "b"])
    with pytest.raises(ValueError, match=r"got lengths \[\]\."):
        group_names()


def test_each_row_is_in_one_part_and_each_part_has_its_size():
    # A clean image that was pretrained on, or chosen by, makes the comparison worthless.
    labels = np.random.default_rng(0).integers(10, size=50_000)
    parts = split_rows(labels, {"finetune": 2500, "validation": 2500}, seed=3, rest="pretrain")
    assert {name: len(part) for name, part in parts.items()} == {
        "finetune": 2500,
        "validation": 2500,
        "pretrain": 45_000,
    }
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(50_000))
    for part in parts.values():
        expected = np.bincount(labels) / len(labels) * len(part)
        assert np.abs(np.bincount(labels[part]) - expected).max() <= 2
        assert (np.diff(part) > 0).all()


def test_seed_alone_decides_the_split():
    # A grid is resumed in other processes, and its seeds must differ in more than the training.
    labels = np.arange(200) % 4
    one, same, other = (split_rows(labels, {"finetune": 20}, seed, rest="pretrain") for seed in (0, 0, 1))
    assert np.array_equal(one["finetune"], same["finetune"])
    assert not np.array_equal(one["finetune"], other["finetune"])
