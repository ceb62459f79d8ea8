# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines of CBFT: other ways to fine-tune a classifier off its cue, for any classifier of Transformers.

Those of the last layer alone are in `last_layer` and `feature_reweighting` beside it, and `hf_cbft.baselines` has all.
All change the model in place, except [`finetune_best_rate`], which makes its models itself.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_cbft.architectures import base_model
from hf_cbft.baselines.last_layer import classifier_labels, retrain_last_layer
from hf_cbft.data.balancing import balance_groups
from hf_cbft.data.columns import check_fills_a_batch
from hf_cbft.data.inputs import InputCollator, drop_unused_columns
from hf_cbft.paths.interpolation import evaluation_mode


def finetune(
    model: nn.Module,
    train_dataset: Any,
    args: TrainingArguments,
    processing_class: Any = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> Trainer:
    """Naive fine-tuning: cross-entropy on clean data with a plain `Trainer`, in place.

    Source: the baselines FTS and FTM of Lubana et al., ICML 2023, which differ in `args.learning_rate`.

    Args:
        model (`PreTrainedModel` or `PeftModel`): a classifier.
        train_dataset: as `dataset` in [`last_layer_features`].
        args (`TrainingArguments`): it is not changed. `remove_unused_columns` does not take away an `image` or `text`.
        processing_class (*optional*): the model's image processor, tokenizer or feature extractor.
        data_collator (`Callable`, *optional*): collates the rows instead.
        callbacks (*optional*): as for `Trainer`.

    Returns:
        `transformers.Trainer`: it has trained `model`.

    Raises:
        ValueError: no rows, labels beyond the classes, or several or no classes a row.
        NotImplementedError: a model for another task.
    """
    classifier_labels(model, train_dataset)
    check_fills_a_batch(train_dataset, args)
    shown = base_model(model) if args.remove_unused_columns else None
    args = copy.copy(args)
    args.remove_unused_columns = False  # the collator does it, once it has made model inputs of an image or a text
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=train_dataset if shown is None else drop_unused_columns(train_dataset, shown),
        data_collator=InputCollator(shown, processing_class, data_collator),
        processing_class=processing_class,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def finetune_best_rate(
    model_init: Callable[[], nn.Module],
    train_dataset: Any,
    args: TrainingArguments,
    learning_rates: Sequence[float],
    score: Callable[[nn.Module], float],
    processing_class: Any = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> tuple[nn.Module, dict[float, float]]:
    """Naive fine-tuning with the best of several learning rates: the rival that a large rate makes.

    One run for each rate, all with `args.seed`; checkpoints, if there are any, go to a folder for each rate in
    `args.output_dir`. The highest score wins, and the smaller rate where two are equal. A score that is not a number,
    such as that of a run that diverged, never wins.

    Args:
        model_init (`Callable`): gives the pretrained model anew each time.
        train_dataset, args, processing_class, data_collator, callbacks: as in [`finetune`].
        learning_rates (`Sequence[float]`): each above 0 and different.
        score (`Callable`):
            How good a model is. It gets the model in evaluation mode, and must look at validation data only: a rate
            that is picked on the test data makes the rival better than it is.

    Returns:
        `tuple[nn.Module, dict[float, float]]`: the best model, and the score of each rate.

    Raises:
        TypeError: `model_init` gives no model anew.
        ValueError: as for [`finetune`]; no rates, or rates that are not above 0 and different.
        RuntimeError: no run has a score that is a number.
    """
    if isinstance(model_init, nn.Module) or not callable(model_init):
        raise TypeError(
            f"model_init is a {type(model_init).__name__}: every rate starts from the same model, so give a function "
            "that makes it."
        )
    rates = sorted(learning_rates)
    if not rates or not rates[0] > 0.0 or len(set(rates)) < len(rates):
        raise ValueError(f"learning_rates = {list(learning_rates)}: give one or more, each above 0 and once.")
    best, best_score, tried = None, -np.inf, {}
    for rate in rates:  # the smallest first: only a higher score takes its place
        own = copy.copy(args)
        own.learning_rate, own.output_dir = rate, f"{args.output_dir}/lr-{rate:g}"
        set_seed(args.seed)
        model = model_init()
        finetune(model, train_dataset, own, processing_class, data_collator, callbacks)
        with evaluation_mode(model), torch.no_grad():
            tried[rate] = float(score(model))
        if tried[rate] > best_score:
            best, best_score = model, tried[rate]
    if best is None:
        raise RuntimeError(f"No learning rate of {rates} gave a model whose score is a number: try smaller ones.")
    return best, tried


def linear_probe_then_finetune(
    model: nn.Module,
    train_dataset: Any,
    args: TrainingArguments,
    processing_class: Any = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    callbacks: list[TrainerCallback] | None = None,
    *,
    l2: float = 1e-3,
    representation_layer: str | None = None,
) -> Trainer:
    """LP-FT: [`retrain_last_layer`], then [`finetune`] on the same rows, in place.

    Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
    2022; a baseline (LPFT) of Lubana et al., ICML 2023.

    Args:
        model, train_dataset, args, processing_class, data_collator, callbacks: as in [`finetune`].
        l2, representation_layer: as in [`retrain_last_layer`].

    Returns:
        `transformers.Trainer`: it has trained `model`.

    Raises:
        ValueError, NotImplementedError, RuntimeError: as for [`retrain_last_layer`].
    """
    retrain_last_layer(
        model,
        train_dataset,
        processing_class,
        l2=l2,
        data_collator=data_collator,
        batch_size=args.per_device_eval_batch_size,
        representation_layer=representation_layer,
    )
    return finetune(model, train_dataset, args, processing_class, data_collator, callbacks)


def finetune_group_balanced(
    model: nn.Module,
    train_dataset: Any,
    groups: str | Sequence[Any] | np.ndarray,
    args: TrainingArguments,
    processing_class: Any = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> Trainer:
    """Group-balanced ERM: [`finetune`] on data in which rows of small groups are repeated, in place.

    Every group then has as many rows as the largest. In expectation that is empirical risk with each row weighted by
    one over the size of its group, and it is the better of the two for small batches: a rare row with a large weight
    makes single steps large. Give `args.max_steps` to take as many steps as another method does.

    Source: "RWG" in Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022.

    Args:
        model, train_dataset, args, processing_class, data_collator, callbacks: as in [`finetune`].
        groups (`str` or `Sequence`): the column that holds the group of a row, or (N,) groups: strings or numbers.

    Returns:
        `transformers.Trainer`: it has trained `model`.

    Raises:
        ValueError: as for [`finetune`], or groups of another number than rows.
        NotImplementedError: as for [`finetune`].
    """
    classifier_labels(model, train_dataset)
    balanced = balance_groups(train_dataset, groups, how="oversample", seed=args.seed)
    return finetune(model, balanced, args, processing_class, data_collator, callbacks)
