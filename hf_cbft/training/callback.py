# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The barrier to a reference, watched while any `Trainer` trains."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn
from torch.utils.data import Subset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.utils import logging

from hf_cbft.analysis.barriers import compute_barrier
from hf_cbft.architectures import has_adapter
from hf_cbft.checkpoints.loading import LoadOptions, names_adapter
from hf_cbft.connectivity.ends import AdapterEnds, WeightEnds
from hf_cbft.connectivity.measuring import Measurer, Plan, check_measuring
from hf_cbft.connectivity.opening import open_ends
from hf_cbft.connectivity.points import Point
from hf_cbft.connectivity.sweep import sweep
from hf_cbft.distributed import world_size
from hf_cbft.paths.batchnorm import batchnorm_modules
from hf_cbft.paths.interpolation import named_weights
from hf_cbft.tasks.task import Scores
from hf_cbft.training.exact_resume import get_random_states, set_random_states

logger = logging.get_logger(__name__)


class ConnectivityCallback(TrainerCallback):
    r"""Log the loss barrier between a reference and the model that a `Trainer` trains, while it trains.

    At each evaluation, and where `every` is given also at each `every`-th step, the straight line from the reference
    (alpha = 0) to the model as it is then (alpha = 1) is measured, and its barrier on each data set logged as
    `eval_barrier_<name>`, in nats: the signed `height` that [`ConnectivityEvaluator`] gives for these two models with
    the same arguments, without its band. Where a loss on the line is not finite, it is NaN, with a warning.

    What is logged is in the metrics of the evaluation too, so `metric_for_best_model="eval_barrier_cue"` works, and
    `EarlyStoppingCallback` with it: when training begins, this callback moves to before that one. `Trainer` takes a
    higher value for the better one; to stay near the reference, set `greater_is_better=False`.

    Training does not notice: it goes on with the random state, the modes, the gradients and the weights (BatchNorm's
    running statistics among them) that it had, bit for bit. Only its duration in the log gets longer, by `num_points`
    passes over each data set for every measurement.

    Memory: the reference moves, and the trained model is only read, never copied. The reference is kept once, on the
    CPU or where it was given; it visits the model's device while it is measured, and takes up its weights twice
    there. A LoRA model needs no second model: the path from its base is the adapter's scale. Under mixed precision
    the passes are in the weights' own dtype, but for LoRA, whose passes are the trainer's.

    On several processes (DDP) each measures its share of the batches, and all get the same values. BatchNorm's running
    statistics are those of rank 0, which are the ones that are saved.

    Args:
        trainer (`Trainer`): any; afterwards hand the callback to its `add_callback`.
        reference (`str`, `Path` or `PreTrainedModel` or `PeftModel`):
            A folder, a Hub id, or a model of the same architecture that nobody trains. For a model with a LoRA
            adapter its base, or another adapter on the same base.
        datasets (`dict[str, data set]`, or a data set):
            What is measured on, as [`ConnectivityEvaluator.evaluate`] takes it. Names are letters, digits and
            underscores; a single data set is called `"data"`. A few hundred rows of each are enough to watch.
        every (`int`, *optional*): measure at each `every`-th step too; `None`: at evaluations alone.
        num_points (`int`, *optional*, defaults to 5): evenly spaced, both ends among them, at least 3.
        baseline (`str`, *optional*, defaults to `"chord"`): `"chord"`, `"mean"` or `"max"`, see [`compute_barrier`].
        processing_class (*optional*): `None`: the trainer's.
        data_collator (`Callable`, *optional*): from rows to a batch; `None`: [`~hf_cbft.data.inputs.InputCollator`].
        batch_size (`int`, *optional*): rows in a forward pass; `None`: the trainer's `per_device_eval_batch_size`.
        calibration_dataset (*optional*): as in [`ConnectivityEvaluator`], for models with BatchNorm.

    Raises:
        TypeError: `trainer` is no `Trainer`.
        ValueError: no data, rows that cannot be measured or are drawn anew each time, a name that is no log key,
            `every` below 1, `num_points` below 3, a reference of another architecture, base or dtype, one that shares
            weights with the trained model, or a callback that was added to another trainer.
        NotImplementedError: sharded models (FSDP, DeepSpeed), and adapters whose path is not their scale.

    Example:

    ```python
    >>> import copy, tempfile
    >>> import torch
    >>> from datasets import Dataset
    >>> from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
    >>> from hf_cbft import ConnectivityCallback
    >>> _ = torch.manual_seed(0)
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=9, **sizes))
    >>> rows = Dataset.from_dict({"input_ids": [[1, 2], [3, 4], [5, 6], [7, 8]], "labels": [0, 1, 0, 1]})
    >>> args = TrainingArguments(
    ...     tempfile.mkdtemp(), max_steps=2, eval_strategy="steps", eval_steps=1, use_cpu=True, disable_tqdm=True,
    ...     report_to="none", save_strategy="no", logging_strategy="no",
    ... )
    >>> trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    >>> trainer.add_callback(ConnectivityCallback(trainer, copy.deepcopy(model), {"cue": rows}))
    >>> from transformers import PrinterCallback
    >>> trainer.remove_callback(PrinterCallback)  # which prints each log
    >>> _ = trainer.train()
    >>> [entry["step"] for entry in trainer.state.log_history if "eval_barrier_cue" in entry]
    [1, 2]

    ```
    """

    def __init__(
        self,
        trainer: Trainer,
        reference: str | Path | nn.Module,
        datasets: Any,
        every: int | None = None,
        num_points: int = 5,
        *,
        baseline: str = "chord",
        processing_class: Any = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        batch_size: int | None = None,
        calibration_dataset: Any = None,
    ) -> None:
        _check_trainer(trainer)
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"every = {every!r}: give a number of steps, at least 1, or None for each evaluation.")
        if num_points < 3:
            raise ValueError(f"num_points = {num_points}: a barrier needs at least 3, both ends among them.")
        sets = _named(datasets)
        self.trainer, self.every = trainer, every
        # Of the current step: what was measured, and the metrics that evaluations came with.
        self._values: dict[str, float] | None = None
        self._seen: set[str] = set()
        live = self._live
        _check_reference(reference, live)
        if has_adapter(live):
            from hf_cbft.references.lora import check_adapter  # peft is imported where it is used

            check_adapter(live)
            if trainer.model_init is not None:
                raise NotImplementedError(
                    "model_init makes the model with its adapter anew when training begins, and the path to the "
                    "reference is that of one adapter: give the trainer the model."
                )
        with _same_random_state():
            self._line = _ReferenceLine(
                reference,
                live,
                # A checkpoint is loaded as the trained model is, whatever it was saved in.
                LoadOptions(dtype=next((p.dtype for p in live.parameters() if p.is_floating_point()), None)),
                processing_class=trainer.processing_class if processing_class is None else processing_class,
                data_collator=data_collator,
                batch_size=trainer.args.per_device_eval_batch_size if batch_size is None else batch_size,
                calibration_dataset=calibration_dataset,
            )
            statistics = {"baseline": baseline, "confidence": 0.95, "num_resamples": 1}
            self._plan = self._line.measurer.plan(sets, np.linspace(0.0, 1.0, num_points), None, statistics)
            self._line.rehearse(self._plan, live)

    @property
    def _live(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model, keep_torch_compile=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._forget()
        handler = self.trainer.callback_handler
        if self not in handler.callbacks:
            raise ValueError("This ConnectivityCallback was made for another trainer: make one for each of them.")
        others = [callback for callback in handler.callbacks if callback is not self]
        stopping = [index for index, other in enumerate(others) if isinstance(other, EarlyStoppingCallback)]
        if stopping and handler.callbacks.index(self) > stopping[0]:
            # A new list: the handler is going through the old one.
            handler.callbacks = [*others[: stopping[0]], self, *others[stopping[0] :]]
        if self.every is None and args.eval_strategy == "no":
            logger.warning(
                "ConnectivityCallback measures at evaluations, and eval_strategy is 'no': set eval_strategy, or every."
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._forget()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every is not None and state.global_step % self.every == 0:
            self._measure(control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if metrics is None or not any(name.startswith("eval_") for name in metrics):
            return
        if not self.trainer.is_in_train:  # the weights may have changed since, by anyone
            self._forget()
        # Of several evaluation sets the first one gets the barriers: EarlyStoppingCallback counts each time it sees
        # them. A name that comes again tells that another evaluation of the same weights has begun.
        names = metrics.keys() - {"epoch", "num_input_tokens_seen"}
        if self._seen & names:
            self._seen = set()
        first = not self._seen
        self._seen |= names
        if first:
            metrics.update(self._measure(control))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._forget()  # the best model may have been loaded

    def _forget(self) -> None:
        self._values = None
        self._seen = set()

    def _measure(self, control: Any) -> dict[str, float]:
        """The barriers of the model as it is now by their names in the log, measured and logged once a step."""
        if self._values is None:
            with _same_random_state():
                heights = self._line.heights(self._plan, self._live)
            self._values = {f"eval_barrier_{name}": height for name, height in heights.items()}
            # Logging takes the wish to log back, and the training loss of this step may still have to be.
            wished = control.should_log
            self.trainer.log(dict(self._values))
            control.should_log = wished
        return self._values


class _ReferenceLine:
    """The straight line from a reference to a model in training, measured again and again."""

    def __init__(self, reference: Any, live: nn.Module, options: LoadOptions, **measuring: Any) -> None:
        metrics = check_measuring(measuring["batch_size"], (), measuring["calibration_dataset"])
        self._ends: Any = open_ends(reference, live, options)
        self.model = self._ends.model
        self.measurer = Measurer(self.model, metrics, options=options, **measuring)

    def heights(self, plan: Plan, live: nn.Module) -> dict[str, float]:
        """The barrier on each set of a plan, nats; NaN where there is no finite loss."""
        with self._beside(live):
            points = self._sweep(plan.alphas, plan.sets)
        self.measurer.batch_size = points[-1].batch_size  # smaller, where memory ran out
        return {name: _height(name, [point.scores[name] for point in points], plan) for name in plan.sets}

    def rehearse(self, plan: Plan, live: nn.Module) -> None:
        """Refuse before training what could not be measured: a batch of each set goes through the reference."""
        few = {name: Subset(rows, range(min(self.measurer.batch_size, len(rows)))) for name, rows in plan.sets.items()}
        with self._beside(live):
            self._sweep([0.0], few)

    def _sweep(self, alphas: Any, sets: dict[str, Any]) -> list[Point]:
        measurer = self.measurer
        return sweep(measurer.runner(), self._ends, alphas, sets, measurer.calibration_dataset, strict=False)

    @contextmanager
    def _beside(self, live: nn.Module) -> Iterator[None]:
        """The line to `live` as it is now, with the reference on its device."""
        with ExitStack() as stack:
            if isinstance(self._ends, AdapterEnds):
                self._ends.reference.settle(live)
            else:
                # Anew each time: a model that goes to another device gets other buffers, and model_init another model.
                self._ends = WeightEnds(self.model, named_weights(live), self.measurer.options)
                stack.enter_context(_on_device_of(live, self.model))
            stack.enter_context(_statistics_of_main_rank(live))
            yield


def _height(name: str, scores: Sequence[Scores], plan: Plan) -> float:
    losses, weights = np.stack([point.losses for point in scores]), scores[0].weights
    if not weights.any() or not np.isfinite(losses[:, weights > 0.0]).all():
        logger.warning(
            f"eval_barrier_{name} is NaN: on the line to the reference a loss is not finite, or no token of the data "
            "set is labelled."
        )
        return float("nan")
    # From the losses of the examples, as the evaluator has it; of the band, the least.
    return compute_barrier(plan.alphas, losses, plan.settings["baseline"], num_resamples=1, weights=weights).height


@contextmanager
def _same_random_state() -> Iterator[None]:
    """Whatever is drawn in the block, the generators go on afterwards from where they were."""
    states = get_random_states()
    try:
        yield
    finally:
        set_random_states(states)


@contextmanager
def _on_device_of(live: nn.Module, reference: nn.Module) -> Iterator[None]:
    """The reference on the device of the model, where each of them is on one."""
    here, there = ({p.device for p in model.parameters()} for model in (reference, live))
    if here == there or len(here) > 1 or len(there) > 1:
        yield
        return
    (home,), (device,) = here, there
    try:
        reference.to(device)
        yield
    finally:
        reference.to(home)


@contextmanager
def _statistics_of_main_rank(model: nn.Module) -> Iterator[None]:
    """BatchNorm's running statistics are those of rank 0 for a block: under DDP each rank has its own."""
    buffers = list(chain.from_iterable(m.buffers(recurse=False) for m in batchnorm_modules(model)))
    own = [buffer.clone() for buffer in buffers] if world_size() > 1 else []
    try:
        for buffer, _ in zip(buffers, own, strict=False):
            dist.broadcast(buffer, src=0)
        yield
    finally:
        for buffer, before in zip(buffers, own, strict=False):
            buffer.copy_(before)


def _check_trainer(trainer: Any) -> None:
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"trainer is a {type(trainer).__name__}: make the Trainer first, then "
            "trainer.add_callback(ConnectivityCallback(trainer, ...))."
        )
    sharded = any(hasattr(parameter, "to_local") for parameter in trainer.model.parameters())
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or sharded:
        raise NotImplementedError(
            "The trainer shards its model (FSDP, DeepSpeed), and no rank holds the weights that the line needs: train "
            "with DDP, or measure saved checkpoints with ConnectivityEvaluator."
        )


def _named(datasets: Any) -> dict[str, Any]:
    if datasets is None or (isinstance(datasets, Mapping) and not datasets):
        raise ValueError(f"datasets is {datasets!r}: give at least one data set to measure the barrier on.")
    sets = dict(datasets) if isinstance(datasets, Mapping) else {"data": datasets}
    for name in sets:
        if not isinstance(name, str) or not f"_{name}".isidentifier() or not name:
            raise ValueError(
                f"The data set's name {name!r} cannot be part of a key in the log (eval_barrier_<name>): use letters, "
                "digits and underscores."
            )
    return sets


def _check_reference(reference: Any, live: nn.Module) -> None:
    if isinstance(reference, nn.Module):
        weights = {id(parameter) for parameter in live.parameters()}
        if any(id(parameter) in weights for parameter in reference.parameters()):
            raise ValueError(
                "The reference shares weights with the model that is trained, and would move with it: give "
                "copy.deepcopy(model), made before training, a folder or a Hub id."
            )
    elif not isinstance(reference, (str, Path)):
        raise ValueError(f"The reference is a {type(reference).__name__}: give a model, a folder or a Hub id.")
    if not has_adapter(live) and _with_adapter(reference):
        raise ValueError(
            "The reference carries an adapter and the trained model does not: merge it first (merge_and_unload), or "
            "train an adapter on the same base."
        )


def _with_adapter(reference: Any) -> bool:
    if isinstance(reference, nn.Module):
        return has_adapter(reference)
    return names_adapter(str(reference), LoadOptions())
