# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows: of every group as many, or parts of a data set with all classes in each."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_cbft.data.columns import check_column, check_not_empty, group_values


def balance_groups(
    dataset: Dataset, groups: str | Sequence[Hashable] | np.ndarray, how: str = "oversample", seed: int = 0
) -> Dataset:
    """Rows of `dataset`, chosen so that every group has the same number of them; nothing is decoded.

    Args:
        dataset (`datasets.Dataset`): at least one row of each of two groups.
        groups (`str` or `Sequence`): the column that holds the group of a row, or (N,) groups, such as strings or
            whole numbers.
        how (`str`, *optional*, defaults to `"oversample"`):
            `"oversample"`: as many rows a group as the largest has; rows of a smaller one come in whole shuffled
            passes, so that none comes up twice more often than another. `"subsample"`: as many as the smallest has,
            each at most once.
        seed (`int`, *optional*, defaults to 0): of the draw and of the order of the rows.

    Returns:
        `datasets.Dataset`: the chosen rows, shuffled.

    Raises:
        ValueError: no rows, no such column (those there are listed), not one group a row, a row without a group, a
            single group, or an unknown `how`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_cbft.data.balancing import balance_groups
    >>> rows = Dataset.from_dict({"place": ["land"] * 4 + ["water"]})
    >>> sorted(balance_groups(rows, "place")["place"])
    ['land', 'land', 'land', 'land', 'water', 'water', 'water', 'water']

    ```
    """
    name = "The data set"
    check_not_empty(dataset, name)
    if isinstance(groups, str):
        check_column(dataset, name, groups, "groups")
        groups = group_values(dataset, groups, name)
    if len(groups) != len(dataset):
        raise ValueError(f"{len(groups)} groups do not fit a data set of {len(dataset)} rows: give one a row.")
    return dataset.select(balanced_rows(groups, how, seed))


def balanced_rows(groups: Sequence[Hashable] | np.ndarray, how: str = "oversample", seed: int = 0) -> np.ndarray:
    """The row numbers that [`balance_groups`] chooses, for rows that are not in a data set (cached features).

    Args:
        groups (`Sequence`): (N,), the group of each row.
        how (`str`, *optional*), seed (`int`, *optional*): as in [`balance_groups`].

    Returns:
        `np.ndarray`: (number of groups x rows a group,) int64, shuffled.

    Raises:
        ValueError: not one group a row, a row without a group, fewer than two groups, or an unknown `how`.

    Example:

    ```python
    >>> from hf_cbft.data.balancing import balanced_rows
    >>> sorted(balanced_rows(["a", "b", "b"], how="oversample").tolist())
    [0, 0, 1, 2]

    ```
    """
    if how not in ("oversample", "subsample"):
        raise ValueError(f'Groups are balanced by how="oversample" or how="subsample", not {how!r}.')
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(_flat(groups)):
        members.setdefault(group, []).append(row)
    if len(members) < 2:
        only = f"all {len(groups)} rows are of {next(iter(members))!r}" if members else "there are no rows"
        raise ValueError(f"Balancing needs rows of at least two groups, and {only}.")
    sizes = [len(rows) for rows in members.values()]
    size = max(sizes) if how == "oversample" else min(sizes)
    generator = np.random.default_rng(seed)
    drawn = [_passes(np.array(rows), size, generator) for rows in members.values()]
    return generator.permutation(np.concatenate(drawn))


def group_names(*attributes: Sequence[Any] | np.ndarray, separator: str = "|") -> np.ndarray:
    """(N,) str, the name of each row's group: what its attributes are, joined.

    Args:
        *attributes (`Sequence`): each (N,), such as the labels and the place.
        separator (`str`, *optional*, defaults to `"|"`): what stands between two attributes.

    Raises:
        ValueError: attributes of different lengths, or none.

    Example:

    ```python
    >>> from hf_cbft.data.balancing import group_names
    >>> group_names([3, 7], ["cue", "no cue"]).tolist()
    ['3|cue', '7|no cue']

    ```
    """
    lengths = [len(attribute) for attribute in attributes]
    if len(set(lengths)) != 1:
        raise ValueError(f"Groups are named by attributes of one length, at least one; got lengths {lengths}.")
    return np.array([separator.join(map(str, row)) for row in zip(*attributes, strict=True)])


def split_rows(labels: np.ndarray, sizes: Mapping[str, int], seed: int, rest: str) -> dict[str, np.ndarray]:
    """Row numbers of each part; each class is spread over the parts in proportion to their size.

    Args:
        labels (`np.ndarray`): (N,) classes.
        sizes (`Mapping[str, int]`): rows of each part.
        seed (`int`): of the order within a class.
        rest (`str`): the part that takes what is left.

    Returns:
        `dict[str, np.ndarray]`: ascending row numbers; each row is in one part.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_cbft.data.balancing import split_rows
    >>> labels = np.arange(20) % 2
    >>> parts = split_rows(labels, {"finetune": 4}, seed=0, rest="pretrain")
    >>> np.bincount(labels[parts["finetune"]]).tolist(), len(parts["pretrain"])
    ([2, 2], 16)

    ```
    """
    generator = np.random.default_rng(seed)
    # Place of a row within its class, in [0, 1): sorting by it interleaves the classes evenly.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
    order = np.argsort(place, kind="stable")
    ends = np.cumsum([0, *sizes.values()])
    parts = {name: np.sort(order[ends[i] : ends[i + 1]]) for i, name in enumerate(sizes)}
    return {**parts, rest: np.sort(order[ends[-1] :])}


def _flat(groups: Any) -> list[Hashable]:
    """Each row's group as a plain value: array scalars compare, but tensors do not."""
    values = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    for row, value in enumerate(values):
        if isinstance(value, list):
            raise ValueError(f"Row {row} has {len(value)} groups: give one group a row, of shape (N,).")
        if value is None or value != value:  # NaN
            raise ValueError(f"Row {row} has no group: leave the row out or name its group.")
    return values


def _passes(rows: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """`size` of `rows`, in shuffled passes: none is drawn again before all the others were."""
    passes = [generator.permutation(rows) for _ in range(-(-size // len(rows)))]
    return np.concatenate(passes)[:size]
