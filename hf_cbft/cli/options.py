# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The options of a command: its dataclasses as a parser, with a help that people read, and what the user gave."""

import argparse
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import MISSING, fields
from enum import Enum
from types import ModuleType, NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from hf_cbft.cli.config_files import OptionType, nearest, read_config

_WIDTH = 100
# Of more choices, a message shows so many.
_LISTED = 12
_TRUTH = {
    **dict.fromkeys(["yes", "true", "t", "y", "1"], True),
    **dict.fromkeys(["no", "false", "f", "n", "0"], False),
}
_SAYS_DEFAULT = re.compile(r"\bdefault|\bif not given\b", re.I)
# --debug is ours: it takes no value and is no setting of a run. No text makes a ParallelismConfig.
_NO_OPTIONS = ("debug", "parallelism_config")


def _mapping(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError(text)
    return _TRUTH[text.lower()]


def _text_or_true(text: str) -> str | bool:
    """A flag that may stand alone is True, and is written as that."""
    return True if text.lower() == "true" else text


# By the type of a field: how a text becomes a value, what a message says it takes, what the help calls it.
_KINDS: dict[type, tuple[Callable[[str], Any], str, str | None]] = {
    bool: (_truth, "true or false", None),
    dict: (_mapping, "a mapping as JSON", None),
    float: (float, "a number", "X"),
    int: (int, "a whole number", "N"),
    str: (str, "a text", None),
}


class CommandParser(argparse.ArgumentParser):
    """The parser of one command. A mistake is a `ValueError` of one sentence.

    Args:
        name (`str`): of the command.
        command (`ModuleType`): with `Arguments`, and perhaps `POSITIONAL`, `EXAMPLE`, `more_arguments` and
            `MORE_SHOWN`. A field that several classes define is one option, with the first one's default.
        show_all (`bool`, *optional*, defaults to `False`): whether the help lists what it leaves out otherwise.
        program (`str`, *optional*): how it is called; `None`: `hf-cbft NAME`.
    """

    def __init__(self, name: str, command: ModuleType, show_all: bool = False, program: str | None = None) -> None:
        self.name, self.program = name, program or f"hf-cbft {name}"
        self.positional: tuple[str, ...] = getattr(command, "POSITIONAL", ())
        self.more: tuple[type, ...] = getattr(command, "more_arguments", tuple)()
        self.dataclasses = (command.Arguments, *self.more)
        self.types: dict[str, OptionType] = {}
        self.defaults: dict[str, Any] = {}
        self._switches: set[str] = set()
        width = min(_WIDTH, shutil.get_terminal_size().columns - 2)
        example = textwrap.dedent(getattr(command, "EXAMPLE", "")).strip()
        super().__init__(
            prog=self.program,
            usage=" ".join([self.program, *(field.upper() for field in self.positional), "[options]"]),
            description="\n".join(textwrap.wrap((command.__doc__ or "").strip(), width)),
            epilog="example:\n" + textwrap.indent(example, "  ") if example else None,
            formatter_class=lambda prog: _Formatter(prog, max_help_position=28, width=width),
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
            argument_default=argparse.SUPPRESS,  # what is not given may stand in the file
        )
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own does not know -1e-3
        for word in self.positional:
            # The flag of the same name has the help.
            if word.endswith("..."):
                self.add_argument(word.removesuffix("..."), nargs="*", action="extend", help=argparse.SUPPRESS)
            else:
                self.add_argument(word, nargs="?", help=argparse.SUPPRESS)
        for dtype in self.dataclasses:
            for owner in dtype.__mro__:
                some_hidden = dtype in self.more and owner is not dtype and not show_all
                self._add_fields(dtype, owner, getattr(command, "MORE_SHOWN", ()) if some_hidden else None)
        self._add_common(hasattr(command, "RESULT_FILES"))

    def _add_common(self, prints_json: bool) -> None:
        group = self.add_argument_group("for every command")
        group.add_argument("--config", metavar=" FILE", help="YAML file of options; flags beside it win.")
        # main takes these two out: they say what it shows, of mistakes in the other options too.
        if prints_json:
            group.add_argument("--json", action="store_true", help="Print the result as JSON, and all else to stderr.")
        group.add_argument("--debug", action="store_true", help="Show where an error came from.")
        group.add_argument("-h", "--help", action="help", help="Show this page.")
        all_options = "Show the page with every option." if self.more else argparse.SUPPRESS
        group.add_argument("--help-all", dest="help", action="help", help=all_options)

    def _add_fields(self, dtype: type, owner: type, shown: Collection[str] | None) -> None:
        """Add the fields that a class has from `owner`; the help lists all of them, or those in `shown`."""
        hints, written = get_type_hints(dtype), inspect.get_annotations(owner)
        taken = (*self.types, *_NO_OPTIONS)
        own = [field for field in fields(dtype) if field.init and field.name in written and field.name not in taken]
        if not own:
            return
        title = owner.__dict__.get("TITLE") or (owner.__name__ if dtype in self.more else "options")
        about = f"Each field of {owner.__name__} is an option: --help-all lists them."
        group = self.add_argument_group(title, None if shown is None else about)
        for field in own:
            self._add_field(group, field, hints[field.name], is_shown=shown is None or field.name in shown)

    def _add_field(self, group: Any, field: Any, hint: Any, is_shown: bool) -> None:
        name = field.name
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        # What may be None or a text is read as a text, whatever else it may be.
        others = [] if str in types and NoneType in types else [one for one in types if one not in (str, NoneType)]
        kind: Any = others[0] if others else str
        is_list = get_origin(kind) is list
        is_word = name in (word.removesuffix("...") for word in self.positional)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        is_enum = isinstance(kind, type) and issubclass(kind, Enum)
        choices = [one.value for one in kind] if is_enum else list(field.metadata.get("choices", ()))
        each = get_args(kind)[0] if is_list else get_origin(kind) or kind
        convert, takes, value = _one_of(choices) if choices else _KINDS.get(each, _KINDS[str])
        stands_alone = "nargs" in field.metadata or (kind is bool and default is not None)
        if stands_alone and convert is str:
            convert = _text_or_true
        origins = {get_origin(one) or one for one in types}
        self.types[name] = OptionType(convert, takes, not is_list, list in origins, dict in origins)
        self.defaults[name] = default

        if not value:
            value = (name if is_word else name.removesuffix("s").rsplit("_", 1)[-1]).upper()
        flags = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
        about = _with_default(field.metadata["help"], default) if is_shown else argparse.SUPPRESS
        options: dict[str, Any] = {"metavar": f" {value}"}
        if is_list:
            options = {"metavar": f" {value} ...", "nargs": "+", "action": "extend"}
        elif stands_alone and each is bool:
            options = {"metavar": f", --no_{name}" if default is True else ""}
            self._switches.update(flags)
        elif stands_alone:
            options = {"metavar": "", "nargs": "?", "const": True}
        group.add_argument(*flags, dest=name, type=self.types[name].from_flag, help=about, **options)
        if default is True:
            options = {"action": "store_false", "help": argparse.SUPPRESS}
            group.add_argument(f"--no_{name}", f"--no-{name.replace('_', '-')}", dest=name, **options)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def resolve(self, options: Sequence[str]) -> dict[str, Any]:
        """Every option: as a flag gives it, else as the file of `--config` does, else its default.

        Raises:
            ValueError: an option that is not there or lacks, or a value that it does not take.
            SystemExit: the help was asked for, and shown.
        """
        try:
            given, left = self.parse_known_intermixed_args(self._with_truth_values(options))
        except argparse.ArgumentError as error:
            flag = (error.argument_name or "").split("/")[0]
            expected = error.message.startswith("expected")
            raise ValueError(f"{flag} needs a value." if expected else f"{flag} {error.message}") from None
        if left:
            self._refuse(left[0])
        values = {name: value for name, value in vars(given).items() if name in self.types}
        in_file = read_config(given.config, self.types, self.name, self.program) if "config" in given else {}
        resolved = {**self.defaults, **in_file, **values}
        lacking = [f"--{name}" for name, value in resolved.items() if value is MISSING]
        if lacking:
            raise ValueError(f"{' and '.join(lacking)} must be given: {self.program} --help shows an example.")
        return resolved

    def instances(self, resolved: dict[str, Any]) -> tuple[Any, ...]:
        """The dataclasses of the resolved options."""
        names = [[field.name for field in fields(dtype) if field.init] for dtype in self.dataclasses]
        return tuple(
            dtype(**{name: copy(resolved[name]) for name in own if name in resolved})
            for dtype, own in zip(self.dataclasses, names, strict=True)
        )

    def _with_truth_values(self, options: Sequence[str]) -> list[str]:
        """Each switch with its value, in one word: argparse would take any word that follows it for the value."""
        words: list[str] = []
        for option in options:
            if words and words[-1] in self._switches and option.lower() in _TRUTH:
                words[-1] += f"={option}"
            else:
                words.append(option)
        return [f"{word}=true" if word in self._switches else word for word in words]

    def _refuse(self, option: str) -> NoReturn:
        if not option.startswith("-"):
            takes = " ".join(name.upper() for name in self.positional) or "no words before its options"
            raise ValueError(f"{option!r} is one word too many: {self.name} takes {takes}.")
        flag = option.split("=")[0]
        known = [f"--{name}" for name in [*self.types, "config", "debug", "help"]]
        near = nearest(flag.replace("-", "_").replace("__", "--", 1), known)
        advice = f"did you mean {near}?" if near else f"{self.program} --help lists them."
        raise ValueError(f"{self.name} has no option {flag}; {advice}")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Each flag once: argparse would list both its spellings, with the values behind each."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flag = "-h, --help" if "-h" in action.option_strings else action.option_strings[0]
        return f"{flag}{action.metavar or ''}"


def _one_of(choices: list[str]) -> tuple[Callable[[str], str], str, str | None]:
    def chosen(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    shown = [*choices[:_LISTED], *["..."] * (len(choices) > _LISTED)]
    return chosen, f"one of {', '.join(shown)}", f"{{{','.join(choices)}}}" if len(choices) <= 4 else None


def _with_default(text: str, default: Any) -> str:
    """A help with the default, where the sentence does not name it."""
    if isinstance(default, bool) or default in (None, "", [], MISSING) or _SAYS_DEFAULT.search(text):
        return text
    shown = " ".join(map(str, default)) if isinstance(default, list) else getattr(default, "value", default)
    return f"{text} (default: {str(shown).replace('%', '%%')})"
