# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A linear sweep beside that of the package loss-landscapes: the same losses, in no more time.

`loss_landscapes.linear_interpolation(start, end, metric, steps=S)` steps before it evaluates: its i-th value, from 0,
is the loss at alpha = (i + 1) / S. The start itself is `loss_landscapes.point`. Together they give S + 1 values at
0, 1/S, ..., 1, and these alphas are what `ConnectivityEvaluator` is asked for. The losses may differ by 1e-5 nats:
the package adds S float32 steps to the weights, and averages in float32.

Both get the same torch model, weights and rows, and timed is everything from the models and rows to the losses: here
with the checks and accuracy; there with `deepcopy_model=True`, without which the start is left at the end. The bands
of 1,000 replicates, which the package does not have, are no part of a sweep: their time is taken off, and the ratio
with them is printed too. Two comparisons, since the package leaves reading data to the caller's metric:

one batch     all rows in one batch, which there the caller makes once, as for the package's own metric `Loss`.
batches of 32 there rows are read through a `DataLoader` at each point, as all data have to be that do not fit; here
              the batches are kept from point to point, since these rows do.

Nearly all of both is the same forward passes of the same module on the same rows, and these alone differ by several
percent from one second to the next: of two equal programs one half of the paired medians are above 1. So the forward
passes are timed by themselves, and what either adds to them is compared where they are no noise: the ratio "alike" is
that of the totals if both have the median forward passes of both. It has to be at most 1 for all cases together, and
at most 1.02 for one of them: losses and accuracy of each row, which the package does not give, cost a millisecond a
point here, and batches that are not kept cost more there. The paired ratios of wall time, and of the processor's, are
printed beside it with a 95 % bootstrap interval of the median; both take turns, and glibc keeps freed memory, as in
sweep_time.py. Exits with 1 if a loss differs or "alike" is above its bound. The package needs nothing but numpy and
torch:

    pip install --no-deps --target FOLDER loss-landscapes==3.0.6
    PYTHONPATH=FOLDER python tests/benchmarks/loss_landscapes.py    # five minutes on one core
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
from sweep_time import keep_freed_memory
from torch import nn
from torch.utils.data import DataLoader

from hf_cbft import ConnectivityEvaluator, connectivity

NUM_CLASSES, STEPS, BATCH_SIZE, WARMUP = 10, 10, 32, 1
LOSS_BOUND, CASE_BOUND, TIME_BOUND = 1e-5, 1.02, 1.0
ALPHAS = [step / STEPS for step in range(STEPS + 1)]
Rows = list[dict[str, torch.Tensor]]


class Classifier(nn.Module):
    """A model that no library knows: images in, logits out. All of them together count their seconds."""

    seconds = 0.0

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        began = time.perf_counter()
        logits = self.layers(pixel_values)
        Classifier.seconds += time.perf_counter() - began
        return {"logits": logits}


