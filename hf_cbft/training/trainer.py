# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Connectivity-based fine-tuning as a `Trainer`."""

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainerCallback, set_seed
from transformers.utils import logging

from hf_cbft.architectures import base_model, has_adapter
from hf_cbft.checkpoints.loading import load_model
from hf_cbft.data.columns import check_fills_a_batch
from hf_cbft.data.inputs import InputCollator, drop_unused_columns
from hf_cbft.data.pairing import PairCollator, pair_clean_with_cue
from hf_cbft.distributed import on_main_rank, sum_over_ranks
from hf_cbft.paths.geometry import sample_alpha
from hf_cbft.paths.interpolation import evaluation_mode
from hf_cbft.references.weights import weight_reference
from hf_cbft.training.config import CBFTConfig
from hf_cbft.training.exact_resume import ExactResumeTrainer
from hf_cbft.training.plan import plan_training
from hf_cbft.training.run_state import RunState, check_same_reference, load_reference, store_reference
from hf_cbft.training.step import CBFTStep
from hf_cbft.training.terms import BarrierTerm, InvarianceTerm, PathTerm, RepresentationTerm, Term, terms_of

logger = logging.get_logger(__name__)

# Rows of the cue data on which the reference's own loss is measured.
_REF_LOSS_ROWS = 2048


