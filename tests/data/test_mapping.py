# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Which column is what: guessed where only one fits, asked for where several do, and said either way."""

import pytest
from datasets import Audio, ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from hf_cbft.data.mapping import Columns, check_no_gaps, find_columns, with_known_columns

_VALUES = {
    "str": (Value("string"), "x"),
    "large": (Value("large_string"), "x"),
    "int": (Value("int64"), 0),
    "float": (Value("float64"), 0.5),
    "class": (ClassLabel(names=["a", "b"]), 1),
    "image": (Image(), {"bytes": b"broken", "path": None}),
    "audio": (Audio(), None),
    "stored": ({"bytes": Value("binary"), "path": Value("string")}, {"bytes": b"broken", "path": None}),
    "ints": (List(Value("int64")), [1, 2]),
    "strs": (List(Value("string")), ["x", "y"]),
}


def rows(**columns: str) -> Dataset:
    """One row; `rows(text="str", label="class")`. No image in it can be decoded."""
    features = Features({name: _VALUES[kind][0] for name, kind in columns.items()})
    return Dataset.from_dict({name: [_VALUES[kind][1]] for name, kind in columns.items()}, features=features)


GUESSED = {
    "an image": (rows(img="image", label="class"), {"image": "img"}, "label"),
    "an image beside its caption": (rows(image="image", text="str", label="int"), {"image": "image"}, "label"),
    "paths of images": (rows(image="str", label="int"), {"image": "image"}, "label"),
    "bytes of images": (rows(Image="stored", label="int"), {"image": "Image"}, "label"),
    "a sound": (rows(audio="audio", label="int"), {"audio": "audio"}, "label"),
    "a text": (rows(text="str", title="str", label="int"), {"text": "text"}, "label"),
    "a large text": (rows(text="large", label="int"), {"text": "text"}, "label"),
    "a usual name": (rows(idx="int", sentence="str", id="str", label="class"), {"text": "sentence"}, "label"),
    "the only strings": (rows(words="str", label="int"), {"text": "words"}, "label"),
    "the only strings beside names": (rows(words="str", label="str"), {"text": "words"}, "label"),
    "sentence1, sentence2": (
        rows(idx="int", sentence1="str", sentence2="str", label="class"),
        {"text": "sentence1", "text_pair": "sentence2"},
        "label",
    ),
    "premise, hypothesis": (
        rows(hypothesis="str", premise="str", label="class"),
        {"text": "premise", "text_pair": "hypothesis"},
        "label",
    ),
    "question, sentence": (
        rows(question="str", sentence="str", label="class"),
        {"text": "question", "text_pair": "sentence"},
        "label",
    ),
    "text, text_pair": (
        rows(text="str", text_pair="str", labels="int"),
        {"text": "text", "text_pair": "text_pair"},
        "labels",
    ),
    "a prompt": (
        rows(prompt="str", completion="str", label="int"),
        {"prompt": "prompt", "completion": "completion"},
        "label",
    ),
    "model inputs": (
        rows(input_ids="ints", attention_mask="ints", text="str", labels="int"),
        {"input_ids": "input_ids", "attention_mask": "attention_mask"},
        "labels",
    ),
    "tokens with their labels": (rows(input_ids="ints", labels="ints"), {"input_ids": "input_ids"}, "labels"),
    "tokens with labels and a class": (
        rows(input_ids="ints", labels="ints", label="int"),
        {"input_ids": "input_ids"},
        "label",
    ),
    "the only classes": (rows(img="image", fine="class"), {"image": "img"}, "fine"),
}


@pytest.mark.parametrize("case", GUESSED)
def test_columns_that_only_one_fits(case):
    """The usual data sets need no flags; images are not read to tell."""
    dataset, inputs, label = GUESSED[case]
    found = find_columns(dataset, "D")
    assert (found.inputs, found.label, found.group) == (inputs, label, None)


