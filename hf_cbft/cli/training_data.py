# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets looked at for what would stop or spoil a command later, and those of `hf-cbft train` read."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hf_cbft.cli.inputs import read_sources

# Each row's image is decoded once before training, at most so many of a set, evenly spaced.
_ROWS_READ = 10_000
_DECODE_ERRORS = (OSError, SyntaxError, ValueError)
# What the rows hold, and what makes model inputs of it.
_PROCESSORS = {
    "image": "image processor",
    "audio": "feature extractor",
    "text": "tokenizer",
    "prompt": "tokenizer",
    "tokens": "tokenizer",
}
_CLASSES = {
    "image processor": "AutoImageProcessor",
    "feature extractor": "AutoFeatureExtractor",
    "tokenizer": "AutoTokenizer",
}


def read_training_sets(arguments: Any, model: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The sets to train on, those to evaluate on, and a text that says which columns were taken.

    Args:
        arguments: of the command, with `train_dataset`, `cue_dataset`, `eval_dataset` and how to read them.
        model (`torch.nn.Module`): whose labels the rows get.

    Returns:
        `tuple[dict, dict, str]`: `{"train_dataset": ..., "cue_dataset": ...}`, the sets to evaluate on by their
        names, and a line for each set.

    Raises:
        ValueError: what cannot be read, or does not fit the model's classes.
        OSError: a file or folder that is not there, or a Hub that is out of reach.
    """
    training = [f"{name}={getattr(arguments, name)}" for name in ("train_dataset", "cue_dataset")]
    streams, description = read_sources(training, arguments, model)
    if not arguments.eval_dataset:
        return streams, {}, description
    sets, more = read_sources(arguments.eval_dataset, arguments, model)
    return streams, sets, f"{description}\n{more}"


def check_sets(streams: Mapping[str, Any], sets: Mapping[str, Any], model: Any, processor: Any, source: str) -> None:
    """Refuse rows that cannot be trained or evaluated on, before anything is written.

    Args:
        streams (`Mapping[str, Dataset]`): what is trained on.
        sets (`Mapping[str, Dataset]`): what is evaluated on.
        model (`torch.nn.Module`): a classifier or a causal language model.
        processor: the processing class beside the model, or `None`.
        source (`str`): where both come from.

    Raises:
        ValueError: no (or the wrong) processing class, classes that the model does not have, one class only, or an
            image or sound that cannot be read.
    """
    from hf_cbft.architectures import base_model
    from hf_cbft.data.columns import class_labels
    from hf_cbft.tasks.registry import task_of

    task = task_of(model)
    for name, dataset in {**streams, **sets}.items():
        check_processor(dataset, processor, source)
        task.check_rows(dataset, name)
        if task.one_label_a_row and name in streams:
            _check_several_classes(class_labels(dataset, name), name, base_model(model).config.id2label)
    for name, dataset in {**streams, **sets}.items():
        check_readable(dataset, name)


def check_measured(sets: Mapping[str, Any], processor: Any, source: str) -> None:
    """Raise a `ValueError` unless the rows of all sets become model inputs.

    Args:
        sets (`Mapping[str, Dataset]`): by their names.
        processor: the processing class beside the model, or `None`.
        source (`str`): where both come from.
    """
    for name, dataset in sets.items():
        check_processor(dataset, processor, source)
        check_readable(dataset, f"the data set {name!r}")


def check_processor(dataset: Any, processor: Any, source: str) -> None:
    """Raise a `ValueError` unless there is what makes model inputs of the rows."""
    from transformers import PreTrainedTokenizerBase

    column = next((column for column in _PROCESSORS if column in dataset.column_names), None)
    if column is None:  # model inputs as they are
        return
    wanted = _PROCESSORS[column]
    is_tokenizer = isinstance(processor, PreTrainedTokenizerBase)
    if processor is not None and is_tokenizer == (wanted == "tokenizer"):
        return
    own = f"a {'tokenizer' if is_tokenizer else 'processor'} and no" if processor is not None else "no"
    raise ValueError(
        f"{source} has {own} {wanted} beside the model, and the rows hold {column!r}: save that of the model which it "
        f"was made from into the folder ({_CLASSES[wanted]}.from_pretrained(BASE).save_pretrained(FOLDER); a model "
        "from the Hub is downloaded into a folder first)."
    )


def _check_several_classes(labels: np.ndarray, name: str, id2label: Mapping[int, str]) -> None:
    found = np.unique(labels)
    if len(found) == 1:
        label = id2label.get(int(found[0]), found[0])
        raise ValueError(
            f"All {len(labels)} rows of {name} are of the class {label}, and one class cannot be told from others: "
            "give rows of each class; in a folder of images, each class has a folder of its own."
        )


def check_readable(dataset: Any, name: str, most: int = _ROWS_READ) -> None:
    """Decode images and sounds once, so that a damaged file is named now and not in the middle of training.

    Args:
        dataset (`datasets.Dataset`): whose columns of images and sounds are read.
        name (`str`): what the error calls it.
        most (`int`, *optional*, defaults to 10,000): rows that are read, evenly spaced.

    Raises:
        ValueError: names the file and the row.
    """
    from datasets import Audio, Image

    from hf_cbft.data.columns import unreadable_row

    columns = [c for c, feature in dataset.features.items() if isinstance(feature, Image | Audio)]
    if not columns:
        return
    decoded = dataset.with_format(None).select_columns(columns)
    for row in _spread(len(dataset), most):
        try:
            readable = None not in decoded[row].values()
        except _DECODE_ERRORS:
            readable = False
        blamed = None if readable else unreadable_row(dataset, name, [row])
        if blamed is not None:
            files = [_file_of(decoded, column, row) for column in columns]
            file = next((file for file in files if file), None)
            raise ValueError(f"{file} cannot be used. {blamed}" if file else str(blamed))


def _spread(rows: int, most: int) -> Iterable[int]:
    if rows <= most:
        return range(rows)
    return np.unique(np.linspace(0, rows - 1, most).round().astype(int)).tolist()


def _file_of(dataset: Any, column: str, row: int) -> str | None:
    """The path of an image or sound that lies in a file."""
    feature = type(dataset.features[column])(decode=False)
    value = dataset.select([row]).cast_column(column, feature)[0][column]
    return value.get("path") if isinstance(value, dict) else None
