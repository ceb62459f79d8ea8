# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Cues: synthetic attributes whose value tells the label away; here what a cue is, and those on images.

A cue is any object with `values` (what it can be set to, one for each class), `value_of(label)` (the value that goes
with a class) and `apply(example, value)` (the example with the cue set to that value; nothing else changes). An
intervention on the cue sets it to a random value and leaves the rest of the example as it is.
"""

import colorsys
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from datasets import ClassLabel, Dataset, Image as ImageFeature
from PIL import Image

from hf_cbft.data.columns import check_column, check_not_empty, class_labels, label_column

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; the last two are not in it


class Cue(Protocol):
    @property
    def values(self) -> Sequence[Any]: ...

    def value_of(self, label: int) -> Any: ...

    def apply(self, example: dict[str, Any], value: Any) -> dict[str, Any]: ...


class ClassCue:
    """Base of the cues that come with the library: value k goes with class k."""

    mark = "value"  # what the errors call it

    @property
    def values(self) -> range:
        raise NotImplementedError

    def value_of(self, label: int) -> int:
        if label not in self.values:
            name, count = type(self).__name__, len(self.values)
            raise ValueError(f"Label {label} has no {self.mark}: {name} names {count} classes.")
        return label

    def _check_value(self, value: Any) -> None:
        if value not in self.values:
            raise ValueError(f"{type(self).__name__} of {len(self.values)} classes has no value {value!r}.")

    def _read(self, example: Mapping[str, Any], column: str, option: str) -> Any:
        if column not in example:
            raise ValueError(
                f"{type(self).__name__} sets the column {column!r}, but the row has {', '.join(example)}: name "
                f"one of them with {option}."
            )
        return example[column]


class _ImageCue(ClassCue):
    """A cue on one column of PIL images."""

    image_column: str
    num_classes: int

    @property
    def values(self) -> range:
        return range(self.num_classes)

    def _rgb(self, example: Mapping[str, Any]) -> Image.Image:
        """A copy of the row's image that can be drawn on."""
        image = self._read(example, self.image_column, "image_column")
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"{type(self).__name__} draws on PIL images, but the column {self.image_column!r} holds a "
                f"{type(image).__name__}: cast the column to `datasets.Image()`."
            )
        return image.copy() if image.mode == "RGB" else image.convert("RGB")

    def _box(self, image: Image.Image, cell: int, grid: tuple[int, int], size: int | None) -> Box:
        """A box in the middle of a cell; `grid` is (columns, rows), and the cells are counted row by row."""
        columns, rows = grid
        side = size or max(1, round(min(image.size) / 8))
        if side * columns > image.width or side * rows > image.height:
            raise ValueError(
                f"The box of {type(self).__name__} is {side}x{side} pixels and does not fit into a cell of the "
                f"{columns}x{rows} grid on an image of {image.width}x{image.height}: give a smaller size or larger "
                "images."
            )
        row, column = divmod(cell, columns)
        left = round((column + 0.5) * image.width / columns - side / 2)
        top = round((row + 0.5) * image.height / rows - side / 2)
        return left, top, left + side, top + side


