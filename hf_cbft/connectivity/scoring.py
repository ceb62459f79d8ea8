# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""From a batch to per-example losses, for each task that can be measured."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hf_cbft.architectures import base_model, class_name, other_task_of, task_of
from hf_cbft.data.completions import IGNORED

# What a batch holds beside the inputs of the model.
_NOT_INPUTS = ("labels", "class_labels")
# Predictions of language models would be kept for each token: too many, and no usual metric wants them.
_WITH_PREDICTIONS = ("classification", "token_classification")


@dataclass(frozen=True)
class Scores:
    """What a model gives on B rows.

    Attributes:
        losses (`np.ndarray`): (B,) float64, nats, the mean over the row's counted tokens (its cross-entropy, where a
            row has one label); 0 for a row that counts none.
        weights (`np.ndarray`): (B,) float64, how many tokens the row counts; 1 where it has one label.
        correct (`np.ndarray`): (B,) float64, the fraction of them that is predicted right.
        predictions (`np.ndarray`, *optional*): (M,) int64, the classes predicted, of one label a row or of all
            counted tokens in order; `None` for language models.
        references (`np.ndarray`, *optional*): (M,) int64, the labels.
    """

    losses: np.ndarray
    weights: np.ndarray
    correct: np.ndarray
    predictions: np.ndarray | None
    references: np.ndarray | None


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several batches as those of one."""
    columns: dict[str, Any] = {}
    for field in fields(Scores):
        values = [getattr(part, field.name) for part in parts]
        columns[field.name] = None if values[0] is None else np.concatenate(values)
    return Scores(**columns)


def text_labels(batch: Mapping[str, Any]) -> torch.Tensor:
    """The text itself, without its padding: a causal language model predicts what it reads."""
    labels, mask = batch["input_ids"], batch.get("attention_mask")
    return labels if mask is None else labels.masked_fill(mask == 0, IGNORED)


class Scorer:
    """The losses of one model on batches of its task.

    Args:
        model (`torch.nn.Module`): classification (image, text, audio), token classification, causal or masked
            language model, or encoder-decoder. A class that Transformers does not list is taken for a classifier.

    Raises:
        NotImplementedError: several or no classes a row, or another task.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.task = task_of(model) or "classification"
        other = other_task_of(model)
        if other is not None:
            raise NotImplementedError(
                f"{class_name(model)} is made for {other}, which the evaluator does not measure: it knows "
                "classification, token classification, causal and masked language models, encoder-decoders of text."
            )
        config = getattr(base_model(model), "config", None)
        problem = getattr(config, "problem_type", None)
        if self.task == "classification" and problem in ("regression", "multi_label_classification"):
            raise NotImplementedError(
                f"{class_name(model)} is set up for {problem.replace('_', ' ')}, and the evaluator measures one class "
                "a row: give a model whose problem_type is single_label_classification."
            )
        self.num_classes = getattr(config, "num_labels", None) if self.task in _WITH_PREDICTIONS else None
        # Of one of K classes, in nats. A language model is not taken to guess among all of its vocabulary.
        self.guess_loss = math.log(self.num_classes) if self.num_classes else 0.0
        # A cache of keys and values is memory that nobody reads.
        takes = inspect.signature(base_model(model).forward).parameters
        self._options = {"use_cache": False} if "use_cache" in takes else {}

    @torch.no_grad()
    def logits(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """One forward pass, without the loss."""
        inputs = {name: value for name, value in batch.items() if name not in _NOT_INPUTS}
        if self.task == "seq2seq":
            inputs["labels"] = batch["labels"]  # what the decoder reads is made of them
        outputs = self.model(**inputs, **self._options)
        return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]

    @torch.no_grad()
    def outputs(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of a forward pass, checked, on the device of the model."""
        labels = self._labels(batch)
        logits = self.logits({**batch, "labels": labels})
        if self.task == "classification":
            self._check_shapes(logits, labels, 2, "one row of class logits an example")
        else:
            self._check_shapes(logits, labels, 3, "a row of logits for each token")
        return logits, labels

    @torch.no_grad()
    def scores(self, logits: torch.Tensor, labels: torch.Tensor) -> Scores:
        """What [`outputs`] amount to, in host memory."""
        if self.task == "classification":
            return _row_scores(logits, labels)
        if self.task == "causal_lm":
            logits, labels = logits[:, :-1], labels[:, 1:]
        return _token_scores(logits, labels, keep=self.task in _WITH_PREDICTIONS)

    def _labels(self, batch: Mapping[str, Any]) -> torch.Tensor:
        if "labels" in batch:
            return batch["labels"]
        if self.task != "causal_lm" or "input_ids" not in batch:
            raise ValueError("The data_collator made a batch without labels: the loss needs them.")
        return text_labels(batch)

    def _check_shapes(self, logits: torch.Tensor, labels: torch.Tensor, dimensions: int, what: str) -> None:
        if logits.ndim != dimensions or labels.shape != logits.shape[:-1]:
            raise NotImplementedError(
                f"{class_name(self.model)} gives logits of shape {tuple(logits.shape)} for labels of shape "
                f"{tuple(labels.shape)}: the evaluator measures {what}."
            )


def _row_scores(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    logits, labels = logits.cpu(), labels.cpu()
    losses = F.cross_entropy(logits.double(), labels, reduction="none").numpy()
    predictions, references = logits.argmax(dim=-1).numpy(), labels.numpy()
    correct = (predictions == references).astype(np.float64)
    return Scores(losses, np.ones(len(references)), correct, predictions, references)


def _token_scores(logits: torch.Tensor, labels: torch.Tensor, keep: bool) -> Scores:
    """Scores of rows that have a label for each token, -100 for those that do not count."""
    counted = labels != IGNORED
    rows = counted.nonzero()[:, 0].cpu().numpy()
    picked, wanted = logits[counted].float(), labels[counted]
    if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < picked.shape[-1]:
        raise ValueError(
            f"A token has the label {int(wanted.min() if wanted.min() < 0 else wanted.max())}, but the model gives "
            f"{picked.shape[-1]} logits: labels are 0 to {picked.shape[-1] - 1}, or {IGNORED} for what does not count."
        )
    losses = F.cross_entropy(picked, wanted, reduction="none").cpu().numpy()
    predictions, references = picked.argmax(dim=-1).cpu().numpy(), wanted.cpu().numpy()
    weights, losses, correct = (
        np.bincount(rows, values, minlength=len(labels)) for values in (None, losses, predictions == references)
    )
    tokens = np.maximum(weights, 1)
    kept = (predictions, references) if keep else (None, None)
    return Scores(losses / tokens, weights.astype(np.float64), correct / tokens, *kept)
