# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""From rows to model inputs: rows that hold them already, and rows that hold an image or a text."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, default_data_collator

from hf_cbft.data.columns import LABEL_COLUMNS, first_label_column

# Columns that go through the processing class.
RAW_COLUMNS = ("image", "text")


def _input_names(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters) - {"self", "args", "kwargs", *LABEL_COLUMNS}


def drop_unused_columns(dataset: Any, model: nn.Module) -> Any:
    """Leave out what the model does not take, as `Trainer` does; a data set without model inputs stays as it is.

    Columns behind a transform stay too: only the transform knows what it needs.
    """
    if not isinstance(dataset, Dataset) or dataset.format["type"] == "custom":
        return dataset
    names = _input_names(model)
    if not names.intersection(dataset.column_names):
        return dataset
    return dataset.select_columns([c for c in dataset.column_names if c in names or c in LABEL_COLUMNS])


class InputCollator:
    """Collate rows into a batch of model inputs with `labels`.

    Rows with model inputs (`pixel_values`, `input_ids`, ...) are stacked, or padded where there is a tokenizer; what
    the model does not take is left out. Rows with an `image` (any mode, turned into RGB) or a `text` instead go
    through `processing_class`.

    Args:
        model (`torch.nn.Module`, *optional*): whose inputs are wanted; `None` leaves nothing out.
        processing_class (*optional*): the model's image processor or tokenizer.
        data_collator (`Callable`, *optional*): collates the rows in the end, instead of the above.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        processing_class: Any = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.processing_class = processing_class
        self.data_collator = data_collator
        # A wrapper's forward(*args, **kwargs) names no input: nothing is left out then.
        self._names = (_input_names(model) or None) if model is not None else None

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        if not isinstance(features[0], Mapping):
            return (self.data_collator or default_data_collator)(features)
        known = self._names or {"input_ids", "pixel_values"}
        has_inputs = bool(known & features[0].keys())
        if has_inputs and self._names is not None:
            kept = self._names.union(LABEL_COLUMNS)
            features = [{name: value for name, value in row.items() if name in kept} for row in features]
        if self.data_collator is not None:
            return self.data_collator(features)
        features = [_with_one_label(row) for row in features]
        raw = None if has_inputs else next((column for column in RAW_COLUMNS if column in features[0]), None)
        if raw is not None:
            return self._process(features, raw)
        if isinstance(self.processing_class, PreTrainedTokenizerBase) and "input_ids" in features[0]:
            return DataCollatorWithPadding(self.processing_class)(features)
        return default_data_collator(features)

    def _process(self, rows: list[dict[str, Any]], column: str) -> dict[str, Any]:
        if self.processing_class is None:
            raise ValueError(
                f"The rows hold {column!r}, not model inputs: pass the model's image processor or tokenizer as "
                "processing_class, or give a data_collator."
            )
        values = [row[column] for row in rows]
        if column == "image":
            images = [image.convert("RGB") if hasattr(image, "convert") else image for image in values]
            batch = dict(self.processing_class(images=images, return_tensors="pt"))
        else:
            batch = dict(self.processing_class(text=values, padding=True, truncation=True, return_tensors="pt"))
        if self._names is not None:
            batch = {name: value for name, value in batch.items() if name in self._names}
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([int(row["labels"]) for row in rows])
        return batch


def _with_one_label(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its label column named `labels`, and no other one that a collator could take instead."""
    column = first_label_column(row)
    kept = {name: value for name, value in row.items() if name not in LABEL_COLUMNS}
    return kept if column is None else {**kept, "labels": row[column]}