class _StepClock(TrainerCallback):
    """Tells the data set its epoch, and the trainer that training begins."""

    def __init__(self, trainer: "CBFTTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # state.epoch is epoch + (step + 1) / steps of the epoch, a whole number only up to rounding.
        self.trainer.train_dataset.set_epoch(int((state.epoch or 0.0) + 1e-6))


class CBFTTrainer(ExactResumeTrainer):
    r"""Fine-tune a model so that it no longer relies on a spurious cue.

    Minimises L_CBFT of [`CBFTConfig`]: cross-entropy on clean data, a loss barrier on the straight line to the
    reference on data with the cue, and class means of the representation that do not depend on the cue. Everything
    else is `Trainer`: evaluation, saving, callbacks, metrics, `push_to_hub`, several processes (DDP, FSDP2).

    On N processes each step computes what one process would on the joint batch: class means and the sign of the
    barrier loss are those of all ranks, alpha is the same on all. Under gradient accumulation the gradient is the mean
    of the micro-batches' own, each with its own alpha and class means, which is not that of one large batch.

    The arguments are those of `Trainer`, in TRL's order, and five more:

    Args:
        model (`str`, `Path` or `PreTrainedModel` or `PeftModel`):
            The model to fine-tune; it relies on the cue. A classifier (one class a row), a token classifier or a
            causal language model.
        ref_model (`str`, `Path`, `PreTrainedModel` or `PeftModel`, *optional*):
            The reference theta_C at alpha = 0, of the same architecture; with an adapter also another adapter on the
            same base. `None`: the model as it is when training starts (with a new adapter: its base).
        cue_dataset: D_C, data with the cue, usually the original training data. Rows as in `train_dataset`.
        train_dataset: D_NC, a little clean data. Rows with model inputs and labels, or with an `image` or a `text`
            and a `label`, or with a `prompt` and a `completion` (and, for the invariance loss, a class in `label`),
            which go through `processing_class`.
        peft_config (`LoraConfig`, *optional*): train a new LoRA adapter on `model`.
        terms (`Sequence[Term]`, *optional*): terms of the loss beside L_B and L_I, which `barrier_coef = 0` and
            `invariance_coef = 0` leave out; see [`PathTerm`] and [`RepresentationTerm`].

    Raises:
        ValueError: missing, empty or unlabelled data, labels beyond the model's classes, no class in common, no
        representation, or a reference with other parameter names, shapes or dtypes.
        NotImplementedError: something for which the gradient is not known to be right; the message names it.

    Logged while training: `loss/ref` (once, nats), and as means since the last log `loss/clean`, `loss/barrier`,
    `loss/path`, `loss/invariance` (with the factor 1 / K, before coefficients), `path/alpha`, and `loss/<name>` of
    each term of the user's own.

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
        peft_config: Any = None,
        terms: Sequence[Term] | None = None,
    ) -> None:
        args = CBFTConfig(output_dir="cbft-output") if args is None else args
        if not isinstance(args, CBFTConfig):
            raise TypeError(f"args is a {type(args).__name__}: CBFTTrainer needs a CBFTConfig.")
        args.check_environment()
        if train_dataset is None or cue_dataset is None:
            missing = "train_dataset (clean data)" if train_dataset is None else "cue_dataset (data with the cue)"
            raise ValueError(f"{missing} is missing: CBFT trains on both streams.")
        if model is None and model_init is None:
            raise ValueError("model is missing: give a folder, a Hub id or a model, or model_init.")
        if isinstance(model, (str, Path)):
            model = load_model(model)
        if peft_config is not None:
            if model is None:
                raise ValueError("peft_config with model_init: let model_init give the model with its adapter.")
            from hf_cbft.references.lora import add_adapter  # peft is imported where it is used

            model = add_adapter(model, peft_config)
        self._ref_source = ref_model if isinstance(ref_model, (str, Path)) else None
        self.terms = terms_of(args, terms)
        self._barrier = next((term for term in self.terms if isinstance(term, BarrierTerm)), None)
        check_fills_a_batch(train_dataset, args)
        data = (train_dataset, cue_dataset, ref_model, args, processing_class, data_collator)
        if model is not None:  # before Trainer makes the output folder
            self._prepare(model, *data)
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
            self._prepare(self.model, *data)
        self.train_dataset, self.data_collator = self._pairs, self._collator
        # A model whose forward pass takes no labels is evaluated too: the loss is not its own.
        self.label_names = self.label_names or ["labels"]
        if self._pairs.classes_without_cue:
            logger.warning(
                f"cue_dataset has no rows of the classes {self._pairs.classes_without_cue}: their partners are "
                "drawn from all its rows, and the invariance loss leaves these classes out."
            )
        self._warn_of_small_micro_batches()
        self._own_reference = ref_model is None
        self._fingerprint: str | None = None
        self.ref_loss = args.ref_loss
        self._logged_values: dict[str, tuple[torch.Tensor | float, int]] = {}
        self.step = CBFTStep(
            self.task,
            self.plan,
            clean_loss=self._clean_loss,
            backward=self._backward,
            autocast=self.compute_loss_context_manager,
        )
        self.add_callback(_StepClock(self))

    def _prepare(
        self, model: Any, clean: Any, cue: Any, ref_model: Any, args: CBFTConfig, processing_class: Any, collator: Any
    ) -> None:
        """Hold the model and its rows against each other, take the reference, and pair the rows."""
        self.task, self.plan = plan_training(
            model,
            clean,
            cue,
            collator,
            pairing=args.pairing,
            layer=args.representation_layer,
            reads=any(isinstance(term, RepresentationTerm) for term in self.terms),
        )
        reference = _make_reference(model, ref_model, args)
        self.reference = reference if self._needs_reference else None
        shown = base_model(model) if args.remove_unused_columns else None
        if shown is not None:
            clean, cue = (drop_unused_columns(dataset, shown) for dataset in (clean, cue))
        seed = args.seed if args.data_seed is None else args.data_seed
        self._pairs = pair_clean_with_cue(clean, cue, self.plan.pairing, seed)
        self._collator = PairCollator(InputCollator(shown, processing_class, collator))

    # The reference

    @property
    def _needs_reference(self) -> bool:
        return any(isinstance(term, PathTerm) for term in self.terms)

    def begin_run(self, saved: RunState | None) -> None:
        """Take the reference before anything moves the model; on a resumed run, the one that it started with."""
        self.ref_loss = self.args.ref_loss if saved is None else saved.ref_loss
        if not self._needs_reference:
            return
        if self.reference is None:
            model = self.model
            if self.model_init is not None:
                set_seed(self.args.seed)  # as Trainer.train does before it makes the model
                model = self.call_model_init()
            self.reference = _make_reference(model, model, self.args)
        if saved is None and self.args.save_strategy == "no":
            return
        if any(hasattr(weight, "to_local") for weight in self.reference.weights.values()):
            raise ValueError(
                "The model was sharded before training began, as evaluate() does under FSDP, so its reference cannot "
                "be stored whole: call train() first, or set save_strategy='no'."
            )
        # Rank 0's weights count: loading that spares memory leaves the other ranks without.
        if self._fingerprint is None:
            self._fingerprint = on_main_rank(self.reference.fingerprint)
        if saved is not None and saved.reference != self._fingerprint:
            stored = None
            if self._own_reference and saved.reference is not None:
                stored = load_reference(self.args.output_dir, saved.reference.partition("+")[0])
            if stored is not None:
                self.reference.restore(stored)
                self._fingerprint = on_main_rank(self.reference.fingerprint)
            check_same_reference(saved.reference, self._fingerprint)
        if self.args.should_save and self._ref_source is None:
            store_reference(self.args.output_dir, self.reference.weights, self._fingerprint.partition("+")[0])

    def run_state(self) -> RunState:
        """What a checkpoint has to hold for the run to go on."""
        return RunState(
            ref_loss=self.ref_loss,
            reference=self._fingerprint,
            reference_source=None if self._ref_source is None else str(self._ref_source),
            settings=self.settings(),
        )

    def settings(self) -> dict[str, Any]:
        own = {term.name: term.coefficient for term in self.terms if type(term) not in (BarrierTerm, InvarianceTerm)}
        return {**super().settings(), "terms": own}

    def begin_training(self) -> None:
        """With the model as it is trained (wrapped, sharded, resumed): put the reference beside it, and measure it."""
        self._logged_values.clear()
        self._last_path_loss: torch.Tensor | float | None = None
        if self.reference is None:
            return
        self.reference.settle(self.accelerator.unwrap_model(self.model_wrapped))
        if self.ref_loss is None:
            self.ref_loss = self._measure_ref_loss(self.reference)
        self.step.ref_loss = self.ref_loss
        if self.state.global_step == 0:
            self.log({"loss/ref": self.ref_loss})
        if self._barrier is not None and self.task.guess_loss > 0.0:
            self._warn_of_guesses(self.ref_loss, self._barrier.margin)

    def _warn_of_guesses(self, ref_loss: float, margin: float) -> None:
        guess, num_classes = self.task.guess_loss, self.task.num_classes
        if ref_loss > 0.9 * guess:
            logger.warning(
                f"The reference's loss on cue_dataset is {ref_loss:.3f} nats, near that of a guess "
                f"(log {num_classes} = {guess:.3f}): it does not solve this data, so there is little for a barrier to "
                "lead away from. Check the labels, the cue and ref_model."
            )
        elif ref_loss + margin > guess:
            logger.warning(
                f"barrier_margin = {margin} pulls the path loss to {ref_loss + margin:.3f} nats, above that of a "
                f"guess (log {num_classes} = {guess:.3f}), where a model has to be wrong on purpose: with "
                f"{num_classes} classes set barrier_margin to about {guess / 2:.2f}."
            )

    @torch.no_grad()
    def _measure_ref_loss(self, reference: Any) -> float:
        """The reference's own loss on the cue data, a mean over rows (tokens for language models)."""
        rows, ranks = len(self.train_dataset.cue), self.args.world_size
        # Evenly spaced: data sets are often sorted by class.
        indices = np.unique(np.linspace(0, rows - 1, min(rows, _REF_LOSS_ROWS)).round().astype(int))
        if len(indices) % ranks == 0:  # else every rank takes them all: ranks must run equally many passes
            indices = indices[self.args.process_index :: ranks]
        loader = DataLoader(
            Subset(self.train_dataset.cue, indices.tolist()),
            batch_size=self.args.eval_batch_size,
            collate_fn=lambda rows: self.data_collator.collator(rows),
            generator=torch.Generator(),  # leaves the global one alone
        )
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        with evaluation_mode(model), reference.at(model, 0.0):
            for batch in loader:
                batch = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    loss, _ = self.task.loss(self.model_wrapped, batch)
                count = self.task.count(batch).double()
                sums += torch.stack([loss.double() * count, count])
        total, count = sum_over_ranks(sums).tolist()
        return total / count

    # The step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean cross-entropy of a batch, nats, from logits and labels; with label smoothing that of `Trainer`.

        The model's own loss is not read: it may hold other terms, such as that of a router.
        """
        if self.label_smoother is not None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = self.task.loss(model, inputs)
        if return_outputs and not isinstance(outputs, dict):
            outputs = (loss, *outputs)  # where Trainer's evaluation looks for it
        return (loss, outputs) if return_outputs else loss

    def _clean_loss(self, model: nn.Module, clean: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        # A copy, because label smoothing takes the labels out.
        batch = {name: value for name, value in clean.items() if name != "class_labels"}
        return self.compute_loss(model, batch, return_outputs=True)

    def _backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss / self.current_gradient_accumulation_steps)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Backward passes of the loss on one batch of pairs; gives the loss, divided by the accumulation steps."""
        unwrapped, inputs = self.begin_step(model, inputs)
        terms = self._active_terms()
        alpha = sample_alpha(
            self.args.seed,
            self.state.global_step,
            self.next_micro_step(),
            self.args.alpha_sampling,
            self.args.alpha_min,
            self.args.alpha_max,
        )
        on_path = [] if self.reference is None else [term for term in terms if isinstance(term, PathTerm)]
        before: torch.Tensor | float = 0.0
        values: dict[str, torch.Tensor | float] = {}
        if self.reference is not None and on_path and self.args.update_rule == "alternating":
            before, own = self.step.path_pass(model, unwrapped, self.reference, inputs["cue"], alpha, on_path)
            values.update(own)
            self._check_finite(values)
            if self.args.max_grad_norm > 0:
                self._clip_grad_norm(model)
            self.optimizer.step()
            model.zero_grad()
            terms = [term for term in terms if term not in on_path]
        loss, own = self.step(model, unwrapped, self.reference, inputs, alpha, terms)
        values.update(own)
        self._check_finite(values)
        self._warn_if_still_connected(values.get("loss/path"))
        if on_path:
            values["path/alpha"] = alpha
        for name, value in values.items():
            total, count = self._logged_values.get(name, (0.0, 0))
            self._logged_values[name] = (total + value, count + 1)
        return (loss + before) / self.current_gradient_accumulation_steps

    def _warn_if_still_connected(self, path_loss: torch.Tensor | float | None) -> None:
        """Once, when the barrier loss ends: whether the path loss has left the reference's by then."""
        last, self._last_path_loss = self._last_path_loss, path_loss
        barrier, step, steps = self._barrier, self.state.global_step, self.state.max_steps
        ref_loss = self.step.ref_loss
        if barrier is None or last is None or self.micro_step > 0:
            return
        ended = barrier.is_on(step - 1, steps) and not barrier.is_on(step, steps)
        if ended and last < ref_loss + 0.5 * barrier.margin:
            logger.warning(
                f"The barrier loss ends at step {step} with a path loss of {float(last):.3f} nats, "
                f"where {ref_loss + barrier.margin:.3f} was wanted: the model has hardly left its "
                "reference. Raise learning_rate, barrier_coef or the number of steps."
            )

    def _active_terms(self) -> list[Term]:
        """The terms that take part in the current step."""
        step, steps = self.state.global_step, self.state.max_steps
        left_out = () if self.plan.layer_name is not None else RepresentationTerm
        return [term for term in self.terms if term.is_on(step, steps) and not isinstance(term, left_out)]

    def _check_finite(self, values: dict[str, torch.Tensor | float]) -> None:
        # The values are those over all ranks: every rank raises, or none.
        losses = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        if torch.isfinite(torch.stack([value.float() for value in losses.values()])).all():
            return
        name = next(name for name, value in losses.items() if not torch.isfinite(value))
        raise FloatingPointError(
            f"{name} is {losses[name].item()} at step {self.state.global_step}: training stopped before the step was "
            "taken. Lower learning_rate, or look at the rows of this batch."
        )

    def _warn_of_small_micro_batches(self) -> None:
        rows, classes = self.args.per_device_train_batch_size * self.args.world_size, self.plan.num_classes
        if self.args.gradient_accumulation_steps > 1 and rows < 2 * classes:
            logger.warning(
                f"A micro-batch of {rows} rows holds fewer than two of each of the {classes} classes, and "
                "the class means of the invariance loss are those of a micro-batch: raise per_device_train_batch_size "
                "rather than gradient_accumulation_steps."
            )

    # The rest of Trainer

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: every trial would need a reference of its own."""
        raise NotImplementedError(
            "hyperparameter_search trains many models in one trainer, and a reference belongs to one: make a "
            "CBFTTrainer for each trial."
        )

    def create_model_card(
        self, *args: Any, connectivity: Any = None, command: str | Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        """Write the model card, `README.md`, into `output_dir`, with a picture of the training beside it.

        The arguments are those of `Trainer`, and two more. Nothing is measured here: the table of sets is that of
        `results.json` in `output_dir`, or else what evaluations before training (`eval_on_start`) and after it logged.

        Args:
            connectivity (`ConnectivityResult` or `str` or `Path`, *optional*): a measured path, or a folder with one.
            command (`str` or `Sequence[str]`, *optional*): the command that made the model.
        """
        from hf_cbft.training.model_card import write_model_card

        if self.is_world_process_zero():
            said = signature(Trainer.create_model_card).bind(self, *args, **kwargs).arguments
            write_model_card(said.pop("self"), connectivity=connectivity, command=command, **said)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in `Trainer`; without a token, or where the Hub refuses, an `OSError` says so."""
        from hf_cbft.training.model_card import check_token, in_one_sentence

        if self.is_world_process_zero():
            check_token(token or self.args.hub_token)
            with in_one_sentence("The repository on the Hub could not be made"):
                super().init_hf_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in `Trainer`, with the card of [`create_model_card`], which takes the `kwargs`, without the reference.

        Raises:
            OSError: no token, or the Hub did not take the files.
            ValueError: nothing was trained or saved.
        """
        from hf_cbft.training.model_card import push

        return push(self, commit_message, blocking, token, revision, private, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`; logs of the training loss also get the mean of each term since the last one."""
        if "loss" in logs:
            logs = {**logs, **{name: float(total) / count for name, (total, count) in self._logged_values.items()}}
            self._logged_values.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As in `Trainer`, counting each forward and backward pass over either half of the pairs."""
        if "clean" not in inputs:
            return super().floating_point_ops(inputs)
        passes = {isinstance(term, PathTerm) for term in self._active_terms()}
        return super().floating_point_ops(inputs["clean"]) + len(passes) * super().floating_point_ops(inputs["cue"])

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        for half in ("clean", "cue"):
            super()._track_num_input_tokens(inputs[half])


def _make_reference(model: Any, ref_model: Any, args: CBFTConfig) -> Any:
    """The reference of a run; `None` where it is the model as it is when training starts."""
    device = torch.device(args.ref_device) if args.ref_device else None
    dtype = getattr(torch, args.ref_dtype) if args.ref_dtype else None
    if has_adapter(model):
        from hf_cbft.references.adapter import adapter_reference
        from hf_cbft.references.lora import check_adapter

        check_adapter(model)
        return None if ref_model is None else adapter_reference(model, ref_model, device, dtype)
    if isinstance(ref_model, (str, Path)):
        ref_model = load_model(ref_model)
    if has_adapter(ref_model):
        raise ValueError(
            "ref_model carries an adapter and the model does not: merge it first (merge_and_unload), or train an "
            "adapter on the same base."
        )
    return None if ref_model is None else weight_reference(model, ref_model, device, dtype)
