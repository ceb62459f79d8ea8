# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of connectivity-based fine-tuning, on top of `TrainingArguments`."""

import math
import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hf_cbft.data.pairing import PAIRINGS

_DEEPSPEED = (
    "DeepSpeed's engine steps inside its own backward, where the weights are those of the path point: train without "
    "it, with DDP or FSDP2."
)
_COMPILE = (
    "torch_compile is not supported: the representation is read by a hook, which compiled code does not promise to "
    "call. Train without it."
)
_FSDP1 = (
    "FSDP1 keeps its weights in flat parameters that a path point cannot be written into: use FSDP2 (fsdp_version: 2)."
)
_LAUNCHER_SWITCHES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "FSDP_VERSION", "ACCELERATE_DYNAMO_BACKEND")
ALPHA_SAMPLINGS = ("clipped_normal", "uniform")
UPDATE_RULES = ("joint", "alternating")


def check_steps_after_backward(args: TrainingArguments, weights: str) -> None:
    """Raise a `ValueError` for an optimizer that steps inside backward, where the live weights are others."""
    optimizer = args.optim.value
    if "lomo" in optimizer or optimizer.endswith("_layerwise"):
        raise ValueError(
            f"The optimizer {optimizer} steps inside backward, where the weights are those of {weights}: use one that "
            "steps after it, such as adamw_torch."
        )


