# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Labels and groups are read once, from any map-style data set; what has none is refused by name."""

import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from torch.utils.data import Subset

from hf_cbft.data.columns import (
    check_not_empty,
    class_labels,
    completion_classes,
    group_values,
    label_column,
    unreadable_row,
)


class Plain(torch.utils.data.Dataset):
    """Rows in a list, behind the torch protocol."""

    def __init__(self, rows: list) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.rows[index]


class Stream(torch.utils.data.IterableDataset):
    """Has a length, but no rows by number."""

    def __len__(self) -> int:
        return 2

    def __iter__(self):
        yield from ({"label": 0}, {"label": 1})


@pytest.mark.parametrize(
    "rows",
    [Dataset.from_dict({"label": [0]}), Plain([{"label": 0}]), [{"label": 0}]],
    ids=["datasets", "torch", "list"],
)
def test_sets_with_rows_pass(rows):
    # A check that refuses usable data is worse than none.
    check_not_empty(rows, "train_dataset")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Dataset.from_dict({"label": []}), r"cue_dataset is empty\."),
        (Plain([]), r"cue_dataset is empty\."),
        (
            Stream(),
            r"cue_dataset has the type Stream, whose rows cannot be drawn by number: give a map-style data set\.",
        ),
        (
            Dataset.from_dict({"label": [0]}).to_iterable_dataset(),
            r"cue_dataset has the type IterableDataset, whose rows",
        ),
        (iter([{"label": 0}]), r"cue_dataset has the type list_iterator, whose rows cannot be drawn by number"),
        (None, r"cue_dataset has the type NoneType, whose rows cannot be drawn by number"),
    ],
    ids=["empty", "empty torch", "torch stream", "datasets stream", "iterator", "none"],
)
def test_sets_without_rows_by_number_are_refused(rows, message):
    # Each clean row needs a partner drawn by number; an empty set would fail as a division by zero.
    with pytest.raises(ValueError, match=message):
        check_not_empty(rows, "cue_dataset")


@pytest.mark.parametrize("column", ["labels", "label", "label_ids"])
@pytest.mark.parametrize("plain", [False, True])
def test_the_usual_label_columns_are_found(column, plain):
    # These are the names that the Trainer's collators understand.
    row = {"text": "a", column: 0}
    assert label_column(Plain([row]) if plain else Dataset.from_list([row]), "x") == column


def test_labels_comes_first():
    # It is what the model takes; `label` beside it is often the raw text.
    assert label_column(Dataset.from_dict({"label_ids": [2], "label": ["cat"], "labels": [1]}), "x") == "labels"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (Dataset.from_dict({"text": ["a"], "target": [0]}), "text, target"),
        (Plain([{"image": 1, "fine_label": 2}]), "image, fine_label"),
        (Plain([(1, 2)]), "none"),
        (Plain([{}]), "none"),
    ],
)
def test_a_missing_label_column_lists_what_is_there(rows, found):
    # The user sees at once which column to rename.
    message = rf"D has no label column: it has {found}, and one of labels, label, label_ids is needed\."
    for function in (label_column, class_labels):
        with pytest.raises(ValueError, match=message):
            function(rows, "D")


@pytest.mark.parametrize("layout", [None, "numpy", "torch", "pandas", "arrow"])
def test_labels_of_a_data_set_in_any_format(layout):
    # A format chosen for training changes what a column hands out.
    rows = Dataset.from_dict({"label": [2, 0, 1]}, features=Features({"label": ClassLabel(num_classes=3)}))
    labels = class_labels(rows.with_format(layout), "D", num_classes=3)
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("convert", [int, np.int32, np.uint8, torch.tensor])
def test_labels_of_a_plain_torch_set(convert):
    # Any map-style data set of dicts is promised to work, however it stores a number.
    rows = Plain([{"label": convert(label), "pixel_values": torch.ones(1)} for label in (2, 0, 1)])
    labels = class_labels(rows, "D")
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]


def test_labels_of_a_subset():
    # `torch.utils.data.random_split` gives these, around either kind of set.
    rows = Dataset.from_dict({"label": [0, 1, 2, 3]})
    assert class_labels(Subset(rows, [3, 1]), "D").tolist() == [3, 1]


def test_labels_are_read_in_the_order_of_the_rows():
    # A shuffled set has an order of its own above the stored one.
    rows = Dataset.from_dict({"label": list(range(20))}).shuffle(seed=0)
    assert class_labels(rows, "D").tolist() == [row["label"] for row in rows]


