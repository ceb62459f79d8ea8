# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A cue behind what an image shows: stripes, upright for land and level for water."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

# The values 0 and 1, of the cue and of Waterbirds.
PLACES = ("land", "water")

# Of an image's brightest pixel: what is brighter is the stroke, what is darker its surroundings.
_STROKE = 0.25


@dataclass(frozen=True)
class BackgroundCue:
    """Stripes behind what the image shows; value 0, "land", are upright ones, and value 1, "water", level ones.

    The stripes are drawn around the stroke: pixels brighter than a quarter of the image's brightest stay as they are.
    Both backgrounds are equally bright. Without the cue the image is the plain one, a stroke on black.

    An intervention draws a random one of the two backgrounds, whatever the image shows.

    Args:
        contrast (`float`, *optional*, defaults to 0.3): brightness of a stripe, as a fraction of white.
        num_classes (`int`, *optional*, defaults to 2): the lower half of the labels goes with land, the upper half
            with water. 10 is for the ten digits.
        image_column (`str`, *optional*, defaults to `"image"`): holds PIL images of any size, bright on black.

    Raises:
        ValueError: contrast outside (0, 1], or fewer than 2 classes.

    Source: the backgrounds of Waterbirds (Sagawa et al., ICLR 2020), which here are textures.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_cbft.data.backgrounds import BackgroundCue
    >>> sea = BackgroundCue(contrast=0.5).apply({"image": Image.new("RGB", (24, 24))}, value=1)
    >>> [sea["image"].getpixel((9, row))[0] for row in range(8)]
    [128, 128, 0, 0, 128, 128, 0, 0]

    ```
    """

    contrast: float = 0.3
    num_classes: int = 2
    image_column: str = "image"

    def __post_init__(self) -> None:
        if not 0.0 < self.contrast <= 1.0:
            raise ValueError(f"The background's contrast is {self.contrast}; give a fraction of white in (0, 1].")
        if self.num_classes < 2:
            raise ValueError(f"BackgroundCue tells at least 2 classes; got {self.num_classes}.")

    @property
    def values(self) -> range:
        return range(len(PLACES))

    def value_of(self, label: int) -> int:
        if label not in range(self.num_classes):
            raise ValueError(
                f"Label {label} has no background: BackgroundCue(num_classes={self.num_classes}). The ten digits need "
                "num_classes=10."
            )
        return 2 * label // self.num_classes

    def apply(self, example: dict[str, Any], value: int) -> dict[str, Any]:
        if value not in self.values:
            raise ValueError(f"BackgroundCue has the values 0 (land) and 1 (water), not {value!r}.")
        pixels = np.array(example[self.image_column].convert("RGB"))
        stroke = pixels.max(axis=-1) > _STROKE * pixels.max()
        height, width = stroke.shape
        pixels[_stripes(height, width, level=value == 1) & ~stroke] = round(self.contrast * 255)
        return {**example, self.image_column: PILImage.fromarray(pixels)}


def _stripes(height: int, width: int, level: bool) -> np.ndarray:
    """(height, width) bool: where the stripes are, each a twelfth of the shorter side wide, as are the gaps."""
    across = np.arange(height)[:, None] if level else np.arange(width)[None, :]
    thickness = max(1, round(min(height, width) / 12))
    return np.broadcast_to(across // thickness % 2 == 0, (height, width))
