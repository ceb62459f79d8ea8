# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs that depend on call order or worker make a resumed or sharded run train on other data."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import default_data_collator

from hf_cbft import pair_clean_with_cue
from hf_cbft.data import pairing as pairing_module
from hf_cbft.data.pairing import PairCollator, PairedDataset


def numbered(labels: list[int], first: int = 0) -> Dataset:
    return Dataset.from_dict({"number": list(range(first, first + len(labels))), "label": labels})


# Class 0: more cue rows than clean rows; class 1: fewer; class 2: as many.
CLEAN_LABELS = [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
CUE_LABELS = [2, 0, 0, 1, 0, 0, 2, 0, 1, 0, 2, 0]


def forget_orders() -> None:
    """What a new process knows: nothing. Orders that were kept would hide that they are drawn differently."""
    pairing_module._shuffled.cache_clear()


@pytest.fixture
def clean() -> Dataset:
    return numbered(CLEAN_LABELS)


@pytest.fixture
def cue() -> Dataset:
    return numbered(CUE_LABELS, first=100)


def partners(pairs: PairedDataset, epoch: int) -> list[int]:
    return [pairs.partner(index, epoch) for index in range(len(pairs))]


@pytest.mark.parametrize("pairing", ["class", "random", "index"])
def test_items_are_tuples_of_a_clean_and_a_cue_row(pairing, clean, cue):
    # A dict of two would be emptied by the Trainer's column remover.
    pairs = pair_clean_with_cue(clean, cue, pairing)
    assert len(pairs) == len(clean)
    for index in range(len(clean)):
        item = pairs[index]
        assert type(item) is tuple
        assert item == (clean[index], cue[pairs.partner(index)])


def test_partners_have_the_class_of_the_clean_row(clean, cue):
    # The invariance loss compares class means: a partner of another class pulls them together.
    pairs = pair_clean_with_cue(clean, cue)
    for epoch in range(7):
        pairs.set_epoch(epoch)
        for one, other in pairs:
            assert one["label"] == other["label"]


@pytest.mark.parametrize("pairing", ["class", "random"])
def test_partner_is_a_function_of_seed_epoch_and_index(pairing, clean, cue):
    # State in the data set would differ between workers, ranks and resumed runs.
    calls = [(epoch, index) for epoch in range(6) for index in range(len(clean))]
    pairs = pair_clean_with_cue(clean, cue, pairing, seed=7)
    expected = {call: pairs.partner(call[1], call[0]) for call in calls}
    forget_orders()
    other = pair_clean_with_cue(clean, cue, pairing, seed=7)
    for position in np.random.default_rng(0).permutation(len(calls)):
        epoch, index = calls[position]
        other.set_epoch((epoch + 3) % 5)
        assert other.partner(index, epoch) == expected[epoch, index], "an epoch that is given was not used"
        other.set_epoch(epoch)
        assert other.partner(index) == expected[epoch, index]
        assert other[index] == (clean[index], cue[expected[epoch, index]])


@pytest.mark.parametrize("pairing", ["class", "random"])
def test_every_cue_row_is_drawn_before_any_is_drawn_again(pairing, clean, cue):
    # Rows that wait while others repeat are data the user gave and the model does not see.
    pairs = pair_clean_with_cue(clean, cue, pairing, seed=3)
    groups = {label: [i for i, other in enumerate(CUE_LABELS) if other == label] for label in (0, 1, 2)}
    if pairing == "random":
        groups = {None: list(range(len(cue)))}
    drawn: Counter = Counter()
    for epoch in range(12):
        drawn.update(partners(pairs, epoch))
        for members in groups.values():
            counts = [drawn[member] for member in members]
            assert max(counts) - min(counts) <= 1
    assert set(drawn) == set(range(len(cue)))


def test_each_pass_over_the_cue_rows_has_an_order_of_its_own():
    # With one order for all passes, a clean row would meet the same partner in each epoch.
    pairs = pair_clean_with_cue(numbered([0] * 20), numbered([0] * 20))
    orders = [partners(pairs, epoch) for epoch in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert list(range(20)) not in orders


def test_one_class_draws_apart_from_another():
    # Classes of equal size that share one order would always pair row k of the one as row k of the other.
    pairs = pair_clean_with_cue(numbered([0] * 20 + [1] * 20), numbered([0] * 20 + [1] * 20))
    order = partners(pairs, 0)
    assert [row + 20 for row in order[:20]] != order[20:]


@pytest.mark.parametrize("pairing", ["class", "random"])
def test_seeds_and_epochs_differ(pairing, clean, cue):
    # Runs of several seeds would otherwise not be repetitions, and epochs would repeat the same pairs.
    walks = {
        seed: tuple(tuple(partners(pair_clean_with_cue(clean, cue, pairing, seed), epoch)) for epoch in range(3))
        for seed in range(3)
    }
    assert len(set(walks.values())) == 3
    for walk in walks.values():
        assert len(set(walk)) == 3


def test_random_pairs_need_no_class_in_common(clean):
    # "random" is what users with other classes are told to use.
    cue = numbered([7, 8, 9, 9, 7], first=50)
    pairs = pair_clean_with_cue(clean, cue, "random")
    drawn = [row for epoch in range(3) for row in partners(pairs, epoch)]
    assert set(drawn) == set(range(5))
    assert pairs.classes_without_cue == []


@pytest.mark.parametrize("epoch", [0, 4])
def test_index_pairs_row_with_row(epoch, clean, cue):
    # Edited copies of the clean rows only make sense beside their own original.
    pairs = pair_clean_with_cue(clean, cue, "index", seed=2)
    pairs.set_epoch(epoch)
    assert [(one["number"], other["number"]) for one, other in pairs] == [(i, 100 + i) for i in range(12)]
    assert pairs.classes_without_cue == []


@pytest.mark.parametrize("pairing", ["random", "index"])
def test_labels_are_only_read_where_they_are_used(pairing):
    # Language models have no class; pairing their rows by turn or by number must work.
    rows = Dataset.from_dict({"input_ids": [[1, 2], [3], [4, 5]]})
    assert len(pair_clean_with_cue(rows, rows, pairing)) == 3


def test_classes_without_a_cue_row_draw_from_all():
    # The trainer warns of these classes by name; their rows still need a partner.
    cue_labels = [0, 1, 1, 0, 8]
    clean, cue = numbered([0, 3, 1, 3, 5, 0]), numbered(cue_labels)
    pairs = pair_clean_with_cue(clean, cue)
    assert pairs.classes_without_cue == [3, 5]
    drawn: Counter = Counter()
    for epoch in range(5):
        drawn.update(pairs.partner(index, epoch) for index in (1, 3))
        for index in (0, 2, 5):
            assert cue_labels[pairs.partner(index, epoch)] == clean[index]["label"]
    assert drawn == dict.fromkeys(range(5), 2)


def test_all_classes_with_a_cue_row_leave_none_without(clean, cue):
    # A warning that is always there is not read.
    assert pair_clean_with_cue(clean, cue).classes_without_cue == []


@pytest.mark.parametrize(
    ("clean_labels", "cue_labels", "arguments", "message"),
    [
        ([0, 1, 1], [4, 5], {}, r"train_dataset has the classes \[0, 1\] and cue_dataset \[4, 5\]: none in common"),
        ([0, 1], [0, 1, 1], {"pairing": "index"}, r"train_dataset has 2 rows and cue_dataset 3\."),
        ([], [0], {}, r"train_dataset is empty\."),
        ([0], [], {}, r"cue_dataset is empty\."),
        ([], [0], {"pairing": "random"}, r"train_dataset is empty\."),
        ([0], [0], {"pairing": "label"}, r"pairing 'label' is unknown: use one of class, random, index\."),
        ([0], [0], {"seed": -1}, r"The seed of the pairs is -1; give a whole number from 0 on\."),
        ([[0, 1]], [0], {}, r"'label' of train_dataset does not hold one class"),
        ([0], [[0, 1]], {}, r"'label' of cue_dataset does not hold one class"),
        ([0], [0.0], {}, r"'label' of cue_dataset does not hold one class"),
    ],
)
def test_sets_that_cannot_be_paired_are_refused(clean_labels, cue_labels, arguments, message):
    # Found out before training, by the name of the set, and not as an index error in a worker.
    with pytest.raises(ValueError, match=message):
        pair_clean_with_cue(numbered(clean_labels), numbered(cue_labels), **arguments)


@pytest.mark.parametrize("which", ["train_dataset", "cue_dataset"])
def test_a_set_without_labels_is_named(which):
    # The user has two sets: the message says which one lacks the column, and what it has.
    sets = {name: numbered([0, 1]) for name in ("train_dataset", "cue_dataset")}
    sets[which] = sets[which].rename_column("label", "target")
    with pytest.raises(ValueError, match=rf"{which} has no label column: it has number, target"):
        pair_clean_with_cue(*sets.values())


class Plain(torch.utils.data.Dataset):
    """A map-style data set that knows nothing of `datasets`."""

    def __init__(self, labels: list[int]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"number": index, "label": self.labels[index]}


def test_plain_torch_sets_are_paired_alike(clean, cue):
    # What holds the rows must not change which rows meet.
    plain = pair_clean_with_cue(Plain(CLEAN_LABELS), Plain(CUE_LABELS), seed=1)
    assert partners(plain, 2) == partners(pair_clean_with_cue(clean, cue, seed=1), 2)
    assert plain[3][0] == {"number": 3, "label": 1}


@pytest.mark.parametrize("pairing", ["class", "random", "index"])
def test_workers_draw_what_the_main_process_draws(pairing, clean, cue):
    # `num_workers` is a matter of speed: it may not change the data of an epoch.
    epochs = {}
    for workers in (0, 2):
        forget_orders()
        pairs = pair_clean_with_cue(clean, cue, pairing, seed=5)
        loader = DataLoader(
            pairs,
            batch_size=5,
            shuffle=True,
            generator=torch.Generator().manual_seed(0),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            collate_fn=PairCollator(default_data_collator),
        )
        epochs[workers] = []
        for epoch in range(3):
            pairs.set_epoch(epoch)
            batches = [
                {side: {name: values.tolist() for name, values in batch[side].items()} for side in batch}
                for batch in loader
            ]
            epochs[workers].append(batches)
            for batch in batches:
                expected = [100 + pairs.partner(number, epoch) for number in batch["clean"]["number"]]
                assert batch["cue"]["number"] == expected, "a worker drew for another epoch"
    assert epochs[0] == epochs[2]


def collate(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_pairs_collate_into_two_batches():
    # The trainer reads these two keys, and row k of the one belongs to row k of the other.
    pairs = [({"a": 1, "b": 2}, {"a": 3}), ({"a": 4, "b": 5}, {"a": 6})]
    assert PairCollator(collate)(pairs) == {"clean": {"a": [1, 4], "b": [2, 5]}, "cue": {"a": [3, 6]}}


def test_plain_rows_collate_into_one_batch():
    # Evaluation uses the same collator on rows without a partner.
    assert PairCollator(collate)([{"a": 1}, {"a": 2}]) == {"a": [1, 2]}


def test_the_inner_collator_is_given_lists():
    # Collators of Transformers change rows in place and index them: a tuple of rows breaks some.
    kinds = []
    PairCollator(lambda rows: kinds.append(type(rows)) or {})([({"a": 1}, {"a": 2})])
    assert kinds == [list, list]
