# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets from the command line: `NAME=SOURCE[:SPLIT]`, loaded, with the columns that the library knows."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, ReadInstruction, concatenate_datasets, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetsError
from datasets.utils.logging import CRITICAL, get_verbosity, set_verbosity

from hf_cbft.data.columns import check_not_empty
from hf_cbft.data.digits import load_digits
from hf_cbft.data.labels import matched, read_label_map
from hf_cbft.data.mapping import Columns, check_no_gaps, find_columns, with_known_columns

_FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_FOLDERS = {
    "imagefolder": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    "audiofolder": (".wav", ".flac", ".mp3", ".ogg", ".opus"),
}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
# A path has no letter of a drive alone before its colon, and a split no slash.
_ONE_SPLIT = r"\w[\w.-]*(\[[^\]]*\])?"
_SPLIT = re.compile(rf"(?P<source>.+?):(?P<split>{_ONE_SPLIT}(\+{_ONE_SPLIT})*)")
_NAME = re.compile(r"[\w.-]+")
_HUB_ID = re.compile(r"(?P<path>\w[\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_LOAD_ERRORS = (DatasetsError, OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError)
_KINDS = (
    "a data set's id on the Hub, a folder saved with save_to_disk, a folder of images in class folders, a file "
    f"({', '.join(_FORMATS)}) or digits"
)


@dataclass(frozen=True)
class DatasetSource:
    """`NAME=SOURCE[:SPLIT]`, taken apart.

    Attributes:
        name (`str`): what results call the set.
        source (`str`): a path, a Hub id (`org/name` or `org/name@revision`), or `digits`.
        split (`str`, *optional*): such as `test` or `test[:100]`.
    """

    name: str
    source: str
    split: str | None = None


def parse_dataset(text: str) -> DatasetSource:
    """Take `NAME=SOURCE[:SPLIT]` apart. Without a name the set is called `"data"`.

    A path that exists is one, whatever signs are in it.

    Raises:
        ValueError: no source.

    Example:

    ```python
    >>> from hf_cbft.data.sources import parse_dataset
    >>> parse_dataset("cue=org/pets@v2:test[:100]")
    DatasetSource(name='cue', source='org/pets@v2', split='test[:100]')

    ```
    """
    name, equals, rest = text.partition("=")
    if os.path.exists(text) or not equals or (name and not _NAME.fullmatch(name)):
        name, rest = "data", text
    if not name or not rest.strip():
        raise ValueError(f"The data set {text!r} needs a name and a source: NAME=SOURCE[:SPLIT].")
    split = None if os.path.exists(os.path.expanduser(rest)) else _SPLIT.fullmatch(rest)
    if split is None:
        return DatasetSource(name, rest)
    return DatasetSource(name, split["source"], split["split"])


def load_sources(
    texts: Sequence[str],
    *,
    config_name: str | None = None,
    input_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    label_map: str | Path | Mapping[str, Any] | None = None,
    id2label: Mapping[Any, str] | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[dict[str, Dataset], dict[str, Columns]]:
    """Load the data sets of `--dataset`, with the columns that the library knows and the labels of the model.

    Columns are `image`, `audio`, `text` (with `text_pair`), `prompt` and `completion`, or model inputs as they are;
    `label`; and `group`, (N,) strings, where there is a `group_column`. Images are not read.

    Args:
        texts (`Sequence[str]`): one `NAME=SOURCE[:SPLIT]` for each set, see [`parse_dataset`].
        config_name (`str`, *optional*): which configuration of a data set from the Hub.
        input_column (`str` or `Sequence[str]`, *optional*): the column of the inputs, or two of a pair (also
            `"first,second"`); `None` guesses.
        label_column, group_column (`str`, *optional*): see [`~hf_cbft.data.mapping.find_columns`].
        label_map (`str`, `Path` or `Mapping`, *optional*): see [`~hf_cbft.data.labels.match_labels`].
        id2label (`Mapping[int, str]`, *optional*): the classes of the model; `None` for a language model, whose sets
            need no labels, and whose labels are left as they are.
        cache_dir (`str` or `Path`, *optional*): where `datasets` keeps what it builds; `None` is its usual cache.

    Returns:
        `tuple[dict[str, Dataset], dict[str, Columns]]`: by name, the sets, and which of their own columns was taken
        for what.

    Raises:
        ValueError: what cannot be read, has no rows, lacks a column or has labels that are not the model's.
        OSError: a file or folder that is not there, or a Hub that is out of reach.
    """
    sources = [parse_dataset(text) for text in texts]
    twice = [name for name, count in Counter(source.name for source in sources).items() if count > 1]
    if twice:
        raise ValueError(f"Two data sets are called {twice[0]!r}: give each a name of its own, NAME=SOURCE.")
    inputs = input_column.split(",") if isinstance(input_column, str) else list(input_column or ())
    mapping = read_label_map(label_map)
    sets, columns = {}, {}
    for source in sources:
        name = f"The data set {source.name!r}"
        dataset = _load(source, config_name, cache_dir)
        check_not_empty(dataset, name)
        found = find_columns(dataset, name, inputs, label_column, group_column, needs_label=id2label is not None)
        dataset = with_known_columns(dataset, found, name)
        check_no_gaps(dataset, found, name)
        if id2label is not None and found.label is not None:
            column = "label" if "label" in dataset.column_names else found.label
            dataset, matching = matched(dataset, column, id2label, mapping, name)
            found = replace(found, matching=matching)
        sets[source.name], columns[source.name] = dataset, found
    return sets, columns


def _load(source: DatasetSource, config_name: str | None, cache_dir: str | Path | None) -> Dataset:
    cache = None if cache_dir is None else str(cache_dir)
    path = Path(source.source).expanduser()
    if path.is_file():
        splits = _from_file(path, source, cache)
    elif path.is_dir():
        splits = _from_folder(path, source, config_name, cache)
    elif source.source == "digits":
        splits, source = load_digits(), replace(source, split=source.split or "test")
    else:
        splits = _from_hub(source, config_name, cache)
    return _one_split(splits, source)


class _SplitError(ValueError):
    """A split that is not there, that has to be named, or that is empty: said already."""


def _one_split(splits: Mapping[str, Dataset], source: DatasetSource) -> Dataset:
    _check_split(list(splits), source)
    if source.split is None:
        return next(iter(splits.values()))
    lengths = {name: len(dataset) for name, dataset in splits.items()}
    try:
        ranges = ReadInstruction.from_spec(source.split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"The split {source.split!r} of {source.source} cannot be read: {error}.") from error
    # Slices as those of a list: one that asks for too much gives what there is.
    slices = [(part.splitname, range(lengths[part.splitname])[part.from_ : part.to]) for part in ranges]
    parts = [splits[name].select(rows) for name, rows in slices if rows]
    if not parts:
        raise ValueError(f"The split {source.split!r} of {source.source} has no rows.")
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _check_split(names: Sequence[str], source: DatasetSource) -> None:
    """Before anything is built, where the names are known."""
    if source.split is None and len(names) > 1:
        raise _SplitError(
            f"{source.source} has the splits {', '.join(names)}: say which one, as {source.source}:{names[0]}."
        )
    wanted = [] if source.split is None else [part.split("[")[0] for part in source.split.split("+")]
    unknown = [name for name in wanted if names and name not in names]
    if unknown:
        raise _SplitError(f"{source.source} has no split {unknown[0]!r}: it has {', '.join(names)}.")


def _built(source: DatasetSource, kind: str, config_name: str | None = None, **options: Any) -> Mapping[str, Dataset]:
    """All splits, built in the cache by `datasets`; the split is checked first where its names are known by then."""
    builder = load_dataset_builder(kind, config_name, **options)
    _check_split([str(name) for name in builder.info.splits or builder.config.data_files or ()], source)
    builder.download_and_prepare()
    rows = {str(name): split.num_examples for name, split in builder.info.splits.items()}
    _check_split(list(rows), source)
    empty = [name for name, count in rows.items() if not count]
    if len(empty) == len(rows):
        raise _SplitError(f"{source.source} is empty: it has no rows.")
    # `datasets` builds no empty split: an empty one beside others is left out.
    return {name: builder.as_dataset(split=name) for name in rows if name not in empty}


def _from_file(file: Path, source: DatasetSource, cache: str | None) -> Mapping[str, Dataset]:
    if file.suffix.lower() not in _FORMATS:
        raise ValueError(f"{file} is no data set: SOURCE is {_KINDS}.")
    if not file.stat().st_size or (file.stat().st_size < 1000 and not file.read_bytes().strip()):
        raise ValueError(f"{file} is empty.")
    if file.suffix.lower() == ".json":
        _check_rows(file)
    options = {"sep": "\t"} if file.suffix.lower() == ".tsv" else {}
    kind = _FORMATS[file.suffix.lower()]
    with _one_sentence(f"{file} cannot be read as {kind}"):
        splits = _built(source, kind, data_files={"train": _escaped(file)}, cache_dir=cache, **options)
    if kind == "csv":
        _check_header(file, splits["train"].column_names)
    return splits


def _check_header(file: Path, columns: Sequence[str]) -> None:
    """A first line that holds numbers, or one value twice (`pandas` numbers the second), is a row."""
    suspicious = [column for column in columns if re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?(\.\d+)?", column, re.I)]
    if suspicious:
        raise ValueError(
            f"The first line of {file} reads as a row, not as names of columns ({', '.join(columns)}): add a header."
        )


def _check_rows(file: Path) -> None:
    """A `.json` file is a list of rows or one row a line; `datasets` would take a dict for a single row."""
    with file.open(encoding="utf-8-sig") as opened:
        first = next((line for line in opened if line.strip()), "")
        rest = next((line for line in opened if line.strip()), "")
    if not first.lstrip().startswith("{") or (rest and _is_json(first)):
        return
    try:
        read = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as json: {error}.") from error
    if not any(isinstance(value, list | dict) for value in read.values()):
        return
    keys = ", ".join(list(read)[:10])
    what = "a dict of splits" if _are_splits(read) else "one JSON object"
    raise ValueError(
        f"{file} holds {what} ({keys}): give a list of rows, or one row a line, and a file of its own for each split."
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _are_splits(read: Mapping[str, Any]) -> bool:
    return all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in read.values())


def _from_folder(
    folder: Path, source: DatasetSource, config_name: str | None, cache: str | None
) -> Mapping[str, Dataset]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        with _one_sentence(f"{folder} cannot be loaded from disk"):
            saved = _saved(folder)
        return saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
    files = list(_files(folder))
    for kind, suffixes in _FOLDERS.items():
        found = [file for file in files if file.suffix.lower() in suffixes]
        if found:
            described = any(file.name in _METADATA for file in files)
            options = {} if described else _class_folders(folder, found)
            with _one_sentence(f"{folder} cannot be read as {kind}"):
                return _built(source, kind, data_dir=_escaped(folder), cache_dir=cache, **options)
    if not any(file.suffix.lower() in _FORMATS for file in files):
        raise ValueError(f"{folder} holds no data set (no images in it either): SOURCE is {_KINDS}.")
    with _one_sentence(f"{folder} cannot be read"):
        return _built(source, str(folder), config_name, cache_dir=cache)


def _saved(folder: Path) -> Dataset | DatasetDict:
    try:
        return load_from_disk(str(folder))
    except IndexError as error:  # `datasets` 5 saves a set without rows, and cannot load it
        raise _SplitError(f"{folder} is empty, or a split in it: a saved set has no rows.") from error


def _files(folder: Path) -> Iterator[Path]:
    """Files that `datasets` would see: hidden ones are left out."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def _class_folders(folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Options that read `[SPLIT/]CLASS/FILE` as it stands there.

    Left to itself `datasets` looks for `train` and `test` in every name of a file, and leaves out all others.
    """
    parts = [file.relative_to(folder).parts for file in files]
    tops = sorted({part[0] for part in parts})
    depth = 3 if all(len(part) == 3 for part in parts) and all(t.lower() in _SPLIT_FOLDERS for t in tops) else 2
    wrong = next((Path(*part) for part in parts if len(part) != depth), None)
    if wrong is not None:
        raise ValueError(
            f"{folder} holds {wrong}, which is in no class folder: each file lies in CLASS/FILE, or all of them in "
            "SPLIT/CLASS/FILE with splits such as train and test."
        )
    patterns = {top: f"{top}/**" for top in tops} if depth == 3 else {"train": "**"}
    return {"data_files": patterns, "drop_labels": False}


def _from_hub(source: DatasetSource, config_name: str | None, cache: str | None) -> Mapping[str, Dataset]:
    found = _HUB_ID.fullmatch(source.source)
    if found is None or Path(source.source).suffix.lower() in _FORMATS:
        raise FileNotFoundError(f"There is no file or folder {source.source}: SOURCE is {_KINDS}.")
    sentence = (
        f"The data set {source.source!r} is no file or folder here, and could not be had from the Hub or its cache"
    )
    with _one_sentence(sentence, OSError):
        return _built(source, found["path"], config_name, revision=found["revision"], cache_dir=cache)


@contextmanager
def _one_sentence(what: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """The many errors of loading as one sentence: what could not be done, and the first reason."""
    verbosity = get_verbosity()
    set_verbosity(CRITICAL)  # `datasets` logs what it raises
    try:
        yield
    except _SplitError:
        raise
    except _LOAD_ERRORS as error:
        # `datasets` wraps what pandas or pyarrow say into "An error occurred while generating the dataset".
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        if "Config name is missing" in str(error):
            names = re.search(r"available configs: \[(.*?)\]", str(error))
            listed = f" ({names[1]})" if names else ""
            raise ValueError(f"{what}: it has several configurations{listed}, name one with --config-name.") from error
        raise kind(f"{what}: {_first_line(reason).rstrip('.')}.") from error
    finally:
        set_verbosity(verbosity)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _escaped(path: Path) -> str:
    """`datasets` takes a path for a pattern."""
    return glob.escape(str(path.resolve()))
