# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Run the paper's experiments as a grid of models, and write their tables, figures and a page of findings."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hf_cbft.cli.inputs import available_cores, check_device, check_seeds

PROGRAM = "python examples/paper/run.py"
EXAMPLE = f"{PROGRAM} --experiment table1 paths --dataset digits --seeds 0 1 2"


@dataclass
class Arguments:
    TITLE: ClassVar[str] = "experiments and output"

    experiment: list[str] = field(
        default_factory=lambda: ["table1"],
        metadata={"help": "One or more of table1, paths, symmetry, ablation, sensitivity, text, groups."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "digits, cifar10, cifar100, dominoes, a folder or a Hub id; default: digits."}
    )
    model: str | None = field(default=None, metadata={"help": "One of the data set's models; default: its first."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Each runs the whole grid once."})
    shares: list[float] | None = field(
        default=None,
        metadata={
            "help": "Fractions of the pretraining rows with the cue; default: 0.6 to 1 for table1, else one value."
        },
    )
    methods: list[str] | None = field(
        default=None, metadata={"help": "Which methods table1, text and groups compare; default: all."}
    )
    jobs: int | None = field(
        default=None, metadata={"help": "Models trained at a time; default: one a core, or one a GPU."}
    )
    device: str = field(default="cpu", metadata={"help": "Where to train: cpu, mps, cuda (all GPUs) or cuda:1 (one)."})
    output_dir: str = field(default="reproduce", metadata={"help": "Folder for records, tables, figures and models."})
    page: str | None = field(
        default=None, metadata={"help": "Where the page of findings goes; default: findings.md in the output folder."}
    )
    resume: bool = field(default=False, metadata={"help": "Do what is missing of a run that is there."})
    quick: bool = field(default=False, metadata={"help": "Go through all of it in minutes; the figures mean nothing."})


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is trained or written.

    Raises:
        ValueError: an unknown experiment, model or method, shares outside [0, 1], bad seeds, a device that is not
            there, or a folder that is not free.
        ImportError: scikit-learn, which some methods and the digits come from, is missing.
    """
    from paper.findings.records import METHODS
    from paper.grid import GRID_FILE, check_same_run

    check_seeds(arguments.seeds)
    check_device(arguments.device)
    outside = [share for share in arguments.shares or () if not 0.0 <= share <= 1.0]
    if outside:
        raise ValueError(f"a share of the cue is a fraction from 0 to 1; got {outside[0]:g}.")
    if arguments.shares is not None and len(set(arguments.shares)) < max(1, len(arguments.shares)):
        raise ValueError(f"each share once, at least one; got {arguments.shares}.")
    unknown = [method for method in arguments.methods or () if method not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}; there is {', '.join(METHODS)}.")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"jobs = {arguments.jobs}: give at least 1.")
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError('dfr and the digits need scikit-learn: pip install "hf-cbft[demo]"') from error
    if Path(arguments.output_dir).is_file():
        raise ValueError(f"{arguments.output_dir} is a file: name a folder with --output_dir.")
    if arguments.page and Path(arguments.page).suffix != ".md":
        raise ValueError(f"--page {arguments.page} is to be a Markdown file: give it the ending .md.")
    for grid in _grids(arguments):
        if (grid.folder / GRID_FILE).is_file():
            check_same_run(grid.folder / GRID_FILE, grid, arguments.resume)
        elif grid.folder.is_dir() and any(grid.folder.iterdir()):
            raise ValueError(f"{grid.folder} holds other files: name another folder with --output_dir.")


def run(arguments: Arguments) -> int:
    from paper.findings.page import write_findings
    from paper.problems import recipe_for

    output_dir = Path(arguments.output_dir)
    failed: dict[str, str] = {}
    for grid in _grids(arguments):
        recipe = recipe_for(grid.dataset, grid.model, arguments.quick)
        shares = _shares(arguments, grid.experiment, recipe)
        failed |= _run_experiment(arguments, grid, shares, recipe)
    page = Path(arguments.page) if arguments.page else output_dir / "findings.md"
    write_findings(output_dir, page)
    print(f"\nRecords, tables and figures are in {output_dir}/, what they say in {page}.")
    if arguments.quick:
        print("This was --quick: a walk through all the steps, whose figures mean nothing.")
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} jobs failed; the same command with --resume tries them again.", file=sys.stderr)
    return 1 if failed else 0


def _grids(arguments: Arguments) -> list[Any]:
    from paper.experiments import check_experiment, file_name
    from paper.jobs import Grid
    from paper.problems import MODELS, OTHER_MODELS, count_classes, recipe_for

    if not arguments.experiment:
        raise ValueError("--experiment needs at least one name.")
    grids = []
    for experiment in dict.fromkeys(arguments.experiment):
        dataset = check_experiment(experiment, arguments.dataset)
        model = arguments.model or MODELS.get(dataset, OTHER_MODELS)[0]
        recipe_for(dataset, model)
        folder = Path(arguments.output_dir) / file_name(f"{experiment}-{dataset}-{model}")
        grids.append(Grid(folder, experiment, dataset, model, arguments.quick, count_classes(dataset)))
    return grids


def _shares(arguments: Arguments, experiment: str, recipe: Any) -> Sequence[float]:
    from paper.experiments import SHARES

    if arguments.shares is not None:
        return arguments.shares
    return SHARES if experiment == "table1" and not arguments.quick else (recipe.cue_share,)


def _run_experiment(arguments: Arguments, grid: Any, shares: Sequence[float], recipe: Any) -> dict[str, str]:
    """One grid, with a line for each job that ends and its table at the end."""
    from tqdm.auto import tqdm

    from paper.experiments import jobs_of
    from paper.grid import finish_run, run_grid, start_run

    jobs = jobs_of(grid.experiment, shares, arguments.seeds, arguments.methods, recipe, arguments.quick)
    start_run(grid, _command(arguments, grid.experiment), arguments.resume)
    todo = [job for job in jobs if not grid.is_done(job)]
    devices = _devices(arguments, len(todo))
    print(
        f"{grid.experiment}: {grid.dataset}, {grid.model}, shares {' '.join(f'{share:g}' for share in shares)}, seeds "
        f"{' '.join(map(str, arguments.seeds))}: {len(jobs)} models and paths, {len(jobs) - len(todo)} of them done, "
        f"{len(devices)} at a time, into {grid.folder}/"
    )
    running: list[str] = []
    with tqdm(total=len(todo), desc=grid.experiment, unit="job", disable=None) as progress:

        def report(what: str, job: Any, reason: str) -> None:
            if what == "started":
                running.append(job.name)
            else:
                if job.name in running:
                    running.remove(job.name)
                progress.update()
                line = f"failed: {reason}" if what == "failed" else _summary(grid, job)
                progress.write(f"{job.name:45} {line}", file=sys.stdout)
            progress.set_postfix_str(", ".join(running))

        try:
            failed = run_grid(grid, jobs, devices, report)
        except KeyboardInterrupt:
            finish_run(grid, {})
            raise KeyboardInterrupt(
                f"What is done is in {grid.folder}: go on with the same command and --resume."
            ) from None
    finish_run(grid, failed)
    return failed


def _summary(grid: Any, job: Any) -> str:
    from paper.findings.records import SETS
    from paper.jobs import read_record

    record = read_record(grid.record_file(job))
    seconds = f"({record['wall_seconds']:.0f} s)"
    if record["path"] is not None:
        heights = "  ".join(f"{SETS[name]} {by['height']:.2f}" for name, by in record["path"]["barriers"].items())
        return f"barriers  {heights}  {seconds}"
    parts = [f"{SETS[name]} {100 * value:5.1f}" for name, value in record["accuracy"].items()]
    if record.get("worst_group"):
        parts.append(f"worst group {100 * min(record['worst_group'].values()):5.1f}")
    if record["barrier"] is not None:
        parts.append(f"barrier {record['barrier']['height']:.2f}")
    return "  ".join([*parts, seconds])


def _devices(arguments: Arguments, number: int) -> list[str]:
    """One for each process: a core, or a GPU in turn."""
    import torch

    if arguments.device == "cuda":
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        wanted = arguments.jobs or len(gpus)
        return [gpus[slot % len(gpus)] for slot in range(max(1, min(wanted, number)))]
    wanted = arguments.jobs or (available_cores() if arguments.device == "cpu" else 1)
    return [arguments.device] * max(1, min(wanted, number))


def _command(arguments: Arguments, experiment: str) -> str:
    """The command that gives the same figures, whatever processes and folders it was run with."""
    words = [PROGRAM, "--experiment", experiment]
    for name in ("dataset", "model"):
        if getattr(arguments, name):
            words += [f"--{name}", getattr(arguments, name)]
    words += ["--seeds", *map(str, arguments.seeds)]
    if arguments.shares is not None:
        words += ["--shares", *(f"{share:g}" for share in arguments.shares)]
    if arguments.methods is not None:
        words += ["--methods", *arguments.methods]
    return " ".join([*words, *(["--quick"] if arguments.quick else [])])


def main(argv: list[str] | None = None) -> int:
    """Run the experiments with these options, or those of the process; gives the exit status."""
    from hf_cbft.cli.main import run_command

    words = list(sys.argv[1:] if argv is None else argv)
    options = [word for word in words if word != "--debug"]
    # Its options stand beside the results in reproduce.yaml, as before it was a script.
    return run_command("reproduce", lambda: sys.modules[__name__], options, PROGRAM, "--debug" in words)


if __name__ == "__main__":
    # The folder of this file would hide other modules behind its own, and workers import `paper` by its name.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from paper import run

    sys.exit(run.main())
