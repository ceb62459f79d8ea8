# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded digits: if a part leaks into another, or a load differs from the last, no number can be compared."""

import sys

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from sklearn.datasets import load_digits as load_bundled

from hf_cbft.data.balancing import split_rows
from hf_cbft.data.digits import _PARTS, _SPLIT_SEED, load_digits

SIZES = {"pretrain": 1000, "finetune": 130, "validation": 130, "test": 537}


def pixels(rows: Dataset) -> np.ndarray:
    """(N, 24, 24, 3), uint8."""
    return np.stack([np.asarray(image) for image in rows["image"]])


@pytest.fixture(scope="module")
def digits() -> DatasetDict:
    return load_digits()


@pytest.fixture(scope="module")
def arrays(digits) -> dict[str, np.ndarray]:
    return {name: pixels(rows) for name, rows in digits.items()}


def rows_of_parts() -> dict[str, np.ndarray]:
    return split_rows(load_bundled().target, _PARTS, _SPLIT_SEED, rest="test")


def test_four_parts_of_the_documented_sizes(digits):
    # Published numbers are accuracies on these 537 test rows.
    assert {name: len(rows) for name, rows in digits.items()} == SIZES
    for rows in digits.values():
        assert rows.column_names == ["image", "label"]
        assert rows.features["label"].names == [str(digit) for digit in range(10)]


def test_parts_share_no_row_and_leave_none_out():
    # A test image that was trained on makes the accuracy worthless.
    parts = rows_of_parts()
    assert {name: len(rows) for name, rows in parts.items()} == SIZES
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1797))


def test_no_image_is_in_two_parts(arrays):
    # The same on what is loaded: scikit-learn's 1,797 images are all different.
    assert len({image.tobytes() for image in load_bundled().images}) == 1797
    assert len({image.tobytes() for part in arrays.values() for image in part}) == 1797


def test_each_class_has_its_share_in_each_part(digits):
    # With 13 rows a class, a part that lacks some of one would move the accuracy by itself.
    share = np.bincount(load_bundled().target) / 1797
    for name, rows in digits.items():
        counts = np.bincount(rows["label"], minlength=10)
        assert np.abs(counts - share * SIZES[name]).max() <= 2, name


def test_images_are_24x24_rgb_from_black_to_white(digits, arrays):
    # The demo's models take this size; a full stroke is white at full contrast.
    for name, rows in digits.items():
        assert {(image.mode, image.size) for image in rows["image"]} == {("RGB", (24, 24))}
        assert arrays[name].min() == 0
        assert arrays[name].max() == 255
        assert (arrays[name] == arrays[name][..., :1]).all(), "the digits are grey"


def test_images_are_the_bundled_ones_under_their_labels(digits, arrays):
    # Images and labels that are put in a different order still look like a data set.
    bundled = load_bundled()
    for name, rows in rows_of_parts().items():
        assert list(digits[name]["label"]) == bundled.target[rows].tolist()
        # Three pixels for one: the middle of each block is the bundled pixel.
        middle = arrays[name][:, 1::3, 1::3, 0].astype(float) / 255 * 16
        assert np.abs(middle - bundled.images[rows]).max() < 0.05
        # Between two middles the brightness goes over in thirds: blocks would be another data set.
        between = arrays[name][:, 1::3, 2:-1:3, 0].astype(float) / 255 * 16
        assert np.abs(between - (2 * middle[..., :-1] + middle[..., 1:]) / 3).max() < 0.1


def test_two_loads_are_identical(digits, arrays):
    # Every seed of the demo and every outside check loads the data anew.
    again = load_digits()
    for name, rows in again.items():
        assert np.array_equal(pixels(rows), arrays[name])
        assert list(rows["label"]) == list(digits[name]["label"])


@pytest.mark.parametrize("contrast", [0.5, 0.2])
def test_contrast_is_the_brightness_of_a_full_stroke(contrast, digits, arrays):
    # Weaker digits make the cue the easier attribute: the strength of the shortcut hangs on this number.
    weak = load_digits(contrast=contrast)
    for name in SIZES:
        weaker = pixels(weak[name])
        assert weaker.max() == round(contrast * 255)
        assert np.abs(weaker - contrast * arrays[name]).max() <= 1
        assert list(weak[name]["label"]) == list(digits[name]["label"])


def test_noise_is_fixed_and_of_the_given_size(arrays):
    # Noise drawn anew in each load would give the models that are compared different test sets.
    one, other = load_digits(contrast=0.5, noise=0.1), load_digits(contrast=0.5, noise=0.1)
    for name in SIZES:
        noisy = pixels(one[name])
        assert np.array_equal(noisy, pixels(other[name]))
        clean = 0.5 * arrays[name] / 255
        difference = noisy / 255 - clean
        # Where nothing is clipped: five standard deviations from black and white.
        unclipped = difference[clean > 0.45]
        assert unclipped.std() == pytest.approx(0.1, rel=0.05)
        assert abs(unclipped.mean()) < 0.005
        assert noisy.min() == 0, "what falls below black is clipped, and does not wrap around"
        assert np.abs(difference).max() < 0.7
        place = np.unravel_index((clean > 0.45).sum(axis=0).argmax(), clean.shape[1:])
        across = difference[(slice(None), *place)][clean[(slice(None), *place)] > 0.45]
        assert across.std() == pytest.approx(0.1, rel=0.3), "one pattern for all images"


@pytest.mark.parametrize(
    ("contrast", "noise"), [(0.0, 0.0), (-0.5, 0.0), (1.1, 0.0), (1.0, -0.1), (float("nan"), 0.0)]
)
def test_arguments_out_of_range_are_refused(contrast, noise):
    # Contrast 0 leaves no digit to learn; 255 instead of 1.0 leaves white squares.
    message = rf"Digits need a contrast in \(0, 1\] and noise >= 0; got {contrast} and {noise}\."
    with pytest.raises(ValueError, match=message):
        load_digits(contrast=contrast, noise=noise)


def test_missing_scikit_learn_gives_the_pip_line(monkeypatch):
    # It is an optional dependency: the first error a user of the demo can meet.
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'The digits come with scikit-learn: pip install "hf-cbft\[demo\]"'):
        load_digits()