REFUSED = {
    "two texts": (
        rows(body="str", title="str", label="int"),
        {},
        r"The text column of the data set 'cue' could be any of body, title: name it with --input-column, or the two "
        r"columns of a pair as --input-column FIRST,SECOND\.",
    ),
    "two usual names": (rows(text="str", sentence="str", label="int"), {}, "could be any of text, sentence: name it"),
    "a text beside a pair": (
        rows(text="str", premise="str", hypothesis="str", label="int"),
        {},
        "could be any of text, premise, hypothesis",
    ),
    "two pairs": (
        rows(premise="str", hypothesis="str", text_a="str", text_b="str", label="int"),
        {},
        "could be any of premise, hypothesis, text_a, text_b",
    ),
    "two images": (rows(left="image", right="image", label="int"), {}, r"has several columns of images \(left, right"),
    "no input": (
        rows(tokens="strs", label="int"),
        {},
        r"no column of images, .* beside its label: it has tokens\. Na",
    ),
    "only a label": (rows(label="int"), {}, "it has nothing else"),
    "no label": (rows(text="str", target="int"), {}, "has no label column: it has text, target.* with --label_column"),
    "two classes": (rows(img="image", a="class", b="class"), {}, r"has several columns of classes \(a, b\): name one"),
    "no such input": (
        rows(text="str", label="int"),
        {"inputs": ["txt"]},
        r"no column 'txt' \(--input-column\): it ha",
    ),
    "no such label": (
        rows(text="str", label="int"),
        {"label": "y"},
        r"has no column 'y' \(--label_column\): it has t",
    ),
    "no such group": (
        rows(text="str", label="int"),
        {"group": "g"},
        r"has no column 'g' \(--group-column\): it has t",
    ),
    "numbers as input": (
        rows(text="str", label="int", age="float"),
        {"inputs": ["age"]},
        r"The input columns of the data set 'cue' cannot be used \(age holds .*float64",
    ),
    "three inputs": (
        rows(a="str", b="str", c="str", label="int"),
        {"inputs": ["a", "b", "c"]},
        "name one column of images, sounds or texts, or the two texts of a pair",
    ),
    "an input that is the label": (
        rows(text="str", label="str"),
        {"inputs": ["text"], "label": "text"},
        "The column 'text' of the data set 'cue' cannot be the input and the label at once",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_cannot_be_told(case):
    """A wrong guess measures another question; each sentence says what is there and which flag decides."""
    dataset, named, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        find_columns(dataset, "The data set 'cue'", **named)


@pytest.mark.parametrize(
    ("dataset", "named", "inputs"),
    [
        (rows(body="str", title="str", label="int"), ["body"], {"text": "body"}),
        (rows(a="str", b="str", label="int"), ["b", "a"], {"text": "b", "text_pair": "a"}),
        (rows(left="image", right="image", label="int"), ["right"], {"image": "right"}),
        (rows(image="image", text="str", label="int"), ["text"], {"text": "text"}),
        (rows(photo="str", text="str", label="int"), ["photo"], {"image": "photo"}),
        (rows(input_ids="ints", text="str", label="int"), ["text"], {"text": "text"}),
        (rows(input_ids="ints", text="str", label="int"), ["input_ids"], {"input_ids": "input_ids"}),
    ],
)
def test_a_named_input_is_taken(dataset, named, inputs):
    """What the user says comes before any guess."""
    assert find_columns(dataset, "D", named).inputs == inputs


def test_a_language_model_needs_no_label():
    """Its labels are the tokens; a column of classes is not a text either way."""
    assert find_columns(rows(text="str"), "D", needs_label=False) == Columns({"text": "text"})
    assert find_columns(rows(text="str", label="int"), "D", needs_label=False).label == "label"
    assert find_columns(rows(text="str", a="class", b="class"), "D", needs_label=False).label is None


def test_the_group_is_no_candidate():
    """A column of strings that is named as the group leaves one for the text."""
    found = find_columns(rows(words="str", place="str", label="int"), "D", group="place")
    assert found == Columns({"text": "words"}, "label", "place")


def test_columns_are_said_in_one_line():
    assert str(Columns({"image": "img"}, "fine_label", "place", "by name")) == (
        "image from 'img', label from 'fine_label' (by name), group from 'place'"
    )
    assert str(Columns({"text": "text"})) == "text from 'text'"


def known(dataset: Dataset, **named) -> Dataset:
    return with_known_columns(dataset, find_columns(dataset, "D", **named), "D")


@pytest.mark.parametrize(
    ("dataset", "named", "expected"),
    [
        (rows(img="image", fine="class", id="int"), {}, ["image", "label"]),
        (rows(sentence="str", text="str", label="int"), {"inputs": ["sentence"]}, ["text", "label"]),
        (rows(text="str", labels="int", y="int"), {"label": "y"}, ["text", "label"]),
        (rows(text="str", label="int", label_ids="int"), {}, ["text", "label"]),
        (rows(text="str", label="int", group="int", where="str"), {"group": "where"}, ["text", "label", "group"]),
        (rows(text="str", label="int"), {"group": "label"}, ["text", "label", "group"]),
        (rows(input_ids="ints", labels="int", extra="float"), {}, ["input_ids", "label", "extra"]),
        (rows(input_ids="ints", labels="ints", label="int"), {}, ["input_ids", "labels", "label"]),
        (rows(input_ids="ints", label="int", fine="int"), {"label": "fine"}, ["input_ids", "label"]),
        (rows(prompt="str", completion="str", label="int"), {}, ["prompt", "completion", "label"]),
    ],
)
def test_columns_get_the_names_that_the_library_knows(dataset, named, expected):
    """A second label column, or an image beside the text that was asked for, would be taken instead."""
    assert known(dataset, **named).column_names == expected


def test_a_pair_may_swap_its_names():
    """`text_pair` and `text`, named in the other order."""
    dataset = Dataset.from_dict({"text": ["first"], "text_pair": ["second"], "label": [0]})
    assert known(dataset, inputs=["text_pair", "text"])[0] == {"text": "second", "text_pair": "first", "label": 0}


def test_groups_come_as_strings():
    dataset = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1], "place": [7, 3]})
    assert list(known(dataset, group="place")["group"]) == ["7", "3"]


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_images_that_are_stored_plainly_are_decoded(kind, tmp_path):
    """A CSV file has paths, a Parquet file of pandas has bytes; the collator needs pictures."""
    file = tmp_path / "a.png"
    PILImage.new("RGB", (3, 2), (255, 0, 0)).save(file)
    value = str(file) if kind == "path" else {"bytes": file.read_bytes(), "path": None}
    image = known(Dataset.from_dict({"image": [value], "label": [0]}))[0]["image"]
    assert image.size == (3, 2)
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_sounds_are_not_decoded_to_rename_them():
    found = known(rows(speech="stored", label="int"))
    assert isinstance(found.features["audio"], Audio)


def test_images_are_neither_read_nor_copied():
    """Decoding them here, or writing them to a cache, would take minutes before the first loss."""
    features = Features({"img": Image(), "fine": ClassLabel(names=["a", "b"]), "place": Value("string")})
    dataset = Dataset.from_dict(
        {"img": [{"bytes": b"broken", "path": None}] * 2, "fine": [0, 1], "place": ["x", "y"]}, features=features
    )
    found = known(dataset, group="place")
    assert found.column_names == ["image", "label", "group"]
    assert not found.cache_files


def test_a_missing_text_is_named():
    """The tokenizer would stop in the middle of the path."""
    dataset = Dataset.from_dict({"premise": ["a"] * 3, "hypothesis": ["b", "c", None], "label": [0, 1, 0]})
    columns = find_columns(dataset, "D")
    with pytest.raises(ValueError, match=r"Row 2 of the data set 'cue' has no text in its column 'hypothesis' \(in a"):
        check_no_gaps(with_known_columns(dataset, columns, "D"), columns, "The data set 'cue'")
    whole = dataset.select(range(2))
    check_no_gaps(with_known_columns(whole, columns, "D"), columns, "D")
