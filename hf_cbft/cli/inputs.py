# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Options and steps that commands share: data, how checkpoints are loaded, seeds and devices."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar


# By keyword: a command may put options that must be given beside them.
@dataclass(kw_only=True)
class ColumnArguments:
    TITLE: ClassVar[str] = "columns"

    config_name: str | None = field(default=None, metadata={"help": "Configuration of a data set from the Hub."})
    input_column: str | None = field(
        default=None,
        metadata={"help": "Column of the inputs, or two of a pair (first,second), where it is not clear."},
    )
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels, where it is not clear."})
    label_map: str | None = field(
        default=None, metadata={"help": "JSON file from the names of the labels to the model's."}
    )


@dataclass
class DataArguments(ColumnArguments):
    TITLE: ClassVar[str] = "data"

    dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "NAME=SOURCE[:SPLIT], several of them; SOURCE is a Hub id, a load_from_disk folder, an image "
            "folder, a CSV, JSON or Parquet file, or digits. With no_cue and rand_cue the mechanisms are compared."
        },
    )
    calibration_dataset: str = field(
        default="", metadata={"help": "SOURCE[:SPLIT] of clean training rows, for models with BatchNorm."}
    )
    group_column: str | None = field(default=None, metadata={"help": "Column of the groups: a barrier for each."})
    batch_size: int = field(default=32, metadata={"help": "Rows in a pass; halved where memory runs out."})