@dataclass
class CBFTConfig(TrainingArguments):
    r"""`TrainingArguments` plus what connectivity-based fine-tuning (CBFT) needs.

    L_CBFT = L_CE(clean; theta) + barrier_coef * | ref_loss + barrier_margin - L_CE(cue; gamma(alpha)) |
             + (invariance_coef / K) * L_I

    Args:
        barrier_coef (`float`, *optional*, defaults to 1.0): weight of the barrier loss L_B.
        barrier_margin (`float`, *optional*, defaults to 1.0):
            How far above the reference's own loss on the cue data the path loss is pulled, in nats.
        ref_loss (`float`, *optional*):
            The reference's loss on the cue data, in nats. `None` measures it once before training, on at most 2,048
            rows. 0.0 is the paper's formula.
        barrier_stop_ratio (`float`, *optional*, defaults to 0.5):
            Share of the steps after which L_B is left out ("escape, then settle"): held to the end, it keeps pulling
            the model away from accuracy. This is not in the paper; 1.0 is the paper.
        invariance_coef (`float`, *optional*, defaults to 1.0): lambda, weight of the invariance loss.
        invariance_warmup_ratio (`float`, *optional*, defaults to 0.05):
            Share of the steps before the invariance loss enters.
        alpha_sampling (`str`, *optional*, defaults to `"clipped_normal"`):
            How the point of the path is drawn in each step: `"clipped_normal"` or `"uniform"`.
        alpha_min (`float`, *optional*, defaults to 0.25), alpha_max (`float`, *optional*, defaults to 0.75):
            The stretch of the path that is sampled; 0 is the reference, 1 the model.
        update_rule (`str`, *optional*, defaults to `"joint"`):
            `"joint"`: one optimizer step on L_CBFT. `"alternating"`: the authors' two steps on each pair of batches,
            the barrier loss first.
        pairing (`str`, *optional*, defaults to `"class"`):
            Which cue row goes with a clean row: one of the same `"class"`, any (`"random"`), or the row with the same
            number (`"index"`).
        representation_layer (`str`, *optional*):
            Name of the module whose input is the representation. `None` finds the last linear layer that gives the
            logits.
        ref_device (`str`, *optional*):
            Where the reference is kept: `"cpu"` saves a copy of the weights on the GPU and costs a transfer a step.
        ref_dtype (`str`, *optional*):
            The dtype that the reference is kept in: `"float32"`, `"bfloat16"`, ... `None`: the model's, and a
            reference in another one is refused.

    Raises:
        ValueError: a value outside its range, or a setting of `TrainingArguments` under which the step would be wrong:
        optimizers that step inside backward, DeepSpeed, persistent workers, `"alternating"` with gradient accumulation
        or fp16.

    Source: Lubana et al., ICML 2023, section 5.
    """

    barrier_coef: float = field(default=1.0, metadata={"help": "Weight of the barrier loss L_B."})
    barrier_margin: float = field(
        default=1.0, metadata={"help": "Nats above the reference's own loss to which the path loss is pulled."}
    )
    ref_loss: float | None = field(
        default=None, metadata={"help": "The reference's loss on the cue data, nats; measured if not given."}
    )
    barrier_stop_ratio: float = field(
        default=0.5,
        metadata={"help": "Share of the steps after which the barrier loss is left out; 1.0 is the paper."},
    )
    invariance_coef: float = field(default=1.0, metadata={"help": "Lambda, weight of the invariance loss."})
    invariance_warmup_ratio: float = field(
        default=0.05, metadata={"help": "Share of the steps before the invariance loss enters."}
    )
    alpha_sampling: str = field(
        default="clipped_normal", metadata={"help": "How alpha is drawn.", "choices": list(ALPHA_SAMPLINGS)}
    )
    alpha_min: float = field(default=0.25, metadata={"help": "Lower end of the stretch of the path that is sampled."})
    alpha_max: float = field(default=0.75, metadata={"help": "Upper end of the stretch of the path that is sampled."})
    update_rule: str = field(
        default="joint", metadata={"help": "One step on the sum, or two steps.", "choices": list(UPDATE_RULES)}
    )
    pairing: str = field(
        default="class", metadata={"help": "Which cue row goes with a clean row.", "choices": list(PAIRINGS)}
    )
    representation_layer: str | None = field(
        default=None, metadata={"help": "Module whose input is the representation; found if not given."}
    )
    ref_device: str | None = field(
        default=None, metadata={"help": "Where the reference is kept, for example cpu; beside the model if not given."}
    )
    ref_dtype: str | None = field(
        default=None, metadata={"help": "The dtype that the reference is kept in; the model's if not given."}
    )

    def __getstate__(self) -> dict[str, object]:
        # The Trainer pickles its arguments beside the weights, and pushes them: a token must not go with them.
        return {**vars(self), "hub_token": None}

    def __post_init__(self) -> None:
        self._check_cbft_values()
        super().__post_init__()
        self._check_training_features()

    def _check_cbft_values(self) -> None:
        for name in ("barrier_coef", "barrier_margin", "invariance_coef", "ref_loss"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} = {value}: give a finite number >= 0.")
        if self.ref_dtype is not None and not isinstance(getattr(torch, self.ref_dtype, None), torch.dtype):
            raise ValueError(f"ref_dtype = {self.ref_dtype!r} is no dtype of torch: give float32 or bfloat16, say.")
        for name in ("barrier_stop_ratio", "invariance_warmup_ratio"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} = {value} is a share of the steps: give a number from 0 to 1.")
        if not 0.0 <= self.alpha_min <= self.alpha_max <= 1.0:
            raise ValueError(
                f"alpha_min = {self.alpha_min} and alpha_max = {self.alpha_max} are no stretch of the path: "
                "0 <= alpha_min <= alpha_max <= 1 is needed."
            )
        for name, choices in (
            ("alpha_sampling", ALPHA_SAMPLINGS),
            ("update_rule", UPDATE_RULES),
            ("pairing", PAIRINGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown: use one of {', '.join(choices)}.")

    def _check_training_features(self) -> None:
        check_steps_after_backward(self, "the path point, not the model's")
        if self.deepspeed:
            raise ValueError(_DEEPSPEED)
        if self.neftune_noise_alpha is not None:
            raise ValueError(
                "neftune_noise_alpha puts noise into the embeddings of every pass, so that the path loss is not the "
                "loss of the path point: train without it."
            )
        if self.use_liger_kernel:
            raise ValueError(
                "use_liger_kernel replaces the layers whose inputs are read and the loss that is counted: train "
                "without it."
            )
        if self.enable_jit_checkpoint:
            raise ValueError(
                "enable_jit_checkpoint saves in the middle of a step, from where a run does not go on as it would "
                "have done: use save_strategy."
            )
        if self.fsdp and int((self.fsdp_config or {}).get("version", 2)) == 1:
            raise ValueError(_FSDP1)
        if self.parallelism_config is not None:
            raise ValueError(
                "parallelism_config (tensor, context or sequence parallelism) splits a batch or a weight in ways for "
                "which the path is not checked: use DDP or FSDP2."
            )
        if self.torch_compile:
            raise ValueError(_COMPILE)
        if self.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
            raise ValueError(
                f"train_sampling_strategy = {self.train_sampling_strategy!r} needs the length of an item, and items "
                'here are pairs: use "random" or "sequential".'
            )
        if self.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers keeps copies of the data set that never learn of a new epoch, so every "
                "epoch would have the pairs of the first: leave it off."
            )
        if self.update_rule == "alternating" and self.gradient_accumulation_steps > 1:
            raise ValueError(
                f'update_rule="alternating" steps twice on each pair of batches, which gradient_accumulation_steps = '
                f'{self.gradient_accumulation_steps} would mix: use 1, or update_rule="joint".'
            )
        if self.update_rule == "alternating" and self.fp16:
            raise ValueError(
                'update_rule="alternating" steps twice a batch, for which the loss scale of fp16 is not made: use '
                'bf16, or update_rule="joint".'
            )

    def check_environment(self) -> None:
        """Look at how this process was launched, before anything is made.

        Raises:
            ValueError: DeepSpeed, FSDP1 or a compiler was switched on by the launcher, processes do not know of each
            other, or ranks would wait for each other.
            NotImplementedError: Transformers would use `DataParallel`.
        """
        launched = {name: os.environ.get(name, "").lower() for name in _LAUNCHER_SWITCHES}
        if launched["ACCELERATE_USE_DEEPSPEED"] == "true":
            raise ValueError(_DEEPSPEED)
        # Without a version of its own the launcher means FSDP1.
        if launched["ACCELERATE_USE_FSDP"] == "true" and launched["FSDP_VERSION"] in ("", "1") and not self.fsdp:
            raise ValueError(_FSDP1)
        if launched["ACCELERATE_DYNAMO_BACKEND"] not in ("", "no"):
            raise ValueError(_COMPILE)
        if self.world_size == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                f"{os.environ['WORLD_SIZE']} processes were started and Transformers sees one, so that each would "
                "train on its own: set use_cpu=True where there is no GPU."
            )
        uneven = not self.accelerator_config.even_batches and not self.dataloader_drop_last
        if self.world_size > 1 and uneven:
            raise ValueError(
                "accelerator_config even_batches=False lets a rank's batches end early, and the others would wait for "
                "it: leave it on, or set dataloader_drop_last=True."
            )
        if self.world_size > 1 and self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size on several processes starts again on the rank that ran out of memory, and the "
                "others would wait for it: set per_device_train_batch_size."
            )
        if self.world_size > 1 and (self.activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError(
                "activation_checkpointing_kwargs use_reentrant=True runs a backward pass of its own for each layer "
                "and half of the batch, and DDP takes one: leave it out on several processes."
            )
        if self.n_gpu > 1:
            raise NotImplementedError(
                f"Transformers would split batches over {self.n_gpu} GPUs with DataParallel, whose replicas have no "
                "path point: start it with accelerate launch, or make one GPU visible with CUDA_VISIBLE_DEVICES=0."
            )
