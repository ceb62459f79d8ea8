# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Measure loss and metrics along the path between two checkpoints, and say which attributes each relies on."""

import shlex
from dataclasses import MISSING, dataclass, field, fields
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

POSITIONAL = ("start", "end")
EXAMPLE = """
hf-cbft evaluate my-model out --output_dir path --report page.html \\
    --dataset no_cue=shapes/test/no_cue cue=shapes/test/cue rand_cue=shapes/test/rand_cue
"""
RESULT_FILES = ("result.json", "mechanisms.json")


@dataclass
class Arguments(DataArguments, MeasureArguments, LoadArguments):
    TITLE: ClassVar[str] = "path"

    start: str = field(
        default="", metadata={"help": "Checkpoint at alpha = 0: a folder, Hub id, org/name@revision or base+adapter."}
    )
    end: str = field(default="", metadata={"help": "Checkpoint at alpha = 1, named in the same ways."})
    path: str = field(default="linear", metadata={"help": "linear, or the folder of a curve (hf-cbft curve)."})
    through: list[str] = field(
        default_factory=list, metadata={"help": "Checkpoints in between: straight segments from each to the next."}
    )
    head_from: str | None = field(
        default=None, metadata={"help": "start or end: use its head all along, where the heads do not fit."}
    )
    align: str | None = field(
        default=None,
        metadata={
            "help": "Bring END's units into the order of START's first: weights, activations (compared on the "
            "calibration data), or what hf-cbft align has written."
        },
    )
    num_points: int = field(default=11, metadata={"help": "Points of the path, evenly spaced, both ends among them."})
    alphas: list[float] = field(default_factory=list, metadata={"help": "The points themselves, from 0 to 1."})
    report: str | None = field(
        default=None, metadata={"help": "One HTML page to send to others, page.html: charts, tables, examples."}
    )


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        ValueError: ends, data or an output folder that were not given, or a folder that is not free.
        OSError: a report that cannot be written.
    """
    from hf_cbft.connectivity.evaluator import check_grid

    if not arguments.start or not arguments.end:
        raise ValueError("two checkpoints are needed: hf-cbft evaluate START END --dataset NAME=SOURCE.")
    if arguments.through and arguments.path != "linear":
        raise ValueError("--through and --path are two paths: give one of them.")
    if arguments.report is not None:
        from hf_cbft.reporting.page import check_report_file

        check_report_file(arguments.report, new_folder=arguments.output_dir or None)
    if arguments.align is not None:
        check_align(arguments.align, bool(arguments.calibration_dataset))
    check_grid(arguments.num_points, arguments.alphas or None)
    check_measurement(arguments)


def run(arguments: Arguments) -> int:
    import shutil

    from accelerate import PartialState

    from hf_cbft.analysis.mechanisms import mechanisms
    from hf_cbft.cli.training_data import check_measured
    from hf_cbft.connectivity.evaluator import ConnectivityEvaluator
    from hf_cbft.distributed import on_main_rank

    state = PartialState(cpu=arguments.device == "cpu")
    folder = Path(arguments.output_dir)
    evaluator = ConnectivityEvaluator(
        arguments.start,
        arguments.end,
        head_from=arguments.head_from,
        align=arguments.align,
        **evaluator_options(arguments.start, arguments),
    )
    sets, mapping = read_sets(arguments, evaluator.model)
    on_main_rank(lambda: check_measured(sets, evaluator.processing_class, arguments.start))
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
    if arguments.report is not None:
        result.report(arguments.report, sets, report, shlex.join(["hf-cbft", "evaluate", *given_options(arguments)]))
        print(f"The report is {arguments.report}")
    return 0


def check_align(how: str, has_data: bool) -> None:
    """Raise a `ValueError` unless it is a method that has what it needs, or an alignment that can be read."""
    from hf_cbft.alignment.alignments import Alignment

    if how == "activations" and not has_data:
        raise ValueError(
            "--align activations compares units on data: give it with --calibration_dataset, or take --align weights."
        )
    if how in ("weights", "activations"):
        return
    if not Path(how).exists():
        raise ValueError(f"--align {how}: give weights, activations, or the folder that hf-cbft align has written.")
    Alignment.load(how)


def given_options(arguments: Arguments) -> list[str]:
    """The words of the command line that give these arguments, from wherever they came: what is not a default."""
    words = [arguments.start, arguments.end]
    for option in fields(arguments):
        value = getattr(arguments, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        # Going on with a run that was interrupted is not how to measure it again.
        if value == default or option.name in (*POSITIONAL, "resume"):
            continue
        words += [f"--{option.name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def write_report(folder: Path, result: Any, report: Any) -> None:
    from hf_cbft.files import write_json

    result.plot(folder / "path.png")
    if report is not None:
        write_json(folder / "mechanisms.json", report.to_dict())
    result.write(folder)
