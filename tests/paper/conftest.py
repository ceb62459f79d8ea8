# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that no model was trained for: plausible records from a seeded generator."""

import json
from pathlib import Path

import numpy as np
import pytest

from paper.findings.records import Run, read_run

SETS = ("no_cue", "cue", "rand_cue", "rand_input")
# NC, C, RC, RI in %, and the barrier on C in nats: what the demo's models are like.
LIKE = {
    "pretrained": (70, 99, 22, 85, None),
    "naive-small": (78, 99, 25, 82, 0.0),
    "naive-medium": (86, 97, 60, 35, 0.0),
    "naive-large": (87, 90, 80, 14, 0.02),
    "llrt": (79, 97, 42, 60, 0.01),
    "lp-ft": (82, 92, 40, 30, 0.0),
    "dfr": (80, 96, 50, 50, 0.0),
    "balanced": (86, 94, 64, 28, 0.0),
    "cbft": (88, 88, 86, 11, 0.7),
    "cbft-paper": (84, 84, 80, 11, 0.9),
}
VARIANTS = {
    ("full", None): (88, 88, 86, 11, 0.7),
    ("without L_B", None): (90, 99, 68, 32, 0.0),
    ("without L_I", None): (80, 78, 72, 13, 0.8),
    ("without warm-up", None): (87, 87, 85, 11, 0.7),
    ("alternating", None): (86, 86, 83, 12, 0.6),
    ("barrier_stop_ratio", 0.25): (88, 90, 84, 13, 0.4),
    ("barrier_stop_ratio", 1.0): (84, 84, 80, 11, 0.9),
    ("hinge", None): (88, 88, 86, 11, 0.7),
}
SENSITIVITY = {
    ("default", None): (88, 88, 86, 11, 0.7),
    **{("num_clean", n): (70 + n / 30, 75 + n / 40, 65 + n / 24, 16 - n / 100, 0.7) for n in (50, 100, 200, 500)},
    **{("invariance_coef", v): (87, 90, 74 + 3 * v, 20 - 2 * v, 0.7) for v in (0.3, 1.0, 3.0)},
    **{("learning_rate", v): (88, 90, 84, 12, 0.5) for v in (1e-3, 3e-3)},
    **{("alpha_min to alpha_max", (low, 1 - low)): (87, 88, 85, 11, 0.7) for low in (0.1, 0.25)},
    **{
        ("learning_rate x invariance_coef", (rate, v)): (86, 88, 70 + 4000 * rate + v, 20 - 2 * v, 0.7)
        for rate in (1e-3, 2e-3, 3e-3)
        for v in (0.3, 1.0, 3.0)
    },
}
PAIRS = {"clean-clean": 1.6, "clean-cue": 1.2, "cue-naive": 0.0, "cue-cbft": 0.8}
APART = {"clean-clean": 1.6, "clean-cue, apart": 1.2, "cue-cbft": 0.8}
# Which share of a barrier each way to align leaves.
LEFT = {"linear": 1.0, "weights": 0.6, "activations": 0.25}
GROUPS = ("low on water", "low on land", "high on water", "high on land")


