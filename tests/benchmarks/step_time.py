# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""How long a step of `CBFTTrainer` takes beside one of `Trainer`: full fine-tuning, equal batch, one thread.

A plain step is one forward and backward pass over a batch. CBFT runs three while L_B is on (cue at the path point,
clean, cue for the invariance loss) and two after it, so the ratios cannot be below 3 and 2, less the optimizer's
share. The steps are interleaved in changing order; printed is the median of the ratio within a round with its
bootstrap interval, and what the parts beside the passes cost. Times are those of the processor: on a shared machine
others do not count. Exits with 1 if a bound is missed.

    python tests/benchmarks/step_time.py            # four minutes on one core
"""

import argparse
import copy
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.paths.interpolation import named_weights
from hf_cbft.representations import capture_representation

BOUNDS = {"cbft, L_B on": 3.25, "cbft, L_B over": 2.2}
NUM_CLASSES, WARMUP, MAX_STEPS = 10, 5, 1_000_000
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_vit() -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=32,
        patch_size=4,
        num_labels=NUM_CLASSES,
        **NO_DROPOUT,
    )
    return ViTForImageClassification(config)


def make_bert() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=1000,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=768,
        max_position_embeddings=64,
        num_labels=NUM_CLASSES,
        **NO_DROPOUT,
    )
    return BertForSequenceClassification(config)


def make_rows(name: str, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        inputs = [{"pixel_values": torch.randn(3, 32, 32, generator=generator)} for _ in range(count)]
    else:
        inputs = [{"input_ids": torch.randint(1, 1000, (32,), generator=generator)} for _ in range(count)]
    return [{**row, "labels": torch.tensor(i % NUM_CLASSES)} for i, row in enumerate(inputs)]


def stack(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def make_step(trainer: Trainer, batch: dict, global_step: int = 0) -> Callable[[], None]:
    """What `Trainer` does for one batch, without the loop around it."""

    def step() -> None:
        trainer.state.global_step = global_step
        trainer.training_step(trainer.model, batch)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()

    return step


def seconds(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def bootstrap(ratios: np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % percentile interval."""
    draws = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


@contextmanager
def timed(found: dict[str, list[float]], context):
    """`context`, with the time of entering and of leaving it noted."""
    began = time.process_time()
    context.__enter__()
    found["path point, enter"].append(time.process_time() - began)
    try:
        yield
    finally:
        began = time.process_time()
        context.__exit__(None, None, None)
        found["path point, exit"].append(time.process_time() - began)


def parts(trainer: CBFTTrainer, steps: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """What lies outside the passes: the path point (timed inside of real steps), the hook, optimizer and clipping."""
    found: dict[str, list[float]] = {"path point, enter": [], "path point, exit": [], "hook": [], "optimizer": []}
    layer = trainer.model.get_submodule(trainer.plan.layer_name)
    at = trainer.reference.at
    trainer.reference.at = lambda model, alpha: timed(found, at(model, alpha))
    for _ in range(20):
        steps["cbft, L_B on"]()
    del trainer.reference.at

    def hook() -> None:
        with capture_representation(layer):
            pass

    def optimize() -> None:
        for parameter in trainer.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        began = time.process_time()
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        found["optimizer"].append(time.process_time() - began)

    for _ in range(20):
        found["hook"].append(seconds(hook))
        optimize()
    return found


def measure(name: str, make: Callable[[], torch.nn.Module], rows: int, rounds: int, folder: str) -> bool:
    torch.manual_seed(0)
    model = make()
    clean, cue = make_rows(name, rows, 0), make_rows(name, rows, 1)
    options = {
        "output_dir": folder,
        "max_steps": MAX_STEPS,
        "per_device_train_batch_size": rows,
        "learning_rate": 1e-4,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
    }
    plain = Trainer(copy.deepcopy(model), TrainingArguments(**options), train_dataset=clean)
    config = CBFTConfig(**options, invariance_warmup_ratio=0.0)
    cbft = CBFTTrainer(copy.deepcopy(model), args=config, train_dataset=clean, cue_dataset=cue)
    for trainer in (plain, cbft):
        trainer.state.max_steps = MAX_STEPS
        trainer.current_gradient_accumulation_steps = 1
        trainer.create_optimizer()
    cbft.log = lambda *args, **kwargs: None
    cbft.begin_run(None)
    cbft.begin_training()
    pair = {"clean": stack(clean), "cue": stack(cue)}
    steps = {
        "plain": make_step(plain, stack(clean)),
        "cbft, L_B on": make_step(cbft, pair),
        "cbft, L_B over": make_step(cbft, pair, MAX_STEPS - 1),
    }
    times: dict[str, list[float]] = {label: [] for label in steps}
    for turn in range(WARMUP + rounds):
        order = list(steps)[turn % 3 :] + list(steps)[: turn % 3]
        for label in order:
            spent = seconds(steps[label])
            if turn >= WARMUP:
                times[label].append(spent)
    weights = sum(weight.numel() for weight in named_weights(model).values())
    print(f"{name}: {weights:,} weights, batch {rows}, {rounds} rounds, plain step {_ms(times['plain'])}")
    kept = True
    for label, bound in BOUNDS.items():
        ratio, low, high = bootstrap(np.array(times[label]) / np.array(times["plain"]))
        kept &= ratio <= bound
        print(
            f"  {label:16} {_ms(times[label])}  ratio {ratio:.3f} ({low:.3f} to {high:.3f}), bound {bound:g}"
            f"{'' if ratio <= bound else '  MISSED'}"
        )
    for label, found in parts(cbft, steps).items():
        share = np.median(found) / np.median(times["plain"])
        print(f"  {label:20} {_ms(found)}  {100 * share:.2f} % of a plain step")
    return kept


def _ms(found: list[float]) -> str:
    return f"{1000 * np.median(found):7.2f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["vit", "bert"], default=["vit", "bert"])
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("hf_cbft").setLevel(logging.ERROR)  # that random labels are not solved is known
    makers = {"vit": make_vit, "bert": make_bert}
    with tempfile.TemporaryDirectory() as folder:
        kept = [measure(n, makers[n], arguments.batch_size, arguments.rounds, folder) for n in arguments.models]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
