# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands that measure have in common: data, and how checkpoints are loaded."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DataArguments:
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
    config_name: str | None = field(default=None, metadata={"help": "Configuration of a data set from the Hub."})
    input_column: str | None = field(
        default=None,
        metadata={"help": "Column of the inputs, or two of a pair (first,second), where it is not clear."},
    )
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels, where it is not clear."})
    group_column: str | None = field(default=None, metadata={"help": "Column of the groups: a barrier for each."})
    label_map: str | None = field(
        default=None, metadata={"help": "JSON file from the names of the labels to the model's."}
    )
    batch_size: int = field(default=32, metadata={"help": "Rows in a pass; halved where memory runs out."})


@dataclass
class LoadArguments:
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, mps; default: an accelerator if there is."})
    device_map: str | None = field(default=None, metadata={"help": "auto spreads a model over several devices."})
    dtype: str | None = field(default=None, metadata={"help": "float32, bfloat16, float16; default: as saved."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Also take weights from pickle files (read as weights only)."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from a repository to run."})

    def load_options(self) -> dict[str, Any]:
        from accelerate import PartialState

        device = self.device_map or self.device or str(PartialState().device)
        return {
            "dtype": self.dtype,
            "device_map": None if device == "cpu" else device,
            "allow_pickle": self.allow_pickle,
            "trust_remote_code": self.trust_remote_code,
        }


def processing_class(source: str, arguments: LoadArguments) -> Any:
    """The tokenizer, image processor or feature extractor beside a checkpoint; `None` where there is none."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer
    from transformers.utils import cached_file

    from hf_cbft.checkpoints.headers import split_adapter
    from hf_cbft.checkpoints.sources import split_revision

    name, revision = split_revision(split_adapter(source)[0])
    options: dict[str, Any] = {"revision": revision} if revision else {}
    found = {
        file: cached_file(
            name,
            file,
            **options,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        for file in ("tokenizer_config.json", "preprocessor_config.json")
    }
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
    from hf_cbft.architectures import base_model, task_of
    from hf_cbft.data.sources import load_sources

    classifies = task_of(model) in ("classification", None)
    sets, columns = load_sources(
        arguments.dataset,
        config_name=arguments.config_name,
        input_column=arguments.input_column,
        label_column=arguments.label_column,
        group_column=arguments.group_column,
        label_map=arguments.label_map,
        id2label=base_model(model).config.id2label if classifies else None,
    )
    return sets, "\n".join(f"{name}: {len(sets[name])} rows, {taken}" for name, taken in columns.items())


def calibration_set(arguments: DataArguments) -> Any:
    from hf_cbft.data.sources import load_sources

    if not arguments.calibration_dataset:
        return None
    sets, _ = load_sources(
        [f"calibration={arguments.calibration_dataset}"],
        config_name=arguments.config_name,
        input_column=arguments.input_column,
        label_column=arguments.label_column,
    )
    return sets["calibration"]
