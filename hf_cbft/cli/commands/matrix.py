# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the barriers between all pairs of several checkpoints, and say which of them are connected."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hf_cbft.cli.inputs import (
    DataArguments,
    LoadArguments,
    MeasureArguments,
    check_measurement,
    evaluator_options,
    read_sets,
)

POSITIONAL = ("checkpoints...",)
EXAMPLE = """
hf-cbft matrix model-a model-b model-c --output_dir matrix \\
    --dataset cue=shapes/test/cue no_cue=shapes/test/no_cue
"""
RESULT_FILES = ("matrix.json",)


@dataclass
class Arguments(DataArguments, MeasureArguments, LoadArguments):
    TITLE: ClassVar[str] = "checkpoints"

    checkpoints: list[str] = field(
        default_factory=list, metadata={"help": "Two or more folders, Hub ids or org/name@revision."}
    )
    on: str | None = field(
        default=None, metadata={"help": "The data set whose barriers decide; default: cue, else the first."}
    )
    soup: bool = field(
        default=False, metadata={"help": "Also save the average of each cluster, as an ordinary checkpoint."}
    )
    num_points: int = field(
        default=5, metadata={"help": "Points of each line; few, as they are measured for all pairs."}
    )


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        ValueError: checkpoints, data or an output folder that were not given, or a folder that is not free.
    """
    from hf_cbft.connectivity.matrix import check_checkpoints, deciding_set
    from hf_cbft.data.sources import parse_dataset

    check_checkpoints(arguments.checkpoints)
    if arguments.num_points < 3:
        raise ValueError(f"num_points = {arguments.num_points}: a barrier needs at least 3, both ends among them.")
    if arguments.dataset:
        deciding_set([parse_dataset(text).name for text in arguments.dataset], arguments.on)
    check_measurement(arguments)


def run(arguments: Arguments) -> int:
    import shutil

    from accelerate import PartialState

    from hf_cbft.cli.training_data import check_measured
    from hf_cbft.connectivity.matrix import MatrixEvaluator
    from hf_cbft.distributed import on_main_rank

    state = PartialState(cpu=arguments.device == "cpu")
    folder = Path(arguments.output_dir)
    options = evaluator_options(arguments.checkpoints[0], arguments)
    evaluator = MatrixEvaluator(arguments.checkpoints, **options)
    sets, mapping = read_sets(arguments, evaluator.model)
    on_main_rank(lambda: check_measured(sets, options["processing_class"], arguments.checkpoints[0]))
    if state.is_main_process:
        print(mapping)
    try:
        result = evaluator.evaluate(
            sets, on=arguments.on, num_points=arguments.num_points, **arguments.evaluation_options()
        )
        if state.is_main_process:
            print(result)
        soups = _soups(evaluator, result, sets, folder / "soups") if arguments.soup else []
    except KeyboardInterrupt:
        raise arguments.interruption() from None
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
    from hf_cbft.connectivity.soups import read_soup

    made = []
    for number, members in enumerate(result.clusters, start=1):
        if len(members) > 1:
            place = folder / f"cluster-{number}"
            made.append((place, read_soup(place, members) or evaluator.soup(result, members, place, sets)))
    return made
