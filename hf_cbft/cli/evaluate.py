# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Measure loss and metrics along the path between two checkpoints, and say which attributes each relies on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_cbft.cli.inputs import (
    DataArguments,
    LoadArguments,
    MeasureArguments,
    check_measurement,
    evaluator_options,
    read_sets,
)

POSITIONAL = ("start", "end")


@dataclass
class Arguments(DataArguments, MeasureArguments, LoadArguments):
    start: str = field(default="", metadata={"help": "Folder, Hub id, org/name@revision or base+adapter: alpha 0."})
    end: str = field(default="", metadata={"help": "The same: alpha 1."})
    path: str = field(default="linear", metadata={"help": "linear, or the folder of a curve (hf-cbft curve)."})
    through: list[str] = field(
        default_factory=list, metadata={"help": "Checkpoints in between: straight segments from each to the next."}
    )
    head_from: str | None = field(
        default=None, metadata={"help": "start or end: use its head all along, where the heads do not fit."}
    )
    num_points: int = field(default=11, metadata={"help": "Points of the path, evenly spaced, both ends among them."})
    alphas: list[float] = field(default_factory=list, metadata={"help": "The points themselves, from 0 to 1."})


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        ValueError: ends, data or an output folder that were not given, or a folder that is not free.
    """
    if not arguments.start or not arguments.end:
        raise ValueError("two checkpoints are needed: hf-cbft evaluate START END --dataset NAME=SOURCE.")
    if arguments.through and arguments.path != "linear":
        raise ValueError("--through and --path are two paths: give one of them.")
    check_measurement(arguments)


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
        head_from=arguments.head_from,
        **evaluator_options(arguments.start, arguments),
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
            **arguments.evaluation_options(),
        )
    except KeyboardInterrupt:
        raise arguments.interruption() from None
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
