# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory a sweep takes: peak anonymous memory above the level after the imports, in models.

The model has the shape of BERT-base with a vocabulary of 57,000 words: 130 million float32 parameters, on a CPU, 4
rows of 16 tokens, a batch of 1, 3 points. One model is the bytes of its weights.

folders   both ends are folders: the live model and the copy that an open point keeps; the end is read from its files.
modules   two models in memory, built here and counted: both, and the copy of an open point.
adapter   a base in a folder against base+adapter (LoRA, r = 8 on query and value): the base, which is scaled.

Each case is a process of its own. It imports, measures a tiny model in the same way (so that what is imported late is
there), gives free memory back to the system (`malloc_trim`) and notes its level. Then it opens the ends and measures.
Meanwhile the process that started it reads RssAnon from /proc every 2 ms: what the system has given the process as
anonymous memory. Not counted are pages of mapped files, which the system drops when it needs them: weights of a
safetensors file that were not written to since. What is resident with those stands beside it. Blocks from 64 KiB on
go back to the system when they are freed, as in memory.py; without that (`--plain_malloc`) glibc may keep some.

Exits with 1 if a bound is missed. Linux only.

    python tests/benchmarks/sweep_memory.py         # three minutes on one core, 1.2 GB of disk
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from hf_cbft import ConnectivityEvaluator
from hf_cbft.paths.interpolation import named_weights

BOUNDS = {"folders": 2.2, "modules": 3.2, "adapter": 1.15}
NUM_CLASSES, NUM_ROWS, LENGTH, NUM_POINTS, MIB = 4, 4, 16, 3, 2**20
SAMPLED_EVERY = 0.002
SHAPES = {
    "base": {"vocab_size": 57_000},
    "tiny": {
        "vocab_size": 100,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
}
READY = "ready"


def make_model(shape: str, seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(num_labels=NUM_CLASSES, **SHAPES[shape]))


def make_rows() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(1, 100, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": torch.tensor(i % NUM_CLASSES)} for i, row in enumerate(ids)]


def save_ends(folder: Path) -> None:
    """Both shapes as `start`, `end` and an adapter on `start`."""
    for shape in SHAPES:
        for seed, name in enumerate(("start", "end")):
            make_model(shape, seed).save_pretrained(folder / shape / name)
        base = BertForSequenceClassification.from_pretrained(folder / shape / "start")
        lora = get_peft_model(base, LoraConfig(r=8, target_modules=["query", "value"], init_lora_weights=False))
        lora.save_pretrained(folder / shape / "adapter")


def sweep(case: str, folder: Path, shape: str) -> int:
    """One evaluation; gives the bytes of one model."""
    start, end = folder / shape / "start", folder / shape / "end"
    if case == "modules":
        evaluator = ConnectivityEvaluator(make_model(shape, 0), make_model(shape, 1), batch_size=1)
    elif case == "folders":
        evaluator = ConnectivityEvaluator(start, end, batch_size=1)
    else:
        evaluator = ConnectivityEvaluator(start, f"{start}+{folder / shape / 'adapter'}", batch_size=1)
    result = evaluator.evaluate(make_rows(), num_points=NUM_POINTS)
    if np.ptp(result.losses["data"]) == 0.0:
        raise RuntimeError("The path does not move the model.")
    weights = named_weights(evaluator.model)
    return sum(weight.numel() * weight.element_size() for name, weight in weights.items() if ".lora_" not in name)


def run(case: str, folder: Path) -> None:
    """What the measured process does. It prints its level when it is ready, then the bytes of a model."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sweep(case, folder, "tiny")
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    print(READY, *resident(os.getpid()), flush=True)
    print(sweep(case, folder, "base"), flush=True)


def resident(process: int) -> tuple[int, int]:
    """RssAnon and VmRSS of a process, in bytes; 0 once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = {name: 1024 * int(words[0]) for name, *words in map(str.split, lines) if name in ("RssAnon:", "VmRSS:")}
    return found.get("RssAnon:", 0), found.get("VmRSS:", 0)


def measure(case: str, folder: Path, plain_malloc: bool) -> dict[str, float]:
    """Peaks above the level, anonymous and with mapped files, in models; the level and one model in bytes."""
    malloc = {} if plain_malloc else {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--run", case, "--folder", str(folder)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **malloc}
        ) as process,
    ):
        assert process.stdout is not None
        words = next((line.split() for line in process.stdout if line.startswith(READY)), None)
        peak = [0, 0]
        began = time.perf_counter()
        while words is not None and process.poll() is None:
            peak = [max(pair) for pair in zip(peak, resident(process.pid), strict=True)]
            time.sleep(SAMPLED_EVERY)
        spent = time.perf_counter() - began
        said = process.stdout.read()
        if words is None or process.wait():
            errors.seek(0)
            raise RuntimeError(f"{case}:\n{errors.read()}")
    level, model = [int(word) for word in words[1:]], int(said.split()[-1])
    anonymous, with_files = ((high - low) / model for high, low in zip(peak, level, strict=True))
    return {"anonymous": anonymous, "with_files": with_files, "level": level[0], "model": model, "seconds": spent}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(BOUNDS), default=list(BOUNDS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--plain_malloc", action="store_true", help="leave glibc's thresholds as they are")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.folder)
        return 0
    kept = True
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        save_ends(Path(place))
        for case in arguments.cases:
            found = [measure(case, Path(place), arguments.plain_malloc) for _ in range(arguments.runs)]
            models = sorted(run["anonymous"] for run in found)
            kept &= models[-1] <= BOUNDS[case]
            print(
                f"{case:8} one model {found[0]['model'] / MIB:.1f} MiB, level {found[0]['level'] / MIB:.1f} MiB, peak "
                f"above it {models[len(models) // 2]:.3f} models ({models[0]:.3f} to {models[-1]:.3f}, "
                f"{len(models)} runs), bound {BOUNDS[case]:g}{'' if models[-1] <= BOUNDS[case] else '  MISSED'}; "
                f"with mapped files {max(run['with_files'] for run in found):.2f} models, "
                f"{min(run['seconds'] for run in found):.1f} s",
                flush=True,
            )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
