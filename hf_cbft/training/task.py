# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run is about: a classifier or a causal language model, its classes and its representation."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import DataCollatorWithFlattening
from transformers.utils import logging

from hf_cbft.architectures import base_model, is_causal_lm
from hf_cbft.data.columns import check_not_empty, class_labels, completion_classes
from hf_cbft.representations import check_single_label, find_representation_layer
from hf_cbft.training.config import CBFTConfig
from hf_cbft.training.step import RepresentationReader

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Task:
    """What of the loss applies to a model and its data.

    Args:
        causal (`bool`): whether the model is a causal language model; the losses then count tokens.
        pairing (`str`): which cue row goes with a clean row.
        reader ([`RepresentationReader`], *optional*): `None` where there is no invariance loss.
    """

    causal: bool
    pairing: str
    reader: RepresentationReader | None


def find_task(
    model: nn.Module, args: CBFTConfig, train_dataset: Any, cue_dataset: Any, data_collator: Any = None
) -> Task:
    """Look at the model, the rows and what collates them.

    Raises:
        ValueError: empty or unlabelled data, labels beyond the model's classes, several or no classes a row, or no
        representation, or rows that are packed into one.
        NotImplementedError: a model whose loss or weights are not what the path is made for.
    """
    _refuse_models(model)
    check_not_empty(train_dataset, "train_dataset")
    check_not_empty(cue_dataset, "cue_dataset")
    if is_causal_lm(model):
        task = _language_task(model, args, train_dataset, cue_dataset)
        if task.reader is not None and isinstance(data_collator, DataCollatorWithFlattening):
            raise ValueError(
                "DataCollatorWithFlattening packs a batch into one row, which has no class: set invariance_coef=0, or "
                "leave out data_collator."
            )
        return task
    check_single_label(base_model(model))
    if args.invariance_coef == 0.0:
        return Task(causal=False, pairing=args.pairing, reader=None)
    num_classes = base_model(model).config.num_labels
    for name, dataset in (("train_dataset", train_dataset), ("cue_dataset", cue_dataset)):
        class_labels(dataset, name, num_classes)
    layer_name, _ = find_representation_layer(model, num_classes, args.representation_layer)
    checked = args.representation_layer is not None
    return Task(False, args.pairing, RepresentationReader(layer_name, num_classes, checked=checked))


def _language_task(model: nn.Module, args: CBFTConfig, train_dataset: Any, cue_dataset: Any) -> Task:
    for name, dataset in (("train_dataset", train_dataset), ("cue_dataset", cue_dataset)):
        _check_completions(dataset, name)
    clean_classes = completion_classes(train_dataset, "train_dataset")
    cue_classes = completion_classes(cue_dataset, "cue_dataset")
    if clean_classes is None or cue_classes is None:
        if args.invariance_coef > 0.0 or args.pairing == "class":
            logger.warning(
                "The rows have no class column (label), so there are no class means: the invariance loss is left out"
                + (", and pairs are drawn at random." if args.pairing == "class" else ".")
            )
        return Task(True, "random" if args.pairing == "class" else args.pairing, None)
    if args.invariance_coef == 0.0:
        return Task(True, args.pairing, None)
    if args.representation_layer is not None:
        layer_name, _ = find_representation_layer(model, 0, args.representation_layer)
    else:
        head = base_model(model).get_output_embeddings()
        layer_name = next(name for name, module in model.named_modules() if module is head)
    num_classes = int(max(clean_classes.max(), cue_classes.max())) + 1
    return Task(True, args.pairing, RepresentationReader(layer_name, num_classes, causal=True, checked=True))


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