@dataclass
class MeasureArguments:
    TITLE: ClassVar[str] = "measurement"

    output_dir: str = field(default="", metadata={"help": "New folder for the results, the figures and the report."})
    metrics: list[str] = field(
        default_factory=lambda: ["accuracy"],
        metadata={"help": "accuracy, worst_group_accuracy, perplexity, f1 (the first one is drawn)."},
    )
    baseline: str = field(
        default="chord",
        metadata={"help": "What a barrier is measured from: chord, mean or max of the losses at the ends."},
    )
    tolerance: float = field(default=0.1, metadata={"help": "Barrier in nats up to which the ends are connected."})
    error_tolerance: float = field(
        default=0.05, metadata={"help": "Drop in accuracy up to which they are, a fraction."}
    )
    confidence: float = field(default=0.95, metadata={"help": "Confidence level of the intervals, a fraction."})
    num_resamples: int = field(default=1000, metadata={"help": "Bootstrap replicates behind each interval."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap."})
    resume: bool = field(default=False, metadata={"help": "Go on where an interrupted run in output_dir stopped."})

    def evaluation_options(self) -> dict[str, Any]:
        """The arguments of an evaluator's `evaluate`, but for the path."""
        names = ("baseline", "tolerance", "error_tolerance", "confidence", "num_resamples", "seed")
        return {
            **{name: getattr(self, name) for name in names},
            "group_column": "group" if getattr(self, "group_column", None) else None,
            "resume_dir": Path(self.output_dir) / "points",
        }

    def interruption(self) -> KeyboardInterrupt:
        return KeyboardInterrupt(
            f"{self.output_dir} keeps what was measured: go on with the same command and --resume."
        )


@dataclass(kw_only=True)
class WeightArguments:
    TITLE: ClassVar[str] = "weights"

    dtype: str | None = field(default=None, metadata={"help": "float32, bfloat16, float16; default: as saved."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Also take weights from pickle files (read as weights only)."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from a repository to run."})


@dataclass
class LoadArguments(WeightArguments):
    TITLE: ClassVar[str] = "loading"

    device: str | None = field(default=None, metadata={"help": "cpu, cuda, mps; default: an accelerator if there is."})
    device_map: str | None = field(default=None, metadata={"help": "auto spreads a model over several devices."})

    def load_options(self) -> dict[str, Any]:
        from accelerate import PartialState

        device = self.device_map or self.device or str(PartialState().device)
        return {
            "dtype": self.dtype,
            "device_map": None if device == "cpu" else device,
            "allow_pickle": self.allow_pickle,
            "trust_remote_code": self.trust_remote_code,
        }


def evaluator_options(source: str, arguments: Any) -> dict[str, Any]:
    """The arguments of an evaluator beside its checkpoints; the processing class is read from `source`."""
    return {
        "processing_class": processing_class(source, arguments),
        "batch_size": arguments.batch_size,
        "metrics": arguments.metrics,
        "calibration_dataset": calibration_set(arguments),
        **arguments.load_options(),
    }


def is_main_process(arguments: Any) -> bool:
    from accelerate import PartialState

    return PartialState(cpu=arguments.device == "cpu").is_main_process


def check_measurement(arguments: Any) -> None:
    """Refuse data, statistics and a folder that cannot work.

    Raises:
        ValueError: data or an output folder that were not given, unknown statistics, or a folder that is not free.
    """
    from hf_cbft.analysis.barriers import check_statistics

    if not arguments.dataset:
        raise ValueError("no data to measure on: give --dataset NAME=SOURCE[:SPLIT].")
    if not arguments.output_dir:
        raise ValueError("name a new folder for the result with --output_dir.")
    check_statistics(arguments.baseline, arguments.confidence, arguments.num_resamples)
    if arguments.device is not None:
        check_device(arguments.device)
    if not is_main_process(arguments):
        return  # the folder may be in use by the main one already
    folder = Path(arguments.output_dir)
    if arguments.resume:
        if not (folder / "points").is_dir():
            raise ValueError(f"{folder} holds no points to go on with: start it without --resume.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty: name another folder, or go on with --resume.")


def processing_class(source: str, arguments: WeightArguments) -> Any:
    """The tokenizer, image processor or feature extractor beside a checkpoint; `None` where there is none."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    from hf_cbft.checkpoints.headers import split_adapter
    from hf_cbft.checkpoints.loading import found_file
    from hf_cbft.checkpoints.sources import split_revision

    base = split_adapter(source)[0]
    name, revision = split_revision(base)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    found = {file: found_file(base, file) for file in ("tokenizer_config.json", "preprocessor_config.json")}
    options["trust_remote_code"] = arguments.trust_remote_code
    if found["tokenizer_config.json"] is not None:
        return AutoTokenizer.from_pretrained(name, **options)
    if found["preprocessor_config.json"] is None:
        return None
    try:
        return AutoImageProcessor.from_pretrained(name, **options)
    except (ValueError, OSError):
        return AutoFeatureExtractor.from_pretrained(name, **options)


def read_sets(arguments: DataArguments, model: Any) -> tuple[dict[str, Any], str]:
    """The data sets of `--dataset` in the model's labels, and a text that says which columns were taken."""
    return read_sources(arguments.dataset, arguments, model, arguments.group_column)


def read_sources(
    sources: Sequence[str], arguments: ColumnArguments, model: Any, group_column: str | None = None
) -> tuple[dict[str, Any], str]:
    """The data sets of an option, as [`read_sets`] gives them."""
    from hf_cbft.architectures import base_model
    from hf_cbft.data.sources import load_sources
    from hf_cbft.tasks.classification import Classification
    from hf_cbft.tasks.registry import listed_task

    columns = {option.name: getattr(arguments, option.name) for option in fields(ColumnArguments)}
    classifies = (listed_task(model) or Classification).one_label_a_row
    id2label = base_model(model).config.id2label if classifies else None
    sets, taken = load_sources(sources, group_column=group_column, id2label=id2label, **columns)
    return sets, "\n".join(f"{name}: {len(sets[name])} rows, {used}" for name, used in taken.items())


def calibration_set(arguments: DataArguments) -> Any:
    from hf_cbft.data.sources import load_sources

    if not arguments.calibration_dataset:
        return None
    columns = {name: getattr(arguments, name) for name in ("config_name", "input_column", "label_column")}
    return load_sources([f"calibration={arguments.calibration_dataset}"], **columns)[0]["calibration"]


def check_device(device: str) -> None:
    """Raise a `ValueError` unless tensors can be put there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used ({reason}); cpu always can.") from None


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise a `ValueError` unless there is one, and each is a whole number from 0 on that stands there once."""
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"seeds are whole numbers from 0 on; got {min(seeds)}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"each seed once, at least one; got {list(seeds)}.")


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
