# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The background as a cue: it must never touch what tells the class."""

import numpy as np
import pytest
from PIL import Image as PILImage

from hf_cbft.data.backgrounds import BackgroundCue
from hf_cbft.data.digits import load_digits


@pytest.mark.parametrize("value", [0, 1])
def test_the_stroke_stays_and_its_surroundings_get_stripes(value):
    # A background drawn over the digit takes away what the model is to rely on.
    for row in load_digits()["finetune"].select(range(20)):
        plain = np.asarray(row["image"]).astype(int)
        drawn = np.asarray(BackgroundCue(contrast=0.4).apply(row, value)["image"]).astype(int)
        stroke = plain.max(axis=-1) > plain.max() / 4
        assert (drawn[stroke] == plain[stroke]).all()
        changed = (drawn != plain).any(axis=-1)
        assert set(drawn[changed].ravel().tolist()) == {102}
        assert changed.sum() > 0.3 * (~stroke).sum()
        # Stripes that run one way: along them, a pixel outside the stroke is like its neighbour.
        lines, free = (drawn[..., 0], ~stroke) if value == 1 else (drawn[..., 0].T, ~stroke.T)
        striped = [
            set(line[around].tolist()) == {102} for line, around in zip(lines, free, strict=True) if around.any()
        ]
        assert 0.4 < np.mean(striped) < 0.6


def test_the_backgrounds_are_equally_bright_and_different():
    # If one were brighter, the cue would be a brightness, not a texture.
    blank = {"image": PILImage.new("RGB", (24, 24))}
    land, water = (np.asarray(BackgroundCue().apply(blank, value)["image"]) for value in (0, 1))
    assert land.mean() == water.mean() > 0
    assert (land == water.transpose(1, 0, 2)).all()
    assert (land != water).any()
    assert np.asarray(blank["image"]).max() == 0, "the image that was given is changed"


def test_ten_digits_have_the_background_of_their_half():
    cue = BackgroundCue(num_classes=10)
    assert [cue.value_of(digit) for digit in range(10)] == [0] * 5 + [1] * 5
    assert [BackgroundCue().value_of(label) for label in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: BackgroundCue(contrast=0.0),
            r"The background's contrast is 0\.0; give a fraction of white in \(0, 1\]",
        ),
        (lambda: BackgroundCue(contrast=128), r"contrast is 128;"),
        (lambda: BackgroundCue(num_classes=1), r"at least 2 classes; got 1\."),
        (lambda: BackgroundCue().value_of(7), r"Label 7 has no background: .*The ten digits need num_classes=10\."),
        (lambda: BackgroundCue().apply({}, 2), r"has the values 0 \(land\) and 1 \(water\), not 2\."),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
