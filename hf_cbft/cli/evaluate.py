# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Measure loss and metrics along the path between two checkpoints, and say which attributes each relies on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_cbft.cli.inputs import DataArguments, LoadArguments, calibration_set, processing_class, read_sets

POSITIONAL = ("start", "end")


@dataclass
class Arguments(DataArguments, LoadArguments):
    start: str = field(default="", metadata={"help": "Folder, Hub id, org/name@revision or base+adapter: alpha 0."})
    end: str = field(default="", metadata={"help": "The same: alpha 1."})
    output_dir: str = field(default="", metadata={"help": "New folder for result.json, the figures and the report."})
    metrics: list[str] = field(
        default_factory=lambda: ["accuracy"],
        metadata={"help": "accuracy, worst_group_accuracy, perplexity, f1 (the first one is drawn)."},
    )
    path: str = field(default="linear", metadata={"help": "linear, or the folder of a curve (hf-cbft curve)."})
    through: list[str] = field(
        default_factory=list, metadata={"help": "Checkpoints in between: straight segments from each to the next."}
    )
    head_from: str | None = field(
        default=None, metadata={"help": "start or end: use its head all along, where the heads do not fit."}
    )
    num_points: int = field(default=11, metadata={"help": "Points of the path, evenly spaced, both ends among them."})
    alphas: list[float] = field(default_factory=list, metadata={"help": "The points themselves, from 0 to 1."})
    baseline: str = field(default="chord", metadata={"help": "Barrier above: chord, mean or max of the end losses."})
    tolerance: float = field(default=0.1, metadata={"help": "Barrier in nats up to which the ends are connected."})
    error_tolerance: float = field(default=0.05, metadata={"help": "The same for the drop in accuracy, a fraction."})
    confidence: float = field(default=0.95, metadata={"help": "Level of the intervals."})
    num_resamples: int = field(default=1000, metadata={"help": "Bootstrap replicates."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap."})
    resume: bool = field(default=False, metadata={"help": "Go on where an interrupted run in output_dir stopped."})


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        ValueError: ends, data or an output folder that were not given, or a folder that is not free.
    """
    from hf_cbft.barriers import check_statistics

    if not arguments.start or not arguments.end:
        raise ValueError("two checkpoints are needed: hf-cbft evaluate START END --dataset NAME=SOURCE.")
    if not arguments.dataset:
        raise ValueError("no data to measure on: give --dataset NAME=SOURCE[:SPLIT].")
    if not arguments.output_dir:
        raise ValueError("name a new folder for the result with --output_dir.")
    if arguments.through and arguments.path != "linear":
        raise ValueError("--through and --path are two paths: give one of them.")
    check_statistics(arguments.baseline, arguments.confidence, arguments.num_resamples)
    _check_folder(Path(arguments.output_dir), arguments.resume)


def _check_folder(folder: Path, resume: bool) -> None:
    if resume:
        if not (folder / "points").is_dir():
            raise ValueError(f"{folder} holds no sweep to go on with: start it without --resume.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty: name another folder, or go on with --resume.")
    if not resume:
        # Asked now rather than after the sweep.
        folder.mkdir(parents=True, exist_ok=True)


def run(arguments: Arguments) -> int:
    import shutil

    from accelerate import PartialState

    from hf_cbft.connectivity import ConnectivityEvaluator
    from hf_cbft.mechanisms import mechanisms

    state = PartialState(cpu=arguments.device == "cpu")
    folder = Path(arguments.output_dir)
    evaluator = ConnectivityEvaluator(
        arguments.start,
        arguments.end,
        processing_class=processing_class(arguments.start, arguments),
        batch_size=arguments.batch_size,
        metrics=arguments.metrics,
        calibration_dataset=calibration_set(arguments),
        head_from=arguments.head_from,
        **arguments.load_options(),
    )
    sets, mapping = read_sets(arguments, evaluator.model)
    if state.is_main_process:
        print(mapping)
    try:
        result = evaluator.evaluate(
            sets,
            path=list(arguments.through) or arguments.path,
            num_points=arguments.num_points,
            alphas=arguments.alphas or None,
            baseline=arguments.baseline,
            tolerance=arguments.tolerance,
            error_tolerance=arguments.error_tolerance,
            confidence=arguments.confidence,
            num_resamples=arguments.num_resamples,
            seed=arguments.seed,
            group_column="group" if arguments.group_column else None,
            resume_dir=folder / "points",
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{folder} keeps what was measured: go on with the same command and --resume."
        ) from None
    if not state.is_main_process:
        return 0
    print(result)
    report = None
    if len(sets) > 1:
        report = mechanisms(result)
        print(f"\n{report}")
    write_report(folder, result, report)
    shutil.rmtree(folder / "points")
    print(f"\nresult.json, examples.safetensors and path.png are in {folder}/")
    return 0


def write_report(folder: Path, result: Any, report: Any) -> None:
    from hf_cbft.files import write_json

    result.plot(folder / "path.png")
    if report is not None:
        write_json(folder / "mechanisms.json", report.to_dict())
    result.write(folder)
