# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A cue that is misplaced, clipped or not undone makes every counterfactual set measure something else."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image as ImageFeature, Value
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

from hf_cbft.data.counterfactuals import _content, _random_values, make_counterfactuals
from hf_cbft.data.cues import BoxCue, ColorBoxCue, DominoCue
from hf_cbft.data.text_cues import StyleCue, TokenCue

SIZES = [(24, 24), (32, 32), (50, 37), (37, 50), (224, 224)]


def noise_image(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """No pixel is as bright as the default box."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8))


def changed_pixels(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before) != np.asarray(after)).any(axis=-1)


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", range(9))
def test_box_is_whole_and_in_the_middle_of_its_cell(size, value):
    # A box that leaves its cell overlaps another value's, or is clipped: two values look alike.
    image = noise_image(size)
    boxed = BoxCue().apply({"image": image}, value)["image"]
    mask = changed_pixels(image, boxed)
    left, top, right, bottom = bounds(mask)
    side = right - left
    assert bottom - top == side
    assert mask.sum() == side * side, "a hole in the box, or a changed pixel outside it"
    assert abs(side - min(size) / 8) <= 0.5, "not an eighth of the shorter side"
    assert (np.asarray(boxed)[mask] == 255).all()
    row, column = divmod(value, 3)
    for low, high, cell, length in ((left, right, column, size[0]), (top, bottom, row, size[1])):
        assert cell * length / 3 <= low
        assert high <= (cell + 1) * length / 3
        assert abs((low + high) / 2 - (cell + 0.5) * length / 3) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_ten_values_give_ten_images_and_the_last_is_the_input(size):
    # Values that look the same cannot name ten classes; value 9 is the place "nowhere".
    image = noise_image(size)
    images = [BoxCue().apply({"image": image}, value)["image"] for value in range(10)]
    assert len({boxed.tobytes() for boxed in images}) == 10
    assert images[9].tobytes() == image.tobytes()


@pytest.mark.parametrize("value", [0, 4, 9])
def test_box_leaves_the_example_it_was_given_alone(value):
    # Drawing on the caller's image would put the cue on the clean set as well.
    image = noise_image((24, 24))
    before = image.tobytes()
    example = {"image": image, "label": 3, "name": "row"}
    boxed = BoxCue().apply(example, value)
    assert image.tobytes() == before
    assert example == {"image": image, "label": 3, "name": "row"}
    assert boxed["image"] is not image
    assert {**boxed, "image": None} == {"image": None, "label": 3, "name": "row"}


@pytest.mark.parametrize("side", [1, 2, 7])
def test_box_takes_color_size_and_column(side):
    # Arguments that are ignored would show the default box under another name.
    image = noise_image((32, 32))
    boxed = BoxCue(size=side, color=(255, 0, 210), image_column="picture").apply({"picture": image}, 8)["picture"]
    mask = np.asarray(boxed)[..., 2] == 210
    assert mask.sum() == side * side
    assert (np.asarray(boxed)[mask] == (255, 0, 210)).all()
    assert np.array_equal(np.asarray(boxed)[~mask], np.asarray(image)[~mask])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
@pytest.mark.parametrize("value", [0, 9])
def test_box_turns_every_image_into_rgb(mode, value):
    # A greyscale image cannot hold a coloured box; value 9 in another mode would give the value away.
    image = noise_image((24, 24)).convert(mode)
    boxed = BoxCue(color=(255, 0, 0)).apply({"image": image}, value)["image"]
    assert boxed.mode == "RGB"
    mask = changed_pixels(image.convert("RGB"), boxed)
    assert mask.sum() == (9 if value == 0 else 0)
    assert image.mode == mode


def test_smallest_image_still_shows_the_box():
    # An eighth of a small side rounds to 0: the cue would be invisible.
    image = Image.new("RGB", (3, 3))
    assert len({BoxCue().apply({"image": image}, value)["image"].tobytes() for value in range(10)}) == 10


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_box_values_are_the_classes(num_classes):
    # `make_counterfactuals` draws from `values`: one too many or too few shifts the share of agreeing rows.
    cue = BoxCue(num_classes=num_classes)
    assert list(cue.values) == list(range(num_classes))
    assert [cue.value_of(label) for label in range(num_classes)] == list(range(num_classes))
    assert cue.value_of(np.int64(1)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, r"2 to 10 classes \(nine places, or no box\); got 1\."),
        ({"num_classes": 11}, r"2 to 10 classes \(nine places, or no box\); got 11\."),
        ({"size": 0}, r"The box is 0 pixels wide; give at least 1\."),
        ({"size": -2}, r"The box is -2 pixels wide"),
    ],
)
def test_box_refuses_what_it_cannot_draw(arguments, message):
    # Two classes would share a place, or the cue would not be there.
    with pytest.raises(ValueError, match=message):
        BoxCue(**arguments)


@pytest.mark.parametrize("label", [3, -1])
def test_box_refuses_a_label_without_a_place(label):
    # Such a row would carry another class's cue, or none.
    with pytest.raises(ValueError, match=rf"Label {label} has no box: BoxCue names 3 classes\."):
        BoxCue(num_classes=3).value_of(label)


@pytest.mark.parametrize("value", [-1, 10])
def test_a_value_that_a_box_does_not_have_is_refused(value):
    # -1 would draw no box, in silence.
    with pytest.raises(ValueError, match=f"BoxCue of 10 classes has no value {value}"):
        BoxCue().apply({"image": Image.new("RGB", (24, 24))}, value)


@pytest.mark.parametrize(("cue", "grid"), [(BoxCue, "3x3"), (ColorBoxCue, "5x2")])
@pytest.mark.parametrize("value", [0, 9])
def test_box_that_fills_more_than_its_cell_is_refused(cue, grid, value):
    # Two places would overlap, or the box be clipped. Value 9 of `BoxCue` draws none, but belongs to the same set.
    fitting = {"3x3": 8, "5x2": 4}[grid]
    example = {"image": Image.new("RGB", (24, 26))}
    cue(size=fitting).apply(example, value)
    side = fitting + 1
    message = (
        rf"The box of {cue.__name__} is {side}x{side} pixels and does not fit into a cell of the {grid} grid on an "
        r"image of 24x26: give a smaller size or larger images\."
    )
    with pytest.raises(ValueError, match=message):
        cue(size=side).apply(example, value)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [0, 4, 9, 37, 65, 99])
def test_colored_box_shows_both_digits(size, value):
    # The place is the last digit, the hue the first: a box elsewhere or of another hue names another class.
    image = noise_image(size)
    boxed = ColorBoxCue().apply({"image": image}, value)["image"]
    mask = changed_pixels(image, boxed)
    left, top, right, bottom = bounds(mask)
    assert bottom - top == right - left
    assert mask.sum() == (right - left) ** 2
    row, column = divmod(value % 10, 5)
    assert column * size[0] / 5 <= left
    assert right <= (column + 1) * size[0] / 5
    assert row * size[1] / 2 <= top
    assert bottom <= (row + 1) * size[1] / 2
    hue, saturation, brightness = colorsys.rgb_to_hsv(*(part / 255 for part in boxed.getpixel((left, top))))
    assert hue == pytest.approx(value // 10 / 10, abs=1e-3)
    assert (saturation, brightness) == (1.0, 1.0)


def test_hundred_values_give_hundred_images():
    # Values that look the same cannot name classes, and one that draws nothing has no hue.
    image = noise_image((32, 32))
    images = {ColorBoxCue().apply({"image": image}, value)["image"].tobytes() for value in range(100)}
    assert len(images - {image.tobytes()}) == 100


@pytest.mark.parametrize("count", [1, 101])
def test_colored_box_refuses_what_it_cannot_draw(count):
    with pytest.raises(ValueError, match=rf"2 to 100 classes \(ten places in ten hues\); got {count}\."):
        ColorBoxCue(num_classes=count)
    with pytest.raises(ValueError, match=r"The box is 0 pixels wide"):
        ColorBoxCue(size=0)
    with pytest.raises(ValueError, match=r"Label 20 has no place on the grid: ColorBoxCue names 20 classes\."):
        ColorBoxCue(num_classes=20).value_of(20)


@pytest.mark.parametrize("cue", [BoxCue(), ColorBoxCue()])
def test_a_row_without_the_image_is_refused(cue):
    # A bare KeyError in the middle of a data set does not say which option names the column.
    name = type(cue).__name__
    message = rf"{name} sets the column 'image', but the row has img, label: name one of them with image_column\."
    with pytest.raises(ValueError, match=message):
        cue.apply({"img": None, "label": 0}, 0)
    with pytest.raises(TypeError, match=rf"{name} draws on PIL images, but the column 'image' holds a ndarray"):
        cue.apply({"image": np.zeros((8, 8, 3)), "label": 0}, 0)


def second_images(classes: int = 10, each: int = 3) -> dict[int, list[Image.Image]]:
    """Images of one colour, which stays when they are scaled: red tells the class, green which image of it."""
    return {k: [Image.new("RGB", (5, 7), (20 * k, 40 * i, 255)) for i in range(each)] for k in range(classes)}


def image_rows(images: list[Image.Image], classes: int) -> Dataset:
    features = Features({"image": ImageFeature(), "label": ClassLabel(num_classes=classes)})
    return Dataset.from_dict({"image": images, "label": [row % classes for row in range(len(images))]}, features)


@pytest.fixture(scope="module")
def clean() -> Dataset:
    return image_rows([noise_image((6, 9), seed) for seed in range(40)], 10)


@pytest.mark.parametrize("position", ["top", "bottom"])
def test_prepared_images_have_a_blank_half(position, clean):
    # Without it, rows with and without the cue would differ in size, and the cue would overwrite the image.
    prepared = DominoCue(second_images(), position=position).prepare(clean)
    assert prepared.features == clean.features
    assert list(prepared["label"]) == list(clean["label"])
    for before, after in zip(clean["image"], prepared["image"], strict=True):
        pixels = np.asarray(after)
        blank, own = (pixels[:9], pixels[9:]) if position == "top" else (pixels[9:], pixels[:9])
        assert pixels.shape == (18, 6, 3)
        assert not blank.any()
        assert np.array_equal(own, np.asarray(before))


def test_prepare_keeps_the_format(clean):
    # A set that was made for training would come back as Python objects.
    cue = DominoCue(second_images())
    assert cue.prepare(clean.with_format("numpy")).format["type"] == "numpy"
    assert np.array_equal(
        cue.prepare(clean.with_format("numpy"))[3]["image"], np.asarray(cue.prepare(clean)[3]["image"])
    )


@pytest.mark.parametrize("position", ["top", "bottom"])
def test_domino_shows_an_image_of_the_class(position, clean):
    # The half must show the class, the other half the row's image, and the caller's row stay without the cue.
    cue = DominoCue(second_images(), position=position)
    example = cue.prepare(clean)[2]
    before = example["image"].tobytes()
    changed = cue.apply(example, 7)
    pixels = np.asarray(changed["image"])
    half, own = (pixels[:9], pixels[9:]) if position == "top" else (pixels[9:], pixels[:9])
    assert half[0, 0, 0] == 140
    assert (half == half[0, 0]).all()
    assert np.array_equal(own, np.asarray(clean[2]["image"]))
    assert example["image"].tobytes() == before
    assert changed["label"] == example["label"]


def test_one_draw_serves_every_class_and_any_order(clean):
    # A draw that follows the value would change more than the class; one that follows the row's number its order.
    cue = DominoCue(second_images())
    rows = cue.prepare(clean)
    drawn = [[cue.apply(row, value)["image"].getpixel((0, 0))[1] // 40 for value in range(10)] for row in rows]
    assert all(len(set(of_row)) == 1 for of_row in drawn)
    assert {of_row[0] for of_row in drawn} == {0, 1, 2}, "an image that is never shown"
    order = np.random.default_rng(0).permutation(len(rows))
    again = [cue.apply(row, 0)["image"].getpixel((0, 0))[1] // 40 for row in rows.select(order)]
    assert again == [drawn[row][0] for row in order]


def test_a_second_data_set_is_what_its_classes_are(clean):
    # A data set with other column names, greyscale images and mixed classes, such as Fashion-MNIST's.
    grey = [Image.new("L", (28, 28), 10 * (row % 10) + 1) for row in range(20)]
    features = Features({"label": ClassLabel(num_classes=10), "img": ImageFeature()})
    second = Dataset.from_dict({"label": [row % 10 for row in range(20)], "img": grey}, features)
    cue = DominoCue(second.with_format("numpy"))
    example = cue.prepare(clean)[0]
    assert list(cue.values) == list(range(10))
    for value in range(10):
        assert cue.apply(example, value)["image"].getpixel((5, 8)) == (10 * value + 1,) * 3


@pytest.mark.parametrize("labels", ["named", "plain"])
def test_dominoes_of_other_class_counts_are_refused(labels, clean):
    # A class without images of its own has no cue.
    rows = clean if labels == "named" else clean.cast_column("label", Value("int64"))
    with pytest.raises(ValueError, match=r"The data set has 10 classes and the second data set of DominoCue 8: each"):
        DominoCue(second_images(8)).prepare(rows)
    with pytest.raises(ValueError, match=r"Label 8 has no image: DominoCue names 8 classes\."):
        DominoCue(second_images(8)).value_of(8)


def test_more_classes_on_top_are_refused_where_the_rows_name_theirs(clean):
    # `rand_cue` would show classes that no label has.
    with pytest.raises(ValueError, match=r"The data set has 10 classes and the second data set of DominoCue 12: each"):
        DominoCue(second_images(12)).prepare(clean)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, r"from 0 on and of at least two; it has 0\."),
        ({0: [Image.new("L", (2, 2))]}, r"from 0 on and of at least two; it has 1\."),
        ({0: [Image.new("L", (2, 2))], 2: [Image.new("L", (2, 2))]}, r"it has none of class 1\."),
        ({0: [], 1: [Image.new("L", (2, 2))]}, r"it has none of class 0\."),
        (Dataset.from_dict({"label": [0, 1], "text": ["a", "b"]}), r"no column of images: it has label, text\."),
        (Dataset.from_dict({"label": [], "image": []}), r"The second data set is empty\."),
        (Dataset.from_dict({"image": ["a"]}), r"The second data set has no label column"),
    ],
    ids=["nothing", "one class", "a gap", "no image", "no images", "empty", "no labels"],
)
def test_second_data_sets_that_name_no_classes_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        DominoCue(images)


def test_domino_refuses_rows_without_a_blank_half(clean):
    # It would overwrite half of an image that was not prepared, or stack on a row that has the cue.
    cue = DominoCue(second_images())
    message = r"found no blank half at the top of an image of 6x{}: give clean rows that its `prepare` made\."
    with pytest.raises(ValueError, match=message.format(10)):
        cue.apply({"image": noise_image((6, 10))}, 0)
    with pytest.raises(ValueError, match=message.format(9)):
        cue.apply({"image": Image.new("RGB", (6, 9))}, 0)
    with pytest.raises(ValueError, match=message.format(18)):
        cue.apply(cue.apply(cue.prepare(clean)[0], 0), 1)
    with pytest.raises(ValueError, match=r"""at the "top" or the "bottom", not at 'left'"""):
        DominoCue(second_images(), position="left")
    with pytest.raises(ValueError, match=r"The data set has no column 'image' \(image_column\): it has img, label\."):
        cue.prepare(clean.rename_column("image", "img"))


# What every cue claims about its counterfactual sets.

ROWS = 120


@dataclass
class Case:
    """A cue, clean rows for it, and `split`: (value, number of the clean row), read from a row that has the cue.

    `split` fails where anything but the cue differs from a clean row.
    """

    cue: object
    rows: Dataset
    split: Callable[[dict], tuple[int, int]]


def numbered_image(row: int) -> Image.Image:
    """Noise, but for the row's number in the corner, which no cue reaches."""
    image = noise_image((10, 12), row)
    image.putpixel((0, 0), (row, 0, 0))
    return image


def box_case(cue: BoxCue | ColorBoxCue, columns: int, rows: int, hues: int) -> Case:
    classes = len(cue.values)

    def split(row: dict) -> tuple[int, int]:
        number = row["image"].getpixel((0, 0))[0]
        mask = changed_pixels(numbered_image(number), row["image"])
        if not mask.any():
            return 9, number
        left, top, right, bottom = bounds(mask)
        assert (right - left, bottom - top, mask.sum()) == (1, 1, 1)
        red, green, blue = row["image"].getpixel((int(left), int(top)))
        hue = round(10 * colorsys.rgb_to_hsv(red, green, blue)[0]) if hues > 1 else 0
        return int(10 * hue + top * rows // 12 * columns + left * columns // 10), number

    return Case(cue, image_rows([numbered_image(row) for row in range(ROWS)], classes), split)


def domino_case() -> Case:
    cue = DominoCue(second_images())

    def split(row: dict) -> tuple[int, int]:
        pixels = np.asarray(row["image"])
        number = int(pixels[12, 0, 0])
        assert np.array_equal(pixels[12:], np.asarray(numbered_image(number)))
        assert (pixels[:12] == pixels[0, 0]).all()
        assert pixels[0, 0, 2] == 255
        return int(pixels[0, 0, 0]) // 20, number

    return Case(cue, cue.prepare(image_rows([numbered_image(row) for row in range(ROWS)], 10)), split)


def text_case(cue: TokenCue | StyleCue, read: Callable[[str], tuple[int, str]]) -> Case:
    texts = [f"row {row} tells  a long story " for row in range(ROWS)]

    def split(row: dict) -> tuple[int, int]:
        value, bare = read(row["text"])
        return value, texts.index(bare)

    return Case(cue, Dataset.from_dict({"text": texts, "label": [row % 4 for row in range(ROWS)]}), split)


def read_token(text: str) -> tuple[int, str]:
    token, bare = text.split(" ", 1)
    return ["@@", "##", "%%", "&&"].index(token), bare


def read_place(text: str) -> tuple[int, str]:
    assert text.count("@@ ") == 1
    return text.split().index("@@"), text.replace("@@ ", "")


def read_style(text: str) -> tuple[int, str]:
    if text.startswith("Well, "):
        return 3, text.removeprefix("Well, ")
    return (0, text) if text.endswith(" ") else (["!", "?"].index(text[-1]) + 1, text[:-1])


CASES = {
    "box": lambda: box_case(BoxCue(), 3, 3, 1),
    "colored box": lambda: box_case(ColorBoxCue(), 5, 2, 10),
    "domino": domino_case,
    "token": lambda: text_case(TokenCue(["@@", "##", "%%", "&&"]), read_token),
    "place of a token": lambda: text_case(TokenCue(["@@"], num_classes=4), read_place),
    "style": lambda: text_case(StyleCue(["{}", "{}!", "{}?", "Well, {}"]), read_style),
}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]()


@pytest.fixture(scope="module")
def sets(case):
    return make_counterfactuals(case.rows, case.cue, seed=0)


def split_rows(case: Case, rows: Dataset) -> tuple[list[int], list[int]]:
    values, numbers = zip(*map(case.split, rows), strict=True)
    return list(values), list(numbers)


def plain_content(rows: Dataset) -> list[dict]:
    return [{name: getattr(value, "tobytes", lambda v=value: v)() for name, value in row.items()} for row in rows]


def test_no_cue_equals_the_input(case, sets):
    assert plain_content(sets["no_cue"]) == plain_content(case.rows)


def test_cue_names_the_label_and_changes_nothing_else(case, sets):
    # Accuracy on it would otherwise fall for another reason than the cue.
    assert split_rows(case, sets["cue"]) == (list(case.rows["label"]), list(range(ROWS)))


def test_rand_cue_changes_the_cue_alone(case, sets):
    # An intervention on the cue that moves a pixel or a word beside it measures both.
    values, numbers = split_rows(case, sets["rand_cue"])
    assert numbers == list(range(ROWS))
    assert values == _random_values([_content(row) for row in case.rows], case.cue, 0)
    assert list(sets["rand_cue"]["label"]) == list(case.rows["label"])


def test_rand_input_keeps_the_cue_of_the_label(case, sets):
    # Only the cue may tell the label there.
    values, numbers = split_rows(case, sets["rand_input"])
    assert values == list(case.rows["label"]) == list(sets["rand_input"]["label"])
    assert np.mean(np.equal(numbers, range(ROWS))) < 0.1, "the inputs stayed with their labels"


def test_ten_thousand_random_values_tell_nothing_about_the_label(case):
    # Any remaining link leaves a model that reads the cue alone above 1 / K. The rows' labels are in their content.
    count, classes = 10_000, len(case.cue.values)
    labels = np.arange(count) % classes
    contents = [_content({"text": f"row {row}", "label": int(label)}) for row, label in enumerate(labels)]
    values = np.asarray(_random_values(contents, case.cue, seed=0))
    assert chisquare(np.bincount(values, minlength=classes)).pvalue > 1e-3
    # The digits of a hundred classes one by one: their table of 100 x 100 holds one row a cell.
    for part in [values] if classes <= 10 else [values // 10, values % 10]:
        table = np.zeros((part.max() + 1, classes))
        np.add.at(table, (part, labels), 1)
        assert chi2_contingency(table).pvalue > 1e-3
    own = np.asarray([case.cue.value_of(int(label)) for label in labels])
    share = 1 / classes
    assert np.mean(values == own) == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)
