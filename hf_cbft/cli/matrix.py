# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the barriers between all pairs of several checkpoints, and say which of them are connected."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_cbft.cli.inputs import DataArguments, LoadArguments, calibration_set, processing_class, read_sets

POSITIONAL = ("checkpoints...",)


@dataclass
class Arguments(DataArguments, LoadArguments):
    checkpoints: list[str] = field(
        default_factory=list, metadata={"help": "Two or more folders, Hub ids or org/name@revision."}
    )
    output_dir: str = field(
        default="", metadata={"help": "New folder for matrix.json, matrix.png, the pairs and the soups."}
    )
    on: str | None = field(
        default=None, metadata={"help": "The data set whose barriers decide; default: cue, else the first."}
    )
    soup: bool = field(
        default=False, metadata={"help": "Also save the average of each cluster, as an ordinary checkpoint."}
    )
    metrics: list[str] = field(
        default_factory=lambda: ["accuracy"], metadata={"help": "accuracy, worst_group_accuracy, perplexity, f1."}
    )
    num_points: int = field(
        default=5, metadata={"help": "Points of each line; few, as they are measured for all pairs."}
    )
    baseline: str = field(default="chord", metadata={"help": "Barrier above: chord, mean or max of the end losses."})
    tolerance: float = field(default=0.1, metadata={"help": "Barrier in nats up to which two are connected."})
    error_tolerance: float = field(default=0.05, metadata={"help": "The same for the drop in accuracy, a fraction."})
    confidence: float = field(default=0.95, metadata={"help": "Level of the intervals."})
    num_resamples: int = field(default=1000, metadata={"help": "Bootstrap replicates."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap."})
    resume: bool = field(default=False, metadata={"help": "Go on where an interrupted run in output_dir stopped."})


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        ValueError: checkpoints, data or an output folder that were not given, or a folder that is not free.
    """
    from hf_cbft.barriers import check_statistics
    from hf_cbft.data.sources import parse_dataset
    from hf_cbft.matrix import check_checkpoints, deciding_set

    check_checkpoints(arguments.checkpoints)
    if not arguments.dataset:
        raise ValueError("no data to measure on: give --dataset NAME=SOURCE[:SPLIT].")
    deciding_set([parse_dataset(text).name for text in arguments.dataset], arguments.on)
    if not arguments.output_dir:
        raise ValueError("name a new folder for the result with --output_dir.")
    if arguments.num_points < 3:
        raise ValueError(f"num_points = {arguments.num_points}: a barrier needs at least 3, both ends among them.")
    check_statistics(arguments.baseline, arguments.confidence, arguments.num_resamples)
    _check_folder(Path(arguments.output_dir), arguments.resume)


def _check_folder(folder: Path, resume: bool) -> None:
    if resume:
        if not (folder / "points").is_dir():
            raise ValueError(f"{folder} holds no matrix to go on with: start it without --resume.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty: name another folder, or go on with --resume.")
    else:
        # Asked now rather than after the sweep.
        folder.mkdir(parents=True, exist_ok=True)


def run(arguments: Arguments) -> int:
    import shutil

    from accelerate import PartialState

    from hf_cbft.matrix import MatrixEvaluator

    state = PartialState(cpu=arguments.device == "cpu")
    folder = Path(arguments.output_dir)
    evaluator = MatrixEvaluator(
        arguments.checkpoints,
        processing_class=processing_class(arguments.checkpoints[0], arguments),
        batch_size=arguments.batch_size,
        metrics=arguments.metrics,
        calibration_dataset=calibration_set(arguments),
        **arguments.load_options(),
    )
    sets, mapping = read_sets(arguments, evaluator.model)
    if state.is_main_process:
        print(mapping)
    try:
        result = evaluator.evaluate(
            sets,
            on=arguments.on,
            num_points=arguments.num_points,
            baseline=arguments.baseline,
            tolerance=arguments.tolerance,
            error_tolerance=arguments.error_tolerance,
            confidence=arguments.confidence,
            num_resamples=arguments.num_resamples,
            seed=arguments.seed,
            group_column="group" if arguments.group_column else None,
            resume_dir=folder / "points",
        )
        if state.is_main_process:
            print(result)
        soups = _soups(evaluator, result, sets, folder / "soups") if arguments.soup else []
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{folder} keeps what was measured: go on with the same command and --resume."
        ) from None
    if not state.is_main_process:
        return 0
    for place, soup in soups:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in soup.losses.items())
        print(f"The average of {', '.join(soup.members)} is in {place}/; its loss: {losses}.")
    result.plot(folder / "matrix.png")
    result.write(folder)
    shutil.rmtree(folder / "points")
    print(f"\nmatrix.json, matrix.png and pairs/ are in {folder}/")
    return 0


def _soups(evaluator: Any, result: Any, sets: dict[str, Any], folder: Path) -> list[tuple[Path, Any]]:
    """The soup of each cluster of two or more, where it is; one that an interrupted run has finished is kept."""
    from hf_cbft.soups import read_soup

    made = []
    for number, members in enumerate(result.clusters, start=1):
        if len(members) > 1:
            place = folder / f"cluster-{number}"
            made.append((place, read_soup(place, members) or evaluator.soup(result, members, place, sets)))
    return made