def test_reading_labels_runs_no_transform():
    # Augmenting and decoding every image to read its label would take minutes before training starts.
    def transform(batch):
        raise AssertionError("the transform ran")

    rows = Dataset.from_dict({"image": ["x", "y"], "label": [1, 0]})
    assert class_labels(rows.with_transform(transform), "D").tolist() == [1, 0]


def test_reading_labels_decodes_no_image():
    # The same, without a transform: these bytes are no image at all.
    rows = Dataset.from_dict(
        {"image": [{"bytes": b"broken", "path": None}] * 2, "label": [1, 0]},
        features=Features({"image": Image(), "label": Value("int64")}),
    )
    assert class_labels(rows, "D").tolist() == [1, 0]


@pytest.mark.parametrize(
    "labels",
    [[[0, 1], [1, 0]], [[0, 1], [1]], [0.0, 1.0], ["cat", "dog"], [None, 1], [True, False]],
    ids=["multi-label", "tokens", "regression", "names", "missing", "bool"],
)
@pytest.mark.parametrize("plain", [False, True])
def test_labels_that_are_not_one_class_a_row_are_refused(labels, plain):
    # There is no class mean to be invariant to.
    rows = Dataset.from_dict({"label": labels})
    with pytest.raises(
        ValueError, match=r"The column 'label' of D does not hold one class \(a whole number\) a row, and"
    ):
        class_labels(Plain(list(rows)) if plain else rows, "D")


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (
            [0, 4, 1],
            4,
            r"D has the label 4, but the classes are 0 to 3: match the labels to the model's id2label",
        ),
        ([0, -1], 4, r"D has the label -1, but the classes are 0 to 3"),
        ([0, -100], None, r"D has the label -100, but the classes are at least 0"),
    ],
)
def test_labels_outside_the_models_classes_are_refused(labels, num_classes, message):
    # On a GPU such a label is an assertion deep in the loss.
    with pytest.raises(ValueError, match=message):
        class_labels(Dataset.from_dict({"label": labels}), "D", num_classes)


def test_the_largest_class_is_inside():
    # The last class of the model is one of its classes.
    assert class_labels(Dataset.from_dict({"label": [3, 0]}), "D", num_classes=4).tolist() == [3, 0]


def test_a_dict_of_data_sets_is_not_one():
    with pytest.raises(ValueError, match=r"D is a dict of data sets \(train, test\): give one of them"):
        check_not_empty({"train": [1], "test": [2]}, "D")


TOKENS = {"input_ids": [[5, 6], [7, 8, 9]], "labels": [[-100, 6], [-100, 8, 9]]}
PROMPTS = {"prompt": ["a", "b"], "completion": ["c", "d"]}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({**PROMPTS, "label": [1, 0]}, [1, 0]),
        ({**PROMPTS, "labels": [1, 0]}, [1, 0]),
        ({**TOKENS, "label": [1, 0]}, [1, 0]),
        ({**TOKENS, "label_ids": [1, 0]}, [1, 0]),
        (PROMPTS, None),
        (TOKENS, None),
        ({**PROMPTS, "label": ["yes", "no"]}, None),
        ({**PROMPTS, "label": [True, False]}, None),
        ({**TOKENS, "label": [0.5, 1.0]}, None),
    ],
)
def test_language_models_may_have_a_class_beside_the_tokens(columns, expected, plain):
    # Pairs of one class and class means need it; without one the invariance loss is left out, not the training.
    rows = Dataset.from_dict(columns)
    found = completion_classes(Plain(list(rows)) if plain else rows, "D")
    if expected is None:
        assert found is None
    else:
        assert found.tolist() == expected
        assert found.dtype == np.int64


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("column", ["label", "label_ids"])
def test_pairs_of_a_class_go_by_the_class_column(column, plain):
    # `labels` holds tokens here, which have no class.
    rows = Dataset.from_dict({**TOKENS, column: [1, 0]})
    rows = Plain(list(rows)) if plain else rows
    assert label_column(rows, "D") == column
    assert class_labels(rows, "D").tolist() == [1, 0]


@pytest.mark.parametrize("layout", ["numpy", "torch", "pandas"])
def test_the_class_column_is_found_in_any_format(layout):
    rows = Dataset.from_dict({**TOKENS, "label": [1, 0]}).cast_column("label", ClassLabel(num_classes=2))
    assert completion_classes(rows.with_format(layout), "D").tolist() == [1, 0]


