# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The four sets decide which attribute a model is said to rely on: what differs between them must be the cue alone."""

import io
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from scipy.stats import chi2_contingency, chisquare

from hf_cbft import BoxCue, TokenCue, make_counterfactuals
from hf_cbft.data.counterfactuals import add_cue, carries_cue
from hf_cbft.data.sentences import generate_sentences

SETS = ["no_cue", "cue", "rand_cue", "rand_input"]
TOKENS = ["@@", "##", "%%", "&&"]
ROWS, CLASSES = 600, 10


def coded_images(rows: int, classes: int, label: str = "label") -> Dataset:
    """8x8 images whose colour is the row's number: the number survives under any box."""
    images = [PILImage.new("RGB", (8, 8), (row // 256, row % 256, 100)) for row in range(rows)]
    features = Features({"image": Image(), label: ClassLabel(num_classes=classes)})
    return Dataset.from_dict({"image": images, label: [row % classes for row in range(rows)]}, features=features)


def row_number(image: PILImage.Image) -> int:
    red, green, _ = image.getpixel((0, 0))
    return 256 * red + green


def box_value(image: PILImage.Image) -> int:
    """The place of the box, read from the pixels."""
    pixels = np.asarray(image)
    rows, columns = np.nonzero((pixels != pixels[0, 0]).any(axis=-1))
    return 9 if len(rows) == 0 else int(3 * (rows[0] * 3 // 8) + columns[0] * 3 // 8)


def token_value(text: str) -> int:
    return TOKENS.index(text.split(" ", 1)[0])


def without_token(text: str) -> str:
    return text.split(" ", 1)[1]


def content(dataset: Dataset) -> list[tuple]:
    """Each row as something that can be compared and counted."""
    return [
        tuple(value.tobytes() if isinstance(value, PILImage.Image) else value for _, value in sorted(row.items()))
        for row in dataset
    ]


def agreement(values: list[int], labels: list[int]) -> float:
    return float(np.mean(np.asarray(values) == np.asarray(labels)))


def assert_independent(one: list[int], other: list[int], classes: int) -> None:
    table = np.zeros((classes, classes))
    np.add.at(table, (one, other), 1)
    assert chi2_contingency(table).pvalue > 1e-3
    share = 1 / classes
    assert agreement(one, other) == pytest.approx(share, abs=4 * (share * (1 - share) / len(one)) ** 0.5)


def assert_uniform(values: list[int], classes: int) -> None:
    assert chisquare(np.bincount(values, minlength=classes)).pvalue > 1e-3


@pytest.fixture(scope="module")
def images() -> Dataset:
    return coded_images(ROWS, CLASSES)


@pytest.fixture(scope="module")
def image_sets(images) -> DatasetDict:
    return make_counterfactuals(images, BoxCue(), seed=0)


@pytest.fixture(scope="module")
def texts() -> Dataset:
    return generate_sentences(ROWS, seed=1)


@pytest.fixture(scope="module")
def text_sets(texts) -> DatasetDict:
    return make_counterfactuals(texts, TokenCue(TOKENS), seed=0)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_four_sets_of_the_same_shape(kind, request):
    # Class names that get lost cannot be matched to the model's id2label; a shorter set has another accuracy.
    dataset, sets = request.getfixturevalue(f"{kind}s"), request.getfixturevalue(f"{kind}_sets")
    assert isinstance(sets, DatasetDict)
    assert list(sets) == SETS
    for name in SETS:
        assert len(sets[name]) == len(dataset)
        assert sets[name].features == dataset.features
    assert content(sets["no_cue"]) == content(dataset)


@pytest.mark.parametrize("name", ["no_cue", "cue", "rand_cue"])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_labels_and_inputs_stay_under_the_cue(kind, name, request):
    # An intervention on the cue that also moves the input or the label measures both.
    dataset, rows = request.getfixturevalue(f"{kind}s"), request.getfixturevalue(f"{kind}_sets")[name]
    assert list(rows["label"]) == list(dataset["label"])
    if kind == "image":
        assert [row_number(image) for image in rows["image"]] == list(range(ROWS))
    else:
        bare = list(rows["text"]) if name == "no_cue" else [without_token(text) for text in rows["text"]]
        assert bare == list(dataset["text"])


@pytest.mark.parametrize("name", ["cue", "rand_input"])
def test_the_cue_names_the_label(name, image_sets, text_sets):
    # In these two sets a model that reads the cue alone must score 1.
    rows = image_sets[name]
    assert [box_value(image) for image in rows["image"]] == list(rows["label"])
    rows = text_sets[name]
    assert [token_value(text) for text in rows["text"]] == list(rows["label"])


def test_rand_cue_is_uniform_and_tells_nothing_about_the_label(images, image_sets, texts, text_sets):
    # Any remaining link between cue and label leaves a cue-only model above 1 / K.
    boxes = [box_value(image) for image in image_sets["rand_cue"]["image"]]
    assert_uniform(boxes, CLASSES)
    assert_independent(boxes, list(images["label"]), CLASSES)
    tokens = [token_value(text) for text in text_sets["rand_cue"]["text"]]
    assert_uniform(tokens, len(TOKENS))
    assert_independent(tokens, list(texts["label"]), len(TOKENS))


def test_rand_input_shows_another_drawn_row_under_its_own_label(images, image_sets):
    # If the image still told the label, a model that ignores the cue would score above 1 / K.
    rows = image_sets["rand_input"]
    assert list(rows["label"]) == list(images["label"]), "the labels moved with the inputs"
    sources = [row_number(image) for image in rows["image"]]
    assert_uniform([source * 10 // ROWS for source in sources], 10)
    assert_independent([source % CLASSES for source in sources], list(rows["label"]), CLASSES)
    # Drawn with replacement: 1 - 1/e of the rows appear at all.
    assert len(set(sources)) / ROWS == pytest.approx(1 - np.exp(-1), abs=0.06)


def test_rand_input_of_text_is_a_sentence_of_the_set(texts, text_sets):
    # Mixed-up words instead of a drawn sentence would be inputs that no model has met.
    label_of = dict(zip(texts["text"], texts["label"], strict=True))
    rows = text_sets["rand_input"]
    assert list(rows["label"]) == list(texts["label"])
    sources = [label_of[without_token(text)] for text in rows["text"]]
    assert_uniform(sources, len(TOKENS))
    assert_independent(sources, list(rows["label"]), len(TOKENS))


def test_the_two_random_sets_draw_apart(image_sets):
    # One draw used for both would couple the random cue to the random input.
    boxes = [box_value(image) for image in image_sets["rand_cue"]["image"]]
    sources = [row_number(image) * CLASSES // ROWS for image in image_sets["rand_input"]["image"]]
    assert_independent(boxes, sources, CLASSES)


@pytest.mark.parametrize("order_seed", [3, 4])
def test_row_order_does_not_matter(order_seed, images, image_sets):
    # Two models evaluated on differently ordered copies would meet different sets.
    order = np.random.default_rng(order_seed).permutation(ROWS)
    shuffled = make_counterfactuals(images.select(order), BoxCue(), seed=0)
    for name in SETS:
        before, after = content(image_sets[name]), content(shuffled[name])
        assert Counter(after) == Counter(before)
        assert after == [before[index] for index in order], f"{name}: a row drew anew"


def test_row_order_does_not_matter_for_repeated_texts():
    # Equal rows have no order of their own: the draw may not depend on which of them comes first.
    rows = Dataset.from_dict({"text": ["a", "b", "a", "c", "a", "b"] * 5, "label": [0, 1, 2, 3, 0, 1] * 5})
    order = np.random.default_rng(0).permutation(len(rows))
    one, other = (make_counterfactuals(r, TokenCue(TOKENS)) for r in (rows, rows.select(order)))
    for name in SETS:
        assert Counter(content(one[name])) == Counter(content(other[name]))


@pytest.mark.parametrize("name", ["rand_cue", "rand_input"])
def test_the_seed_decides_the_draws(name, texts, text_sets):
    # The same seed must give the same sets on every machine, another seed an independent repetition.
    again = make_counterfactuals(texts, TokenCue(TOKENS), seed=0)
    assert content(again[name]) == content(text_sets[name])
    other = make_counterfactuals(texts, TokenCue(TOKENS), seed=1)
    same = np.mean([a == b for a, b in zip(content(other[name]), content(text_sets[name]), strict=True)])
    assert same < 0.35, "about 1 / K of the rows may agree by chance"
    assert content(other["cue"]) == content(text_sets["cue"])


@pytest.mark.parametrize("layout", [None, "numpy", "torch"])
def test_the_draws_depend_on_the_rows_not_on_their_format(layout, texts, text_sets):
    # A format chosen for training would otherwise give the same rows another evaluation set.
    sets = make_counterfactuals(texts.with_format(layout), TokenCue(TOKENS), seed=0)
    for name in SETS:
        assert content(sets[name].with_format(None)) == content(text_sets[name])


def test_images_in_a_list_do_not_spoil_the_draws():
    # An object's address in its `repr` makes every call a new draw.
    features = Features({"views": List(Image()), "text": Value("string"), "label": ClassLabel(num_classes=4)})
    views = [[PILImage.new("RGB", (2, 2), (row, 0, 0))] for row in range(24)]
    rows = Dataset.from_dict({"views": views, "text": ["film"] * 24, "label": [0, 1, 2, 3] * 6}, features=features)
    one, other = (list(make_counterfactuals(rows, TokenCue(TOKENS))["rand_cue"]["text"]) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("encoding", ["PNG", "JPEG"])
def test_inputs_are_not_compressed_again(encoding):
    # A model could then tell `rand_input` from the other sets by its JPEG noise.
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(12):
        buffer = io.BytesIO()
        PILImage.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, encoding)
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    features = Features({"image": Image(), "label": ClassLabel(num_classes=4)})
    rows = Dataset.from_dict({"image": encoded, "label": [0, 1, 2, 3] * 3}, features=features)
    sets = make_counterfactuals(rows, BoxCue(num_classes=4))
    originals = [np.asarray(image) for image in rows["image"]]
    for name in SETS:
        for image in sets[name]["image"]:
            changed = min((np.asarray(image) != original).any(axis=-1).sum() for original in originals)
            assert changed <= 4, f"{name}: more than the 2x2 box differs from every input"


def test_the_types_of_the_columns_stay():
    # Sets that are saved beside the clean one must concatenate with it.
    features = Features({"text": Value("large_string"), "score": Value("float16"), "label": Value("int8")})
    rows = Dataset.from_dict({"text": ["a", "b"], "score": [0.5, 1.0], "label": [0, 1]}, features=features)
    for name, changed in make_counterfactuals(rows, TokenCue(TOKENS)).items():
        assert changed.features == features, name


class WordCue:
    """A user's own: no base class, values that are words, a column of its own."""

    values = ("north", "south", "west")

    def value_of(self, label: int) -> str:
        return self.values[label]

    def apply(self, example: dict, value: str) -> dict:
        return {**example, "hint": value}


def test_any_object_with_values_value_of_and_apply_is_a_cue():
    # Users with cues of their own are promised the same sets.
    count = 300
    rows = Dataset.from_dict(
        {
            "text": [f"row {i}" for i in range(count)],
            "hint": [""] * count,
            "label": [i % 3 for i in range(count)],
        }
    )
    sets = make_counterfactuals(rows, WordCue(), seed=5)
    named = [WordCue.values[label] for label in rows["label"]]
    assert list(sets["no_cue"]["hint"]) == [""] * count
    assert list(sets["cue"]["hint"]) == named
    assert list(sets["rand_input"]["hint"]) == named
    drawn = [WordCue.values.index(hint) for hint in sets["rand_cue"]["hint"]]
    assert_uniform(drawn, 3)
    assert_independent(drawn, list(rows["label"]), 3)
    assert list(sets["rand_cue"]["text"]) == list(rows["text"])


def test_none_may_be_a_value_of_a_cue():
    # A cue that is there or not has a value for "not there", which its `apply` must set too.
    class RemovableCue(WordCue):
        values = (None, "south", "west")

        def apply(self, example: dict, value: str | None) -> dict:
            return {**example, "hint": value or "removed"}

    rows = Dataset.from_dict({"text": ["a", "b", "c"], "hint": ["north"] * 3, "label": [0, 1, 2]})
    sets = make_counterfactuals(rows, RemovableCue())
    assert list(sets["cue"]["hint"]) == ["removed", "south", "west"]


@pytest.mark.parametrize("column", ["label", "labels", "label_ids"])
def test_each_label_column_is_carried_over(column):
    # The label of `rand_input` is written to the column that the set has.
    rows = coded_images(24, 4, label=column)
    sets = make_counterfactuals(rows, BoxCue(num_classes=4))
    for name in SETS:
        assert sets[name].column_names == rows.column_names
        assert list(sets[name][column]) == list(rows[column])


@pytest.mark.parametrize("make", [make_counterfactuals, add_cue])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": [], "label": []}, r"The data set is empty\."),
        (
            {"text": ["a"], "target": [0]},
            r"The data set has no label column: it has text, target, and one of labels, label, label_ids is needed\.",
        ),
        ({"text": ["a", "b"], "label": [0, 4]}, r"Label 4 has no token: TokenCue names 4 classes\."),
        ({"text": ["a", "b"], "label": [0, -1]}, r"The data set has the label -1"),
        ({"text": ["a"], "label": [0.5]}, r"'label' of the data set does not hold one class"),
    ],
    ids=["empty", "no label", "beyond", "negative", "regression"],
)
def test_sets_that_no_cue_fits_are_refused(make, columns, message):
    # A row with no value of its own would be given another class's cue.
    with pytest.raises(ValueError, match=message):
        make(Dataset.from_dict(columns), TokenCue(TOKENS))


@pytest.mark.parametrize("make", [make_counterfactuals, add_cue])
def test_rows_that_are_no_data_set_are_refused(make):
    # A list of rows has no columns to write to.
    with pytest.raises(TypeError, match=r"The data set is a list, and a cue is set in a datasets\.Dataset: make one"):
        make([{"text": "a", "label": 0}], TokenCue(TOKENS))


@pytest.fixture(scope="module")
def thousand() -> Dataset:
    return generate_sentences(1000, seed=2)


def carried(rows: Dataset) -> list[bool]:
    return [text.split(" ", 1)[0] in TOKENS for text in rows["text"]]


@pytest.mark.parametrize(("share", "tolerance"), [(0.0, 0), (1.0, 0), (0.9, 38), (0.25, 55)])
def test_add_cue_marks_the_share(share, tolerance, thousand):
    # The share is the strength of the shortcut that a pretrained model learns. Tolerance: four standard errors.
    rows = add_cue(thousand, TokenCue(TOKENS), share=share, seed=0)
    has = carried(rows)
    assert abs(sum(has) - 1000 * share) <= tolerance
    assert list(rows["label"]) == list(thousand["label"])
    assert rows.features == thousand.features
    for before, after, marked, label in zip(thousand["text"], rows["text"], has, thousand["label"], strict=True):
        assert after == (f"{TOKENS[label]} {before}" if marked else before)


def test_add_cue_marks_every_class_alike(thousand):
    # A share that depends on the class makes "no cue" itself a cue.
    has = carried(add_cue(thousand, TokenCue(TOKENS), share=0.5))
    table = np.zeros((2, len(TOKENS)))
    np.add.at(table, (np.asarray(has, int), list(thousand["label"])), 1)
    assert chi2_contingency(table).pvalue > 1e-3


def test_add_cue_depends_on_seed_and_rows_alone(thousand):
    # Runs that are compared must have trained on the same marked rows.
    first = content(add_cue(thousand, TokenCue(TOKENS), share=0.5, seed=3))
    assert content(add_cue(thousand, TokenCue(TOKENS), share=0.5, seed=3)) == first
    order = np.random.default_rng(0).permutation(1000)
    shuffled = content(add_cue(thousand.select(order), TokenCue(TOKENS), share=0.5, seed=3))
    assert shuffled == [first[index] for index in order]
    other = content(add_cue(thousand, TokenCue(TOKENS), share=0.5, seed=4))
    assert 0.4 < np.mean([a == b for a, b in zip(first, other, strict=True)]) < 0.6


def test_add_cue_draws_on_images_too():
    # The image's bytes are the row's content: equal labels must not mean equal draws.
    rows = coded_images(100, 4)
    marked = add_cue(rows, BoxCue(num_classes=4), share=0.5)
    values = [box_value(image) for image in marked["image"]]
    assert {value for value, label in zip(values, rows["label"], strict=True) if value != label} == {9}
    assert 30 <= values.count(9) <= 70
    assert [row_number(image) for image in marked["image"]] == list(range(100))


@pytest.mark.parametrize("layout", [None, "numpy"])
def test_carries_cue_tells_the_rows_that_add_cue_marks(layout, thousand):
    # The rest of the rows is trained on without the cue: one that is taken for such and has it spoils the share.
    rows = thousand.with_format(layout)
    carries = carries_cue(rows, 0.6, seed=5)
    assert carries.dtype == bool
    assert carries.tolist() == carried(add_cue(rows, TokenCue(TOKENS), share=0.6, seed=5))
    assert not carries_cue(rows, 0.0).any()
    assert carries_cue(rows, 1.0).all()


def test_the_drawn_rows_are_those_of_earlier_versions():
    # Models that were trained on a share must be comparable with those trained later.
    rows = Dataset.from_dict({"text": [f"row {row}" for row in range(16)], "label": [0, 1, 2, 3] * 4})
    assert np.flatnonzero(carries_cue(rows, 0.5)).tolist() == [0, 3, 4, 6, 7, 8, 11, 15]
    drawn = make_counterfactuals(rows, TokenCue(TOKENS))["rand_cue"]["text"]
    assert [token_value(text) for text in drawn] == [1, 2, 2, 2, 3, 2, 0, 1, 0, 3, 0, 3, 1, 3, 0, 1]


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_carries_cue_refuses_what_is_no_share(share, thousand):
    with pytest.raises(ValueError, match=rf"The cue's share is {share}; give a fraction between 0 and 1\."):
        carries_cue(thousand, share)
    with pytest.raises(ValueError, match=r"The data set is empty\."):
        carries_cue(Dataset.from_dict({"text": [], "label": []}), 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_add_cue_refuses_what_is_no_share(share, thousand):
    # 90 instead of 0.9 would mark every row.
    with pytest.raises(ValueError, match=rf"The cue's share is {share}; give a fraction between 0 and 1\."):
        add_cue(thousand, TokenCue(TOKENS), share=share)
