# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""How long an alignment of BERT-base takes on a CPU, and how much memory: peak anonymous memory above the level after
the imports, in models (the bytes of one model's float32 weights; both models are among them).

scrambled     weights: a copy whose units were all moved; ViT-base too
independent   weights: a model of another seed, one start
activations   512 sentences of random words, 24 to 40 long, a scrambled copy; and a model of another seed

Each is measured without the gate (the matching alone) and as `align`, which tries the specification before and what
was found after, in a float64 copy. The models are drawn at random, norms and biases too. Each run is a process of its
own. It imports, aligns two tiny models in the same way (so that what is imported late is there), gives free memory
back to the system (`malloc_trim`) and notes its level. Then it makes the models and aligns them. Meanwhile the
process that started it reads RssAnon from /proc every 2 ms. Blocks from 64 KiB on go back to the system when they are
freed, as in memory.py. Seconds are those of the wall; beside them stands what the process itself had of the cores, and
above the table the load that others put on them.

The bound of 2.2 models is that of weights. Activations keep a float32 matrix of products for each space, which for
the MLPs of BERT-base come to 1.03 models, and a share of the activations; only the bound with the gate is theirs. So
with ViT-base, where the matrix of one MLP's similarities in float64 is 0.22 models by itself.

Exits with 1 if a bound is missed. Linux only.

    python tests/benchmarks/alignment.py                            # half an hour on two cores, 4 GB
    python tests/benchmarks/alignment.py --cases scrambled          # two minutes
"""

import argparse
import copy
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification
from transformers.utils import logging

from hf_cbft import align
from hf_cbft.alignment.activations import ActivationMatching
from hf_cbft.alignment.binding import bind
from hf_cbft.alignment.known import find_family
from hf_cbft.alignment.symmetries import Permutations, Specification
from hf_cbft.alignment.weights import match_weights
from hf_cbft.paths.interpolation import evaluation_mode, named_weights

# Of the whole alignment, in seconds; and in models, without the gate and with its float64 copy.
CASES = {
    "scrambled": (180, 2.2, 4.2),
    "independent": (600, 2.2, 4.2),
    "activations": (300, None, 4.2),
    "activations_independent": (300, None, 4.2),
    "vit_scrambled": (180, None, 4.2),
}
RESTORED = {"scrambled": 0.99, "activations": 0.999, "vit_scrambled": 0.99}
NUM_SENTENCES, SHORTEST, LONGEST, BATCH_SIZE = 512, 24, 40, 32
SAMPLED_EVERY = 0.002
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
READY = "ready"


def make_model(case: str, shape: str, seed: int) -> Any:
    sizes: dict[str, Any] = {"num_labels": 4, **(TINY if shape == "tiny" else {})}
    model: nn.Module
    if case.startswith("vit"):
        model = ViTForImageClassification(ViTConfig(**sizes))
    else:
        model = BertForSequenceClassification(BertConfig(**sizes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Norms are all alike as they begin, and biases 0: trained ones are neither.
            is_scale = "norm" in name.lower() and name.endswith("weight")
            weight.normal_(float(is_scale), 0.1 if is_scale else 0.02, generator=generator)
    return model


def make_pair(case: str, shape: str) -> tuple[Any, Any, Specification, Permutations | None]:
    """Both models, their specification, and what restores the second one's units, if it is a scrambled copy."""
    start = make_model(case, shape, 0)
    family = find_family(start)
    assert family is not None
    specification = bind(family, start)
    if case.endswith("independent"):
        return start, make_model(case, shape, 1), specification, None
    end, moved = copy.deepcopy(start), specification.random(seed=1)
    specification.permute_(end, moved)
    return start, end, specification, specification.inverse(moved)


class Sentences:
    """Rows of random words, as a tokenizer gives them."""

    def __init__(self, vocab_size: int, number: int) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(SHORTEST, LONGEST + 1, (number,), generator=generator).tolist()
        self.rows = [torch.randint(1, vocab_size, (length,), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index]}


def pad(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def find(case: str, shape: str, gated: bool) -> dict[str, float | None]:
    """One alignment: seconds of the wall and of the cores, the share of the units restored, bytes of one model."""
    start, end, specification, wanted = make_pair(case, shape)
    by_weights = not case.startswith("activations")
    data = None if by_weights else Sentences(start.config.vocab_size, NUM_SENTENCES if shape == "base" else 8)
    num_starts = 1 if case == "independent" else 3
    began, worked = time.perf_counter(), time.process_time()
    if gated:
        method = "weights" if by_weights else "activations"
        alignment = align(
            start, end, method, data, data_collator=pad if data else None, batch_size=BATCH_SIZE, num_starts=num_starts
        )
        found, before, after = alignment.permutations, alignment.info["before"], alignment.info["after"]
    elif data is None:
        found, before, after = match_weights(
            specification, dict(start.named_parameters()), dict(end.named_parameters()), num_starts=num_starts
        )
    else:
        matching = ActivationMatching(specification)
        firsts = range(0, len(data), BATCH_SIZE)
        batches = (pad([data[i] for i in range(first, min(first + BATCH_SIZE, len(data)))]) for first in firsts)
        with evaluation_mode(start), evaluation_mode(end):
            matching.observe(start, end, batches)
        found, before, after, _ = matching.permutations(dict(start.named_parameters()), dict(end.named_parameters()))
    seconds, cores = time.perf_counter() - began, time.process_time() - worked
    restored = None
    if wanted is not None:
        same = sum(int(np.sum(found[space] == wanted[space])) for space in wanted)
        restored = same / sum(permutation.size for permutation in wanted.values())
    model = sum(weight.nbytes for weight in named_weights(start).values())
    return {
        "seconds": seconds, "cores": cores, "restored": restored, "model": model, "before": before, "after": after
    }  # fmt: skip


def run(case: str, gated: bool, threads: int) -> None:
    """What the measured process does. It prints its level when it is ready, then what it found."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    find(case, "tiny", gated)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    print(READY, anonymous(os.getpid()), flush=True)
    print(json.dumps(find(case, "base", gated)), flush=True)


def anonymous(process: int) -> int:
    """RssAnon of a process, in bytes; 0 once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def measure(case: str, gated: bool, threads: int) -> dict[str, Any]:
    """What the process found, and `models`, its peak above the level."""
    command = [sys.executable, __file__, "--run", case, "--gated", str(int(gated)), "--threads", str(threads)]
    small = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": str(threads)}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **small}
        ) as process,
    ):
        assert process.stdout is not None
        words = next((line.split() for line in process.stdout if line.startswith(READY)), None)
        peak = 0
        while words is not None and process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(SAMPLED_EVERY)
        said = process.stdout.read()
        if words is None or process.wait():
            errors.seek(0)
            raise RuntimeError(f"{case}:\n{errors.read()}")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return {**found, "models": (peak - int(words[1])) / found["model"]}


