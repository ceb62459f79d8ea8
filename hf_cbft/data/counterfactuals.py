# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Counterfactual evaluation sets: the cue as it was, randomized, or alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_cbft.data.columns import check_not_empty, class_labels, label_column
from hf_cbft.data.cues import Cue, draw, formatted_like


def _content(value: Any) -> bytes:
    """Bytes that stand for a row (or a part of one): equal for equal rows, whatever their place in the data set."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(_content(key) + _content(value[key]))
    elif isinstance(value, (list, tuple)):
        for item in value:
            digest.update(_content(item))
    elif hasattr(value, "tobytes"):  # PIL images, arrays
        digest.update(f"{getattr(value, 'mode', '')}{getattr(value, 'size', '')}".encode())
        digest.update(value.tobytes())
    else:
        digest.update(json.dumps(value, default=repr).encode())
    return digest.digest()


def _set_cue(dataset: Dataset, cue: Cue, values: Mapping[int, Any]) -> Dataset:
    """`dataset` with the cue of row i at values[i]; rows without a value stay as they are."""

    def apply(example: dict[str, Any], index: int) -> dict[str, Any]:
        if index not in values:
            return {}
        # Columns that did not change are left out: an image that is written again may be compressed again.
        return {name: new for name, new in cue.apply(example, values[index]).items() if new is not example.get(name)}

    return dataset.map(apply, with_indices=True, features=dataset.features, desc="Setting the cue")


def _random_values(contents: Sequence[bytes], cue: Cue, seed: int) -> list[Any]:
    """The value of each row's cue in `rand_cue`."""
    return [cue.values[draw(content, "rand_cue", seed, len(cue.values))] for content in contents]


def _check_dataset(dataset: Any) -> None:
    check_not_empty(dataset, "The data set")
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"The data set is a {type(dataset).__name__}, and a cue is set in a datasets.Dataset: make one, with "
            "Dataset.from_list or another of its constructors."
        )


def carries_cue(dataset: Dataset, share: float, seed: int = 0) -> np.ndarray:
    """(N,) bool, which rows [`add_cue`] gives the cue: drawn from (seed, content of the row), whatever its label.

    Args:
        dataset (`datasets.Dataset`): clean rows.
        share (`float`): fraction of the rows that carry the cue.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Raises:
        ValueError: share outside [0, 1], or no rows.
        TypeError: `dataset` is no `datasets.Dataset`.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"The cue's share is {share}; give a fraction between 0 and 1.")
    _check_dataset(dataset)
    resolution = 2**53
    drawn = [draw(_content(row), "share", seed, resolution) for row in dataset.with_format(None)]
    return np.array([number < share * resolution for number in drawn])


def add_cue(dataset: Dataset, cue: Cue, share: float = 1.0, seed: int = 0) -> Dataset:
    """`dataset` with the cue of its own label on a share of the rows, drawn from (seed, content of the row).

    Args:
        dataset (`datasets.Dataset`): clean rows.
        cue ([`Cue`]): what is set.
        share (`float`, *optional*, defaults to 1.0): fraction of the rows that carry the cue.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Raises:
        ValueError: share outside [0, 1], no rows, or no label column.
        TypeError: `dataset` is no `datasets.Dataset`.
    """
    _check_dataset(dataset)
    labels = class_labels(dataset, "The data set")
    carries = carries_cue(dataset, share, seed)
    values = {int(row): cue.value_of(int(labels[row])) for row in np.flatnonzero(carries)}
    return formatted_like(_set_cue(dataset.with_format(None), cue, values), dataset)


def make_counterfactuals(dataset: Dataset, cue: Cue, seed: int = 0) -> DatasetDict:
    """Four sets that tell a model that relies on the cue from one that ignores it.

    | set | input | cue | label | a model that ignores the cue |
    |---|---|---|---|---|
    | `no_cue` | the row's | none | the row's | its accuracy |
    | `cue` | the row's | of the label | the row's | the same |
    | `rand_cue` | the row's | uniform over all values | the row's | the same |
    | `rand_input` | of a uniformly drawn row | of the label | the row's, which the cue names | 1 / K |

    For a `prompt` with a `completion`, the input is the prompt, and the completion goes with the label.

    Draws come from a hash of (seed, content of the row): every model meets the same sets, in whatever order the rows
    stand.

    Args:
        dataset (`datasets.Dataset`): clean rows with a label column.
        cue ([`Cue`]): [`BoxCue`], [`ColorBoxCue`], [`DominoCue`], [`TokenCue`], [`StyleCue`], or your own object with
            `values`, `value_of` and `apply`.
        seed (`int`, *optional*, defaults to 0): of the draws.

    Returns:
        `datasets.DatasetDict` with the four sets, each as long as `dataset`.

    Raises:
        ValueError: no rows, no label column, or a label that the cue has no value for.
        TypeError: `dataset` is no `datasets.Dataset`.

    Source: the sets NC, C, RC and RI of Lubana et al., ICML 2023, section 4.

    Example:

    ```python
    >>> from datasets import Dataset, disable_progress_bars
    >>> from hf_cbft import TokenCue, make_counterfactuals
    >>> disable_progress_bars()
    >>> rows = Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]})
    >>> sets = make_counterfactuals(rows, TokenCue(["@@", "##"]), seed=0)
    >>> list(sets["cue"]["text"])
    ['## good', '@@ bad']

    ```
    """
    _check_dataset(dataset)
    labels = [int(label) for label in class_labels(dataset, "The data set")]
    own = dict(enumerate(cue.value_of(label) for label in labels))
    plain = dataset.with_format(None)
    contents = [_content(row) for row in plain]
    by_content = sorted(range(len(plain)), key=lambda index: contents[index])
    random_values = dict(enumerate(_random_values(contents, cue, seed)))
    sources = [by_content[draw(content, "rand_input", seed, len(plain))] for content in contents]
    # What stays the row's: its label, and the completion of a prompt, which is the label in words.
    kept = [label_column(dataset, "The data set"), *({"completion"} & set(plain.column_names))]
    answers = plain.select_columns(kept)
    foreign = plain.select(sources).map(
        lambda example, index: answers[index], with_indices=True, features=dataset.features, desc="Drawing inputs"
    )
    sets = {
        "no_cue": plain,
        "cue": _set_cue(plain, cue, own),
        "rand_cue": _set_cue(plain, cue, random_values),
        "rand_input": _set_cue(foreign, cue, own),
    }
    return DatasetDict({name: formatted_like(made, dataset) for name, made in sets.items()})
