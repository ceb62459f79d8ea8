# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Bring the units of one checkpoint into the order of another's: the same function, as an ordinary checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hf_cbft.cli.inputs import (
    ColumnArguments,
    LoadArguments,
    check_device,
    check_seeds,
    is_main_process,
    processing_class,
    read_sources,
)

POSITIONAL = ("start", "end")
EXAMPLE = """
hf-cbft align my-model my-other-model --output_dir aligned --method activations \\
    --dataset train=data/train
"""
RESULT_FILES = ("alignment.json",)
APPEARS_WHOLE = True


@dataclass
class Arguments(ColumnArguments, LoadArguments):
    TITLE: ClassVar[str] = "alignment"

    start: str = field(default="", metadata={"help": "Checkpoint that stays: a folder, a Hub id, org/name@revision."})
    end: str = field(default="", metadata={"help": "Checkpoint whose units are moved, of the same architecture."})
    output_dir: str = field(
        default="",
        metadata={"help": "New folder for END in its new order: an ordinary checkpoint, and the alignment."},
    )
    method: str = field(
        default="weights", metadata={"help": "weights (close in their values) or activations (alike on the data)."}
    )
    dataset: str = field(
        default="", metadata={"help": "NAME=SOURCE[:SPLIT] of rows for activations: a file, a folder or a Hub id."}
    )
    num_starts: int = field(
        default=3, metadata={"help": "Descents of weight matching; the first from what inputs and outputs pin down."}
    )
    partial: bool = field(
        default=False,
        metadata={"help": "Move only what can be confirmed by trying, in an architecture that is not known."},
    )
    batch_size: int = field(default=32, metadata={"help": "Rows in a pass."})
    seed: int = field(default=0, metadata={"help": "Seed of the descents."})


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is loaded or written.

    Raises:
        ValueError: ends, data or an output folder that were not given, an unknown method, or a folder that is in use.
    """
    if not arguments.start or not arguments.end:
        raise ValueError("two checkpoints are needed: hf-cbft align START END --output_dir FOLDER.")
    if arguments.method not in ("weights", "activations"):
        raise ValueError(f"--method is weights or activations; got {arguments.method!r}.")
    if (arguments.method == "activations") != bool(arguments.dataset):
        raise ValueError(
            "--method activations compares units on data, and weights needs none: give --dataset NAME=SOURCE with "
            "activations, and only then."
        )
    for name in ("num_starts", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name} = {getattr(arguments, name)}: give at least 1.")
    check_seeds([arguments.seed])
    if arguments.device is not None:
        check_device(arguments.device)
    if not arguments.output_dir:
        raise ValueError("name a new folder for the aligned checkpoint with --output_dir.")
    if not is_main_process(arguments):
        return  # the folder may be in use by the main one already
    folder = Path(arguments.output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty: name another folder with --output_dir.")


def run(arguments: Arguments) -> int:
    from hf_cbft.alignment.matching import align, check_source
    from hf_cbft.checkpoints.loading import LoadOptions, load_model

    if not is_main_process(arguments):
        return 0  # one process does it all
    options = arguments.load_options()
    load_options = LoadOptions(**options)
    for source in (arguments.start, arguments.end):
        check_source(source, load_options)
    start, end = (load_model(source, options=load_options) for source in (arguments.start, arguments.end))
    processor = processing_class(arguments.end, arguments)
    rows = _rows(arguments, start) if arguments.dataset else None
    alignment = align(
        start,
        end,
        arguments.method,
        rows,
        processing_class=processor,
        batch_size=arguments.batch_size,
        num_starts=arguments.num_starts,
        seed=arguments.seed,
        partial=arguments.partial,
    )
    alignment.info.update(start=arguments.start, end=arguments.end)
    print(alignment)
    write_aligned(Path(arguments.output_dir), alignment, end, processor)
    print(
        f"\nThe aligned checkpoint is in {arguments.output_dir}/, the permutations beside it. The path to it:\n"
        f"  hf-cbft evaluate {arguments.start} {arguments.output_dir} --dataset NAME=SOURCE --output_dir RESULT"
    )
    return 0


def _rows(arguments: Arguments, model: Any) -> Any:
    sets, description = read_sources([arguments.dataset], arguments, model)
    print(description)
    (rows,) = sets.values()
    return rows


def write_aligned(folder: Path, alignment: Any, model: Any, processor: Any) -> None:
    """The end in its new order as an ordinary checkpoint, with its processing class, the permutations and a card."""
    from hf_cbft.alignment.alignments import FILE_NAME
    from hf_cbft.files import whole_folder, write_json, write_text

    with whole_folder(folder) as written:
        alignment.apply(model).save_pretrained(written)
        if processor is not None:
            processor.save_pretrained(written)
        alignment.save(written / FILE_NAME)
        write_json(written / "alignment.json", alignment.to_dict())
        write_text(written / "README.md", _card(alignment))


def _card(alignment: Any) -> str:
    """The model card of an aligned checkpoint, with the metadata that the Hub reads."""
    from huggingface_hub import ModelCardData

    end = alignment.info["end"]
    base = end if "/" in end and not Path(end).exists() else None
    data = ModelCardData(library_name="transformers", tags=["hf_cbft"], base_model=base)
    return (
        f"---\n{data.to_yaml()}\n---\n\n# An aligned checkpoint\n\nThe function of {end}, its units in the order of "
        f"{alignment.info['start']}'s, written by hf_cbft so that the two can be compared and averaged.\n\n"
        f"```text\n{alignment}\n```\n"
    )
