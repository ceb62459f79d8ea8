# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Connectivity-based fine-tuning as a `Trainer`."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from hf_cbft.batchnorm import batch_statistics
from hf_cbft.checkpoints import load_model
from hf_cbft.config import CBFTConfig
from hf_cbft.data.columns import check_not_empty, class_labels
from hf_cbft.data.inputs import RAW_COLUMNS, InputCollator, drop_unused_columns
from hf_cbft.data.pairing import PairCollator, pair_clean_with_cue
from hf_cbft.interpolation import at_point, check_same_weights, copy_weights, evaluation_mode, named_weights
from hf_cbft.losses import barrier_loss, invariance_loss
from hf_cbft.paths import LinearPath, sample_alpha
from hf_cbft.representations import Representation, capture_representation, find_representation_layer

logger = logging.get_logger(__name__)

# Rows of the cue data on which the reference's own loss is measured.
_REF_LOSS_ROWS = 2048


class _StepClock(TrainerCallback):
    """Tells the data set its epoch, and the trainer when a step begins and what the reference's loss is."""

    def __init__(self, trainer: "CBFTTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.settle_ref_loss()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # state.epoch is epoch + (step + 1) / steps of the epoch, a whole number only up to rounding.
        self.trainer.train_dataset.set_epoch(int((state.epoch or 0.0) + 1e-6))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.micro_step = 0


class CBFTTrainer(Trainer):
    r"""Fine-tune a classifier off a spurious cue.

    Minimises L_CBFT of [`CBFTConfig`]: cross-entropy on clean data, a loss barrier on the straight line to the
    reference on data with the cue, and class means of the representation that do not depend on the cue. Everything
    else is `Trainer`: evaluation, saving, callbacks, metrics, `push_to_hub`.

    The arguments are those of `Trainer`, in TRL's order, and three more:

    Args:
        model (`str`, `Path` or `PreTrainedModel`): the model to fine-tune; it relies on the cue.
        ref_model (`str`, `Path` or `PreTrainedModel`, *optional*):
            The reference theta_C at alpha = 0, of the same architecture. `None`: the model as it is now.
        cue_dataset: D_C, data with the cue, usually the original training data. Rows as in `train_dataset`.
        train_dataset: D_NC, a little clean data. Rows with model inputs and labels, or with an `image` or a `text`
            and a `label`, which go through `processing_class`.

    Raises:
        ValueError: missing, empty or unlabelled data, labels beyond the model's classes, no class in common, no
        representation, or a reference with other parameter names or shapes.
        NotImplementedError: several processes, `DataParallel`, or a PEFT model.

    Logged while training: `loss/ref` (once, nats), and as means since the last log `loss/clean`, `loss/barrier`,
    `loss/path`, `loss/invariance` (with the factor 1 / K, before coefficients) and `path/alpha`.

    Source: Lubana et al., ICML 2023, section 5.
    """

    # L_CBFT is a mean over the batch: the Trainer divides it by the number of accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | Path | nn.Module | None = None,
        ref_model: str | Path | nn.Module | None = None,
        args: CBFTConfig | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        cue_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], nn.Module] | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
    ) -> None:
        args = CBFTConfig(output_dir="cbft-output") if args is None else args
        if not isinstance(args, CBFTConfig):
            raise TypeError(f"args is a {type(args).__name__}: CBFTTrainer needs a CBFTConfig.")
        _refuse_unsupported(args)
        if train_dataset is None or cue_dataset is None:
            missing = "train_dataset (clean data)" if train_dataset is None else "cue_dataset (data with the cue)"
            raise ValueError(f"{missing} is missing: CBFT trains on both streams.")
        if isinstance(model, (str, Path)):
            model = load_model(model)
        if isinstance(ref_model, (str, Path)):
            ref_model = load_model(ref_model)
        if model is not None:  # before Trainer makes the output folder
            _check_inputs(model, ref_model, args, train_dataset, cue_dataset)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if model is None:
            _check_inputs(self.model, ref_model, args, train_dataset, cue_dataset)
        if args.remove_unused_columns:
            train_dataset, cue_dataset = (drop_unused_columns(d, self.model) for d in (train_dataset, cue_dataset))
        pair_seed = args.seed if args.data_seed is None else args.data_seed
        self.train_dataset = pair_clean_with_cue(train_dataset, cue_dataset, args.pairing, pair_seed)
        if self.train_dataset.classes_without_cue:
            logger.warning(
                f"cue_dataset has no rows of the classes {self.train_dataset.classes_without_cue}: their partners are "
                "drawn from all its rows, and the invariance loss leaves these classes out."
            )
        shown = self.model if args.remove_unused_columns else None
        self.data_collator = PairCollator(InputCollator(shown, processing_class, data_collator))

        self.ref_loss = args.ref_loss
        self.micro_step = 0
        self._logged_terms: dict[str, tuple[torch.Tensor | float, int]] = {}
        # By name: with model_init, training makes a new model of the same modules.
        self._layer_name = ""
        if args.invariance_coef > 0.0:
            num_classes = self.model.config.num_labels
            self._layer_name, _ = find_representation_layer(self.model, num_classes, args.representation_layer)
        self._representation_checked = args.representation_layer is not None
        self._path: LinearPath | None = None
        if args.barrier_coef > 0.0 and args.barrier_stop_ratio > 0.0:
            self._path = LinearPath(start=self._reference_weights(ref_model))
        self.add_callback(_StepClock(self))

    def _reference_weights(self, ref_model: nn.Module | None) -> dict[str, torch.Tensor]:
        if ref_model is None or ref_model is self.model:
            return copy_weights(self.model)
        return {name: tensor.detach().to(self.args.device) for name, tensor in named_weights(ref_model).items()}

    @torch.no_grad()
    def settle_ref_loss(self) -> None:
        """Measure the reference's own loss on the cue data, unless it was given, and log it."""
        if self._path is None:
            return
        if self.ref_loss is None:
            rows = len(self.train_dataset.cue)
            # Evenly spaced: data sets are often sorted by class.
            indices = np.unique(np.linspace(0, rows - 1, min(rows, _REF_LOSS_ROWS)).round().astype(int)).tolist()
            loader = DataLoader(
                Subset(self.train_dataset.cue, indices),
                batch_size=self.args.eval_batch_size,
                collate_fn=self.data_collator,
                generator=torch.Generator(),  # leaves the global one alone
            )
            total, model = 0.0, self.accelerator.unwrap_model(self.model_wrapped)
            with evaluation_mode(model), at_point(model, self._path, 0.0):
                for batch in loader:
                    batch = self._prepare_inputs(batch)
                    with self.compute_loss_context_manager():
                        total += len(batch["labels"]) * self._plain_loss(self.model_wrapped, batch).item()
            self.ref_loss = total / len(indices)
        self.log({"loss/ref": self.ref_loss})
        num_classes = getattr(self.model.config, "num_labels", 0)
        if num_classes > 1 and self.ref_loss > 0.9 * np.log(num_classes):
            logger.warning(
                f"The reference's loss on cue_dataset is {self.ref_loss:.3f} nats, near that of a guess "
                f"(log {num_classes} = {np.log(num_classes):.3f}): it does not solve this data, so there is little "
                "for a barrier to lead away from. Check the labels, the cue and ref_model."
            )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Backward passes of L_CBFT on one batch of pairs; gives the loss, divided by the accumulation steps."""
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        barrier_on, invariance_on = self._active_terms()
        terms: dict[str, torch.Tensor | float] = {}
        if barrier_on and self.args.update_rule == "alternating":
            self._barrier_backward(model, inputs["cue"], terms)
            if self.args.max_grad_norm > 0:
                self._clip_grad_norm(model)
            self.optimizer.step()
            model.zero_grad()
        self._clean_backward(model, inputs, invariance_on, terms)
        if barrier_on and self.args.update_rule == "joint":
            self._barrier_backward(model, inputs["cue"], terms)
        self.micro_step += 1
        for name, value in terms.items():
            total, count = self._logged_terms.get(name, (0.0, 0))
            self._logged_terms[name] = (total + value, count + 1)
        loss = terms["loss/clean"] + self.args.invariance_coef * terms.get("loss/invariance", 0.0)
        loss = loss + self.args.barrier_coef * terms.get("loss/barrier", 0.0)
        return loss / self.current_gradient_accumulation_steps

    def _active_terms(self) -> tuple[bool, bool]:
        """Whether the barrier loss and the invariance loss take part in the current step."""
        step, steps = self.state.global_step, self.state.max_steps
        barrier_on = self._path is not None and step < self.args.barrier_stop_ratio * steps
        return barrier_on, self.args.invariance_coef > 0.0 and step >= self.args.invariance_warmup_ratio * steps

    def _clean_backward(
        self, model: nn.Module, inputs: dict[str, Any], invariance_on: bool, terms: dict[str, torch.Tensor | float]
    ) -> None:
        """Cross-entropy on the clean half plus the invariance loss between the halves."""
        clean, cue, unwrapped = inputs["clean"], inputs["cue"], self.accelerator.unwrap_model(model)
        with ExitStack() as stack:
            with self.compute_loss_context_manager():
                if not invariance_on:
                    # A copy, because label smoothing takes the labels out.
                    loss = self.compute_loss(model, dict(clean))
                    terms["loss/clean"] = loss.detach()
                else:
                    layer = unwrapped.get_submodule(self._layer_name)
                    captured = stack.enter_context(capture_representation(layer))
                    loss, outputs = self.compute_loss(model, dict(clean), return_outputs=True)
                    terms["loss/clean"] = loss.detach()
                    clean_representations = self._representations(captured, outputs)
                    # From here on, backward included: the running statistics stay those of the clean data.
                    stack.enter_context(batch_statistics(unwrapped))
                    outputs = model(**{name: value for name, value in cue.items() if name != "labels"})
                    invariance = invariance_loss(
                        clean_representations,
                        clean["labels"],
                        self._representations(captured, outputs),
                        cue["labels"],
                        unwrapped.config.num_labels,
                    )
                    terms["loss/invariance"] = invariance.detach()
                    loss = loss + self.args.invariance_coef * invariance
            self._check_finite(terms)
            self.accelerator.backward(loss / self.current_gradient_accumulation_steps)

    def _barrier_backward(self, model: nn.Module, cue: dict[str, Any], terms: dict[str, torch.Tensor | float]) -> None:
        """The barrier loss at a point of the path; by the chain rule its gradient is alpha times the point's."""
        alpha = sample_alpha(
            self.args.seed,
            self.state.global_step,
            self.micro_step,
            self.args.alpha_sampling,
            self.args.alpha_min,
            self.args.alpha_max,
        )
        unwrapped = self.accelerator.unwrap_model(model)
        assert self._path is not None
        assert self.ref_loss is not None
        with at_point(unwrapped, self._path, alpha), batch_statistics(unwrapped):
            with self.compute_loss_context_manager():
                path_loss = self._plain_loss(model, cue)
                barrier = barrier_loss(path_loss, self.ref_loss, self.args.barrier_margin)
            terms.update({"loss/path": path_loss.detach(), "loss/barrier": barrier.detach(), "path/alpha": alpha})
            self._check_finite(terms)
            loss = alpha * self.args.barrier_coef * barrier
            self.accelerator.backward(loss / self.current_gradient_accumulation_steps)

    def _plain_loss(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """The model's own mean loss, without label smoothing: a barrier is a height of the loss itself."""
        outputs = model(**batch)
        return outputs["loss"] if isinstance(outputs, dict) else outputs[0]

    def _representations(self, captured: Representation, outputs: Any) -> torch.Tensor:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[1]
        if not self._representation_checked:
            if not captured.gives(logits):
                raise ValueError(
                    f"The linear layer {self._layer_name!r} does not give the logits of {type(self.model).__name__}"
                    ": name the module that the representation enters with representation_layer."
                )
            self._representation_checked = True
        return captured.per_row(logits)

    def _check_finite(self, terms: dict[str, torch.Tensor | float]) -> None:
        losses = {name: value for name, value in terms.items() if isinstance(value, torch.Tensor)}
        if torch.isfinite(torch.stack([value.float() for value in losses.values()])).all():
            return
        name = next(name for name, value in losses.items() if not torch.isfinite(value))
        raise FloatingPointError(
            f"{name} is {losses[name].item()} at step {self.state.global_step}: training stopped before the step was "
            "taken. Lower learning_rate, or look at the rows of this batch."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`; logs of the training loss also get the mean of each term since the last one."""
        if "loss" in logs:
            logs = {**logs, **{name: float(total) / count for name, (total, count) in self._logged_terms.items()}}
            self._logged_terms.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As in `Trainer`, counting each forward and backward pass over either half of the pairs."""
        if "clean" not in inputs:
            return super().floating_point_ops(inputs)
        return super().floating_point_ops(inputs["clean"]) + sum(self._active_terms()) * super().floating_point_ops(
            inputs["cue"]
        )

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        for half in ("clean", "cue"):
            super()._track_num_input_tokens(inputs[half])

    def _set_signature_columns_if_needed(self) -> None:
        # Rows that hold an image or a text keep it: the collator makes model inputs of them.
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in RAW_COLUMNS if name not in self._signature_columns]


def _refuse_unsupported(args: CBFTConfig) -> None:
    if args.world_size > 1:
        raise NotImplementedError(
            f"CBFTTrainer was started on {args.world_size} processes, and its loss is not the mean of what each rank "
            "would compute: start it on one."
        )
    if args.n_gpu > 1:
        raise NotImplementedError(
            f"Transformers would split batches over {args.n_gpu} GPUs with DataParallel, whose replicas have no path "
            "point: make one visible, for example with CUDA_VISIBLE_DEVICES=0."
        )


def _check_inputs(
    model: Any, ref_model: nn.Module | None, args: CBFTConfig, train_dataset: Any, cue_dataset: Any
) -> None:
    """Everything about model and data that can be wrong, before anything is written."""
    if getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False):
        raise NotImplementedError(
            "The model carries a PEFT adapter, and a straight line between adapter factors is not the line between "
            "the models: merge it first (merge_and_unload)."
        )
    check_not_empty(train_dataset, "train_dataset")
    check_not_empty(cue_dataset, "cue_dataset")
    if args.invariance_coef > 0.0:
        num_classes = model.config.num_labels
        for name, dataset in (("train_dataset", train_dataset), ("cue_dataset", cue_dataset)):
            class_labels(dataset, name, num_classes)
        find_representation_layer(model, num_classes, args.representation_layer)
    pair_clean_with_cue(train_dataset, cue_dataset, args.pairing)
    if ref_model is not None:
        check_same_weights(named_weights(model), named_weights(ref_model), "ref_model")
