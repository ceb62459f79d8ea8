# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Labels as the model numbers its classes: matched by name, by order where it has no names, or by a map."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Sequence as ListOf, Value, concatenate_datasets

from hf_cbft.data.columns import MISSING, check_column, check_not_empty, is_list, is_text, label_column, name_inside

# How many names a sentence lists.
_LISTED = 12


def match_labels(
    dataset: Dataset,
    id2label: Mapping[Any, str],
    label_map: str | Path | Mapping[str, Any] | None = None,
    name: str = "The data set",
    column: str | None = None,
) -> Dataset:
    """The data set with the model's label ids: names are matched, since ids in another order give a wrong loss.

    Names are the strings of the label column, or those of its `ClassLabel`. They match as they are, else without case,
    else with blanks, hyphens and underscores taken alike. Where the model only counts its classes (`LABEL_0`, ...),
    the names of a `ClassLabel` are taken in their order. Whole numbers without names stay as they are.

    Args:
        dataset (`datasets.Dataset`): at least one row. Token labels (a list in each row) are matched too; ids below 0
            are left out of a loss and stay.
        id2label (`Mapping[int, str]`): `model.config.id2label`.
        label_map (`str`, `Path` or `Mapping`, *optional*): from a name (or number) in the data to the model's name or
            id, or a JSON file that holds such a dict. It comes before any match by name.
        name (`str`, *optional*): what the errors call the data set.
        column (`str`, *optional*): where the labels are; `None` looks for `labels`, `label` or `label_ids`.

    Returns:
        `datasets.Dataset`

    Raises:
        TypeError: not a `datasets.Dataset`.
        ValueError: no label column, a row without a label, names that the model does not have (both sides are listed),
            or a map to a class that it does not have.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_cbft.data.labels import match_labels
    >>> rows = Dataset.from_dict({"text": ["it rained", "it sang"], "label": ["weather", "music"]})
    >>> list(match_labels(rows, {0: "Music", 1: "Weather"})["label"])
    [1, 0]

    ```
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{name} is a {type(dataset).__name__}: labels are matched in a datasets.Dataset.")
    check_not_empty(dataset, name)
    check_column(dataset, name, column, "column")
    column = label_column(dataset, name) if column is None else column
    return matched(dataset, column, id2label, read_label_map(label_map), name)[0]


def read_label_map(label_map: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """The dict in a JSON file, or the one that is given; keys are strings. `None` is an empty one.

    Raises:
        OSError: no such file.
        ValueError: not a JSON object of names and ids.
    """
    if label_map is None:
        return {}
    if isinstance(label_map, Mapping):
        return {str(key): value for key, value in label_map.items()}
    try:
        read = json.loads(Path(label_map).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The label map {label_map} is no JSON file: {error}.") from error
    if not isinstance(read, dict) or not all(isinstance(value, str | int) for value in read.values()):
        raise ValueError(
            f"The label map {label_map} needs to be one JSON object, from each label in the data to the model's "
            'name or id for it: {"pos": "POSITIVE", "neg": 0}.'
        )
    return read


def matched(
    dataset: Dataset, column: str, id2label: Mapping[Any, str], label_map: Mapping[str, Any], name: str
) -> tuple[Dataset, str]:
    """The result of [`match_labels`], and in a few words how the labels were matched."""
    classes = {int(index): str(label) for index, label in id2label.items()}
    chosen = {key: _chosen_class(key, value, classes) for key, value in label_map.items()}
    feature = _of_one_label(dataset.features[column])
    values = list(dataset.with_format(None)[column])
    _check_labelled(values, feature, column, name)
    if isinstance(feature, ClassLabel):
        own = list(feature.names)
        used = {value: own[value] for value in _distinct(values) if value >= 0}
    elif is_text(feature):
        own = _distinct(values)
        used = dict(zip(own, own, strict=True))
    elif "int" not in getattr(feature, "dtype", ""):
        raise ValueError(
            f"The column {column!r} of {name_inside(name)} holds {dataset.features[column]}: a label is the name of a "
            "class or a whole number."
        )
    elif not label_map:
        return dataset, "whole numbers, as they are"
    else:
        used = {value: str(value) for value in _distinct(values) if value >= 0}
        own = list(used.values())
        chosen = {**{str(index): index for index in classes}, **chosen}
    counts = isinstance(feature, ClassLabel)
    ids, how = _ids_of(list(used.values()), own, classes, chosen, name, ordered=counts)
    numbers = {value: ids[label] for value, label in used.items()}
    if counts and len(own) == len(classes) and all(value == number for value, number in numbers.items()):
        return dataset, how
    return with_column(dataset, column, _translated(values, numbers), _feature(dataset, column, classes)), how


def with_column(dataset: Dataset, column: str, values: Sequence[Any], feature: Any) -> Dataset:
    """The data set with a column added or replaced; no other column is copied, and its format or transform stays."""
    form = dataset.format
    added = Dataset.from_dict({column: values}, features=Features({column: feature}))
    others = [other for other in dataset.column_names if other != column]
    if others:
        added = concatenate_datasets([dataset.with_format(None).select_columns(others), added], axis=1)
    shown = form["columns"] if column in dataset.column_names else [*form["columns"], column]
    if form["type"] is None and len(shown) == len(added.column_names):
        return added
    return added.with_format(form["type"], shown, form["output_all_columns"], **form["format_kwargs"])


def _ids_of(
    used: Sequence[str],
    own: Sequence[str],
    classes: Mapping[int, str],
    chosen: Mapping[str, int],
    name: str,
    ordered: bool,
) -> tuple[dict[str, int], str]:
    """The model's id for each name that is used, and how it was found."""
    ids = {label: chosen[label] for label in used if label in chosen}
    rest = [label for label in used if label not in ids]
    if not rest:
        return ids, "by the label map"
    found, how = _by_name(rest, classes), "by name"
    if not found and all(label == f"LABEL_{index}" for index, label in classes.items()):
        if ordered and len(own) == len(classes):
            found = {label: sorted(classes)[own.index(label)] for label in rest}
            how = "by order, as the model's classes have no names"
        elif not ordered and all(label.isdecimal() for label in own):
            found = {label: int(label) for label in rest if int(label) in classes}
            how = "by number, as the model's classes have no names"
    unknown = [label for label in rest if label not in found]
    if unknown:
        raise ValueError(
            f"{name} has the classes {_shown(own)} and the model has {_shown(list(classes.values()))}: no class of "
            f"the model is {_shown(unknown)}. Give --label_map FILE.json, a JSON object from these names to the "
            "model's names or ids."
        )
    return {**ids, **found}, how + (" and the label map" if ids else "")


