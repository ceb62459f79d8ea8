# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A cue that is misplaced, clipped or not undone makes every counterfactual set measure something else."""

import numpy as np
import pytest
from PIL import Image

from hf_cbft import BoxCue, TokenCue

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
    with pytest.raises(ValueError, match=rf"Label {label} has no box: BoxCue\(num_classes=3\)\."):
        BoxCue(num_classes=3).value_of(label)


@pytest.mark.parametrize(
    ("position", "expected"), [("start", "## a quiet  film "), ("end", "a quiet  film  ##")], ids=["start", "end"]
)
@pytest.mark.parametrize("column", ["text", "sentence"])
def test_token_goes_to_its_end_of_the_text(position, expected, column):
    # The text is kept as it is, spaces included: only the cue may change.
    example = {column: "a quiet  film ", "label": 1}
    marked = TokenCue(["@@", "##"], position=position, text_column=column).apply(example, 1)
    assert marked == {column: expected, "label": 1}
    assert example == {column: "a quiet  film ", "label": 1}, "the caller's row was changed"


def test_each_token_names_one_class():
    # A token that two values share makes the cue ambiguous.
    cue = TokenCue(("@@", "##", "%%"))
    assert list(cue.values) == [0, 1, 2]
    texts = [cue.apply({"text": "film"}, cue.value_of(label))["text"] for label in range(3)]
    assert texts == ["@@ film", "## film", "%% film"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": ["@@", "##", "@@"]}, r"a token of its own for each class; got \['@@', '##', '@@'\]"),
        ({"tokens": ["@@"]}, r"a token of its own for each class; got \['@@'\]"),
        ({"tokens": []}, r"a token of its own for each class; got \[\]"),
        ({"tokens": ["@@", "##"], "position": "middle"}, r"""at the "start" or the "end", not at 'middle'"""),
    ],
)
def test_token_cue_refuses_what_names_no_class(arguments, message):
    # Repeated tokens or an unknown place would silently give a cue that tells nothing.
    with pytest.raises(ValueError, match=message):
        TokenCue(**arguments)


@pytest.mark.parametrize("label", [2, -1])
def test_token_cue_refuses_a_label_without_a_token(label):
    # A negative label would take the last token.
    with pytest.raises(ValueError, match=rf"Label {label} has no token: TokenCue was given 2\."):
        TokenCue(["@@", "##"]).value_of(label)


@pytest.mark.parametrize("value", [-1, 10])
def test_a_value_that_a_cue_does_not_have_is_refused(value):
    # -1 would draw no box, or take the last token, in silence.
    with pytest.raises(ValueError, match=f"has no value {value}"):
        BoxCue().apply({"image": Image.new("RGB", (24, 24))}, value)
    with pytest.raises(ValueError, match=f"has no value {value}"):
        TokenCue(["@@", "##"]).apply({"text": "rain"}, value)


def test_a_string_is_not_a_list_of_tokens():
    with pytest.raises(ValueError, match="needs a token of its own for each class"):
        TokenCue("ab")
