# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Options in a YAML file: read with the line of each mistake, and written such that they read back the same."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

import hf_cbft
from hf_cbft.files import write_text

# How a run found its folder rather than what it does, and what is nobody else's business.
_NOT_WRITTEN = ("resume", "resume_from_checkpoint", "overwrite", "hub_token")
_MAP, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "null"))


@dataclass(frozen=True)
class OptionType:
    """The values that a file may give for an option.

    Args:
        convert (`Callable`): from the text of one value to the value; a `ValueError` says what it takes instead.
        takes (`str`): "a whole number", "true or false", ...
        single (`bool`): whether one value is a value, and not a list of one.
        many (`bool`): whether a list of values is one.
        mapping (`bool`): whether a mapping is one.
    """

    convert: Callable[[str], Any]
    takes: str
    single: bool = True
    many: bool = False
    mapping: bool = False

    def from_flag(self, text: str) -> Any:
        """The value of a flag, or the error by which argparse learns what is wrong with it."""
        try:
            return self.convert(text)
        except ValueError:
            raise ArgumentTypeError(f"takes {self.takes}, not {text!r}.") from None


def nearest(name: str, known: Iterable[str]) -> str | None:
    found = get_close_matches(name, list(known), n=1)
    return found[0] if found else None


def read_config(file: str | Path, types: Mapping[str, OptionType], command: str, program: str) -> dict[str, Any]:
    """The options that a file gives.

    Values are read as the words of a flag are: `no` is a text where a text is wanted, and `1e-3` a number. `null` is
    as if the key were not there. Dashes in a key count as underscores.

    Args:
        file (`str` or `Path`): a YAML mapping from options to values.
        types (`Mapping[str, OptionType]`): the options that there are.
        command (`str`), program (`str`): whose options they are and how it is called, for the messages.

    Raises:
        ValueError: the file cannot be read or is no mapping, a key stands there twice or is no option, or a value is
            of the wrong type. The message names file, line and key.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(Path(file).read_text(encoding="utf-8"))
        return _options(str(file), loader, types, command, program)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"--config {file} cannot be read: {reason}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}, line {mark.line + 1}" if mark else str(file)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise ValueError(f"{where}: this is no YAML: {what}.") from None
    finally:
        if loader is not None:
            loader.dispose()


def _options(file: str, loader: Any, types: Mapping[str, OptionType], command: str, program: str) -> dict[str, Any]:
    root = loader.get_single_node()
    if root is None:
        raise ValueError(f"{file} is empty: give options as lines of name: value.")
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{_place(file, root)}: {_kind(root)} is no mapping: give options as lines of name: value.")
    lines: dict[str, int] = {}
    found: dict[str, Any] = {}
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{_place(file, key)}: {_kind(key)} is no name of an option.")
        name = key.value.replace("-", "_")
        if name not in types:
            near = nearest(name, types)
            advice = f"did you mean {near}?" if near else f"{program} --help lists them."
            raise ValueError(f"{_place(file, key)}: {command} has no option {key.value!r}; {advice}")
        if name in lines:
            raise ValueError(f"{_place(file, key)}: {name} is there already, in line {lines[name]}: keep one of them.")
        lines[name] = key.start_mark.line + 1
        if value.tag != _NULL:
            found[name] = _value(file, loader, name, value, types[name])
    return found


def _value(file: str, loader: Any, name: str, node: Any, option: OptionType) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value = _scalar(file, name, node, option)
        return value if option.single else [value]
    if isinstance(node, yaml.SequenceNode) and option.many:
        return [_scalar(file, name, item, option) for item in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == _MAP and option.mapping:
        return loader.construct_document(node)
    takes = option.takes if option.single else f"a list, each {option.takes}"
    raise ValueError(f"{_place(file, node)}: {name} takes {takes}, not {_kind(node)}.")


def _scalar(file: str, name: str, node: Any, option: OptionType) -> Any:
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        raise ValueError(f"{_place(file, node)}: in the list, {name} takes {option.takes}, not {_kind(node)}.")
    # YAML's own spellings of what is no finite number.
    special = node.tag.endswith(":float") and node.value.lower().lstrip("+-") in (".inf", ".nan")
    try:
        return option.convert(node.value.replace(".", "") if special else node.value)
    except ValueError:
        raise ValueError(f"{_place(file, node)}: {name} takes {option.takes}, not {node.value!r}.") from None


def _place(file: str, node: Any) -> str:
    return f"{file}, line {node.start_mark.line + 1}"


def _kind(node: Any) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "null" if node.tag == _NULL else repr(node.value)


def config_file(folder: str | Path, command: str) -> Path:
    return Path(folder) / f"{command}.yaml"


def write_config(folder: str | Path, command: str, options: Mapping[str, Any], program: str) -> None:
    """Write `<folder>/<command>.yaml`, from which `<program> --config` does the same again.

    Left out is how a run found its folder (`resume`, `resume_from_checkpoint`, `overwrite`), and the Hub's token.

    Args:
        folder (`str` or `Path`): is there.
        command (`str`): of `hf-cbft`.
        options (`Mapping[str, Any]`): every option as it was resolved.
        program (`str`): how the command is called.
    """
    kept = {name: _plain(value) for name, value in options.items() if name not in _NOT_WRITTEN}
    head = f"# hf-cbft {hf_cbft.__version__}: {program} --config {command}.yaml is this run again.\n"
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=119)
    write_text(config_file(folder, command), head + text)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
