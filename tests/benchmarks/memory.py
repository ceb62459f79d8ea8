# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory CBFT takes beside a plain `Trainer` whose batch is as large as CBFT's two halves together.

(i)  LoRA: the peak is at most 1.05 times the plain one, because the path is a scale and no weights are copied.
(ii) All weights trained: at most one copy of the weights more at rest, the reference, and two at the peak: at the path
     point the displaced weights come to it, and in the pass over both halves the gradients of one half, which autograd
     holds until it has those of the other. Not counted are the temporaries of two weights.

Each run is a process of its own. Bytes are those of torch's CPU allocator, from its profiler, from the first weight
on: the same in every run. Beside them stands what the kernel saw, the peak of resident memory above the level after
the imports, which also holds what malloc has not given back. Exits with 1 if a bound is missed.

    python tests/benchmarks/memory.py               # a minute and a half on one core
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.utils import logging

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.paths.interpolation import named_weights

NUM_CLASSES, STEPS, MIB = 10, 3, 2**20
LORA_BOUND, REST_COPIES, PEAK_COPIES = 1.05, 1.0, 2.0
# Copies of the weights that batches, activations and losses may come to.
SLACK = 0.01
# hidden size, layers, length and half a batch: LoRA with what is usual, all weights with little else than weights.
SHAPES = {"lora": (192, 6, 64, 16), "full": (512, 12, 2, 1)}


def make_model(kind: str) -> torch.nn.Module:
    hidden, layers, length, _ = SHAPES[kind]
    config = BertConfig(
        vocab_size=1000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden,
        max_position_embeddings=length,
        num_labels=NUM_CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    if kind == "lora":
        lora = LoraConfig(r=8, target_modules=["query", "value"], modules_to_save=["classifier"])
        model = get_peft_model(model, lora)
    return model


def make_rows(kind: str, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    _, _, length, _ = SHAPES[kind]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 1000, (count, length), generator=generator)
    return [{"input_ids": ids[i], "labels": torch.tensor(i % NUM_CLASSES)} for i in range(count)]


def make_trainer(kind: str, method: str, folder: str) -> Trainer:
    half = SHAPES[kind][3]
    options = {
        "output_dir": folder,
        "max_steps": STEPS,
        "learning_rate": 1e-5,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    model = make_model(kind)
    if method == "plain":
        args = TrainingArguments(per_device_train_batch_size=2 * half, **options)
        return Trainer(model, args, train_dataset=make_rows(kind, 2 * half, 0))
    args = CBFTConfig(
        per_device_train_batch_size=half,
        per_device_eval_batch_size=half,
        invariance_warmup_ratio=0.0,
        barrier_stop_ratio=1.0,
        **options,
    )
    rows = [make_rows(kind, half, seed) for seed in (0, 1)]
    return CBFTTrainer(model, args=args, train_dataset=rows[0], cue_dataset=rows[1])


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def run(kind: str, method: str, counted: bool) -> dict[str, int]:
    """Train a few steps; peak and rest in bytes, by torch's allocator (`counted`) or by the kernel."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        if not counted:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
            make_trainer(kind, method, folder).train()
            return {"resident_peak": resident("VmHWM") - before}
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
            trainer = make_trainer(kind, method, folder)
            trainer.train()
        events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        sizes = [weight.numel() * weight.element_size() for weight in named_weights(trainer.model).values()]
        return {"peak": peak, "rest": held, "weights": sum(sizes), "largest": max(sizes)}


def measure(kind: str, method: str) -> dict[str, int]:
    results: dict[str, int] = {}
    for how in ("counted", "resident"):
        process = subprocess.run(
            [sys.executable, __file__, "--run", kind, method, how],
            capture_output=True,
            text=True,
            check=False,
            # Blocks from 64 KiB on go back to the kernel when they are freed.
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        )
        if process.returncode:
            raise RuntimeError(f"{kind}, {method}, {how}:\n{process.stderr}")
        results.update(json.loads(process.stdout.splitlines()[-1]))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        kind, method, how = arguments.run
        print(json.dumps(run(kind, method, how == "counted")))
        return 0
    found = {kind: {method: measure(kind, method) for method in ("plain", "cbft")} for kind in SHAPES}
    print("MiB                weights     peak  at rest  resident peak")
    for kind, methods in found.items():
        for method, sizes in methods.items():
            columns = [sizes[name] / MIB for name in ("weights", "peak", "rest", "resident_peak")]
            print(
                f"{kind:4} {method:5} {2 * SHAPES[kind][3]:3} rows {{:8.1f}} {{:8.1f}} {{:8.1f}} {{:14.1f}}".format(
                    *columns
                )
            )
    plain, cbft = found["lora"]["plain"], found["lora"]["cbft"]
    ratio = cbft["peak"] / plain["peak"]
    seen = cbft["resident_peak"] / plain["resident_peak"]
    print(f"LoRA: peak {ratio:.3f} times the plain one (resident {seen:.3f}), bound {LORA_BOUND}")
    plain, cbft = found["full"]["plain"], found["full"]["cbft"]
    rest, peak, seen = ((cbft[name] - plain[name]) / plain["weights"] for name in ("rest", "peak", "resident_peak"))
    temporaries = 2 * plain["largest"] / plain["weights"]
    print(f"all weights, copies more than plain at rest: {rest:.3f}, bound {REST_COPIES:g} + {SLACK}")
    print(
        f"all weights, copies more than plain at the peak: {peak:.3f} (resident {seen:.3f}), "
        f"bound {PEAK_COPIES:g} + {temporaries:.3f} + {SLACK}"
    )
    kept = ratio <= LORA_BOUND and rest <= REST_COPIES + SLACK and peak <= PEAK_COPIES + temporaries + SLACK
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