def test_finding_the_class_column_decodes_no_image():
    # Captions beside a broken picture: only the labels are looked at.
    rows = Dataset.from_dict(
        {"image": [{"bytes": b"broken", "path": None}], "labels": [[5, 6]], "label": [1]},
        features=Features({"image": Image(), "labels": List(Value("int64")), "label": Value("int64")}),
    )
    assert label_column(rows, "D") == "label"
    assert completion_classes(rows, "D").tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, -100], "D has the label -100, but the classes are at least 0"), ([1, None], "does not hold one class")],
)
def test_rows_without_their_class_are_refused(labels, message):
    # Left out silently they would stop the run at the first batch that has one.
    with pytest.raises(ValueError, match=message):
        completion_classes(Dataset.from_dict({**PROMPTS, "label": labels}), "D")


@pytest.mark.parametrize(
    ("values", "feature", "expected"),
    [
        (["land", "water"], Value("string"), ["land", "water"]),
        ([7, 3], Value("int64"), ["7", "3"]),
        ([True, False], Value("bool"), ["True", "False"]),
        ([1, 0], ClassLabel(names=["land", "water"]), ["water", "land"]),
        ([1, -1], ClassLabel(names=["land", "water"]), ["water", "-1"]),
    ],
    ids=["strings", "numbers", "truth values", "classes", "no class"],
)
@pytest.mark.parametrize("layout", [None, "numpy", "torch"])
def test_groups_are_strings(values, feature, expected, layout):
    # The result stores them, and a barrier is printed under each.
    rows = Dataset.from_dict({"place": values}, features=Features({"place": feature})).with_format(layout)
    groups = group_values(rows, "place", "D")
    assert groups.dtype.kind == "U"
    assert groups.tolist() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["land", None], r"Row 1 of the data set 'cue' has no group in its column 'place' \(in a CSV file"),
        ([1.0, float("nan")], "Row 1 of the data set 'cue' has no group in its column 'place'"),
        (
            [1.5, 2.5],
            r"The column 'place' of the data set 'cue' holds .*float64.*: a group is a string, a whole number",
        ),
        ([["a"], ["b"]], "a group is a string, a whole number or a class"),
    ],
)
def test_groups_that_are_none(values, message):
    # A row without a group would be left out of every group, in silence.
    with pytest.raises(ValueError, match=message):
        group_values(Dataset.from_dict({"place": values}), "place", "The data set 'cue'")


def test_a_missing_group_column_lists_what_is_there():
    with pytest.raises(ValueError, match=r"D has no column 'place' \(group_column\): it has text, where"):
        group_values(Dataset.from_dict({"text": ["a"], "where": ["b"]}), "place", "D")


def png(cut: int | None = None) -> dict:
    buffer = io.BytesIO()
    PILImage.effect_noise((32, 32), 50).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue()[:cut], "path": None}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"bytes": b"no image", "path": None}, "cannot identify image file"),
        (png(cut=200), "truncated|broken"),
        ({"bytes": None, "path": "lost.png"}, "No such file or directory: 'lost.png'"),
        (None, "it is empty"),
    ],
    ids=["no image", "cut short", "lost", "missing"],
)
def test_an_unreadable_image_is_named(broken, reason):
    # Of 50,000 images, the traceback of the decoder does not say which.
    rows = Dataset.from_dict({"image": [png(), png(), broken, png()]}, features=Features({"image": Image()}))
    message = str(unreadable_row(rows, "The data set 'cue'"))
    assert message.startswith("Row 2 of the data set 'cue' cannot be read from its column 'image' (")
    assert message.endswith("): repair the file or leave the row out.")
    assert any(part in message for part in reason.split("|"))
    assert "\n" not in message


def test_rows_that_can_be_read_are_not_blamed():
    # The batch failed for another reason then; and only the rows of the batch are looked at.
    features = Features({"image": Image(), "text": Value("string")})
    rows = Dataset.from_dict({"image": [png(), None], "text": ["a", "b"]}, features=features)
    assert unreadable_row(rows, "D", rows=[0]) is None
    assert str(unreadable_row(rows, "D", rows=[0, 1])).startswith("Row 1 of D")
    assert unreadable_row(rows.select_columns("text"), "D") is None
    assert unreadable_row(Plain([{"image": None}]), "D") is None


def test_looking_for_an_unreadable_row_runs_no_transform():
    # Its own errors are not those of a file.
    def transform(batch):
        raise AssertionError("the transform ran")

    rows = Dataset.from_dict({"image": [png(), None]}, features=Features({"image": Image()}))
    assert str(unreadable_row(rows.with_transform(transform), "D")).startswith("Row 1 of D")
