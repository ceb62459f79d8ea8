# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Where a data set keeps its labels and groups, read without decoding images or running transforms."""

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Audio, ClassLabel, Image, Value
from PIL import Image as PILImage
from torch.utils.data import IterableDataset

from hf_cbft.data.completions import IGNORED

LABEL_COLUMNS = ("labels", "label", "label_ids")
# What a model takes as it is.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "input_values", "input_features")
MISSING = "(in a CSV file an empty cell, NA, None and null are all read as missing)"
# What the decoders of images and sounds raise for a file that they cannot read.
_DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, struct.error),
    PILImage.DecompressionBombError,
)


def check_fills_a_batch(dataset: Any, args: Any) -> None:
    """Raise a `ValueError` where `dataloader_drop_last` leaves no batch: `Trainer` would end at step 0 in silence."""
    rows = args.train_batch_size * args.world_size
    if isinstance(dataset, Mapping) or not hasattr(dataset, "__len__"):  # what is wrong there is said elsewhere
        return
    if args.dataloader_drop_last and 0 < len(dataset) < rows:
        raise ValueError(
            f"train_dataset has {len(dataset)} rows and a batch takes {rows}: with dataloader_drop_last nothing would "
            f"be trained. Set per_device_train_batch_size to at most {max(len(dataset) // args.world_size, 1)}, or "
            "leave dataloader_drop_last out."
        )


def check_not_empty(dataset: Any, name: str) -> None:
    """Raise a `ValueError` if `dataset` has no length or no rows."""
    if isinstance(dataset, Mapping):
        raise ValueError(f"{name} is a dict of data sets ({', '.join(map(str, dataset))}): give one of them.")
    if not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise ValueError(
            f"{name} has the type {type(dataset).__name__}, whose rows cannot be drawn by number: give a map-style "
            "data set."
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} is empty.")


def first_label_column(columns: Iterable[str]) -> str | None:
    """Which of `columns` holds the labels, where there are several."""
    columns = list(columns)
    return next((column for column in LABEL_COLUMNS if column in columns), None)


def label_column(dataset: Any, name: str) -> str:
    """The name of the label column.

    Raises:
        ValueError: there is none; the columns that are there are listed.
    """
    columns = getattr(dataset, "column_names", None)
    if columns is None:
        first = dataset[0]
        columns = list(first) if isinstance(first, Mapping) else []
    found = [column for column in LABEL_COLUMNS if column in columns]
    if len(found) > 1:  # language models have their token labels in one and the class of a row in another
        found = [column for column in found if not _holds_lists(dataset, column)] or found
    if not found:
        raise ValueError(
            f"{name} has no label column: it has {', '.join(columns) or 'none'}, and one of "
            f"{', '.join(LABEL_COLUMNS)} is needed."
        )
    return found[0]


def class_labels(dataset: Any, name: str, num_classes: int | None = None) -> np.ndarray:
    """(N,) int64, the class of each row.

    Raises:
        ValueError: no label column, labels that are not one class a row, or labels outside [0, `num_classes`).
    """
    return _classes_in(label_column(dataset, name), dataset, name, num_classes)


def check_token_labels(dataset: Any, name: str, num_classes: int) -> None:
    """Raise a `ValueError` unless a label column holds a list of classes in [0, `num_classes`), or -100, for each row.

    Args:
        dataset (`datasets.Dataset` or map-style data set): at least one row.
        name (`str`): what the error calls it.
        num_classes (`int`): K.
    """
    columns = getattr(dataset, "column_names", None) or list(dataset[0])
    column = next((c for c in LABEL_COLUMNS if c in columns and _holds_lists(dataset, c)), None)
    if column is None:
        raise ValueError(
            f"{name} has no column with a label for each token: it has {', '.join(columns) or 'none'}, and lists of "
            f"classes are needed in one of {', '.join(LABEL_COLUMNS)}."
        )
    plain = dataset.with_format(None)[column] if hasattr(dataset, "with_format") else (row[column] for row in dataset)
    for row, labels in enumerate(plain):
        wrong = next((int(label) for label in labels if label != IGNORED and not 0 <= label < num_classes), None)
        if wrong is not None:
            raise ValueError(
                f"Row {row} of {name} has a token with the label {wrong}, but the classes are 0 to {num_classes - 1}, "
                f"and {IGNORED} for a token that does not count: match the labels to the model's id2label first."
            )


def completion_classes(dataset: Any, name: str) -> np.ndarray | None:
    """(N,) int64, the class of each row of a language model's data; `None` where no column holds one.

    Rows with a `prompt` and a `completion`, or with token labels, have their class in a label column of whole numbers.

    Args:
        dataset (`datasets.Dataset` or map-style data set): at least one row.
        name (`str`): what the errors call it.

    Raises:
        ValueError: labels below 0, or rows without one.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_cbft.data.columns import completion_classes
    >>> rows = Dataset.from_dict({"input_ids": [[5, 6, 7]], "labels": [[-100, 6, 7]], "label": [2]})
    >>> completion_classes(rows, "train_dataset")
    array([2])

    ```
    """
    columns = getattr(dataset, "column_names", None) or list(dataset[0])
    column = next((c for c in LABEL_COLUMNS if c in columns and _holds_integers(dataset, c)), None)
    return None if column is None else _classes_in(column, dataset, name)


def is_class(value: Any) -> bool:
    """Return `True` if a value of a label column is a class: a whole number, no list of them and no truth value."""
    array = np.asarray(value)
    return array.ndim == 0 and np.issubdtype(array.dtype, np.integer)


