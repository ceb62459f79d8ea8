# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Waterbirds and CivilComments from a folder in the layout of WILDS, with the group of each row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_cbft.data.backgrounds import PLACES
from hf_cbft.data.balancing import group_names

BIRDS = ("landbird", "waterbird")
TOXICITY = ("civil", "toxic")
IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")

_SPLITS = {"train": "0", "val": "1", "test": "2"}  # CivilComments has the names, Waterbirds the numbers
_FILES = ("metadata.csv", "all_data_with_identities.csv")
_SHOWN = 3


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
    >>> from hf_cbft.data.wilds import read_wilds_metadata
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
            named.append(np.take(PLACES, columns[attribute]))
        else:
            columns[attribute] = table[attribute].tolist()
            features[attribute] = Value("string")
            named.append(columns[attribute])
    columns["group"] = group_names(np.take(names, labels), group_names(*named, separator=", "), separator=" on ")
    return Dataset.from_dict(columns, features=_features("image", names, features))


def _comments(table: pd.DataFrame, label: str, attributes: list[str], file: Path) -> Dataset:
    labels = (_numbers(table, label, file) >= 0.5).astype(int)
    names = TOXICITY if label == "toxicity" else ("0", "1")
    # An empty cell is a comment whose identities nobody was asked about.
    columns = {name: _numbers(table.replace({name: {"": "0"}}), name, file) >= 0.5 for name in attributes}
    mentioned = np.any(list(columns.values()), axis=0)
    one = attributes[0] if len(attributes) == 1 else "identity"
    other = f"not {one}" if len(attributes) == 1 else "no identity"
    group = group_names(np.take(names, labels), np.where(mentioned, one, other), separator=", ")
    return Dataset.from_dict(
        {"text": table["comment_text"].tolist(), "label": labels, **columns, "group": group},
        features=_features("text", names, {name: Value("bool") for name in attributes}),
    )


def _features(kind: str, names: Sequence[str], attributes: Mapping[str, Any]) -> Features:
    content = Image() if kind == "image" else Value("string")
    return Features({kind: content, "label": ClassLabel(names=list(names)), **attributes, "group": Value("string")})


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
