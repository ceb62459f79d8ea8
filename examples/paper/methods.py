# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Each way of fine-tuning that the experiments compare: from a model that relies on the cue to another one."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments

from hf_cbft import baselines
from hf_cbft.connectivity.evaluator import ConnectivityEvaluator
from hf_cbft.data.inputs import InputCollator
from hf_cbft.paths.batchnorm import batchnorm_modules, recalibrate
from hf_cbft.paths.interpolation import evaluation_mode
from hf_cbft.training.config import CBFTConfig
from hf_cbft.training.terms import BarrierTerm
from hf_cbft.training.trainer import CBFTTrainer
from paper.problems import Problem

_EVALUATION_BATCH = 256


@dataclass
class Finetuning:
    """One fine-tuning.

    Args:
        problem ([`Problem`]): the data.
        start (`Callable`): gives the pretrained model anew.
        seed (`int`): of the order of the rows.
        scratch (`str`): a folder for the Trainer.
        device (`str`): where to train.
        overrides (`Mapping`, *optional*): fields of `CBFTConfig`, or of the recipe (`cbft_lr`); `hinge`: max(0, .)
            in place of the absolute value of the barrier loss.
    """

    problem: Problem
    start: Callable[[], nn.Module]
    seed: int
    scratch: str
    device: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] | None = None

    def arguments(self, learning_rate: float) -> TrainingArguments:
        options = self.problem.recipe.training_arguments(self.scratch, learning_rate, self.seed, self.device)
        return TrainingArguments(**options, remove_unused_columns=False)


def pretrain(problem: Problem, seed: int, scratch: str, device: str, clean: bool = False) -> nn.Module:
    """A fresh model, trained where the cue is, or (`clean`) on the same rows without it."""
    model = problem.build(seed)
    rows = problem.plain if clean else problem.pretrain
    args = problem.recipe.pretraining_arguments(scratch, seed, device)
    baselines.finetune(model, rows, args, problem.processing_class)
    return model


def _naive(run: Finetuning, learning_rate: float) -> nn.Module:
    model = run.start()
    baselines.finetune(model, run.problem.clean, run.arguments(learning_rate), run.problem.processing_class)
    return model


def _naive_large(run: Finetuning) -> nn.Module:
    """The large learning rate with the highest accuracy on the validation rows with a random cue; all are recorded."""
    problem = run.problem
    tried: list[dict[str, Any]] = []

    def score(model: nn.Module) -> float:
        measured = accuracies(model, problem, {**problem.test, "validation": problem.validation})
        validation = measured.pop("validation")["accuracy"]
        tried.append(
            {
                "learning_rate": problem.recipe.large_lrs[len(tried)],
                "validation_rand_cue": validation,
                "accuracy": {name: values["accuracy"] for name, values in measured.items()},
                "barrier": barrier(run.start(), model, problem),
            }
        )
        return validation

    rates = problem.recipe.large_lrs
    args = run.arguments(rates[0])
    model, _ = baselines.finetune_best_rate(run.start, problem.clean, args, rates, score, problem.processing_class)
    run.tried = tried
    return model


def _last_layer(run: Finetuning) -> nn.Module:
    model = run.start()
    baselines.retrain_last_layer(model, run.problem.clean, run.problem.processing_class)
    return model


def _linear_probe_then_finetune(run: Finetuning) -> nn.Module:
    model, problem = run.start(), run.problem
    args = run.arguments(problem.recipe.medium_lr)
    baselines.linear_probe_then_finetune(model, problem.clean, args, problem.processing_class)
    return model


def _deep_feature_reweighting(run: Finetuning) -> nn.Module:
    model, problem = run.start(), run.problem
    baselines.deep_feature_reweighting(
        model, problem.clean, problem.clean_groups, problem.processing_class, seed=run.seed
    )
    return model


def _balanced(run: Finetuning) -> nn.Module:
    """Group-balanced fine-tuning on the pretraining rows: groups are known there, as who made the cue knows them."""
    model, problem = run.start(), run.problem
    args = run.arguments(problem.recipe.medium_lr)
    baselines.finetune_group_balanced(model, problem.pretrain, problem.pretrain_groups, args, problem.processing_class)
    return model