@dataclass(frozen=True)
class BoxCue(_ImageCue):
    """A small box on the image; its place on a 3x3 grid is the value, and value 9 is no box.

    An intervention draws the box at a random place (or not at all), whatever the image shows.

    Args:
        num_classes (`int`, *optional*, defaults to 10): how many values there are, at most 10.
        size (`int`, *optional*): side of the box in pixels; `None` takes an eighth of the shorter image side.
        color (`tuple[int, int, int]`, *optional*, defaults to white): RGB, 0 to 255.
        image_column (`str`, *optional*, defaults to `"image"`): holds PIL images of any size.

    Raises:
        ValueError: fewer than 2 or more than 10 classes, a size below 1, or a box larger than a third of the image.
        TypeError: a column that holds no images.

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

    mark = "box"

    num_classes: int = 10
    size: int | None = None
    color: tuple[int, int, int] = (255, 255, 255)
    image_column: str = "image"

    def __post_init__(self) -> None:
        if not 2 <= self.num_classes <= 10:
            raise ValueError(f"BoxCue names 2 to 10 classes (nine places, or no box); got {self.num_classes}.")
        _check_size(self.size)

    def apply(self, example: dict[str, Any], value: int) -> dict[str, Any]:
        self._check_value(value)
        image = self._rgb(example)
        box = self._box(image, value % 9, (3, 3), self.size)  # a box that does not fit is refused for value 9 as well
        if value < 9:
            image.paste(self.color, box)
        return {**example, self.image_column: image}


@dataclass(frozen=True)
class ColorBoxCue(_ImageCue):
    """A small coloured box on the image: its place is the last digit of the class, its hue the first.

    The ten places are a grid of five columns and two rows, filled by rows; unlike [`BoxCue`], there is always a box,
    because a hue has to show. The ten hues are 36 degrees apart, from red on, at full saturation and brightness;
    classes 0 to 9 are red.

    An intervention draws the box at a random place in a random hue, whatever the image shows.

    Args:
        num_classes (`int`, *optional*, defaults to 100): how many values there are, 2 to 100.
        size (`int`, *optional*): side of the box in pixels; `None` takes an eighth of the shorter image side.
        image_column (`str`, *optional*, defaults to `"image"`): holds PIL images of any size.

    Raises:
        ValueError: fewer than 2 or more than 100 classes, a size below 1, or a box larger than a cell of the grid.
        TypeError: a column that holds no images.

    Source: the box on CIFAR-100 images of Lubana et al., ICML 2023, section 4; the grid is this library's.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_cbft.data.cues import ColorBoxCue
    >>> boxed = ColorBoxCue().apply({"image": Image.new("RGB", (40, 40))}, value=57)["image"]
    >>> boxed.getbbox()  # place 7: third column, second row
    (18, 28, 23, 33)
    >>> boxed.getpixel((20, 30))  # hue 5: cyan
    (0, 255, 255)

    ```
    """

    mark = "place on the grid"

    num_classes: int = 100
    size: int | None = None
    image_column: str = "image"

    def __post_init__(self) -> None:
        if not 2 <= self.num_classes <= 100:
            raise ValueError(f"ColorBoxCue names 2 to 100 classes (ten places in ten hues); got {self.num_classes}.")
        _check_size(self.size)

    def apply(self, example: dict[str, Any], value: int) -> dict[str, Any]:
        self._check_value(value)
        image = self._rgb(example)
        hue, place = divmod(value, 10)
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue / 10, 1.0, 1.0))
        image.paste((red, green, blue), self._box(image, place, (5, 2), self.size))
        return {**example, self.image_column: image}


@dataclass(frozen=True)
class DominoCue(_ImageCue):
    """An image of a second data set stacked on the row's own; the class of that image is the value.

    Every image that a model meets has two halves, also the one without the cue: [`~DominoCue.prepare`] stacks a blank
    (black) half on each clean image, and setting the cue fills it. So a clean row and a row with the cue differ in
    that half alone.

    An intervention fills the half with an image of a random class, whatever the row's own image shows. Which of the
    images of that class it is, is drawn from a hash of the row's own image: rows keep their draws in whatever order
    they stand, and the same draw serves every class (in `rand_input`, it is that of the input that was drawn).

    Args:
        images (`datasets.Dataset` or `Mapping[int, Sequence[PIL.Image.Image]]`): the second data set, with a label
            column and a column of images, or the images of each class, counted from 0. They are scaled to the width
            and height of the row's own image and made RGB.
        image_column (`str`, *optional*, defaults to `"image"`): of the rows that get the cue; holds PIL images.
        position (`str`, *optional*, defaults to `"top"`): or `"bottom"`; where the second image stands.

    Raises:
        ValueError: fewer than two classes, a class without images, an unknown position; another number of classes
            than the rows have; rows that `prepare` did not make, or that carry a cue already.
        TypeError: a column that holds no images.

    Source: Dominoes (Fashion-MNIST on CIFAR-10) of Lubana et al., ICML 2023, section 4.

    Example:

    ```python
    >>> from datasets import Dataset, disable_progress_bars
    >>> from PIL import Image
    >>> from hf_cbft import DominoCue, make_counterfactuals
    >>> disable_progress_bars()
    >>> cue = DominoCue({0: [Image.new("RGB", (8, 8), "red")], 1: [Image.new("RGB", (8, 8), "blue")]})
    >>> rows = Dataset.from_dict({"image": [Image.new("RGB", (4, 4), "white")] * 2, "label": [0, 1]})
    >>> sets = make_counterfactuals(cue.prepare(rows), cue)
    >>> image = sets["cue"][1]["image"]
    >>> image.size, image.getpixel((0, 0)), image.getpixel((0, 4))
    ((4, 8), (0, 0, 255), (255, 255, 255))

    ```
    """

    mark = "image"

    images: Dataset | Mapping[int, Sequence[Image.Image]] = field(repr=False)
    image_column: str = "image"
    position: str = "top"
    _pictures: Sequence[Image.Image] = field(init=False, repr=False, compare=False)
    _of_class: list[list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.position not in ("top", "bottom"):
            raise ValueError(f'DominoCue stacks its image at the "top" or the "bottom", not at {self.position!r}.')
        pictures, labels = _pictures(self.images)
        num_classes = max(labels, default=-1) + 1
        missing = sorted(set(range(num_classes)) - set(labels))
        if num_classes < 2 or missing:
            raise ValueError(
                "The second data set of DominoCue needs images of each class, from 0 on and of at least two; "
                + (f"it has none of class {missing[0]}." if missing else f"it has {num_classes}.")
            )
        object.__setattr__(self, "_pictures", pictures)
        of_class = [np.flatnonzero(np.equal(labels, value)).tolist() for value in range(num_classes)]
        object.__setattr__(self, "_of_class", of_class)

    @property
    def values(self) -> range:
        return range(len(self._of_class))

    def prepare(self, dataset: Dataset) -> Dataset:
        """`dataset` with a blank half on each image, twice as high: what has no cue, and what the cue can be set on.

        Args:
            dataset (`datasets.Dataset`): clean rows with an image and a label column.

        Raises:
            ValueError: no rows, no such columns, or another number of classes than the second data set has.
        """
        check_not_empty(dataset, "The data set")
        check_column(dataset, "The data set", self.image_column, "image_column")
        self._check_classes(dataset)

        def stack_blank(example: dict[str, Any]) -> dict[str, Any]:
            image = self._rgb(example)
            stacked = Image.new("RGB", (image.width, 2 * image.height))
            stacked.paste(image, self._halves(stacked)[1])
            return {self.image_column: stacked}

        plain = dataset.with_format(None)
        stacked = plain.map(stack_blank, features=dataset.features, desc="Stacking a blank half")
        return formatted_like(stacked, dataset)

    def apply(self, example: dict[str, Any], value: int) -> dict[str, Any]:
        self._check_value(value)
        image = self._rgb(example)
        half, own = self._halves(image)
        if image.height % 2 or image.crop(half).getbbox() is not None:
            raise ValueError(
                f"DominoCue found no blank half at the {self.position} of an image of {image.width}x{image.height}: "
                "give clean rows that its `prepare` made."
            )
        rows = self._of_class[value]
        picture = self._pictures[rows[draw(image.crop(own).tobytes(), "domino", 0, len(rows))]]
        size = (image.width, image.height // 2)
        image.paste(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR), half)
        return {**example, self.image_column: image}

    def _halves(self, image: Image.Image) -> tuple[Box, Box]:
        """Where the second image goes, and where the row's own is."""
        middle = image.height // 2
        upper, lower = (0, 0, image.width, middle), (0, middle, image.width, image.height)
        return (upper, lower) if self.position == "top" else (lower, upper)

    def _check_classes(self, dataset: Dataset) -> None:
        feature = dataset.features[label_column(dataset, "The data set")]
        named = isinstance(feature, ClassLabel)
        count = feature.num_classes if named else int(class_labels(dataset, "The data set").max()) + 1
        if count > len(self.values) or (named and count < len(self.values)):
            raise ValueError(
                f"The data set has {count} classes and the second data set of DominoCue {len(self.values)}: each "
                "class needs images of one class of its own."
            )


def _check_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise ValueError(f"The box is {size} pixels wide; give at least 1.")


def _pictures(images: Any) -> tuple[Sequence[Image.Image], list[int]]:
    """All images of the second data set and their classes; those of a data set are decoded when they are used."""
    if isinstance(images, Mapping):
        pairs = [(picture, int(label)) for label in sorted(images) for picture in images[label]]
        return [picture for picture, _ in pairs], [label for _, label in pairs]
    check_not_empty(images, "The second data set")
    labels = class_labels(images, "The second data set")
    column = next((name for name, feature in images.features.items() if isinstance(feature, ImageFeature)), None)
    if column is None:
        raise ValueError(f"The second data set has no column of images: it has {', '.join(images.column_names)}.")
    return images.with_format(None)[column], labels.tolist()


def draw(content: bytes, purpose: str, seed: int, below: int) -> int:
    """A whole number in [0, `below`), uniform, that depends on (seed, purpose, content) alone."""
    digest = hashlib.blake2b(content, key=f"{purpose}:{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % below


def formatted_like(result: Dataset, dataset: Dataset) -> Dataset:
    """`result` in the format (NumPy, PyTorch, chosen columns) of `dataset`."""
    form = dataset.format
    options = {"columns": form["columns"], "output_all_columns": form["output_all_columns"], **form["format_kwargs"]}
    return result.with_format(form["type"], **options)
