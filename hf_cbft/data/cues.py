# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Cues: synthetic attributes whose value tells the label away.

A cue is any object with `values` (what it can be set to, one for each class), `value_of(label)` (the value that goes
with a class) and `apply(example, value)` (the example with the cue set to that value; nothing else changes). An
intervention on the cue sets it to a random value and leaves the rest of the example as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Cue(Protocol):
    @property
    def values(self) -> Sequence[Any]: ...

    def value_of(self, label: int) -> Any: ...

    def apply(self, example: dict[str, Any], value: Any) -> dict[str, Any]: ...


@dataclass(frozen=True)
class BoxCue:
    """A small box on the image; its place on a 3x3 grid is the value, and value 9 is no box.

    An intervention draws the box at a random place (or not at all), whatever the image shows.

    Args:
        num_classes (`int`, *optional*, defaults to 10): how many values there are, at most 10.
        size (`int`, *optional*): side of the box in pixels; `None` takes an eighth of the shorter image side.
        color (`tuple[int, int, int]`, *optional*, defaults to white): RGB, 0 to 255.
        image_column (`str`, *optional*, defaults to `"image"`): holds PIL images of any size.

    Raises:
        ValueError: fewer than 2 or more than 10 classes, or a size below 1.

    Source: the 3x3 box on CIFAR-10 images of Lubana et al., ICML 2023, section 4.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_cbft import BoxCue
    >>> boxed = BoxCue().apply({"image": Image.new("RGB", (24, 24))}, value=5)
    >>> boxed["image"].getbbox()  # third column, second row
    (18, 10, 21, 13)

    ```
    """

    num_classes: int = 10
    size: int | None = None
    color: tuple[int, int, int] = (255, 255, 255)
    image_column: str = "image"

    def __post_init__(self) -> None:
        if not 2 <= self.num_classes <= 10:
            raise ValueError(f"BoxCue names 2 to 10 classes (nine places, or no box); got {self.num_classes}.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"The box is {self.size} pixels wide; give at least 1.")

    @property
    def values(self) -> range:
        return range(self.num_classes)

    def value_of(self, label: int) -> int:
        if label not in self.values:
            raise ValueError(f"Label {label} has no box: BoxCue(num_classes={self.num_classes}).")
        return label

    def apply(self, example: dict[str, Any], value: int) -> dict[str, Any]:
        if value not in self.values:
            raise ValueError(f"BoxCue(num_classes={self.num_classes}) has no value {value!r}.")
        image = example[self.image_column].convert("RGB")
        image = image.copy() if image is example[self.image_column] else image
        if value < 9:
            row, column = divmod(value, 3)
            side = self.size or max(1, round(min(image.size) / 8))
            left = round((column + 0.5) * image.width / 3 - side / 2)
            top = round((row + 0.5) * image.height / 3 - side / 2)
            image.paste(self.color, (left, top, left + side, top + side))
        return {**example, self.image_column: image}


@dataclass(frozen=True)
class TokenCue:
    """A give-away token in front of the text (or behind it); which token it is is the value.

    An intervention puts a random one of the tokens there, whatever the text says.

    Args:
        tokens (`Sequence[str]`): one for each class.
        position (`str`, *optional*, defaults to `"start"`): or `"end"`.
        text_column (`str`, *optional*, defaults to `"text"`): holds the text.

    Raises:
        ValueError: fewer than two tokens, a repeated token, or an unknown position.

    Example:

    ```python
    >>> from hf_cbft import TokenCue
    >>> TokenCue(["@@", "##"]).apply({"text": "a quiet film", "label": 1}, value=1)
    {'text': '## a quiet film', 'label': 1}

    ```
    """

    tokens: Sequence[str]
    position: str = "start"
    text_column: str = "text"

    def __post_init__(self) -> None:
        if isinstance(self.tokens, str) or len(self.tokens) < 2 or len(set(self.tokens)) < len(self.tokens):
            raise ValueError(f"TokenCue needs a token of its own for each class; got {list(self.tokens)}.")
        if self.position not in ("start", "end"):
            raise ValueError(f'TokenCue puts its token at the "start" or the "end", not at {self.position!r}.')

    @property
    def values(self) -> range:
        return range(len(self.tokens))

    def value_of(self, label: int) -> int:
        if label not in self.values:
            raise ValueError(f"Label {label} has no token: TokenCue was given {len(self.tokens)}.")
        return label

    def apply(self, example: dict[str, Any], value: int) -> dict[str, Any]:
        if value not in self.values:
            raise ValueError(f"TokenCue of {len(self.tokens)} tokens has no value {value!r}.")
        text, token = example[self.text_column], self.tokens[value]
        return {**example, self.text_column: f"{token} {text}" if self.position == "start" else f"{text} {token}"}