def _cbft(run: Finetuning, **defaults: Any) -> nn.Module:
    model, problem, recipe = run.start(), run.problem, run.problem.recipe
    own = {"invariance_coef": recipe.invariance_coef, "barrier_margin": recipe.barrier_margin}
    fields = {**own, **defaults, **run.overrides}
    rate, hinge = fields.pop("learning_rate", recipe.cbft_lr), fields.pop("hinge", False)
    args = CBFTConfig(**recipe.training_arguments(run.scratch, rate, run.seed, run.device), **fields)
    terms = []
    if hinge:
        terms.append(HingeTerm(args.barrier_coef, args.barrier_margin, args.barrier_stop_ratio))
        args.barrier_coef = 0.0  # it takes the place of L_B
    trainer = CBFTTrainer(
        model=model,
        args=args,
        train_dataset=problem.clean,
        cue_dataset=problem.cue_dataset,
        processing_class=problem.processing_class,
        terms=terms,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


class HingeTerm(BarrierTerm):
    """max(0, ref_loss + margin - path_loss): a path loss above the margin is not pulled down again."""

    def value(self, path_loss: torch.Tensor, ref_loss: float) -> torch.Tensor:
        return (ref_loss + self.margin - path_loss).clamp(min=0.0)


# In the order of the tables.
METHODS: dict[str, Callable[[Finetuning], nn.Module]] = {
    "naive-small": lambda run: _naive(run, run.problem.recipe.small_lr),
    "naive-medium": lambda run: _naive(run, run.problem.recipe.medium_lr),
    "naive-large": _naive_large,
    "llrt": _last_layer,
    "lp-ft": _linear_probe_then_finetune,
    "dfr": _deep_feature_reweighting,
    "balanced": _balanced,
    "cbft": _cbft,
    "cbft-paper": lambda run: _cbft(run, barrier_stop_ratio=1.0, ref_loss=0.0),
}


def accuracies(model: nn.Module, problem: Problem, sets: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By set, the accuracy (a fraction), the loss (nats, a mean over the rows) and which rows are right (N,)."""
    collate = InputCollator(model, problem.processing_class)
    device = next(model.parameters()).device
    found = {}
    with evaluation_mode(model), torch.no_grad():
        for name, rows in sets.items():
            logits, labels = [], []
            for batch in DataLoader(rows, batch_size=_EVALUATION_BATCH, collate_fn=collate):
                labels.append(batch.pop("labels"))
                logits.append(model(**{key: value.to(device) for key, value in batch.items()}).logits.cpu().double())
            joined, wanted = torch.cat(logits), torch.cat(labels)
            right = joined.argmax(dim=-1) == wanted
            found[name] = {
                "accuracy": right.double().mean().item(),
                "loss": F.cross_entropy(joined, wanted).item(),
                "right": right.numpy(),
            }
    return found


def barrier(pretrained: nn.Module, model: nn.Module, problem: Problem) -> dict[str, Any]:
    """On the straight line from the pretrained model, on the test rows with the cue, in nats."""
    result = measure_path(pretrained, model, problem, {"cue": problem.test["cue"]})
    return barrier_fields(result.to_dict()["barriers"]["cue"])


def barrier_fields(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {name: measured[name] for name in ("height", "low", "high", "connected", "alpha")}


def measure_path(
    start: nn.Module,
    end: nn.Module,
    problem: Problem,
    sets: Mapping[str, Any],
    path: Any = "linear",
    align: str | None = None,
) -> Any:
    """A [`ConnectivityResult`] between two models, the end aligned on the rows without a cue if it is asked for.

    BatchNorm statistics are those of the rows without a cue at every point, as in the paper, also at both ends: with
    the ends' own, which come from other rows, the first step away from an end would look like a barrier.
    """
    if batchnorm_modules(start):
        start, end = (_with_plain_statistics(problem, model) for model in (start, end))
    evaluator = ConnectivityEvaluator(
        start,
        end,
        problem.processing_class,
        batch_size=_EVALUATION_BATCH,
        calibration_dataset=problem.plain,
        align=align,
    )
    return evaluator.evaluate(dict(sets), path=path, num_points=problem.recipe.num_points)


def _with_plain_statistics(problem: Problem, model: nn.Module) -> nn.Module:
    """A copy of a model whose BatchNorm statistics are those of the rows without a cue."""
    model = copy.deepcopy(model)
    device = next(model.parameters()).device
    collate = InputCollator(model, problem.processing_class)
    batches = DataLoader(problem.plain, batch_size=_EVALUATION_BATCH, collate_fn=collate)
    with torch.no_grad():
        recalibrate(model, batches, lambda batch: model(pixel_values=batch["pixel_values"].to(device)))
    return model
