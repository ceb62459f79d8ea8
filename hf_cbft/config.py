# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of connectivity-based fine-tuning, on top of `TrainingArguments`."""

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_cbft.data.pairing import PAIRINGS

ALPHA_SAMPLINGS = ("clipped_normal", "uniform")
UPDATE_RULES = ("joint", "alternating")


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

    def __post_init__(self) -> None:
        self._check_cbft_values()
        super().__post_init__()
        self._check_training_features()

    def _check_cbft_values(self) -> None:
        for name in ("barrier_coef", "barrier_margin", "invariance_coef", "ref_loss"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} = {value}: give a finite number >= 0.")
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
        optimizer = self.optim.value
        if "lomo" in optimizer or optimizer.endswith("_layerwise"):
            raise ValueError(
                f"The optimizer {optimizer} steps inside backward, where the weights are those of the path point, "
                "not the model's: use one that steps after it, such as adamw_torch."
            )
        if self.deepspeed:
            raise ValueError(
                "DeepSpeed's engine steps inside its own backward, where the weights are those of the path point: "
                "train without deepspeed."
            )
        if self.torch_compile:
            raise ValueError(
                "torch_compile is not supported: the representation is read by a hook, which compiled code does not "
                "promise to call. Train without it."
            )
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
