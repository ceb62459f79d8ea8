# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""From a model and its rows to a task and a plan of training, or to the reason why there is none."""

from typing import Any

from torch import nn
from transformers import DataCollatorWithFlattening

from hf_cbft.architectures import base_model, class_name
from hf_cbft.data.columns import check_not_empty
from hf_cbft.tasks.registry import other_task, task_of
from hf_cbft.tasks.task import Task, TrainingPlan


def plan_training(
    model: nn.Module,
    train_dataset: Any,
    cue_dataset: Any,
    data_collator: Any = None,
    *,
    pairing: str = "class",
    layer: str | None = None,
    reads: bool = True,
) -> tuple[Task, TrainingPlan]:
    """Look at the model, the rows and what collates them.

    Args:
        model (`torch.nn.Module`): unwrapped, perhaps with an adapter.
        train_dataset, cue_dataset: the clean rows and those with the cue.
        data_collator (`Callable`, *optional*): the user's own.
        pairing (`str`), layer (`str`, *optional*), reads (`bool`): see [`Task.plan`].

    Raises:
        ValueError: empty or unlabelled data, labels beyond the model's classes, several or no classes a row, or no
        representation, or rows that are packed into one.
        NotImplementedError: a model whose loss or weights are not what the path is made for.
    """
    _refuse_models(model)
    sets = {"train_dataset": train_dataset, "cue_dataset": cue_dataset}
    for name, dataset in sets.items():
        check_not_empty(dataset, name)
    task = task_of(model)
    plan = task.plan(model, sets, pairing, layer, reads)
    if plan.layer_name is not None and isinstance(data_collator, DataCollatorWithFlattening):
        raise ValueError(
            "DataCollatorWithFlattening packs a batch into one row, which has no class: set invariance_coef=0, or "
            "leave out data_collator."
        )
    return task, plan


def _refuse_models(model: Any) -> None:
    name = type(base_model(model)).__name__
    if getattr(model, "_hf_peft_config_loaded", False):
        raise NotImplementedError(
            f"{name} carries an adapter that Transformers added, whose scale cannot be reached: wrap the base with "
            "peft.get_peft_model, or give peft_config."
        )
    config = getattr(base_model(model), "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise NotImplementedError(
            f"{name} is an encoder-decoder model, for which the loss is not checked: use a classifier or a causal "
            "language model."
        )
    if getattr(base_model(model), "is_quantized", False) or getattr(config, "quantization_config", None):
        raise NotImplementedError(
            f"{name} is quantised, and a point between quantised weights is not on their grid: load it without "
            "quantization_config."
        )
    if (getattr(base_model(model), "tp_size", None) or 1) > 1:
        raise NotImplementedError(
            f"{name} is split by tensor parallelism, for which the path is not checked: use DDP or FSDP2."
        )
    if other_task(model) is not None:
        raise NotImplementedError(
            f"{class_name(model)} is made for {other_task(model)}, for which the training loss is not checked: use a "
            "classifier, a token classifier or a causal language model."
        )
