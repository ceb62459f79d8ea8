# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A curve between two models: its middle, trained so that the loss along the curve is low."""

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from hf_cbft.architectures import has_adapter
from hf_cbft.checkpoints.loading import LoadOptions, check_no_nan, load_model, names_adapter, source_name
from hf_cbft.data.columns import check_not_empty
from hf_cbft.data.inputs import InputCollator
from hf_cbft.distributed import differentiable_mean
from hf_cbft.paths.batchnorm import batchnorm_modules, recalibrate
from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.paths.geometry import LinearPath, QuadraticPath, Weights, other_dtype, sample_alpha
from hf_cbft.paths.interpolation import at_point, check_same_weights, copy_weights, evaluation_mode, named_weights
from hf_cbft.tasks.registry import task_of
from hf_cbft.tasks.seq2seq import Seq2Seq
from hf_cbft.training.config import CBFTConfig, check_steps_after_backward
from hf_cbft.training.exact_resume import ExactResumeTrainer
from hf_cbft.training.run_state import RunState

# The set-up of a fit that names none, as it does on the demo's pretrained and CBFT models.
DEFAULT_STEPS = 300
DEFAULT_LEARNING_RATE = 1e-3

# Rows that BatchNorm statistics are estimated on, where the caller names no set for it.
_CALIBRATION_ROWS = 2048
# Where evaluation looks at the curve.
_EVALUATION_ALPHAS = (0.25, 0.5, 0.75)


