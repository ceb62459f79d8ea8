# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Labels become the model's: ids in another order would give a wrong loss and a wrong barrier without a word."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value

from hf_cbft.data.labels import match_labels, matched, with_column

PETS = {0: "cat", 1: "dog", 2: "guinea pig"}
COUNTED = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def strings(*labels) -> Dataset:
    return Dataset.from_dict({"text": ["x"] * len(labels), "label": list(labels)})


def classes(names, *labels) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"text": ["x"] * len(labels), "label": list(labels)}, features=features)


MATCHES = {
    "classes in the model's order": (classes(["cat", "dog", "guinea pig"], 2, 0, 1), PETS, {}, [2, 0, 1], "by name"),
    "classes in another order": (classes(["guinea pig", "dog", "cat"], 0, 1, 2, 0), PETS, {}, [2, 1, 0, 2], "by name"),
    "fewer classes": (classes(["guinea pig", "cat"], 0, 1), PETS, {}, [2, 0], "by name"),
    "a class that no row has": (classes(["bird", "dog"], 1, 1), PETS, {}, [1, 1], "by name"),
    "strings": (strings("dog", "cat", "dog"), PETS, {}, [1, 0, 1], "by name"),
    "another case": (strings("DOG", "Cat"), PETS, {}, [1, 0], "by name"),
    "blanks and hyphens": (strings("Guinea_Pig", "guinea-pig", "guinea  pig "), PETS, {}, [2, 2, 2], "by name"),
    "exact before case": (strings("us", "US"), {0: "US", 1: "us"}, {}, [1, 0], "by name"),
    "keys as in a config file": (strings("dog"), {"0": "cat", "1": "dog"}, {}, [1], "by name"),
    "counted classes, by order": (
        classes(["zebra", "ant", "bee"], 2, 0),
        COUNTED,
        {},
        [2, 0],
        "by order, as the model's classes have no names",
    ),
    "counted classes, by their own names": (strings("LABEL_2", "LABEL_0"), COUNTED, {}, [2, 0], "by name"),
    "counted classes, strings of numbers": (
        strings("2", "0"),
        COUNTED,
        {},
        [2, 0],
        "by number, as the model's classes have no names",
    ),
    "a map to names and ids": (
        strings("chat", "chien"),
        PETS,
        {"chat": "cat", "chien": 1},
        [0, 1],
        "by the label map",
    ),
    "a map of some": (strings("chat", "dog"), PETS, {"chat": "cat"}, [0, 1], "by name and the label map"),
    "a map before the names": (strings("cat", "dog"), PETS, {"cat": "dog", "dog": "cat"}, [1, 0], "by the label map"),
    "several to one": (strings("tom", "kitten"), PETS, {"tom": "cat", "kitten": "cat"}, [0, 0], "by the label map"),
    "a map of classes": (classes(["x", "y"], 0, 1), COUNTED, {"x": 2, "y": 0}, [2, 0], "by the label map"),
    "a map of numbers": (strings(5, 1, 0), PETS, {"5": "cat", "0": 2}, [0, 1, 2], "by the label map"),
    "numbers": (strings(2, 0), PETS, {}, [2, 0], "whole numbers, as they are"),
}


@pytest.mark.parametrize("case", MATCHES)
def test_labels_become_the_models(case):
    """Each way in which data and models name their classes; what is said of it is what was done."""
    dataset, id2label, label_map, expected, how = MATCHES[case]
    found, said = matched(dataset, "label", id2label, label_map, "D")
    assert list(found["label"]) == expected
    assert said == how
    assert list(match_labels(dataset, id2label, label_map)["label"]) == expected
    assert list(found["text"]) == list(dataset["text"])


def test_matched_labels_have_the_models_names():
    """Whoever looks at the data afterwards reads the right names, and matching again changes nothing."""
    once = match_labels(classes(["dog", "cat"], 0, 1), PETS)
    assert once.features["label"].names == list(PETS.values())
    assert list(match_labels(once, PETS)["label"]) == [1, 0]
    assert match_labels(once, PETS) is once


WRONG = {
    "as many, with other names": (
        classes(["bird", "fish", "frog"], 0, 1, 2),
        PETS,
        {},
        "D has the classes bird, fish, frog and the model has cat, dog, guinea pig: no class of the model is bird, "
        r"fish, frog\. Give --label_map FILE\.json, a JSON object from these names",
    ),
    "some unknown": (strings("dog", "fish"), PETS, {}, r"no class of the model is fish\. Give --label_map"),
    "more classes than a counting model": (
        classes(["a", "b", "c", "d"], 0),
        COUNTED,
        {},
        "no class of the model is a",
    ),
    "strings for a counting model": (strings("a", "b", "c"), COUNTED, {}, "the model has LABEL_0, LABEL_1, LABEL_2"),
    "a number too large": (strings("0", "3"), COUNTED, {}, r"no class of the model is 3\."),
    "numbers as names": (classes(["0", "1", "2"], 0), PETS, {}, r"no class of the model is 0\."),
    "two classes that fit": (strings("new york"), {0: "New_York", 1: "New-York"}, {}, "no class of the model is new"),
    "many names": (
        strings(*(f"c{i:02}" for i in range(30))),
        PETS,
        {},
        r"c00, c01, .*c11, \.\.\. \(30 in all\) and the model",
    ),
    "a map to no class": (
        strings("chat"),
        PETS,
        {"chat": "lion"},
        r"sends 'chat' to 'lion', and .*cat \(0\), dog \(1",
    ),
    "a map to no id": (strings("chat"), PETS, {"chat": 3}, "The label map sends 'chat' to 3, and the classes of the"),
    "a map to a truth value": (strings("chat"), PETS, {"chat": True}, "The label map sends 'chat' to True"),
    "a map without a number": (strings(7), PETS, {"5": "cat"}, r"no class of the model is 7\."),
    "a missing string": (strings("cat", None), PETS, {}, r"Row 1 of D has no label in its column 'label' \(in a CSV"),
    "a missing number": (strings(0.0, float("nan")), PETS, {}, "Row 1 of D has no label in its column 'label'"),
    "the test set of GLUE": (classes(["cat", "dog"], 0, -1), PETS, {}, r"Row 1 of D has no label .* \(it is -1\)\."),
    "regression": (strings(0.5, 0.1), PETS, {}, "The column 'label' of D holds .*float64.*: a label is the name of"),
    "truth values": (strings(True, False), PETS, {}, "The column 'label' of D holds .*bool"),
    "no label column": (Dataset.from_dict({"text": ["a"]}), PETS, {}, "D has no label column: it has text"),
    "empty": (Dataset.from_dict({"label": []}), PETS, {}, r"D is empty\."),
}


