# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The digits in two classes, on backgrounds that mostly go with the class: Waterbirds without a download."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hf_cbft.data.backgrounds import PLACES, BackgroundCue
from hf_cbft.data.balancing import group_names
from hf_cbft.data.columns import class_labels
from hf_cbft.data.digits import load_digits
from hf_cbft.data.labels import with_column

HALVES = ("low", "high")
_FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(HALVES)),
        "place": ClassLabel(names=list(PLACES)),
        "group": Value("string"),
    }
)


def halve_digits(digits: Mapping[str, Dataset]) -> DatasetDict:
    """The digits with two classes: `low`, below 5, and `high`. The images are not read.

    Args:
        digits (`DatasetDict`): parts with the labels 0 to 9, as [`~hf_cbft.data.digits.load_digits`] gives them.

    Raises:
        ValueError: no label column, or labels outside 0 to 9.

    Example:

    ```python
    >>> from hf_cbft.data.digits import load_digits
    >>> from paper.digit_groups import halve_digits
    >>> halve_digits(load_digits())["test"].features["label"].names
    ['low', 'high']

    ```
    """
    halved = {}
    for name, rows in digits.items():
        labels = class_labels(rows, f"The part {name!r}", num_classes=10) // 5
        halved[name] = with_column(rows, "label", labels.tolist(), ClassLabel(names=list(HALVES)))
    return DatasetDict(halved)


def generate_digit_groups(
    digits: Mapping[str, Dataset] | None = None, share: float = 0.95, contrast: float = 0.3, seed: int = 0
) -> DatasetDict:
    """Digits as Waterbirds: low or high is the class, and the background mostly goes with it in `pretrain`.

    In `pretrain`, `share` of the rows of each class have the background of their class (low on land, high on water);
    in every other part half of them have, so that the background tells nothing about the class there. Which rows
    these are is told by a hash of (seed, image): the order of the rows does not matter.

    Args:
        digits (`DatasetDict`, *optional*): parts with the labels 0 to 9; `None` is
            [`~hf_cbft.data.digits.load_digits`] at full contrast.
        share (`float`, *optional*, defaults to 0.95): as in Waterbirds.
        contrast (`float`, *optional*, defaults to 0.3): of the stripes, a fraction of white.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Returns:
        `datasets.DatasetDict` with the parts of `digits`, each with `image`, `label` (low, high), `place` (land,
        water) and `group` (such as `"low on water"`).

    Raises:
        ValueError: share outside [0, 1], contrast outside (0, 1], or labels outside 0 to 9.
        ImportError: `digits` is `None` and scikit-learn is not installed.

    Example:

    ```python
    >>> from collections import Counter
    >>> from hf_cbft.data.digits import load_digits
    >>> from paper.digit_groups import generate_digit_groups
    >>> parts = generate_digit_groups({"pretrain": load_digits()["pretrain"]}, share=0.95)
    >>> Counter(parts["pretrain"]["group"])
    Counter({'low on land': 476, 'high on water': 474, 'low on water': 25, 'high on land': 25})

    ```
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"The share of rows on the background of their class is {share}; give a fraction in [0, 1].")
    cue = BackgroundCue(contrast)
    parts = halve_digits(load_digits() if digits is None else digits)
    return DatasetDict(
        {name: _on_backgrounds(rows, cue, share if name == "pretrain" else 0.5, seed) for name, rows in parts.items()}
    )


def _on_backgrounds(rows: Dataset, cue: BackgroundCue, share: float, seed: int) -> Dataset:
    labels = class_labels(rows, "The digits")
    images = list(rows.with_format(None)["image"])
    places = _places(images, labels, share, seed)
    columns = {
        "image": [cue.apply({"image": image}, place)["image"] for image, place in zip(images, places, strict=True)],
        "label": labels.tolist(),
        "place": places.tolist(),
        "group": group_names(np.take(HALVES, labels), np.take(PLACES, places), separator=" on ").tolist(),
    }
    return Dataset.from_dict(columns, features=_FEATURES)


def _places(images: Sequence[PILImage.Image], labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(N,) int64, 0 or 1: the label itself for `share` of the rows of each class, those with the lowest hashes."""
    key = f"place:{seed}".encode()
    hashes = [hashlib.blake2b(image.tobytes(), key=key).digest() for image in images]
    places = 1 - labels
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label), key=lambda row: hashes[row])
        places[members[: round(share * len(members))]] = label
    return places
