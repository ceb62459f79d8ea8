# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Data with groups: a background that mostly goes with the class, generated or read in the layout of WILDS."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hf_cbft.data.balancing import group_names
from hf_cbft.data.columns import class_labels
from hf_cbft.data.digits import load_digits
from hf_cbft.data.labels import with_column

# Class and place 0 and 1 of Waterbirds, and of the digits that imitate it.
PLACES = ("land", "water")
BIRDS = ("landbird", "waterbird")
HALVES = ("low", "high")
TOXICITY = ("civil", "toxic")
IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")

# Of an image's brightest pixel: what is brighter is the stroke, what is darker its surroundings.
_STROKE = 0.25
_SPLITS = {"train": "0", "val": "1", "test": "2"}  # CivilComments has the names, Waterbirds the numbers
_FILES = ("metadata.csv", "all_data_with_identities.csv")
_SHOWN = 3


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
    >>> from hf_cbft.data.groups import BackgroundCue
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


def halve_digits(digits: Mapping[str, Dataset]) -> DatasetDict:
    """The digits with two classes: `low`, below 5, and `high`. The images are not read.

    Args:
        digits (`DatasetDict`): parts with the labels 0 to 9, as [`~hf_cbft.data.digits.load_digits`] gives them.

    Raises:
        ValueError: no label column, or labels outside 0 to 9.

    Example:

    ```python
    >>> from hf_cbft.data.digits import load_digits
    >>> from hf_cbft.data.groups import halve_digits
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
        contrast (`float`, *optional*, defaults to 0.3): of the stripes, see [`BackgroundCue`].
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
    >>> from hf_cbft.data.groups import generate_digit_groups
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
        "group": group_names(_named(labels, HALVES), _named(places, PLACES), separator=" on ").tolist(),
    }
    return Dataset.from_dict(columns, features=_features("image", HALVES, {"place": ClassLabel(names=list(PLACES))}))


def _places(images: Sequence[PILImage.Image], labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(N,) int64, 0 or 1: the label itself for `share` of the rows of each class, those with the lowest hashes."""
    key = f"place:{seed}".encode()
    hashes = [hashlib.blake2b(image.tobytes(), key=key).digest() for image in images]
    places = 1 - labels
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label), key=lambda row: hashes[row])
        places[members[: round(share * len(members))]] = label
    return places


def read_wilds_metadata(
    folder: str | Path,
    label_column: str | None = None,
    attribute_columns: str | Sequence[str] | None = None,
    split: str | None = None,
    image_folder: str = ".",
) -> Dataset:
    """A folder in the layout that WILDS has for Waterbirds or CivilComments, with the group of each row.

    The columns of `metadata.csv` (or `all_data_with_identities.csv`) tell which it is:

    | | Waterbirds | CivilComments |
    |---|---|---|
    | told by | `img_filename` | `comment_text` |
    | input | `image`, read when a row is | `text` |
    | label | `y`: landbird, waterbird | `toxicity` of 0.5 or more: civil, toxic |
    | attributes | `place`: land, water | eight identities, mentioned where the value is 0.5 or more |
    | `group` | `"waterbird on land"` | `"toxic, male"` and `"toxic, not male"` for one identity; for several, \
`"toxic, identity"` (any of them) and `"toxic, no identity"` |

    Attributes are columns of the result too: each can be the `group_column` of an evaluation by itself.

    Args:
        folder (`str` or `Path`): holds the CSV file.
        label_column (`str`, *optional*): `None` is `y` or `toxicity`.
        attribute_columns (`str` or `Sequence[str]`, *optional*): `None` is `place`, or the eight identities.
        split (`str`, *optional*): `"train"`, `"val"` or `"test"`; `None` takes all rows.
        image_folder (`str`, *optional*, defaults to `"."`): where the images are, within `folder`.

    Returns:
        `datasets.Dataset` with `image` or `text`, `label`, the attributes, and `group`.

    Raises:
        OSError: no such folder, no CSV file in it, or images that are not there (the first rows are named).
        ValueError: a file that is no CSV, missing columns (those there are listed), a label that is not 0 or 1 (or no
            fraction), an unknown split, or one without rows.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_cbft.data.groups import read_wilds_metadata
    >>> table = "comment_text,split,toxicity,male\\nA quiet day,test,0.1,0.0\\nWhat a man,test,0.7,0.9\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "metadata.csv").write_text(table)
    ...     rows = read_wilds_metadata(folder, attribute_columns="male", split="test")
    >>> rows["group"][:]
    ['civil, not male', 'toxic, male']

    ```
    """
    if split is not None and split not in _SPLITS:
        raise ValueError(f"There is no split {split!r}: it is one of {', '.join(_SPLITS)}, or None for all rows.")
    file = _metadata_file(Path(folder))
    header = _csv(file, nrows=0).columns.tolist()
    kind = next((kind for kind in ("img_filename", "comment_text") if kind in header), None)
    if kind is None:
        raise ValueError(
            f"{file} has neither a column img_filename (as Waterbirds) nor comment_text (as CivilComments): it has "
            f"{', '.join(header)}."
        )
    images = kind == "img_filename"
    label = label_column or ("y" if images else "toxicity")
    chosen = [attribute_columns] if isinstance(attribute_columns, str) else list(attribute_columns or ())
    attributes = chosen or (["place"] if images else list(IDENTITIES))
    wanted = [kind, label, *attributes, *(["split"] if split else [])]
    missing = [column for column in wanted if column not in header]
    if missing:
        raise ValueError(f"{file} lacks the columns {', '.join(missing)}: it has {', '.join(header)}.")
    table = _in_split(_csv(file, usecols=list(dict.fromkeys(wanted))), split, file)
    if images:
        return _birds(table, label, attributes, file, Path(folder) / image_folder)
    return _comments(table, label, attributes, file)


