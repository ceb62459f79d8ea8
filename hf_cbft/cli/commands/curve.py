# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Train the middle of a curve between two checkpoints, so that the loss along the curve is low."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hf_cbft.cli.inputs import ColumnArguments, LoadArguments, check_seeds, processing_class, read_sources

POSITIONAL = ("start", "end")
EXAMPLE = "hf-cbft curve my-model my-other-model --train_dataset train=data/train --output_dir middle"
RESULT_FILES = ("curve.json",)
APPEARS_WHOLE = True


@dataclass
class Arguments(ColumnArguments):
    TITLE: ClassVar[str] = "ends, data and training"

    start: str = field(metadata={"help": "Checkpoint at alpha = 0: a folder, a Hub id or org/name@revision."})
    end: str = field(metadata={"help": "Checkpoint at alpha = 1, of the same architecture."})
    train_dataset: str = field(
        metadata={"help": "What the loss along the curve is lowered on, as NAME=SOURCE: a file, a folder or a Hub id."}
    )
    output_dir: str = field(metadata={"help": "New folder for the middle: an ordinary checkpoint, and curve.json."})
    num_steps: int | None = field(default=None, metadata={"help": "Number of optimizer steps; 300 if not given."})
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of AdamW, falling to 0 along a cosine; 1e-3 if not given. Large models want less."
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Rows in a step of each process."})
    seed: int = field(default=0, metadata={"help": "Decides the order of the rows and the points of the curve."})
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU where there is a GPU."})


def check(arguments: Arguments) -> None:
    """Refuse what cannot work, before anything is loaded or written.

    Raises:
        ValueError: a number out of range, or an output folder that is not free.
    """
    for name in ("num_steps", "learning_rate", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} = {value}: give a number above 0.")
    check_seeds([arguments.seed])
    folder = Path(arguments.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder with --output_dir.")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is not empty: name another folder with --output_dir.")


def run(arguments: Arguments) -> int:
    from hf_cbft.checkpoints.curve_files import save_curve
    from hf_cbft.cli.training_data import check_measured
    from hf_cbft.cli.training_results import LogLines
    from hf_cbft.distributed import on_main_rank
    from hf_cbft.training.curves import DEFAULT_LEARNING_RATE, DEFAULT_STEPS, default_arguments, fit_curve, load_end

    model = load_end(arguments.start, "start")
    processor = processing_class(arguments.start, LoadArguments())
    sets, description = read_sources([arguments.train_dataset], arguments, model)
    (rows,) = sets.values()
    on_main_rank(lambda: check_measured(sets, processor, arguments.start))
    steps = arguments.num_steps or DEFAULT_STEPS
    # Nothing is saved on the way, but the Trainer wants a folder.
    with tempfile.TemporaryDirectory() as scratch:
        settings = default_arguments(
            scratch,
            max_steps=steps,
            learning_rate=arguments.learning_rate or DEFAULT_LEARNING_RATE,
            per_device_train_batch_size=arguments.batch_size,
            seed=arguments.seed,
            logging_steps=max(1, steps // 10),
            use_cpu=arguments.use_cpu,
            disable_tqdm=True,
        )
        main = settings.process_index == 0
        if main:
            print(f"hf-cbft curve: from {arguments.start} to {arguments.end}\n{description}", flush=True)
        path = fit_curve(
            arguments.start, arguments.end, rows, settings, processing_class=processor, callbacks=[LogLines()]
        )
        names = (arguments.start, arguments.end)
        on_main_rank(lambda: save_curve(arguments.output_dir, path, model, processor, *names))
    if main:
        print(
            f"The middle and curve.json are in {arguments.output_dir}/. The loss along the curve, on data that it was "
            f"not trained on:\n  hf-cbft evaluate {arguments.start} {arguments.end} --path {arguments.output_dir} "
            "--dataset NAME=SOURCE --output_dir RESULT"
        )
    return 0
