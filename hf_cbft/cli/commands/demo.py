# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Train a small model that relies on a cue, take it off with CBFT, and measure the paths: minutes, no download."""

import json
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

from hf_cbft.cli.config_files import config_file
from hf_cbft.cli.inputs import available_cores, check_device, check_seeds
from hf_cbft.files import write_json

# Written first, so that a later start knows the folder for one of its own.
SETTINGS_FILE = "demo.json"
EXAMPLE = "hf-cbft demo --seeds 0 1 2 --output_dir cbft-demo"
RESULT_FILES = ("results.json",)


@dataclass
class Arguments:
    TITLE: ClassVar[str] = "models and output"

    output_dir: str = field(default="cbft-demo", metadata={"help": "Folder for models, data and figures."})
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "Each trains all models once; the table is their mean."}
    )
    model: str = field(
        default="vit", metadata={"help": "Architecture: vit is a transformer, resnet a BatchNorm network."}
    )
    device: str = field(default="cpu", metadata={"help": "Where to train: cpu, cuda, cuda:1, mps."})
    quick: bool = field(default=False, metadata={"help": "Go through all of it in seconds; the figures mean nothing."})
    overwrite: bool = field(default=False, metadata={"help": "Remove an earlier demo from the folder first."})
    resume: bool = field(default=False, metadata={"help": "Go on where an interrupted demo stopped."})


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is trained or written.

    Raises:
        ValueError: unknown model or device, bad seeds, contradicting options, or a folder that is not free.
        ImportError: scikit-learn, which brings the data, is missing.
    """
    from hf_cbft.cli.demo_jobs import MODELS
    from hf_cbft.data.digits import load_digits

    if arguments.model not in MODELS:
        raise ValueError(f"unknown model {arguments.model!r}; there is {' and '.join(MODELS)}.")
    check_seeds(arguments.seeds)
    check_device(arguments.device)
    if arguments.overwrite and arguments.resume:
        raise ValueError("--overwrite removes what --resume would go on from: give one of them.")
    load_digits()
    _check_folder(Path(arguments.output_dir), arguments)


def _check_folder(folder: Path, arguments: Arguments) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder with --output-dir.")
    settings = folder / SETTINGS_FILE
    if arguments.resume:
        if not settings.exists():
            raise ValueError(f"{folder} holds no demo to resume: start it without --resume.")
        before = json.loads(settings.read_text(encoding="utf-8"))["arguments"]
        changed = [name for name in ("model", "device", "quick") if before[name] != getattr(arguments, name)]
        if changed:
            was = ", ".join(f"--{name} {before[name]}" for name in changed)
            raise ValueError(f"the demo in {folder} was started with {was}: resume it with the same, or start anew.")
    elif folder.exists() and any(folder.iterdir()):
        if not arguments.overwrite:
            raise ValueError(
                f"{folder} exists and is not empty: name another folder with --output-dir, go on with --resume, or "
                "replace it with --overwrite."
            )
        if not settings.exists():
            raise ValueError(f"{folder} is not a folder of this demo, so --overwrite will not remove it.")


def run(arguments: Arguments) -> int:
    from hf_cbft.cli.demo_report import DemoReport
    from hf_cbft.cli.recipes import RECIPES

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.overwrite:
        _clear(folder)
    recipe = RECIPES[arguments.model].quick() if arguments.quick else RECIPES[arguments.model]
    # Not where and how often it was started: two runs give the same files.
    chosen = {name: getattr(arguments, name) for name in ("model", "seeds", "device", "quick")}
    settings = {"arguments": chosen, "recipe": asdict(recipe)}
    _remove_leftovers(folder)
    write_json(folder / SETTINGS_FILE, settings)
    began = time.perf_counter()
    print(
        f"hf-cbft demo: {recipe.model}, seeds {' '.join(map(str, arguments.seeds))}, into {folder}/\n"
        "Pictures of digits; in most of the pretraining images, the place of a white box tells the label away."
    )
    try:
        _run_jobs(folder, arguments, recipe)
    except KeyboardInterrupt:
        finished = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("seed-*/*/record.json"))
        raise KeyboardInterrupt(
            f"Whole and readable in {folder}: {', '.join(finished) or 'nothing yet'}. Go on with the same command and "
            "--resume."
        ) from None
    report = DemoReport(folder, arguments.seeds, settings)
    report.write()
    print(report.screen())
    print(
        f"\n{time.perf_counter() - began:.0f} s. Models, data, results.json, paths.png and README.md are in {folder}/"
    )
    if arguments.quick:
        print("This was --quick: a walk through all the steps, whose figures mean nothing.")
    return 0


def _run_jobs(folder: Path, arguments: Arguments, recipe: Any) -> None:
    """Train and measure everything, models side by side, a thread each. What is there already is left alone."""
    from tqdm.auto import tqdm

    from hf_cbft.cli import demo_jobs as jobs

    on_cpu = arguments.device == "cpu"
    workers = min(available_cores(), len(jobs.finetuning_jobs(recipe, 0)) * len(arguments.seeds)) if on_cpu else 1
    executor = ProcessPoolExecutor(workers, get_context("spawn"), jobs.prepare_worker, (1,))
    waiting: dict[Future, tuple[int, str]] = {}
    candidates_left = {seed: len(recipe.large_lrs) for seed in arguments.seeds}

    def submit(seed: int, what: str, function: Any, *args: Any) -> None:
        waiting[executor.submit(function, folder / f"seed-{seed}", *args)] = (seed, what)

    total = len(arguments.seeds) * (len(jobs.finetuning_jobs(recipe, 0)) + 2)
    try:
        with tqdm(total=total, desc="models", unit="model", disable=None) as progress:
            for seed in arguments.seeds:
                submit(seed, "pretrained", jobs.pretrain, recipe, jobs.pretraining_job(recipe, seed), arguments.device)
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    seed, what = waiting.pop(future)
                    line = future.result()
                    progress.update()
                    if line:
                        progress.write(f"seed {seed}  {line}", file=sys.stdout)
                    if what == "pretrained":
                        for job in jobs.finetuning_jobs(recipe, seed):
                            what = "candidate" if job.is_candidate else job.name
                            submit(seed, what, jobs.finetune, recipe, job, arguments.device)
                    elif what == "candidate":
                        candidates_left[seed] -= 1
                        if candidates_left[seed] == 0:
                            submit(seed, "naive-large", jobs.finish_large, recipe, arguments.device)
    except BaseException:
        for process in list(getattr(executor, "_processes", {}).values()):
            process.kill()
        executor.shutdown(wait=True, cancel_futures=True)
        _remove_leftovers(folder)
        raise
    executor.shutdown()


def _clear(folder: Path) -> None:
    """All but the options of this run, which are there already."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != config_file(folder, "demo"):
            path.unlink()


def _remove_leftovers(folder: Path) -> None:
    """Half-written folders, which have temporary names, of jobs that were killed."""
    for leftover in folder.glob("seed-*/**/.*-*"):
        shutil.rmtree(leftover, ignore_errors=True)
