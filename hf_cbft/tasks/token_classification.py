# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A class for each token: named entities, parts of speech."""

from typing import Any

import torch
from torch import nn
from transformers.models.auto import modeling_auto as auto

from hf_cbft.architectures import base_model, listed
from hf_cbft.data.columns import check_token_labels
from hf_cbft.representations import Representation
from hf_cbft.tasks.task import IGNORED, Batch, Sets, Task, TrainingPlan


class TokenClassification(Task):
    """Each token with a label is a vector of its own: class means are means over tokens.

    A row has tokens of many classes, so `pairing="class"` pairs rows at random.
    """

    name = "token_classification"
    classes = listed(auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    peft_task_type = "TOKEN_CLS"

    def plan(self, model: nn.Module, sets: Sets, pairing: str, layer: str | None, reads: bool) -> TrainingPlan:
        for name, dataset in sets.items():
            check_token_labels(dataset, name, base_model(model).config.num_labels)
        return self.plan_of_classes(model, "random" if pairing == "class" else pairing, layer, reads)

    def representation(self, captured: Representation, outputs: Any, batch: Batch) -> torch.Tensor:
        states, labels = captured.input, self.labels(batch)
        if states is None or states.ndim != 3 or states.shape[:2] != labels.shape:
            shape = None if states is None else tuple(states.shape)
            raise ValueError(
                f"The representation layer gets an input of shape {shape} for labels of shape {tuple(labels.shape)}, "
                "not one vector a token: name another module with representation_layer, or set invariance_coef=0."
            )
        states = states[labels != IGNORED]
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def classes_of(self, batch: Batch) -> torch.Tensor:
        labels = self.labels(batch)
        return labels[labels != IGNORED]
