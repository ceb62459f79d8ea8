# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""One job of a grid, in a process of its own: train, measure, and leave one whole record."""

import json
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers.utils import logging

import hf_cbft
from hf_cbft.checkpoints.loading import load_model
from hf_cbft.files import whole_folder, write_json
from paper.experiments import PAIRS, Job, file_name
from paper.findings.records import SCHEMA_VERSION
from paper.findings.statistics import paired_barrier_difference
from paper.methods import (
    METHODS,
    Finetuning,
    accuracies,
    barrier,
    barrier_fields,
    measure_path,
    pretrain,
)
from paper.problems import Problem, load_problem, recipe_for

# Steps of the middle of a quadratic path.
_CURVE_STEPS = 200
_LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "numpy", "scipy")


@dataclass(frozen=True)
class Grid:
    """What the jobs of a run have in common.

    Args:
        folder (`Path`): of the run; each job leaves `jobs/NAME.json` in it.
        experiment (`str`), dataset (`str`), model (`str`): what is run, and on what.
        quick (`bool`, *optional*, defaults to `False`): whether all of it is gone through in seconds.
        num_classes (`int`, *optional*): K, where the name of the data set does not tell it.
    """

    folder: Path
    experiment: str
    dataset: str
    model: str
    quick: bool = False
    num_classes: int | None = None

    def record_file(self, job: Job) -> Path:
        return self.folder / "jobs" / f"{job.name}.json"

    def model_folder(self, method: str, share: float, seed: int) -> Path:
        """Where a kept model is. Experiments on the same data share the models that were trained before them."""
        data = file_name(f"{self.dataset}-{self.model}") + ("-quick" if self.quick else "")
        return self.folder.parent / "models" / f"{data}-{method}-share{share:g}-seed{seed}"

    def is_done(self, job: Job) -> bool:
        kept = not job.kept or self.model_folder(job.method, job.share, job.seed).is_dir()
        return kept and self.record_file(job).is_file()


def prepare_worker() -> None:
    """Quiet libraries and one thread, so that a grid gives the same on one process as on many."""
    import logging as python_logging
    import os
    import signal
    import threading
    from multiprocessing import parent_process

    def end_with_parent() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    python_logging.getLogger("hf_cbft").setLevel(python_logging.ERROR)  # variants are meant to go wrong
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # Bars of a single job would tear the grid's own.
    os.environ["TQDM_DISABLE"] = "1"


def run_job(grid: Grid, job: Job, device: str) -> None:
    """Do one job, unless it is done. Its record stands in one file, there as a whole or not at all."""
    if grid.is_done(job):
        return
    began = time.perf_counter()
    recipe = recipe_for(grid.dataset, grid.model, grid.quick)
    problem = _problem(grid.dataset, grid.model, job.share, job.seed, grid.quick, job.overrides.get("num_clean"))
    measured = _path(grid, job, problem, device) if job.pair else _model(grid, job, problem, device)
    record = {
        "schema_version": SCHEMA_VERSION,
        "experiment": grid.experiment,
        "dataset": grid.dataset,
        "model": grid.model,
        "share": job.share,
        "method": job.method,
        "seed": job.seed,
        "variant": None if job.variant is None else dict(zip(("name", "value"), job.variant, strict=True)),
        **measured,
        "config": {**asdict(recipe), "overrides": job.overrides},
        "versions": {
            "hf_cbft": hf_cbft.__version__,
            **{name: version(name) for name in _LIBRARIES},
            "python": platform.python_version(),
        },
        "wall_seconds": round(time.perf_counter() - began, 2),
    }
    write_json(grid.record_file(job), record)


@lru_cache(maxsize=4)
def _problem(dataset: str, model: str, share: float, seed: int, quick: bool, num_clean: int | None) -> Problem:
    recipe = recipe_for(dataset, model, quick)
    if num_clean is not None:  # a batch that is not full is left out
        recipe = replace(recipe, batch_size=min(recipe.batch_size, num_clean))
    return load_problem(dataset, model, share, seed, recipe, num_clean)