def _by_name(labels: Sequence[str], classes: Mapping[int, str]) -> dict[str, int]:
    """As they are, else without case, else with blanks, hyphens and underscores alike; never where two would fit."""
    found: dict[str, int] = {}
    levels: tuple[Callable[[str], str], ...] = (str, str.casefold, _loosely)
    for key in levels:
        known: dict[str, list[int]] = {}
        for index, label in classes.items():
            known.setdefault(key(label), []).append(index)
        for label in labels:
            if label not in found and len(known.get(key(label), ())) == 1:
                found[label] = known[key(label)][0]
    return found


def _loosely(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label.casefold()).strip()


def _chosen_class(key: str, value: Any, classes: Mapping[int, str]) -> int:
    found = [index for index, label in classes.items() if value == (label if isinstance(value, str) else index)]
    if len(found) != 1 or isinstance(value, bool):
        raise ValueError(
            f"The label map sends {key!r} to {value!r}, and the classes of the model are "
            f"{_shown([f'{label} ({index})' for index, label in classes.items()])}: give one of these names or ids."
        )
    return found[0]


def _check_labelled(values: Sequence[Any], feature: Any, column: str, name: str) -> None:
    for row, value in enumerate(values):
        # A whole number that is missing in a CSV file makes its column one of floats; -1 marks the test sets of GLUE.
        hidden = isinstance(feature, ClassLabel) and isinstance(value, int) and value < 0
        if value is None or hidden or (isinstance(value, float) and math.isnan(value)):
            shown = f"(it is {value})" if hidden else MISSING
            raise ValueError(f"Row {row} of {name_inside(name)} has no label in its column {column!r} {shown}.")


def _distinct(values: Sequence[Any]) -> list[Any]:
    found: set[Any] = set()
    for value in values:
        found.update(value if isinstance(value, list) else (value,))
    return sorted(found)


def _translated(values: Sequence[Any], numbers: Mapping[Any, int]) -> list[Any]:
    return [_translated(value, numbers) if isinstance(value, list) else numbers.get(value, value) for value in values]


def _of_one_label(feature: Any) -> Any:
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)


def _feature(dataset: Dataset, column: str, classes: Mapping[int, str]) -> Any:
    if is_list(dataset.features[column]):
        return ListOf(Value("int64"))
    names = [classes[index] for index in sorted(classes)]
    plain = sorted(classes) != list(range(len(classes))) or len(set(names)) < len(names)
    return Value("int64") if plain else ClassLabel(names=names)


def _shown(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
