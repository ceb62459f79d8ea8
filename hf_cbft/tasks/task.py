# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A task: from a model and a batch to losses, predictions, and the count that a mean is a mean of."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hf_cbft.architectures import base_model, class_name
from hf_cbft.data.completions import IGNORED
from hf_cbft.representations import Representation, find_representation_layer

Batch = Mapping[str, Any]
Sets = Mapping[str, Any]
# What a batch holds beside the inputs of the model.
NOT_INPUTS = ("labels", "class_labels")


@dataclass(frozen=True)
class Scores:
    """The per-example losses and predictions of B rows.

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


@dataclass(frozen=True)
class TrainingPlan:
    """How the rows of a training run go together, and where their representations are.

    Args:
        pairing (`str`): which cue row goes with a clean row.
        layer_name (`str`, *optional*): the module whose input is the representation; `None`: there are no terms on
            representations.
        num_classes (`int`): K of the class means.
        gives_logits (`bool`): whether the layer has to give the logits, as the first batch tells.
    """

    pairing: str
    layer_name: str | None = None
    num_classes: int = 0
    gives_logits: bool = False


class Task:
    """What a model is for. This class has a label for each token; a subclass says what is different.

    Every loss is computed here, from logits and labels: that of a model's own forward pass may hold other terms (a
    router's, a teacher's), and some models give none.

    Args:
        model (`torch.nn.Module`): the model, unwrapped; its configuration and signature are read, and it is not kept.

    Attributes:
        name (`str`): as results and messages have it.
        classes (`frozenset[str]`): names of the model classes that the task is for.
        is_language_model (`bool`): whether labels are tokens of a vocabulary, so that no predictions are kept and a
            perplexity is shown.
        one_label_a_row (`bool`): whether the label column of the rows holds one class.
        peft_task_type (`str`, *optional*): PEFT's word for it.
        num_classes (`int`, *optional*): K; `None` for language models.
        guess_loss (`float`): the loss of a uniform guess, log K nats; 0 for language models, which are not taken to
            guess among all of their vocabulary.
    """

    name: ClassVar[str]
    classes: ClassVar[frozenset[str]] = frozenset()
    is_language_model: ClassVar[bool] = False
    one_label_a_row: ClassVar[bool] = False
    peft_task_type: ClassVar[str | None] = None
    _logits_ndim: ClassVar[int] = 3
    _measures: ClassVar[str] = "a row of logits for each token"

    def __init__(self, model: nn.Module) -> None:
        config = getattr(base_model(model), "config", None)
        self.num_classes: int | None = None if self.is_language_model else getattr(config, "num_labels", None)
        self.guess_loss = float(np.log(self.num_classes)) if self.num_classes else 0.0
        # A cache of keys and values is memory that nobody reads.
        takes = inspect.signature(base_model(model).forward).parameters
        self._options = {"use_cache": False} if "use_cache" in takes else {}

    # One batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """What the model takes of a batch: everything but the labels."""
        return {name: value for name, value in batch.items() if name not in NOT_INPUTS}

    def labels(self, batch: Batch) -> torch.Tensor:
        """(B, T), or (B,) with one label a row. Raises a `ValueError` if the batch has none."""
        if "labels" not in batch:
            raise ValueError("The data_collator made a batch without labels: the loss needs them.")
        return batch["labels"]

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """The labels, of their own shape, each at the place of the logits that predict it; -100 does not count."""
        return labels

    def count(self, batch: Batch) -> torch.Tensor:
        """What the mean loss of a batch is a mean of: its rows, or the tokens that count. A scalar."""
        return (self.targets(self.labels(batch)) != IGNORED).sum()

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The model's outputs, without a loss of its own."""
        return model(**self.inputs(batch), **self._options)

    def logits(self, outputs: Any) -> torch.Tensor:
        """The logits among the outputs of a model."""
        if isinstance(outputs, Mapping):
            return outputs["logits"]
        return next(output for output in outputs if torch.is_tensor(output) and output.ndim > 1)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The mean loss of a batch and the model's outputs.

        Args:
            model (`torch.nn.Module`): wrapped or not.
            batch (`Mapping`): with labels.

        Returns:
            `tuple`: the mean cross-entropy in nats over what [`count`] counts (0 where that is nothing), a
            differentiable scalar in at least float32; and the outputs.
        """
        outputs = self.forward(model, batch)
        logits = self.logits(outputs)
        targets = self.targets(self.labels(batch)).to(logits.device)
        self.check_shapes(model, logits, targets)
        logits = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))
        total = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1), outputs

    @torch.no_grad()
    def outputs(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of a forward pass, checked, on the device of the model."""
        labels = self.labels(batch)
        logits = self.logits(self.forward(model, {**batch, "labels": labels}))
        self.check_shapes(model, logits, labels)
        return logits, labels

    @torch.no_grad()
    def scores(self, logits: torch.Tensor, labels: torch.Tensor) -> Scores:
        """Per-example losses and predictions from [`outputs`], in host memory."""
        targets = self.targets(labels)
        counted = targets != IGNORED
        rows = counted.nonzero()[:, 0].cpu().numpy()
        picked, wanted = logits[counted].float(), targets[counted]
        if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < picked.shape[-1]:
            wrong = int(wanted.min() if wanted.min() < 0 else wanted.max())
            raise ValueError(
                f"A token has the label {wrong}, but the model gives {picked.shape[-1]} logits: labels are 0 to "
                f"{picked.shape[-1] - 1}, or {IGNORED} for what does not count."
            )
        losses = F.cross_entropy(picked, wanted, reduction="none").cpu().numpy()
        predictions, references = picked.argmax(dim=-1).cpu().numpy(), wanted.cpu().numpy()
        weights, losses, correct = (
            np.bincount(rows, values, minlength=len(targets)) for values in (None, losses, predictions == references)
        )
        tokens = np.maximum(weights, 1)
        kept = (None, None) if self.is_language_model else (predictions, references)
        return Scores(losses / tokens, weights.astype(np.float64), correct / tokens, *kept)

    def check_shapes(self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Raise a `NotImplementedError` unless there is a row of logits for each label."""
        if logits.ndim != self._logits_ndim or labels.shape != logits.shape[:-1]:
            raise NotImplementedError(
                f"{class_name(model)} gives logits of shape {tuple(logits.shape)} for labels of shape "
                f"{tuple(labels.shape)}: the evaluator measures {self._measures}."
            )

    # Data sets

    def check_rows(self, dataset: Any, name: str) -> None:
        """Refuse rows whose labels the model cannot have, before anything runs, with a `ValueError`.

        Args:
            dataset: the rows.
            name (`str`): what the error calls them.
        """

    def check_model(self, model: nn.Module) -> None:
        """Raise a `NotImplementedError` for a model of the task's classes whose loss is another one."""

    # Training

    def plan(self, model: nn.Module, sets: Sets, pairing: str, layer: str | None, reads: bool) -> TrainingPlan:
        """Check that a model and its rows can be trained, and find where the representation is.

        Args:
            model (`torch.nn.Module`): unwrapped, perhaps with an adapter.
            sets (`Mapping[str, data set]`): the clean rows and those with the cue, by what errors call them.
            pairing (`str`): the pairing that was asked for.
            layer (`str`, *optional*): the module that the user names as the one that the representation enters.
            reads (`bool`): whether a term reads representations.

        Raises:
            ValueError: rows that cannot be trained on, or no representation.
            NotImplementedError: a task that is not trained.
        """
        raise NotImplementedError(
            f"{class_name(model)} is made for {self.name.replace('_', ' ')}, for which the training loss is not "
            "checked: use a classifier, a token classifier or a causal language model."
        )

    def plan_of_classes(self, model: nn.Module, pairing: str, layer: str | None, reads: bool) -> TrainingPlan:
        """The plan of a model that gives K logits: what enters the layer that gives them is the representation."""
        if not reads:
            return TrainingPlan(pairing)
        num_classes = base_model(model).config.num_labels
        layer_name, _ = find_representation_layer(model, num_classes, layer)
        return TrainingPlan(pairing, layer_name, num_classes, gives_logits=layer is None)

    def representation(self, captured: Representation, outputs: Any, batch: Batch) -> torch.Tensor:
        """(N, D), the vectors whose class means are compared; N is the number of [`classes_of`]."""
        raise NotImplementedError

    def classes_of(self, batch: Batch) -> torch.Tensor:
        """(N,), the class of each of these vectors."""
        raise NotImplementedError