def _model(grid: Grid, job: Job, problem: Problem, device: str) -> dict[str, Any]:
    """Train a model and measure it; one that is kept already is only measured."""
    folder = grid.model_folder(job.method, job.share, job.seed)
    pretrained = grid.model_folder("pretrained", job.share, job.seed)
    began = time.perf_counter()
    tried = None
    with tempfile.TemporaryDirectory() as scratch:
        if job.kept and folder.is_dir():
            model = load_model(folder)
        elif job.method == "pretrained":
            model = pretrain(problem, job.seed, scratch, device)
        elif job.method.startswith("clean"):
            # Another initialisation and another order of the rows: two models that know nothing of each other.
            seed = job.seed if job.method == "clean" else job.seed + 1000
            model = pretrain(problem, seed, scratch, device, clean=True)
        else:
            overrides = {name: value for name, value in job.overrides.items() if name != "num_clean"}
            run = Finetuning(problem, lambda: load_model(pretrained).to(device), job.seed, scratch, device, overrides)
            model, tried = METHODS[job.method](run), run.tried
    seconds = time.perf_counter() - began
    if job.kept and not folder.is_dir():
        with whole_folder(folder) as written:
            model.save_pretrained(written)  # type: ignore[operator]
            problem.processing_class.save_pretrained(written)
    from_pretrained = job.method != "pretrained" and not job.method.startswith("clean")
    return {
        **_accuracy_fields(model, problem),
        "barrier": barrier(load_model(pretrained).to(device), model, problem) if from_pretrained else None,
        "tried": tried,
        "path": None,
        "train_seconds": round(seconds, 2),
    }


def _accuracy_fields(model: nn.Module, problem: Problem) -> dict[str, Any]:
    measured = accuracies(model, problem, problem.test)
    found: dict[str, Any] = {
        kind: {name: values[kind] for name, values in measured.items()} for kind in ("accuracy", "loss")
    }
    if problem.grouped_test is not None:
        found.update(_by_group(model, problem))
    return found


def _by_group(model: nn.Module, problem: Problem) -> dict[str, Any]:
    assert problem.grouped_test is not None
    rows = problem.grouped_test
    right = accuracies(model, problem, {"test": rows.remove_columns(["place", "group"])})["test"]["right"]
    groups = list(rows["group"])
    by_group = {
        group: float(right[[index for index, other in enumerate(groups) if other == group]].mean())
        for group in sorted(set(groups))
    }
    return {"groups": by_group, "worst_group": {"test": min(by_group.values())}}


def _path(grid: Grid, job: Job, problem: Problem, device: str) -> dict[str, Any]:
    """The losses between two kept models; the middle of a quadratic path is fitted on the rows of its kind."""
    began = time.perf_counter()
    assert job.pair is not None
    start, end = (load_model(grid.model_folder(method, job.share, job.seed)).to(device) for method in PAIRS[job.pair])
    path: Any = "linear"
    if job.method == "quadratic":
        path = _fitted_curve(start, end, problem, job, device)
    align = job.method if job.method in ("weights", "activations") else None
    measured = measure_path(start, end, problem, problem.test, path, align)
    result, aligned = measured.to_dict(), {}
    if align is not None:
        before = measure_path(start, end, problem, problem.test)
        aligned = {
            "alignment": result["settings"]["align"],
            "unaligned": {name: barrier.height for name, barrier in before.barriers.items()},
            "removed": {
                name: paired_barrier_difference(before.alphas, losses, measured.example_losses[name])
                for name, losses in before.example_losses.items()
            },
        }
    return {
        "path": {
            "pair": job.pair,
            "kind": job.method,
            "fitted_on": _fitting_set(job) if job.method == "quadratic" else None,
            "alphas": result["alphas"],
            "loss": result["losses"],
            "accuracy": {name: values["accuracy"] for name, values in result["metrics"].items()},
            "barriers": {name: barrier_fields(values) for name, values in result["barriers"].items()},
            **aligned,
        },
        "accuracy": None,
        "loss": None,
        "barrier": None,
        "tried": None,
        "train_seconds": round(time.perf_counter() - began, 2),
    }


def _fitting_set(job: Job) -> str:
    """Two models that never met the cue are joined where it is not; all others where it is."""
    return "no_cue" if job.pair == "clean-clean" else "cue"


def _fitted_curve(start: nn.Module, end: nn.Module, problem: Problem, job: Job, device: str) -> Any:
    from hf_cbft.training.curves import default_arguments, fit_curve

    rows = problem.plain if _fitting_set(job) == "no_cue" else problem.cue_dataset
    steps = min(_CURVE_STEPS, problem.recipe.steps)
    with tempfile.TemporaryDirectory() as scratch:
        args = default_arguments(scratch, max_steps=steps, seed=job.seed, disable_tqdm=True, use_cpu=device == "cpu")
        return fit_curve(start, end, rows, args, processing_class=problem.processing_class)


def read_record(file: Path) -> Mapping[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