@pytest.mark.parametrize("case", WRONG)
def test_labels_that_cannot_be_matched(case):
    """Guessed instead, the accuracy would be that of another question."""
    dataset, id2label, label_map, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        match_labels(dataset, id2label, label_map, name="D")


def test_only_data_sets_of_datasets():
    with pytest.raises(TypeError, match=r"D is a list: labels are matched in a datasets\.Dataset"):
        match_labels([{"label": 0}], PETS, name="D")


def test_the_column_may_be_named():
    rows = Dataset.from_dict({"kind": ["dog", "cat"], "label": ["x", "y"]})
    assert list(match_labels(rows, PETS, column="kind")["kind"]) == [1, 0]
    with pytest.raises(ValueError, match=r"D has no column 'sort' \(column\): it has kind, label"):
        match_labels(rows, PETS, name="D", column="sort")


def test_the_map_may_be_a_file(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"chat": "cat", "chien": 1}))
    assert list(match_labels(strings("chien", "chat"), PETS, tmp_path / "map.json")["label"]) == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', "The label map .*map.json is no JSON file: Expecting value"),
        ('["a"]', "needs to be one JSON object, from each label in the data to the model's name or id for it"),
        ('{"a": ["b"]}', "needs to be one JSON object"),
        ('{"a": null}', "needs to be one JSON object"),
    ],
)
def test_a_map_that_is_none(tmp_path, text, message):
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        match_labels(strings("a"), PETS, tmp_path / "map.json")


def test_a_map_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"map\.json"):
        match_labels(strings("a"), PETS, tmp_path / "map.json")


@pytest.mark.parametrize("named", [False, True], ids=["strings", "classes"])
def test_labels_of_tokens(named):
    """What a loss leaves out stays left out, and a row keeps its length."""
    names, rows = ["O", "PER", "LOC"], [[0, 1, -100], [2], []]
    if named:
        dataset = Dataset.from_dict({"labels": rows}, features=Features({"labels": Sequence(ClassLabel(names=names))}))
        expected = [[2, 0, -100], [1], []]
    else:
        dataset = Dataset.from_dict({"labels": [["O", "PER"], ["LOC"], []]})
        expected = [[2, 0], [1], []]
    assert list(match_labels(dataset, {0: "per", 1: "loc", 2: "o"})["labels"]) == expected


def test_nothing_is_decoded_or_copied():
    """These bytes are no image: reading one, or writing it to the cache, would fail or take minutes."""
    features = Features({"image": Image(), "label": ClassLabel(names=["dog", "cat"])})
    rows = Dataset.from_dict({"image": [{"bytes": b"broken", "path": None}] * 2, "label": [0, 1]}, features=features)
    found = match_labels(rows, PETS)
    assert list(found["label"]) == [1, 0]
    assert isinstance(found.features["image"], Image)
    assert not found.cache_files


def test_a_transform_and_a_format_stay():
    """Lost, the model would get raw rows."""
    rows = classes(["dog", "cat"], 0, 1)
    doubled = rows.with_transform(lambda batch: {"doubled": [2 * label for label in batch["label"]]})
    assert match_labels(doubled, PETS)[0] == {"doubled": 2}
    label = match_labels(rows.with_format("numpy", columns=["label"]), PETS)[1]
    assert list(label) == ["label"]
    assert isinstance(label["label"], np.integer)
    assert label["label"] == 0


def test_labels_of_shuffled_rows_stay_with_their_rows():
    rows = Dataset.from_dict({"text": [str(i) for i in range(20)], "label": ["cat", "dog"] * 10}).shuffle(seed=0)
    found = match_labels(rows, PETS)
    assert list(found["text"]) == list(rows["text"])
    assert [PETS[label] for label in found["label"]] == list(rows["label"])


def test_a_column_more_shows_beside_a_format():
    rows = Dataset.from_dict({"a": [1], "b": [2]}).with_format("numpy", columns=["a"])
    assert set(with_column(rows, "c", [3], Value("int64"))[0]) == {"a", "c"}


def test_ids_with_gaps_or_equal_names_stay_numbers():
    """`ClassLabel` can hold neither."""
    assert list(match_labels(strings("b"), {0: "a", 5: "b"})["label"]) == [5]
    assert list(match_labels(strings("b", "c"), {0: "a", 1: "a", 2: "b"}, {"c": 0})["label"]) == [2, 0]
