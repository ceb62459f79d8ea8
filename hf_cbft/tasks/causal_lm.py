# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Causal language models: each token is predicted from those before it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.auto import modeling_auto as auto
from transformers.utils import logging

from hf_cbft.architectures import base_model, listed
from hf_cbft.data.columns import completion_classes
from hf_cbft.data.completions import IGNORED
from hf_cbft.representations import Representation, find_representation_layer, pooled_states
from hf_cbft.tasks.task import Batch, Sets, Task, TrainingPlan

logger = logging.get_logger(__name__)


class CausalLM(Task):
    """Texts, or prompts with completions of which the completions' tokens count.

    The class of a row, where there is one, stands in `class_labels`; its representation is the mean of the states
    from which its tokens are predicted.
    """

    name = "causal_lm"
    classes = listed(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    is_language_model = True
    peft_task_type = "CAUSAL_LM"

    def labels(self, batch: Batch) -> torch.Tensor:
        if "labels" in batch or "input_ids" not in batch:
            return super().labels(batch)
        # The text itself, without its padding.
        text, mask = batch["input_ids"], batch.get("attention_mask")
        return text if mask is None else text.masked_fill(mask == 0, IGNORED)

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        return F.pad(labels[:, 1:], (0, 1), value=IGNORED)

    def plan(self, model: nn.Module, sets: Sets, pairing: str, layer: str | None, reads: bool) -> TrainingPlan:
        for name, dataset in sets.items():
            _check_completions(dataset, name)
        classes = [completion_classes(dataset, name) for name, dataset in sets.items()]
        known = [found for found in classes if found is not None]
        if len(known) < len(classes):
            if reads or pairing == "class":
                logger.warning(
                    "The rows have no class column (label), so there are no class means: the invariance loss is left "
                    "out" + (", and pairs are drawn at random." if pairing == "class" else ".")
                )
            return TrainingPlan("random" if pairing == "class" else pairing)
        if not reads:
            return TrainingPlan(pairing)
        if layer is not None:
            layer_name, _ = find_representation_layer(model, 0, layer)
        else:
            head = base_model(model).get_output_embeddings()
            layer_name = next(name for name, module in model.named_modules() if module is head)
        return TrainingPlan(pairing, layer_name, int(max(found.max() for found in known)) + 1)

    def representation(self, captured: Representation, outputs: Any, batch: Batch) -> torch.Tensor:
        assert captured.input is not None  # the head has run, or there would be no outputs
        return pooled_states(captured.input, self.labels(batch))

    def classes_of(self, batch: Batch) -> torch.Tensor:
        return batch["class_labels"]


def _check_completions(dataset: Any, name: str) -> None:
    """A data set without named columns, or behind a transform, may hold anything."""
    columns = set(getattr(dataset, "column_names", None) or ())
    if not columns or dataset.format["type"] == "custom":
        return
    if not {"prompt", "completion"} <= columns and "input_ids" not in columns:
        raise ValueError(
            f"{name} has the columns {', '.join(sorted(columns))}, and a causal language model is trained on a prompt "
            "and a completion, or on input_ids and labels: name them so."
        )
