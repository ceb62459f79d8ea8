# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A linear sweep beside that of the package loss-landscapes: the same losses, in no more time.

`loss_landscapes.linear_interpolation(start, end, metric, steps=S)` steps before it evaluates: its i-th value, from 0,
is the loss at alpha = (i + 1) / S. The start itself is `loss_landscapes.point`. Together they give S + 1 values at
0, 1/S, ..., 1, and these alphas are what `ConnectivityEvaluator` is asked for. The losses may differ by 1e-5 nats:
the package adds S float32 steps to the weights, and averages in float32.

Both get the same torch model, weights and rows, and put all rows through it in one batch. Timed is everything from
the two models to the losses: here with the checks, accuracy, bands (1,000 replicates) and batches put together anew at
every point; there with `deepcopy_model=True`, without which it leaves the start at the end, and with one batch that was
put together beforehand. The package measures one number on one batch, so whatever more a sweep has is not its fault.

Wall time; the two take turns, and printed is the median ratio of a round with its bootstrap interval. Exits with 1 if
a loss differs or the median ratio is above 1. The package needs nothing but numpy and torch:

    pip install --no-deps --target FOLDER loss-landscapes==3.0.6
    PYTHONPATH=FOLDER python tests/benchmarks/loss_landscapes.py    # a minute on one core
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# This script has the package's name, and its folder comes first.
sys.path = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hf_cbft import ConnectivityEvaluator

try:
    import loss_landscapes
    from loss_landscapes.metrics import Metric
except ImportError:
    sys.exit(f"The package loss-landscapes is not there.\n{__doc__[__doc__.index('The package needs') :]}")

STEPS, NUM_CLASSES, LOSS_BOUND, TIME_BOUND = 10, 10, 1e-5, 1.0
WARMUP = 2
ROWS = {"cnn": 256, "mlp": 512}


class Classifier(nn.Module):
    """A model that no library knows: images in, logits out."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.body(pixel_values)}


def make_cnn() -> Classifier:
    """About 300,000 weights and much to compute."""
    sizes = [3, 32, 64, 128]
    layers: list[nn.Module] = []
    for ins, outs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Conv2d(ins, outs, 3, padding=1), nn.ReLU(), nn.Conv2d(outs, outs, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return Classifier(nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, NUM_CLASSES)))


def make_mlp() -> Classifier:
    """About 4,000,000 weights, and each is used once a row: writing the weights counts."""
    layers = [nn.Flatten(), nn.Linear(3 * 32 * 32, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
    return Classifier(nn.Sequential(*layers, nn.Linear(1024, NUM_CLASSES)))


MAKERS: dict[str, Callable[[], Classifier]] = {"cnn": make_cnn, "mlp": make_mlp}


@torch.no_grad()
def make_end(name: str) -> Classifier:
    """A model far enough from the flat start of training that the line between two of them has a shape."""
    model = MAKERS[name]().eval()
    for parameter in model.parameters():
        parameter.mul_(2.0)
    return model


class MeanLoss(Metric):
    """The cross-entropy of a batch, as loss-landscapes wants it."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.batch = batch

    def __call__(self, wrapper: "loss_landscapes.ModelWrapper") -> float:
        logits = wrapper.forward(self.batch["pixel_values"])["logits"]
        return F.cross_entropy(logits, self.batch["labels"]).item()


def theirs(start: nn.Module, end: nn.Module, metric: MeanLoss) -> np.ndarray:
    line = loss_landscapes.linear_interpolation(start, end, metric, steps=STEPS, deepcopy_model=True)
    return np.concatenate([[loss_landscapes.point(start, metric)], line])


def ours(start: nn.Module, end: nn.Module, rows: list[dict[str, torch.Tensor]]) -> np.ndarray:
    evaluator = ConnectivityEvaluator(start, end, batch_size=len(rows))
    return evaluator.evaluate(rows, alphas=[step / STEPS for step in range(STEPS + 1)]).losses["data"]


def bootstrap(ratios: np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % percentile interval."""
    draws = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def measure(name: str, rounds: int) -> bool:
    torch.manual_seed(0)
    start, end = (make_end(name) for _ in range(2))
    rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.tensor(i % 10)} for i in range(ROWS[name])]
    batch = {column: torch.stack([row[column] for row in rows]) for column in rows[0]}
    sweeps = {"theirs": lambda: theirs(start, end, MeanLoss(batch)), "ours": lambda: ours(start, end, rows)}
    times: dict[str, list[float]] = {label: [] for label in sweeps}
    losses: dict[str, np.ndarray] = {}
    for turn in range(WARMUP + rounds):
        for label in sorted(sweeps, reverse=bool(turn % 2)):
            began = time.perf_counter()
            losses[label] = sweeps[label]()
            if turn >= WARMUP:
                times[label].append(time.perf_counter() - began)
    difference = float(np.abs(losses["ours"] - losses["theirs"]).max())
    ratio, low, high = bootstrap(np.array(times["ours"]) / np.array(times["theirs"]))
    kept = difference <= LOSS_BOUND and ratio <= TIME_BOUND
    weights = sum(parameter.numel() for parameter in start.parameters())
    print(
        f"{name}: {weights:,} weights, {len(rows)} rows, {STEPS + 1} points, {rounds} rounds; losses "
        f"{losses['ours'].min():.3f} to {losses['ours'].max():.3f}, largest difference {difference:.1e} "
        f"(bound {LOSS_BOUND:g})\n"
        f"  loss-landscapes {np.median(times['theirs']):.3f} s, here {np.median(times['ours']):.3f} s, ratio "
        f"{ratio:.3f} ({low:.3f} to {high:.3f}), bound {TIME_BOUND:g}{'' if kept else '  MISSED'}"
    )
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = [measure(name, arguments.rounds) for name in arguments.models]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