def make_cnn() -> Classifier:
    """300,000 weights, and much to compute."""
    layers: list[nn.Module] = []
    for ins, outs in itertools.pairwise([3, 32, 64, 128]):
        layers += [nn.Conv2d(ins, outs, 3, padding=1), nn.ReLU(), nn.Conv2d(outs, outs, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return Classifier(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, NUM_CLASSES))


def make_mlp() -> Classifier:
    """4,200,000 weights, each used once a row: that they are written at each point counts."""
    layers = [nn.Flatten(), nn.Linear(3 * 32 * 32, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
    return Classifier(*layers, nn.Linear(1024, NUM_CLASSES))


MAKERS: dict[str, Callable[[], Classifier]] = {"cnn": make_cnn, "mlp": make_mlp}
# Sweeps of three seconds and more: the fixed milliseconds of a point are no part of a comparison of sweeps.
NUM_ROWS = {"cnn": 256, "mlp": 4096}


@torch.no_grad()
def make_end(name: str) -> Classifier:
    """A model whose weights are large enough for the line between two of them to have a shape."""
    model = MAKERS[name]().eval()
    for parameter in model.parameters():
        parameter.mul_(2.0)
    return model


def make_rows(count: int) -> Rows:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return [{"pixel_values": image, "labels": torch.tensor(i % NUM_CLASSES)} for i, image in enumerate(images)]


def theirs(package: Any, start: nn.Module, end: nn.Module, rows: Rows, batch_size: int) -> np.ndarray:
    loader: Iterable[Any] = DataLoader(rows, batch_size)  # type: ignore[arg-type]
    batches = list(loader) if batch_size >= len(rows) else loader

    def mean_loss(wrapper: Any) -> float:
        total = 0.0
        for batch in batches:
            logits = wrapper.forward(batch["pixel_values"])["logits"]
            total += F.cross_entropy(logits, batch["labels"], reduction="sum").item()
        return total / len(rows)

    line = package.linear_interpolation(start, end, mean_loss, steps=STEPS, deepcopy_model=True)
    return np.array([package.point(start, mean_loss), *line])


def ours(start: nn.Module, end: nn.Module, rows: Rows, batch_size: int) -> np.ndarray:
    result = ConnectivityEvaluator(start, end, batch_size=batch_size).evaluate(rows, alphas=ALPHAS)
    return result.losses["data"]


def now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The losses, and seconds on the wall and of the processor: (3, 2).

    Of the sweep, of it with its bands, and of its forward passes (on the wall, twice).
    """
    bands = np.zeros(2)
    Classifier.seconds = 0.0
    join = connectivity.with_barriers

    def timed_join(*arguments: Any, **options: Any) -> Any:
        nonlocal bands
        began = now()
        result = join(*arguments, **options)
        bands += now() - began
        return result

    began = now()
    with mock.patch.object(connectivity, "with_barriers", timed_join):
        losses = function()
    spent = now() - began
    return losses, np.stack([spent - bands, spent, np.full(2, Classifier.seconds)])


def bootstrap(ratios: np.ndarray) -> str:
    """The median and its 95 % percentile interval."""
    draws = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return f"{np.median(ratios):.3f} ({low:.3f} to {high:.3f})"


def measure(package: Any, name: str, rounds: int) -> tuple[bool, np.ndarray]:
    """Whether the bounds of its cases are kept, and seconds here and there with the same forward passes: (2,)."""
    torch.manual_seed(0)
    start, end = make_end(name), make_end(name)
    rows = make_rows(NUM_ROWS[name])
    print(f"{name}: {sum(p.numel() for p in start.parameters()):,} weights, {len(rows)} rows, {len(ALPHAS)} points")
    kept, total = True, np.zeros(2)
    for label, batch_size in {"one batch": len(rows), f"batches of {BATCH_SIZE}": BATCH_SIZE}.items():
        given = {"start": start, "end": end, "rows": rows, "batch_size": batch_size}
        sweeps = {"theirs": partial(theirs, package, **given), "ours": partial(ours, **given)}
        times: dict[str, list[np.ndarray]] = {who: [] for who in sweeps}
        losses: dict[str, np.ndarray] = {}
        for turn in range(WARMUP + rounds):
            for who in sorted(sweeps, reverse=bool(turn % 2)):
                losses[who], spent = timed(sweeps[who])
                if turn >= WARMUP:
                    times[who].append(spent)
        difference = float(np.abs(losses["ours"] - losses["theirs"]).max())
        found = {who: np.array(spent) for who, spent in times.items()}
        (wall, processor), (wall_with_bands, _), _ = np.moveaxis(found["ours"] / found["theirs"], 0, -1)
        forward = np.median(np.concatenate([spent[:, 2, 0] for spent in found.values()]))
        added = {who: np.median(spent[:, 0, 0] - spent[:, 2, 0]) for who, spent in found.items()}
        seconds = forward + np.array([added["ours"], added["theirs"]])
        alike = seconds[0] / seconds[1]
        fine = difference <= LOSS_BOUND and alike <= CASE_BOUND
        kept, total = kept and fine, total + seconds
        print(
            f"  {label:13} losses {losses['ours'].min():.3f} to {losses['ours'].max():.3f}, largest difference "
            f"{difference:.1e}, bound {LOSS_BOUND:g}\n"
            f"  {'':13} forward passes {forward:.2f} s, beside them loss-landscapes {1e3 * added['theirs']:.0f} ms, "
            f"here {1e3 * added['ours']:.0f} ms: alike {alike:.3f}, bound {CASE_BOUND:g}"
            f"{'' if fine else '  MISSED'}\n"
            f"  {'':13} wall {bootstrap(wall)}; processor {bootstrap(processor)}; wall with bands "
            f"{bootstrap(wall_with_bands)}",
            flush=True,
        )
    return kept, total


def import_package() -> Any:
    """The package, and not this script, which has its name and whose folder comes first."""
    sys.path = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    try:
        import loss_landscapes
    except ImportError:
        sys.exit(f"The package loss-landscapes is missing.{__doc__.split('its bound.')[-1]}")
    return loss_landscapes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    package = import_package()
    kept, totals = zip(*(measure(package, name, arguments.rounds) for name in arguments.models), strict=True)
    here, there = np.sum(totals, axis=0)
    fine = all(kept) and here <= TIME_BOUND * there
    print(f"all together: alike {here / there:.3f}, bound {TIME_BOUND:g}{'' if fine else '  MISSED'}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
