# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Read a checkpoint without its weights: configuration, and names, shapes and types of its tensors."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_cbft.checkpoints.sources import (
    ADAPTER_CONFIG,
    CONFIG,
    CONNECTIONS,
    Folder,
    Repository,
    TensorHeader,
    open_source,
    read_json,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "model.pt", "pytorch_model.pt")


@dataclass
class Checkpoint:
    """A model, or an adapter, as its small files and headers give it.

    Args:
        name (`str`): the folder or Hub id, with its revision.
        source (`Folder` or `Repository`): where its files are.
        config (`dict`): `config.json`, or `adapter_config.json` for an adapter.
        tensors (`dict[str, TensorHeader]`): by name, over all files.
        files (`list[str]`): the weight files.
    """

    name: str
    source: Folder | Repository
    config: dict[str, Any]
    tensors: dict[str, TensorHeader]
    files: list[str] = field(default_factory=list)


@dataclass
class EndPoint:
    """A model, or an adapter on a model. `named_base` is the base that the adapter itself names."""

    name: str
    model: Checkpoint
    adapter: Checkpoint | None = None
    named_base: str | None = None


def split_adapter(source: str) -> tuple[str, str | None]:
    """`base+adapter` in two, at the first plus sign where both sides can be a checkpoint. A folder keeps its name."""
    if "+" not in source or Path(source).exists():
        return source, None
    pieces = source.split("+")
    splits = [("+".join(pieces[:i]), "+".join(pieces[i:])) for i in range(1, len(pieces))]
    for base, adapter in splits:
        if all(Path(part).exists() or "+" not in part for part in (base, adapter)):
            return base, adapter
    return splits[0]


def read_end_point(
    source: str | Path, token: str | bool | None = None, known: dict[str, Any] | None = None
) -> EndPoint:
    """The model or adapter at a folder, `org/name`, `org/name@revision` or `base+adapter`.

    Args:
        source (`str` or `Path`): where it is.
        token (`str` or `bool`, *optional*): for private repositories; `None` is the usual one.
        known (`dict`, *optional*): checkpoints that were read before, by name; what is read is added.

    Raises:
        ValueError: neither a folder nor a Hub id; files that are missing, damaged or pickled.
        OSError: what is there cannot be read, or the Hub cannot be reached.
    """
    known = {} if known is None else known
    base, adapter_name = split_adapter(str(source))
    opened = open_source(base, token)
    if adapter_name is None and CONFIG not in opened.names and ADAPTER_CONFIG in opened.names:
        adapter = _read(opened, ADAPTER_CONFIG)
        named = adapter.config.get("base_model_name_or_path")
        if not named:
            raise ValueError(f"{adapter.name} is an adapter that names no base: give it as BASE+{adapter.name}.")
        revision = adapter.config.get("revision")
        base = f"{named}@{revision}" if revision and not Path(named).exists() else str(named)
        try:
            model = known[base] if base in known else _read(open_source(base, token), CONFIG)
        except (ValueError, OSError) as error:
            raise type(error)(f"The base of the adapter {adapter.name}: {error}") from None
        known[base] = model
        return EndPoint(str(source), model, adapter, base)
    model = known[base] if base in known else _read(opened, CONFIG)
    known[base] = model
    if adapter_name is None:
        return EndPoint(str(source), model)
    opened = open_source(adapter_name, token)
    if ADAPTER_CONFIG not in opened.names:
        raise ValueError(
            f"{opened.name} holds no {ADAPTER_CONFIG}, and what follows a plus sign has to be an adapter: give "
            "BASE+ADAPTER."
        )
    adapter = _read(opened, ADAPTER_CONFIG)
    return EndPoint(str(source), model, adapter, adapter.config.get("base_model_name_or_path"))


def _read(source: Folder | Repository, config_file: str) -> Checkpoint:
    if config_file not in source.names:
        inside = sorted(name for name in source.subfolders if name.startswith("checkpoint-"))
        advice = f"name one in it, such as {inside[-1]}" if inside else "give the folder of a checkpoint"
        raise ValueError(f"{source.name} holds no {config_file}: {advice}.")
    config = read_json(source, config_file)
    if not isinstance(config, dict):
        raise ValueError(f"{source.name}: {config_file} is not a configuration; fetch or save the checkpoint again.")
    files, expected = _weight_files(source, config_file)
    tensors: dict[str, TensorHeader] = {}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for name, header in zip(files, pool.map(source.header, files), strict=True):
            lost = [tensor for tensor, file in expected.items() if file == name and tensor not in header]
            if lost:
                raise ValueError(f"{source.name}: {INDEX} names {lost[0]} in {name}, and it is not there.")
            tensors.update(header)
    return Checkpoint(source.name, source, config, tensors, files)


def _weight_files(source: Folder | Repository, config_file: str) -> tuple[list[str], dict[str, str]]:
    """The safetensors files, and which of them the index names for each tensor."""
    single = ADAPTER_WEIGHTS if config_file == ADAPTER_CONFIG else WEIGHTS
    if single in source.names:
        return [single], {}
    if single == WEIGHTS and INDEX in source.names:
        index = read_json(source, INDEX)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{source.name}: {INDEX} has no weight_map; fetch or save the checkpoint again.")
        files = sorted(set(weight_map.values()))
        missing = [name for name in files if name not in source.names]
        if missing:
            raise ValueError(
                f"{source.name}: {INDEX} names {missing[0]}, which is missing ({len(missing)} of {len(files)} files "
                "are): fetch or save the checkpoint again."
            )
        return files, weight_map
    pickles = [name for name in _PICKLES if name in source.names]
    if pickles:
        raise ValueError(
            f"{source.name} has its weights in a pickle only ({pickles[0]}), which nothing but running it can read: "
            "where you trust its source, load it once and save it with save_pretrained, which writes safetensors."
        )
    raise ValueError(f"{source.name} holds {config_file} and no safetensors weights ({single}).")