def shown(value: float, bound: float | None, text: str) -> str:
    """A figure and its bound."""
    return text.format(value) + ("" if bound is None else f" <= {bound:g}" if value <= bound else f" MISSED {bound:g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--gated", type=int, nargs="*", default=[0, 1], help="0: without the gate, 1: with it")
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, bool(arguments.gated[0]), arguments.threads)
        return 0
    kept = True
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}; {arguments.threads} threads")
    print(f"{'case':23} gate  {'seconds':>15} {'of cores':>9}  {'peak, models':14} {'restored':16} objective")
    for case in arguments.cases:
        most, *sizes = CASES[case]
        for gated in map(bool, arguments.gated):
            found = measure(case, gated, arguments.threads)
            share, least = found["restored"], RESTORED.get(case)
            kept &= found["seconds"] <= most and (sizes[gated] is None or found["models"] <= sizes[gated])
            kept &= least is None or share >= least
            restored = "" if least is None else f"{share:.3%} {'>=' if share >= least else 'MISSED'} {least:g}"
            print(
                f"{case:23} {'yes' if gated else 'no ':4} {shown(found['seconds'], most, '{:.1f}'):>16} "
                f"{found['cores']:9.1f}  {shown(found['models'], sizes[gated], '{:.3f}'):14} {restored:16} "
                f"{found['before']:.6g} -> {found['after']:.6g}",
                flush=True,
            )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