def _birds(table: pd.DataFrame, label: str, attributes: list[str], file: Path, images: Path) -> Dataset:
    labels = _numbers(table, label, file, {0.0, 1.0}).astype(int)
    names = BIRDS if label == "y" else ("0", "1")
    columns: dict[str, Any] = {"image": _image_files(table, file, images), "label": labels}
    features, named = {}, []
    for attribute in attributes:
        if attribute == "place":
            columns[attribute] = _numbers(table, attribute, file, {0.0, 1.0}).astype(int)
            features[attribute] = ClassLabel(names=list(PLACES))
            named.append(_named(columns[attribute], PLACES))
        else:
            columns[attribute] = table[attribute].tolist()
            features[attribute] = Value("string")
            named.append(columns[attribute])
    columns["group"] = group_names(_named(labels, names), group_names(*named, separator=", "), separator=" on ")
    return Dataset.from_dict(columns, features=_features("image", names, features))


def _comments(table: pd.DataFrame, label: str, attributes: list[str], file: Path) -> Dataset:
    labels = (_numbers(table, label, file) >= 0.5).astype(int)
    names = TOXICITY if label == "toxicity" else ("0", "1")
    # An empty cell is a comment whose identities nobody was asked about.
    columns = {name: _numbers(table.replace({name: {"": "0"}}), name, file) >= 0.5 for name in attributes}
    mentioned = np.any(list(columns.values()), axis=0)
    one = attributes[0] if len(attributes) == 1 else "identity"
    other = f"not {one}" if len(attributes) == 1 else "no identity"
    group = group_names(_named(labels, names), np.where(mentioned, one, other), separator=", ")
    return Dataset.from_dict(
        {"text": table["comment_text"].tolist(), "label": labels, **columns, "group": group},
        features=_features("text", names, {name: Value("bool") for name in attributes}),
    )


def _features(kind: str, names: Sequence[str], attributes: Mapping[str, Any]) -> Features:
    content = Image() if kind == "image" else Value("string")
    return Features({kind: content, "label": ClassLabel(names=list(names)), **attributes, "group": Value("string")})


def _named(values: np.ndarray, names: Sequence[str]) -> list[str]:
    return [names[value] for value in values]


def _metadata_file(folder: Path) -> Path:
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    if not found:
        what = f"There is no {' or '.join(_FILES)} in {folder}" if folder.is_dir() else f"There is no folder {folder}"
        raise FileNotFoundError(f"{what}: name the folder into which the data set was unpacked.")
    return found[0]


def _csv(file: Path, **options: Any) -> pd.DataFrame:
    """All cells as they stand: a comment that says "null" is not a missing one."""
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False, **options)
    except ValueError as error:  # pandas' parser and decoder errors
        raise ValueError(f"{file} cannot be read as a CSV file ({str(error).splitlines()[0]}).") from error


def _in_split(table: pd.DataFrame, split: str | None, file: Path) -> pd.DataFrame:
    chosen = table if split is None else table[table["split"].isin([split, _SPLITS[split]])]
    if chosen.empty:
        there = "no rows" if table.empty else f"rows of the splits {', '.join(sorted(set(table['split'])))} alone"
        raise ValueError(f"{file} has {there}: none is left for {'a data set' if split is None else repr(split)}.")
    return chosen


def _numbers(table: pd.DataFrame, column: str, file: Path, allowed: set[float] | None = None) -> np.ndarray:
    """(N,) float64; refuses what is none of `allowed`, or no fraction where there is no such list."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    good = (values >= 0.0) & (values <= 1.0) if allowed is None else np.isin(values, list(allowed))
    if not good.all():
        rows = table.index[~good]
        what = "a fraction from 0 to 1" if allowed is None else "0 or 1"
        raise ValueError(
            f"The column {column!r} of {file} holds something else than {what} in {_rows(rows, table[column])}: "
            "correct the file or leave the rows out."
        )
    return values


def _image_files(table: pd.DataFrame, file: Path, images: Path) -> list[str]:
    names = table["img_filename"]
    paths = [images / name for name in names]
    absent = np.array([not path.is_file() for path in paths])
    if absent.any():
        raise FileNotFoundError(
            f"{file} names images that are not in {images}, in {_rows(table.index[absent], names)}: unpack them there "
            "or set image_folder."
        )
    return [str(path) for path in paths]


def _rows(rows: Sequence[int], cells: pd.Series) -> str:
    """`2 rows: row 3 ('a.jpg'), row 7 ('b.jpg')`, numbered as a spreadsheet shows them: the header is row 1."""
    shown = ", ".join(f"row {row + 2} ({cells[row]!r})" for row in rows[:_SHOWN])
    more = ", ..." if len(rows) > _SHOWN else ""
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} (the header is row 1): {shown}{more}"