class RunMaker:
    """Writes runs into a folder, and reads them back."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir

    def __call__(
        self, experiment: str = "table1", seeds=(0, 1, 2), shares=(0.9,), change=None, jitter=1.0, **grid
    ) -> Run:
        """`change(record)` edits a record, or drops it by returning False; `jitter` is the spread over seeds in %."""
        dataset, model = grid.pop("dataset", "digits"), grid.pop("model", "vit")
        settings = {"schema_version": 1, "experiment": experiment, "dataset": dataset, "model": model, "quick": False}
        settings["num_classes"] = {"digits": 10, "sentences": 4, "digit-groups": 2}.get(dataset)
        settings |= {"commands": [f"python examples/paper/run.py --experiment {experiment}"], "failed": {}, **grid}
        folder = self.output_dir / f"{experiment}-{dataset}-{model}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "grid.json").write_text(json.dumps(settings))
        generator = np.random.default_rng(0)
        lines = []
        for share in shares:
            for body in self._bodies(experiment):
                for seed in seeds:
                    record = {key: settings[key] for key in ("schema_version", "experiment", "dataset", "model")}
                    record |= {"share": share, "seed": seed, "config": {"overrides": {}}}
                    record |= body(generator, jitter)
                    if change is None or change(record) is not False:
                        lines.append(json.dumps(record) + "\n")
        (folder / "results.jsonl").write_text("".join(lines))
        return read_run(folder)

    def _bodies(self, experiment):
        first = [lambda g, j: {**model_record(g, j, LIKE["pretrained"]), "method": "pretrained"}]
        if experiment == "paths":
            return first + [
                lambda g, j, pair=pair, kind=kind: path_record(g, j, pair, kind)
                for pair in PAIRS
                for kind in ("linear", "quadratic")
            ]
        if experiment == "symmetry":
            return first + [
                lambda g, j, pair=pair, kind=kind: aligned_record(g, j, pair, kind) for pair in APART for kind in LEFT
            ]
        if experiment in ("ablation", "sensitivity"):
            table = VARIANTS if experiment == "ablation" else SENSITIVITY
            return first + [
                lambda g, j, name=name, value=value, like=like: {
                    **model_record(g, j, like),
                    "method": "cbft",
                    "variant": {"name": name, "value": list(value) if isinstance(value, tuple) else value},
                }
                for (name, value), like in table.items()
            ]
        methods = ("pretrained", "dfr", "naive-medium", "cbft") if experiment == "groups" else LIKE
        return [
            lambda g, j, method=method: {
                **(group_record(g, j, method) if experiment == "groups" else model_record(g, j, LIKE[method])),
                "method": method,
                "tried": tried(g, j) if method == "naive-large" else None,
            }
            for method in methods
        ]


def model_record(generator, jitter, like) -> dict:
    values = [min(max(value + jitter * generator.normal(), 0.0), 100.0) / 100 for value in like[:4]]
    height = like[4]
    if height is not None:
        height += 0.01 * jitter * generator.normal()
    barrier = height if height is None else barrier_of(height)
    accuracies = dict(zip(SETS, (round(value, 4) for value in values), strict=True))
    return {"accuracy": accuracies, "barrier": barrier, "variant": None, "train_seconds": 10.0 + generator.random()}


def barrier_of(height) -> dict:
    low, high = round(height - 0.04, 4), round(height + 0.04, 4)
    connected = True if high <= 0.1 else False if low > 0.1 else None
    return {"height": round(height, 4), "low": low, "high": high, "connected": connected, "alpha": 0.5}


def tried(generator, jitter) -> list:
    entries = []
    for rate, shift in ((0.003, -8), (0.004, 0), (0.006, -30)):
        like = [value + shift if i != 3 else value for i, value in enumerate(LIKE["naive-large"][:4])]
        body = model_record(generator, jitter, [*like, 0.02])
        entries.append({"learning_rate": rate, "validation_rand_cue": body["accuracy"]["rand_cue"], **body})
    return entries


def group_record(generator, jitter, method) -> dict:
    base = {"pretrained": (95, 52, 48, 96), "dfr": (86, 80, 81, 88), "naive-medium": (93, 70, 68, 94)}
    values = [v + jitter * generator.normal() for v in base.get(method, (91, 88, 87, 92))]
    groups = dict(zip(GROUPS, (round(v / 100, 4) for v in values), strict=True))
    mean = round(float(np.mean(list(groups.values()))), 4)
    return {
        "accuracy": {"test": mean},
        "worst_group": {"test": min(groups.values())},
        "groups": groups,
        "barrier": None,
        "train_seconds": 10.0,
    }


def path_record(generator, jitter, pair, kind) -> dict:
    alphas = np.linspace(0, 1, 11)
    losses, accuracies, barriers = {}, {}, {}
    for index, part in enumerate(SETS):
        ends = (0.3 + 0.4 * index, 0.5 + 0.2 * index)
        joined = kind == "quadratic" and part == "cue"
        height = 0.0 if joined else {**PAIRS, **APART}[pair] * LEFT.get(kind, 1.0) * (1 + 0.3 * index)
        height += 0.01 * jitter * generator.normal()
        curve = (1 - alphas) * ends[0] + alphas * ends[1] + height * 4 * alphas * (1 - alphas)
        curve += 0.02 * jitter * generator.normal()
        losses[part] = np.round(curve, 4).tolist()
        accuracies[part] = np.round(np.exp(-np.maximum(curve, 0.0)), 4).tolist()
        barriers[part] = barrier_of(height)
    fitted_on = "cue" if kind == "quadratic" else None
    path = {"pair": pair, "kind": kind, "fitted_on": fitted_on, "alphas": np.round(alphas, 3).tolist()}
    path |= {"loss": losses, "accuracy": accuracies, "barriers": barriers}
    return {"method": kind, "path": path, "accuracy": None, "barrier": None}


def aligned_record(generator, jitter, pair, kind) -> dict:
    """Between models whose way through the cue is aligned away, but for CBFT's."""
    record = path_record(generator, jitter, pair, kind)
    if kind != "linear":
        path = record["path"]
        path["unaligned"] = {part: APART[pair] * (1 + 0.3 * index) for index, part in enumerate(SETS)}
        path["removed"] = {
            part: {"mean": before - path["barriers"][part]["height"], "low": 0.1, "high": 2.0}
            for part, before in path["unaligned"].items()
        }
    return record


@pytest.fixture
def make_run(tmp_path) -> RunMaker:
    """`make_run(experiment, seeds, shares, change, ...)`: a run in `make_run.output_dir`."""
    return RunMaker(tmp_path / "runs")
