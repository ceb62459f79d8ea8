# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Where a data set keeps its labels, read without decoding images or running transforms."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import ClassLabel, Value
from torch.utils.data import IterableDataset

LABEL_COLUMNS = ("labels", "label", "label_ids")


def check_not_empty(dataset: Any, name: str) -> None:
    """Raise a `ValueError` if `dataset` has no length or no rows."""
    if isinstance(dataset, Mapping):
        raise ValueError(f"{name} is a dict of data sets ({', '.join(map(str, dataset))}): give one of them.")
    if not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}, whose rows cannot be drawn by number: give a map-style data set."
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
    """Whether a value of a label column is a class: a whole number, no list of them and no truth value."""
    array = np.asarray(value)
    return array.ndim == 0 and np.issubdtype(array.dtype, np.integer)


def _classes_in(column: str, dataset: Any, name: str, num_classes: int | None = None) -> np.ndarray:
    if hasattr(dataset, "with_format"):
        values = list(dataset.with_format(None)[column])
    else:
        values = [dataset[index][column] for index in range(len(dataset))]
    try:
        labels = np.asarray(values)
    except ValueError:  # rows of different length
        labels = np.empty((0, 0))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"The column {column!r} of {name} does not hold one class (a whole number) a row. Multi-label and "
            "regression targets have no class means; token labels have no class."
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
    """Whether a label column holds token labels; told by the features, or else by the first row."""
    if hasattr(dataset, "features"):
        return not isinstance(dataset.features[column], (ClassLabel, Value))
    return np.ndim(dataset[0][column]) > 0


def _holds_integers(dataset: Any, column: str) -> bool:
    """Whether a label column holds whole numbers; told as above, without decoding an image beside it."""
    if hasattr(dataset, "features"):
        feature = dataset.features[column]
        return isinstance(feature, ClassLabel) or "int" in getattr(feature, "dtype", "")
    return is_class(dataset[0][column])
