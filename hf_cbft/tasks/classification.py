# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""One class a row: images, texts and sounds."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.auto import modeling_auto as auto

from hf_cbft.architectures import base_model, class_name, listed
from hf_cbft.data.columns import class_labels
from hf_cbft.representations import Representation, check_single_label
from hf_cbft.tasks.task import Batch, Scores, Sets, Task, TrainingPlan


class Classification(Task):
    """One of K classes a row. A model class that Transformers does not list is taken for a classifier."""

    name = "classification"
    classes = listed(
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    )
    one_label_a_row = True
    _logits_ndim = 2
    _measures = "one row of class logits an example"

    @torch.no_grad()
    def scores(self, logits: torch.Tensor, labels: torch.Tensor) -> Scores:
        logits, labels = logits.cpu(), labels.cpu()
        losses = F.cross_entropy(logits.double(), labels, reduction="none").numpy()
        predictions, references = logits.argmax(dim=-1).numpy(), labels.numpy()
        correct = (predictions == references).astype(np.float64)
        return Scores(losses, np.ones(len(references)), correct, predictions, references)

    def check_rows(self, dataset: Any, name: str) -> None:
        class_labels(dataset, name, self.num_classes)

    def check_model(self, model: nn.Module) -> None:
        config = getattr(base_model(model), "config", None)
        problem = getattr(config, "problem_type", None) or ""
        one_output = getattr(config, "num_labels", None) == 1  # its cross-entropy is 0, whatever it says
        if one_output or problem in ("regression", "multi_label_classification"):
            given = "one output (num_labels = 1), which is a number" if one_output else problem.replace("_", " ")
            raise NotImplementedError(
                f"{class_name(model)} is set up for {given}, and the evaluator measures one class a row: give a model "
                "of at least two classes whose problem_type is single_label_classification."
            )

    def plan(self, model: nn.Module, sets: Sets, pairing: str, layer: str | None, reads: bool) -> TrainingPlan:
        check_single_label(base_model(model))
        for name, dataset in sets.items() if reads else ():
            self.check_rows(dataset, name)
        return self.plan_of_classes(model, pairing, layer, reads)

    def representation(self, captured: Representation, outputs: Any, batch: Batch) -> torch.Tensor:
        return captured.per_row(self.logits(outputs))

    def classes_of(self, batch: Batch) -> torch.Tensor:
        return self.labels(batch)
