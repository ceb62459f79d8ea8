# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""From rows to model inputs: rows that hold them already, and rows that hold an image, a text or a sound."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from hf_cbft.data.columns import LABEL_COLUMNS, first_label_column, is_class
from hf_cbft.data.completions import PROMPT_COLUMNS, TOKEN_COLUMNS, pad_tokens, tokenize_completion
from hf_cbft.data.words import WORDS_COLUMN, tokenize_words

# Columns that go through the processing class.
_PROCESSED_COLUMNS = ("image", "text", "audio")
_OTHER_LABEL_COLUMNS = set(LABEL_COLUMNS) - {"labels"}
RAW_COLUMNS = (*_PROCESSED_COLUMNS, *PROMPT_COLUMNS, WORDS_COLUMN)
# What counts as a model input where no model says.
_USUAL_INPUTS = {"input_ids", "pixel_values", "input_values", "input_features"}


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
    the model does not take is left out. Rows with an `image` (any mode, turned into RGB), a `text` (and a `text_pair`)
    or an `audio` (an array with its sampling rate) instead go through `processing_class`, and so do rows with a
    `prompt` and a `completion`, see [`~hf_cbft.data.completions.tokenize_completion`], or with words in `tokens` and a
    label for each, see [`~hf_cbft.data.words.tokenize_words`].

    Rows of a language model have a label for each token. Where a label column beside them holds a class (a whole
    number), the batch has it as `class_labels`, (B,): the model does not take them.

    Args:
        model (`torch.nn.Module`, *optional*): whose inputs are wanted; `None` leaves nothing out.
        processing_class (*optional*): the model's image processor or tokenizer.
        data_collator (`Callable`, *optional*):
            Collates the rows in the end, instead of the above. It gets rows with a prompt as they are, except a
            `DataCollatorWithFlattening`, which packs tokens. A packed batch has no `class_labels`: its rows are one.

    Example:

    ```python
    >>> from hf_cbft.data.inputs import InputCollator
    >>> from hf_cbft.data.sentences import word_tokenizer
    >>> rows = [{"prompt": "a storm today", "completion": "weather again", "label": 0}]
    >>> batch = InputCollator(processing_class=word_tokenizer())(rows)
    >>> batch["labels"], batch["class_labels"]
    (tensor([[-100, -100, -100,    7,   14,    3]]), tensor([0]))

    ```
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
        has_inputs = bool((self._names or _USUAL_INPUTS) & features[0].keys())
        if not has_inputs and self._tokenizes(features[0]):
            features, has_inputs = [self._tokenized(row) for row in features], True
        elif not has_inputs and WORDS_COLUMN in features[0]:
            features, has_inputs = [self._split_into_tokens(row) for row in features], True
        if has_inputs and self._names is not None:
            kept = self._names.union(LABEL_COLUMNS)
            features = [
                row if row.keys() <= kept else {name: value for name, value in row.items() if name in kept}
                for row in features
            ]
        if has_inputs and _has_token_labels(features):
            return self._collate_tokens(features)
        if self.data_collator is not None:
            return self.data_collator(features)
        features = [_with_one_label(row) for row in features]
        raw = None if has_inputs else next((c for c in _PROCESSED_COLUMNS if c in features[0]), None)
        if raw is not None:
            return self._process(features, raw)
        if isinstance(self.processing_class, PreTrainedTokenizerBase) and "input_ids" in features[0]:
            return DataCollatorWithPadding(self.processing_class)(features)
        return default_data_collator(features)

    @property
    def _tokenizer(self) -> Any:
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    def _tokenizes(self, row: Mapping[str, Any]) -> bool:
        packs_or_pads = self.data_collator is None or isinstance(self.data_collator, DataCollatorWithFlattening)
        return packs_or_pads and all(column in row for column in PROMPT_COLUMNS)

    def _tokenized(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if self._tokenizer is None:
            raise ValueError(
                "The rows hold a 'prompt' and a 'completion', not model inputs: pass the model's tokenizer as "
                "processing_class."
            )
        kept = {name: value for name, value in row.items() if name not in LABEL_COLUMNS}
        found = {} if _class_of(row) is None else {"label": _class_of(row)}
        return {**kept, **found, **tokenize_completion(self._tokenizer, row["prompt"], row["completion"])}

    def _split_into_tokens(self, row: Mapping[str, Any]) -> dict[str, Any]:
        column = next((c for c in LABEL_COLUMNS if c in row and not is_class(row[c])), None)
        if column is None:
            raise ValueError(f"The rows hold words in {WORDS_COLUMN!r} and no label for each: name a label column.")
        return tokenize_words(self._tokenizer, row[WORDS_COLUMN], row[column])

    def _collate_tokens(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        classes = [_class_of(row) for row in rows]
        rows = [_with_one_label(row) for row in rows]
        if self.data_collator is not None:
            batch = self.data_collator(rows)
        else:
            batch = pad_tokens(rows, self._tokenizer)
            if self._names is not None:
                batch = {name: value for name, value in batch.items() if name in self._names or name == "labels"}
            others = [{n: v for n, v in row.items() if n not in (*TOKEN_COLUMNS, *PROMPT_COLUMNS)} for row in rows]
            batch |= default_data_collator(others)
        # A packed batch is one long row.
        if None not in classes and "class_labels" not in batch and len(batch.get("input_ids", ())) == len(rows):
            batch["class_labels"] = torch.tensor(classes)
        return batch

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
        elif column == "audio":
            batch = dict(self._sounds(values))
        else:
            pairs = {"text_pair": [row["text_pair"] for row in rows]} if "text_pair" in rows[0] else {}
            options = {"padding": True, "truncation": True, "return_tensors": "pt"}
            batch = dict(self.processing_class(text=values, **pairs, **options))
        if self._names is not None:
            batch = {name: value for name, value in batch.items() if name in self._names}
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([int(row["labels"]) for row in rows])
        return batch

    def _sounds(self, values: list[Any]) -> Any:
        rates = {value["sampling_rate"] for value in values}
        wanted = self.processing_class.sampling_rate
        if rates != {wanted}:
            raise ValueError(
                f"A sound has a sampling rate of {next(iter(rates - {wanted}))} Hz, and the model hears {wanted} Hz: "
                f"resample with dataset.cast_column('audio', Audio(sampling_rate={wanted}))."
            )
        arrays = [np.asarray(value["array"], dtype=np.float32) for value in values]
        return self.processing_class(arrays, sampling_rate=wanted, padding=True, return_tensors="pt")


def _has_token_labels(rows: list[Any]) -> bool:
    """Return `True` if rows have a label for each token; several labels a row may also be those of many classes."""
    if not {"input_ids", "labels"} <= rows[0].keys():
        return False
    labels = np.asarray(rows[0]["labels"])
    return labels.shape == (len(rows[0]["input_ids"]),) and np.issubdtype(labels.dtype, np.integer)


def _class_of(row: Mapping[str, Any]) -> int | None:
    return next((int(row[column]) for column in LABEL_COLUMNS if column in row and is_class(row[column])), None)


def _with_one_label(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its label column named `labels`, and no other one that a collator could take instead."""
    if "labels" in row and _OTHER_LABEL_COLUMNS.isdisjoint(row):
        return dict(row)
    column = first_label_column(row)
    kept = {name: value for name, value in row.items() if name not in LABEL_COLUMNS}
    return kept if column is None else {**kept, "labels": row[column]}