def fit_curve(
    start: str | Path | nn.Module,
    end: str | Path | nn.Module,
    train_dataset: Any,
    args: TrainingArguments | None = None,
    *,
    middle: str | Path | nn.Module | None = None,
    processing_class: Any = None,
    data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
    eval_dataset: Any = None,
    calibration_dataset: Any = None,
    callbacks: list[TrainerCallback] | None = None,
) -> QuadraticPath:
    r"""Train the middle of a [`QuadraticPath`] between two models.

    Minimises the mean over alpha, uniform in [0, 1], of the model's own loss at gamma(alpha), over the middle alone:
    each micro-batch draws its alpha, and the gradient at gamma(alpha) times 2 alpha (1 - alpha) is that of the middle.
    The ends stay what they are. A low loss along the curve says that the two are mode connected on this data; it says
    nothing about the straight line, nor about mechanisms (measure the curve on the counterfactual sets for that).

    Weights that are frozen (`requires_grad=False`) in the model that the middle begins as keep their value there: with
    the default, the average, they stay on the straight line. Running statistics of BatchNorm are estimated anew for
    the middle when it is trained; in training, points use batch statistics. 16-bit ends: the middle is trained in
    float32 and rounded to their dtypes at the end.

    Args:
        start (`str`, `Path` or `PreTrainedModel`): alpha = 0: a folder, a Hub id, `org/name@revision`, or a model,
            whose weights are copied, so that training it later does not move the curve.
        end (`str`, `Path` or `PreTrainedModel`): alpha = 1.
        train_dataset: rows as for [`CBFTTrainer`]: model inputs and labels, or an `image`, a `text` or a `prompt` and
            a `completion`, which go through `processing_class`.
        args (`TrainingArguments`, *optional*):
            As for any `Trainer`; several processes (DDP), gradient accumulation, mixed precision, checkpoints and
            `resume_from_checkpoint` work. `None`: 300 steps of AdamW, 64 rows each, from a learning rate of 1e-3 to 0
            along a cosine, nothing saved, in the folder `curve-output`.
        middle (`str`, `Path` or `PreTrainedModel`, *optional*): what training begins from. `None`: the average.
        processing_class (*optional*): the models' image processor or tokenizer.
        data_collator (`Callable`, *optional*): from rows to a batch with `labels`.
        eval_dataset (*optional*): evaluated where `args` says so, at alpha = 0.25, 0.5 and 0.75: `eval_loss` is the
            mean of the losses there, `eval_max_loss` the largest, in nats.
        calibration_dataset (*optional*): rows that BatchNorm statistics are estimated on; `None`: up to 2,048 rows of
            `train_dataset`, evenly spaced. Models without BatchNorm need none.
        callbacks (*optional*): as for `Trainer`. Without one nothing is printed if `args.disable_tqdm` is set.

    Returns:
        [`QuadraticPath`]: the weights of both ends and of the trained middle.

    Raises:
        ValueError: ends of different shapes or dtypes, an adapter, no data, labels beyond the model's classes, or a
            setting of `args` under which the step would be wrong.
        NotImplementedError: a model or a setting for which the gradient is not known to be right.
        FloatingPointError: the loss along the curve is not finite.

    Source: Garipov et al., NeurIPS 2018, section 3.1; Lubana et al., ICML 2023, section 2.
    """
    if args is None:
        args = default_arguments("curve-output")
    _check_arguments(args)
    check_not_empty(train_dataset, "train_dataset")
    start_weights, end_weights, model = _ends_and_middle(start, end, middle)
    if data_collator is None:
        task_of(model).check_rows(train_dataset, "train_dataset")
    dtypes = {name: weight.dtype for name, weight in named_weights(model).items()}
    trainer = _CurveTrainer(
        model=_in_float32(model),
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processing_class,
        data_collator=InputCollator(model, processing_class, data_collator),
        callbacks=callbacks,
        ends=(start_weights, end_weights),
        calibration_dataset=calibration_dataset,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.estimate_statistics()
    trained = {
        name: weight.to(start_weights[name].device, dtypes[name])
        for name, weight in copy_weights(trainer.accelerator.unwrap_model(trainer.model)).items()
    }
    return QuadraticPath(start_weights, trained, end_weights)


def default_arguments(output_dir: str, **changes: Any) -> TrainingArguments:
    """The set-up of a fit that names none, with changes."""
    settings: dict[str, Any] = {
        "max_steps": DEFAULT_STEPS,
        "per_device_train_batch_size": 64,
        "learning_rate": DEFAULT_LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.0,
        "logging_steps": 30,
        "save_strategy": "no",
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(output_dir=output_dir, **{**settings, **changes})


class _CurveTrainer(ExactResumeTrainer):
    """Trains the middle of a curve: the live model is the middle, and each pass runs at a point of the curve."""

    # The loss is a mean over the micro-batch.
    loss_is_scaled_for_ga = False

    def __init__(self, *, ends: tuple[Weights, Weights], calibration_dataset: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)
        device = self.args.device
        start, end = ({name: weight.to(device) for name, weight in weights.items()} for weights in ends)
        self.curve = QuadraticPath(start=start, end=end)
        self.calibration_dataset = calibration_dataset
        self.task = task_of(self.model)

    # What a checkpoint has to hold

    def run_state(self) -> RunState:
        return RunState(None, self._ends_fingerprint(), None, self.settings())

    def begin_run(self, saved: RunState | None) -> None:
        if saved is not None and saved.reference != self._ends_fingerprint():
            raise ValueError(
                f"{self.args.resume_from_checkpoint} is a checkpoint of a curve between other ends: give the start "
                "and the end that the fit began with, or start a new one in another output_dir."
            )

    def _ends_fingerprint(self) -> str:
        ends = [weights for weights in (self.curve.start, self.curve.end) if weights is not None]
        return "+".join(fingerprint(weights) for weights in ends)

    # The step

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Backward of the loss at one point of the curve; gives that loss, divided by the accumulation steps."""
        unwrapped, inputs = self.begin_step(model, inputs)
        alpha = sample_alpha(self.args.seed, self.state.global_step, self.next_micro_step(), "uniform", 0.0, 1.0)
        _, factor, _ = self.curve.coefficients(alpha)
        with at_point(unwrapped, self.curve, alpha):  # it gives back the running statistics too
            with self.compute_loss_context_manager():
                own, _ = self.task.loss(model, inputs)
                loss = differentiable_mean(own, self.task.count(inputs))
            if not torch.isfinite(loss):  # the loss over all ranks: every rank raises, or none
                raise FloatingPointError(
                    f"The loss on the curve at alpha = {alpha:.3f} is {loss.item()} at step {self.state.global_step}: "
                    "training stopped before the step was taken. Lower learning_rate, or look at the rows of this "
                    "batch."
                )
            self.accelerator.backward(factor * loss / self.current_gradient_accumulation_steps)
        return loss.detach() / self.current_gradient_accumulation_steps

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean cross-entropy of a batch, nats, as the points of the curve are measured later."""
        loss, outputs = self.task.loss(model, inputs)
        return (loss, outputs) if return_outputs else loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        inputs = {name: value for name, value in inputs.items() if name != "class_labels"}
        return {**inputs, "labels": self.task.labels(inputs)}

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in `Trainer`, at several points of the curve: the mean of their losses, and the largest."""
        losses = []
        model = self.accelerator.unwrap_model(self.model)
        for alpha in _EVALUATION_ALPHAS:
            with at_point(model, self.curve, alpha):
                self.estimate_statistics()
                output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
            losses.append(output.metrics[f"{metric_key_prefix}_loss"])
        metrics = {f"{metric_key_prefix}_loss": float(np.mean(losses)), f"{metric_key_prefix}_max_loss": max(losses)}
        return output._replace(metrics={**output.metrics, **metrics})

    def estimate_statistics(self) -> None:
        """Estimate BatchNorm's running statistics for the weights that the model has now, the same on every rank."""
        model = self.accelerator.unwrap_model(self.model)
        if batchnorm_modules(model):
            with evaluation_mode(model):
                recalibrate(model, self._calibration_batches(), lambda batch: self.task.forward(model, batch))

    def _calibration_batches(self) -> Iterator[dict[str, Any]]:
        dataset = self.calibration_dataset
        if dataset is None:
            rows = np.linspace(0, len(self.train_dataset) - 1, min(len(self.train_dataset), _CALIBRATION_ROWS))
            dataset = Subset(self.train_dataset, np.unique(rows.round().astype(int)).tolist())
        loader = DataLoader(
            dataset,
            batch_size=min(self.args.per_device_eval_batch_size, len(dataset)),
            drop_last=True,  # each batch has the same weight
            collate_fn=self.data_collator,
            generator=torch.Generator(),  # leaves the global one alone
        )
        for batch in loader:
            yield self._prepare_inputs(batch)


# What goes in


def _ends_and_middle(
    start: str | Path | nn.Module, end: str | Path | nn.Module, middle: str | Path | nn.Module | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Any]:
    """The weights of both ends, which nobody else holds, and a model that is the middle to begin with."""
    start_model = load_end(start, "start")
    start_weights = _own_weights(start, start_model)
    end_weights = _own_weights(end, load_end(end, "end"))
    _check_alike(start_weights, end_weights, "The end")
    if middle is None:
        model = copy.deepcopy(start_model)
        with at_point(model, LinearPath(start=start_weights, end=end_weights), 0.5):
            begin = copy_weights(model)
    else:
        model = copy.deepcopy(load_end(middle, "middle"))
        begin = copy_weights(model)
        _check_alike(start_weights, begin, "The middle")
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            weight.copy_(begin[name])
    return start_weights, end_weights, model


def load_end(source: str | Path | nn.Module, what: str) -> Any:
    """The model of an end (or the middle), which the errors call `what`.

    Raises:
        ValueError: an adapter, or NaN in the weights.
        NotImplementedError: a model for which the loss along a curve is not checked.
    """
    named = not isinstance(source, nn.Module) and names_adapter(str(source), LoadOptions())
    model = None if named else load_model(source)
    if model is None or has_adapter(model) or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"The {what} carries an adapter, and a curve runs between whole weights: merge it first "
            '(merge_and_unload), or measure the straight line (path="linear"), which for adapters needs no second '
            "model."
        )
    check_no_nan(named_weights(model), f"The {what} ({source_name(source)})")
    task = task_of(model)
    task.check_model(model)
    if isinstance(task, Seq2Seq):
        raise NotImplementedError(
            f"The {what} is an encoder-decoder model ({type(model).__name__}), for which the loss along a curve is "
            "not checked: measure the straight line."
        )
    if getattr(model, "is_quantized", False):
        raise NotImplementedError(
            f"The {what} is quantised, and a point between quantised weights is not on their grid: load it without "
            "quantization_config."
        )
    return model


def _own_weights(source: str | Path | nn.Module, model: nn.Module) -> dict[str, torch.Tensor]:
    if isinstance(source, nn.Module):
        return copy_weights(model)
    return {name: weight.detach() for name, weight in named_weights(model).items()}


def _in_float32(model: Any) -> Any:
    """16-bit weights would round small steps away."""
    narrow = any(weight.dtype in (torch.float16, torch.bfloat16) for weight in model.parameters())
    return model.float() if narrow else model


def _check_alike(start: Weights, other: Weights, what: str) -> None:
    check_same_weights(start, other, what)
    name = other_dtype(start, other)
    if name is not None:
        raise ValueError(
            f"{what} keeps {name} in {other[name].dtype} and the start in {start[name].dtype}, so rounding would keep "
            "the curve from its end: load both in one dtype."
        )


def _check_arguments(args: Any) -> None:
    """Refuse settings under which a step at a point of the curve would be wrong, or is not known to be right."""
    check_steps_after_backward(args, "the curve's point, not the middle's")
    if args.deepspeed:
        raise ValueError(
            "DeepSpeed's engine steps inside its own backward, where the weights are those of the curve's point: "
            "train without it, with DDP."
        )
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor = {args.label_smoothing_factor}: the loss along the curve is the model's own, as "
            "it is measured later: leave it at 0."
        )
    if args.neftune_noise_alpha is not None:
        raise ValueError(
            "neftune_noise_alpha puts noise into the embeddings of every pass, so that the loss is not that of the "
            "curve's point: train without it."
        )
    CBFTConfig.check_environment(args)  # it reads nothing that TrainingArguments lack
    unchecked = {
        "FSDP": args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true",
        "torch_compile": args.torch_compile,
        "use_liger_kernel": args.use_liger_kernel,
        "parallelism_config": args.parallelism_config is not None,
    }
    for name, used in unchecked.items():
        if used:
            raise NotImplementedError(
                f"{name} is not checked for curves, whose ends are kept whole beside the middle: fit without it (on "
                "several processes with DDP)."
            )
