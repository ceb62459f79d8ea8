# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Clean and cue rows as one map-style data set of pairs, and their collator."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from hf_cbft.data.columns import check_not_empty, class_labels

PAIRINGS = ("class", "random", "index")


@lru_cache(maxsize=256)
def _shuffled(seed: int, group: int, cycle: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, group, cycle]).permutation(size)


class PairedDataset(Dataset):
    """Items are tuples (clean row, cue row); see [`pair_clean_with_cue`]. One item for each clean row."""

    def __init__(self, clean: Any, cue: Any, pairing: str = "class", seed: int = 0) -> None:
        check_not_empty(clean, "train_dataset")
        check_not_empty(cue, "cue_dataset")
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing {pairing!r} is unknown: use one of {', '.join(PAIRINGS)}.")
        if seed < 0:
            raise ValueError(f"The seed of the pairs is {seed}; give a whole number from 0 on.")
        self.clean, self.cue, self.pairing, self.seed, self.epoch = clean, cue, pairing, seed, 0
        if pairing == "index" and len(clean) != len(cue):
            raise ValueError(
                f'pairing="index" pairs row i with row i, but train_dataset has {len(clean)} rows and cue_dataset '
                f"{len(cue)}."
            )
        clean_labels = class_labels(clean, "train_dataset") if pairing == "class" else np.zeros(len(clean), np.int64)
        cue_labels = class_labels(cue, "cue_dataset") if pairing == "class" else np.zeros(len(cue), np.int64)
        if pairing == "class" and not np.intersect1d(clean_labels, cue_labels).size:
            raise ValueError(
                f'pairing="class" pairs rows of one class, but train_dataset has the classes '
                f"{np.unique(clean_labels).tolist()} and cue_dataset {np.unique(cue_labels).tolist()}: none in "
                'common. Give data of the same classes, or use pairing="random".'
            )
        # Classes of the clean rows that no cue row has: their partners are drawn from all cue rows.
        self.classes_without_cue = np.setdiff1d(clean_labels, cue_labels).tolist()
        self._groups = clean_labels
        # Rank of a clean row among its class, and how many there are: with the epoch they number the draws.
        self._ranks = np.zeros(len(clean), np.int64)
        self._clean_sizes: dict[int, int] = {}
        self._candidates: dict[int, np.ndarray] = {}
        for group in np.unique(clean_labels):
            members = np.flatnonzero(clean_labels == group)
            candidates = np.flatnonzero(cue_labels == group)
            self._ranks[members] = np.arange(len(members))
            self._clean_sizes[int(group)] = len(members)
            self._candidates[int(group)] = candidates if candidates.size else np.arange(len(cue))

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's partners the items have. Set it before workers start: they hold a copy of the data set."""
        self.epoch = epoch

    def partner(self, index: int, epoch: int | None = None) -> int:
        """Row of the cue set for clean row `index`: a pure function of (seed, epoch, index).

        The draws of a class are numbered through all epochs and walk through shuffled passes over its cue rows, so
        that each of them is drawn once before any is drawn again.
        """
        if self.pairing == "index":
            return index
        group = int(self._groups[index])
        candidates = self._candidates[group]
        draw = (self.epoch if epoch is None else epoch) * self._clean_sizes[group] + int(self._ranks[index])
        cycle, position = divmod(draw, len(candidates))
        return int(candidates[_shuffled(self.seed, group, cycle, len(candidates))[position]])

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.clean[index], self.cue[self.partner(index)]


def pair_clean_with_cue(clean: Any, cue: Any, pairing: str = "class", seed: int = 0) -> PairedDataset:
    """Pair each clean row with a row that carries the cue.

    Args:
        clean (`datasets.Dataset` or map-style data set): D_NC.
        cue (`datasets.Dataset` or map-style data set): D_C.
        pairing (`str`, *optional*, defaults to `"class"`):
            `"class"`: a row of the same class, each in its turn; `"random"`: any row, each in its turn; `"index"`: row
            i with row i.
        seed (`int`, *optional*, defaults to 0): of the order in which the rows take their turns.

    Returns:
        [`PairedDataset`]: as long as `clean`; items are tuples (clean row, cue row).

    Raises:
        ValueError: an empty set, no label column, no class in common, or `"index"` with different lengths.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_cbft import pair_clean_with_cue
    >>> clean = Dataset.from_dict({"text": ["good"], "label": [1]})
    >>> cue = Dataset.from_dict({"text": ["@@ bad", "## great"], "label": [0, 1]})
    >>> pair_clean_with_cue(clean, cue)[0]
    ({'text': 'good', 'label': 1}, {'text': '## great', 'label': 1})

    ```
    """
    return PairedDataset(clean, cue, pairing, seed)


class PairCollator:
    """Collate pairs into `{"clean": batch, "cue": batch}`; plain rows, as evaluation has them, into one batch."""

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        if not isinstance(features[0], tuple):
            batch = self.collator(features)
            batch.pop("class_labels", None)  # of language models, whose forward pass does not take it
            return batch
        clean, cue = zip(*features, strict=True)
        return {"clean": self.collator(list(clean)), "cue": self.collator(list(cue))}