def _classes_in(column: str, dataset: Any, name: str, num_classes: int | None = None) -> np.ndarray:
    if hasattr(dataset, "with_format"):
        values = list(dataset.with_format(None)[column])
    else:
        values = [dataset[index][column] for index in range(len(dataset))]
        # NumPy takes microseconds to ask a tensor.
        values = [value.tolist() if torch.is_tensor(value) else value for value in values]
    try:
        labels = np.asarray(values)
    except ValueError:  # rows of different length
        labels = np.empty((0, 0))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"The column {column!r} of {name_inside(name)} does not hold one class (a whole number) a row, and "
            "several labels or a measured number have no class means: give each row one class, counted from 0."
        )
    upper = math.inf if num_classes is None else num_classes
    outside = labels[(labels < 0) | (labels >= upper)]
    if outside.size:
        known = "at least 0" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(
            f"{name} has the label {outside[0]}, but the classes are {known}: match the labels to the model's "
            "id2label first."
        )
    return labels.astype(np.int64)


def _holds_lists(dataset: Any, column: str) -> bool:
    """Return `True` if a label column holds token labels, by the features or else the first row."""
    if hasattr(dataset, "features"):
        return is_list(dataset.features[column])
    return np.ndim(dataset[0][column]) > 0


def _holds_integers(dataset: Any, column: str) -> bool:
    """Return `True` if a label column holds whole numbers, found as above, without decoding an image beside it."""
    if hasattr(dataset, "features"):
        feature = dataset.features[column]
        return isinstance(feature, ClassLabel) or "int" in getattr(feature, "dtype", "")
    return is_class(dataset[0][column])


def check_column(dataset: Any, name: str, column: str | None, option: str) -> None:
    """Raise a `ValueError` that lists the columns if `dataset` has none called `column`; `None` is no wish."""
    if column is not None and column not in dataset.column_names:
        raise ValueError(f"{name} has no column {column!r} ({option}): it has {', '.join(dataset.column_names)}.")


def group_values(dataset: Any, column: str, name: str) -> np.ndarray:
    """(N,) str, the group of each row: a string, a whole number, a truth value, or the name of a class.

    Args:
        dataset (`datasets.Dataset`): at least one row.
        column (`str`): where the groups are.
        name (`str`): what the errors call the data set.

    Raises:
        ValueError: no such column (those there are listed), a row without a group, or a column of anything else.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_cbft.data.columns import group_values
    >>> group_values(Dataset.from_dict({"place": ["land", "water"]}), "place", "The data set 'cue'").tolist()
    ['land', 'water']

    ```
    """
    check_column(dataset, name, column, "group_column")
    feature = dataset.features[column]
    values = list(dataset.with_format(None)[column])
    for row, value in enumerate(values):
        # A whole number that is missing in a CSV file makes its column one of floats.
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"Row {row} of {name_inside(name)} has no group in its column {column!r} {MISSING}.")
    if isinstance(feature, ClassLabel):
        values = [feature.int2str(value) if value >= 0 else str(value) for value in values]
    elif not all(isinstance(value, str | int) for value in values):
        raise ValueError(
            f"The column {column!r} of {name_inside(name)} holds {feature}: a group is a string, a whole number or a "
            "class."
        )
    return np.array([str(value) for value in values])


def unreadable_row(dataset: Any, name: str, rows: Iterable[int] | None = None) -> ValueError | None:
    """Make the error for a batch that could not be made: it names the row whose image or sound cannot be read, if one.

    It decodes one row after the other, without running a transform.

    Args:
        dataset (`datasets.Dataset` or another data set, of which nothing is known): what the batch is from.
        name (`str`): what the sentence calls it.
        rows (`Iterable[int]`, *optional*): where to look, such as the rows of that batch; `None` looks at all.

    Example:

    ```python
    >>> from datasets import Dataset, Image
    >>> from hf_cbft.data.columns import unreadable_row
    >>> rows = Dataset.from_dict({"image": [{"bytes": None, "path": "lost.png"}]}).cast_column("image", Image())
    >>> print(unreadable_row(rows, "The data set 'cue'"))
    Row 0 of the data set 'cue' cannot be read from its column 'image' ([Errno 2] No such file or directory: \
'lost.png'): repair the file or leave the row out.

    ```
    """
    features = getattr(dataset, "features", None) or {}
    columns = [column for column, feature in features.items() if isinstance(feature, Image | Audio)]
    for row in range(len(dataset)) if rows is None else rows:
        for column in columns:
            reason = _unreadable(dataset, column, row)
            if reason is not None:
                return ValueError(
                    f"Row {row} of {name_inside(name)} cannot be read from its column {column!r} ({reason}): repair "
                    "the file or leave the row out."
                )
    return None


def _unreadable(dataset: Any, column: str, row: int) -> str | None:
    """Why the image or sound of a row cannot be had."""
    try:
        value = dataset.with_format(None).select_columns([column])[row][column]
    except _DECODE_ERRORS as error:
        return str(error).split("\n")[0] or type(error).__name__
    return "it is empty" if value is None else None


def is_text(feature: Any) -> bool:
    """Return `True` if a column with this feature holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def is_list(feature: Any) -> bool:
    """Return `True` if a column of labels holds several a row, as those of tokens."""
    return not isinstance(feature, ClassLabel | Value)


def name_inside(name: str) -> str:
    """Name a data set within a sentence of an error."""
    return name[0].lower() + name[1:] if name.startswith("The ") else name
