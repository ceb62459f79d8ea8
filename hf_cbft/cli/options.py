# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The options of a command: its dataclasses as a parser, with a help that people read, and what the user gave."""

import argparse
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from types import ModuleType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from transformers.hf_argparser import HfArgumentParser, string_to_bool

from hf_cbft.cli.config_files import OptionType, nearest, read_config

_WIDTH = 100
# Of more choices, a message shows so many.
_LISTED = 12
_TRUTH_VALUES = ("yes", "no", "true", "false", "t", "f", "y", "n", "1", "0")
_NUMBERS = {int: "N", float: "X"}
_SAYS_DEFAULT = re.compile(r"\bdefault|\bif not given\b", re.I)
# --debug is ours: it takes no value and is no setting of a run. No text makes a ParallelismConfig.
_NO_OPTIONS = ("debug", "parallelism_config")
_NOT_GIVEN = object()
_NEGATIVE_NUMBER = re.compile(r"-\.?\d")


def _mapping(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _text_or_true(text: str) -> str | bool:
    """A flag that may stand alone is True, and is written as that."""
    return True if text.lower() == "true" else text


_KINDS = {int: "a whole number", float: "a number", string_to_bool: "true or false", _mapping: "a mapping as JSON"}


class CommandParser(HfArgumentParser):
    """The parser of one command. A mistake is a `ValueError` of one sentence.

    Args:
        name (`str`): of the command.
        command (`ModuleType`): with `Arguments`, and perhaps `POSITIONAL`, `EXAMPLE`, `more_arguments` and
            `MORE_SHOWN`. A field that several classes define is one option, with the first one's default.
        show_all (`bool`, *optional*, defaults to `False`): whether the help lists what it leaves out otherwise.
    """

    def __init__(self, name: str, command: ModuleType, show_all: bool = False) -> None:
        self.name, self.show_all = name, show_all
        self.positional: tuple[str, ...] = getattr(command, "POSITIONAL", ())
        self.more: tuple[type, ...] = getattr(command, "more_arguments", tuple)()
        self.more_shown: tuple[str, ...] = getattr(command, "MORE_SHOWN", ())
        self.types: dict[str, OptionType] = {}
        self.flags: dict[str, argparse.Action] = {}
        self._needed: list[str] = []
        self._prints_json = hasattr(command, "RESULT_FILES")
        width = min(_WIDTH, shutil.get_terminal_size().columns - 2)
        example = textwrap.dedent(getattr(command, "EXAMPLE", "")).strip()
        super().__init__(
            (command.Arguments, *self.more),
            prog=f"hf-cbft {name}",
            usage=" ".join([f"hf-cbft {name}", *(field.upper() for field in self.positional), "[options]"]),
            description="\n".join(textwrap.wrap((command.__doc__ or "").strip(), width)),
            epilog="example:\n" + textwrap.indent(example, "  ") if example else None,
            formatter_class=lambda prog: _Formatter(prog, max_help_position=28, width=width),
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self._negative_number_matcher = _NEGATIVE_NUMBER  # argparse's own does not know -1e-3
        self._add_common()

    def _add_common(self) -> None:
        group = self.add_argument_group("for every command")
        group.add_argument("--config", metavar="FILE", help="YAML file of options; flags beside it win.")
        # main takes these two out: they say what it shows, of mistakes in the other options too.
        if self._prints_json:
            group.add_argument("--json", action="store_true", help="Print the result as JSON, and all else to stderr.")
        group.add_argument("--debug", action="store_true", help="Show where an error came from.")
        group.add_argument("-h", "--help", action="help", help="Show this page.")
        all_options = "Show the page with every option." if self.more else argparse.SUPPRESS
        group.add_argument("--help-all", dest="help", action="help", help=all_options)

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        self.register("action", None, _Store)
        hints = get_type_hints(dtype)
        for owner in dtype.__mro__:
            names = [
                field.name
                for field in fields(dtype)
                if field.init and field.name not in (*self.flags, *_NO_OPTIONS) and _owner(dtype, field.name) is owner
            ]
            if not names:
                continue
            some_hidden = owner is not dtype and dtype in self.more and not self.show_all
            title = owner.__dict__.get("TITLE") or ("options" if dtype not in self.more else owner.__name__)
            about = f"Each field of {owner.__name__} is an option: --help-all lists them." if some_hidden else None
            group: Any = self.add_argument_group(title, about)
            for field in fields(dtype):
                if field.name in names:
                    self._add_option(group, field, hints[field.name])
                    if some_hidden and field.name not in self.more_shown:
                        self._hide(field.name)

    def _add_option(self, group: Any, field: Any, hint: Any) -> None:
        field = copy(field)  # the base class writes into it
        field.type = hint
        self._parse_dataclass_field(group, field)
        action = self._option_string_actions[f"--{field.name}"]
        self.flags[field.name] = action
        if action.required:
            self._needed.append(field.name)
            action.required = False  # it may stand in the file
        if field.name in (name.removesuffix("...") for name in self.positional):
            action.metavar = field.name.upper()
        convert: Any = _mapping if dict in (action.type, get_origin(action.type)) else action.type or str
        if action.nargs == "?" and convert is str:
            convert = _text_or_true
        choices = list(action.choices) if action.choices else []
        if action.metavar is None:
            action.metavar = _metavar(field.name, convert, choices)
        takes = _choice(choices) if choices else _KINDS.get(convert, "a text")
        many, mapping = _accepts(hint)
        single = not (isinstance(action.nargs, str) and action.nargs == "+")
        self.types[field.name] = OptionType(_converter(convert, choices), takes, single, many, mapping)
        action.type = _for_flags(self.types[field.name])
        action.choices = None  # the converter knows them
        negation = self._option_string_actions.get(f"--no_{field.name}")
        if negation is not None:
            negation.help = argparse.SUPPRESS

    def _hide(self, name: str) -> None:
        self.flags[name].help = argparse.SUPPRESS

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def resolve(self, options: Sequence[str]) -> dict[str, Any]:
        """Every option: as a flag gives it, else as the file of `--config` does, else its default.

        Raises:
            ValueError: an option that is not there or lacks, or a value that it does not take.
            SystemExit: the help was asked for, and shown.
        """
        given = argparse.Namespace(**dict.fromkeys([*self.flags, "config"], _NOT_GIVEN))
        try:
            _, left = self.parse_known_args(self._with_flags(options), given)
        except argparse.ArgumentError as error:
            flag = (error.argument_name or "").split("/")[0]
            expected = error.message.startswith("expected")
            raise ValueError(f"{flag} needs a value." if expected else f"{flag} {error.message}") from None
        if left:
            self._refuse(left[0])
        values = {name: value for name, value in vars(given).items() if name in self.flags and value is not _NOT_GIVEN}
        in_file = {} if given.config is _NOT_GIVEN else read_config(given.config, self.types, self.name)
        lacking = [f"--{name}" for name in self._needed if name not in values and name not in in_file]
        if lacking:
            raise ValueError(f"{' and '.join(lacking)} must be given: hf-cbft {self.name} --help shows an example.")
        defaults = {name: copy(action.default) for name, action in self.flags.items()}
        return {**defaults, **in_file, **values}

    def instances(self, resolved: dict[str, Any]) -> tuple[Any, ...]:
        """The dataclasses of the resolved options."""
        return tuple(
            dtype(
                **{
                    field.name: copy(resolved[field.name])
                    for field in fields(dtype)
                    if field.init and field.name in resolved
                }
            )
            for dtype in self.dataclass_types
        )

    def _refuse(self, option: str) -> NoReturn:
        if not option.startswith("-"):
            takes = " ".join(name.upper() for name in self.positional) or "no words before its options"
            raise ValueError(f"{option!r} is one word too many: {self.name} takes {takes}.")
        flag = option.split("=")[0]
        known = [f"--{name}" for name in [*self.flags, "config", "debug", "help"]]
        near = nearest(flag.replace("-", "_").replace("__", "--", 1), known)
        advice = f"did you mean {near}?" if near else f"hf-cbft {self.name} --help lists them."
        raise ValueError(f"{self.name} has no option {flag}; {advice}")

    def _with_flags(self, options: Sequence[str]) -> list[str]:
        """The words that no flag takes, under the flags of the fields that they are for."""
        words: list[str] = []
        flagged: list[str] = []
        switch, room = False, 0.0
        for option in options:
            if option.startswith("-") and not _NEGATIVE_NUMBER.match(option):
                action = self._option_string_actions.get(option)
                switch = action is not None and action.nargs == "?"
                takes_one = action is not None and (action.nargs is None or (switch and not self._is_truth(action)))
                # An unknown flag is refused later: what follows is its own.
                many = "=" not in option and (action is None or action.nargs == "+")
                room = float("inf") if many else float(takes_one)
                flagged.append(option)
            elif room or (switch and option.lower() in _TRUTH_VALUES):
                flagged.append(option)
                switch, room = False, max(0.0, room - 1.0)
            else:
                words.append(option)
                switch = False
        found: list[str] = []
        for field in self.positional:
            taken, words = (words, []) if field.endswith("...") else (words[:1], words[1:])
            if taken:
                found += [f"--{field.removesuffix('...')}", *taken]
        if words:
            self._refuse(words[0])
        return [*found, *flagged]

    def _is_truth(self, action: argparse.Action) -> bool:
        return self.types[action.dest].takes == _KINDS[string_to_bool]


class _Store(argparse._StoreAction):
    """A list that is given in parts is the sum of them, as one that loses its first part would be a surprise."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        earlier = getattr(namespace, self.dest, None)
        several = self.nargs == "+" and isinstance(earlier, list)
        setattr(namespace, self.dest, [*earlier, *values] if several else values)  # type: ignore[misc]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Each flag once, and a default where the sentence does not name it."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flag = next((flag for flag in action.option_strings if flag.startswith("--")), "")
        if flag == "--help":
            return "-h, --help"
        if action.nargs == 0:
            return flag
        if action.nargs == "?":
            return f"{flag}, --no_{action.dest}" if action.default is True else flag
        words = f"{action.metavar} ..." if action.nargs == "+" else str(action.metavar)
        return f"{flag} {words}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if isinstance(default, bool) or default in (None, "", [], argparse.SUPPRESS) or _SAYS_DEFAULT.search(text):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else getattr(default, "value", default)
        return f"{text} (default: {str(shown).replace('%', '%%')})"


def _owner(dtype: type, name: str) -> type:
    """The class that a field was written in."""
    return next(owner for owner in dtype.__mro__ if name in inspect.get_annotations(owner))


def _metavar(name: str, convert: Any, choices: list[Any]) -> str:
    if choices and len(choices) <= 4:
        return "{" + ",".join(map(str, choices)) + "}"
    return _NUMBERS.get(convert) or name.removesuffix("s").rsplit("_", 1)[-1].upper()


def _choice(choices: list[Any]) -> str:
    shown = list(map(str, choices[:_LISTED]))
    return f"one of {', '.join(shown + ['...'] * (len(choices) > _LISTED))}"


def _accepts(hint: Any) -> tuple[bool, bool]:
    """Whether a type takes a list, and whether it takes a mapping."""
    types = [get_origin(one) or one for one in (get_args(hint) if get_origin(hint) not in (list, dict) else (hint,))]
    types = types or [hint]
    return list in types, dict in types


def _converter(convert: Any, choices: list[Any]) -> Any:
    def converted(text: str) -> Any:
        try:
            value = convert(text)
        except (TypeError, argparse.ArgumentTypeError) as error:
            raise ValueError(str(error)) from None
        if choices and value not in choices:
            raise ValueError(text)
        return value

    return converted


def _for_flags(option: OptionType) -> Any:
    def converted(text: Any) -> Any:
        try:
            return option.convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes {option.takes}, not {text!r}.") from None

    return converted
