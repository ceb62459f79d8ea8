# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft COMMAND`: picks the command, and turns what goes wrong into an exit status.

0 done, 1 failed while running (or, for `check`, not compatible), 2 wrong usage or an input that cannot be had, 130
interrupted.
"""

import sys
import traceback
from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import Any

import hf_cbft

# Each command is a module with `Arguments` (a dataclass), `check(arguments)` and `run(arguments)`. `POSITIONAL`, where
# it is there, names the fields that are given without their flags; a last one that ends in "..." takes all that are
# left.
_COMMANDS = {
    "check": "hf_cbft.cli.check",
    "curve": "hf_cbft.cli.curve",
    "demo": "hf_cbft.cli.demo",
    "evaluate": "hf_cbft.cli.evaluate",
    "matrix": "hf_cbft.cli.matrix",
    "reproduce": "hf_cbft.cli.reproduce",
}

_TRUTH_VALUES = ("yes", "no", "true", "false", "t", "f", "y", "n", "1", "0")
# What an input is to blame for rather than this program.
_INPUT_ERRORS = (ValueError, OSError, ImportError, NotImplementedError)


def _usage() -> str:
    lines = ["usage: hf-cbft COMMAND [options]", "", hf_cbft.__doc__ or "", "", "commands:"]
    for name, module in _COMMANDS.items():
        summary = (import_module(module).__doc__ or "").splitlines()[0]
        lines.append(f"  {name:10} {summary}")
    return "\n".join(
        [
            *lines,
            "",
            "hf-cbft COMMAND --help lists the options; each can also stand in a file: --config file.yaml.",
            "--debug shows where an error came from; hf-cbft --version prints the version.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv (`list[str]`, *optional*): command and options; `None` takes those of the process.

    Returns:
        `int`: the exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--version"]:
        print(f"hf-cbft {hf_cbft.__version__}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] not in _COMMANDS:
        print(f"hf-cbft: error: unknown command {argv[0]!r}; there is {', '.join(_COMMANDS)}.", file=sys.stderr)
        return 2
    return _run_command(argv[0], import_module(_COMMANDS[argv[0]]), argv[1:])


def _run_command(name: str, command: ModuleType, options: list[str]) -> int:
    debug = "--debug" in options
    try:
        arguments = _parse(name, command, [option for option in options if option != "--debug"])
        command.check(arguments)
        return command.run(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except KeyboardInterrupt as interruption:
        print(f"\nhf-cbft {name}: interrupted. {interruption}".rstrip(), file=sys.stderr)
        return 130
    except _INPUT_ERRORS as error:
        if debug:
            traceback.print_exc()
        print(f"hf-cbft {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception:  # the last line of defence: whatever it is, the status says that the run failed
        traceback.print_exc()
        return 1


def _parse(name: str, command: ModuleType, options: list[str]) -> Any:
    from transformers import HfArgumentParser

    positional: tuple[str, ...] = getattr(command, "POSITIONAL", ())
    usage = " ".join([f"hf-cbft {name}", *(field.upper() for field in positional), "[options]"])
    parser = HfArgumentParser(command.Arguments, prog=f"hf-cbft {name}", usage=usage, description=command.__doc__)
    switches = [field.name for field in fields(command.Arguments) if field.type in (bool, "bool")]
    given = _with_flags(options, positional, switches)
    (arguments,) = parser.parse_args_into_dataclasses(
        args=[*_from_config(parser, command.Arguments, given), *given], look_for_args_file=False
    )
    return arguments


def _with_flags(options: list[str], positional: tuple[str, ...], switches: list[str]) -> list[str]:
    """The words that stand before the first flag, or behind a switch, under the flags of their fields."""
    words: list[str] = []
    flagged: list[str] = []
    for index, option in enumerate(options):
        before = options[index - 1] if index else ""
        after_switch = before.removeprefix("--") in switches and option.lower() not in _TRUTH_VALUES
        if not option.startswith("-") and (len(words) == index or after_switch or before in words):
            words.append(option)
        else:
            flagged.append(option)
    found: list[str] = []
    for field in positional:
        many = field.endswith("...")
        taken, words = (words, []) if many else (words[:1], words[1:])
        if taken:
            found += [f"--{field.removesuffix('...')}", *taken]
    return [*found, *words, *flagged]


def _from_config(parser: Any, arguments: Any, options: list[str]) -> list[str]:
    """The options of `--config file.yaml`, which is taken out of `options`; what is given beside it comes later."""
    if "--config" not in options:
        return []
    import yaml

    index = options.index("--config")
    if index + 1 == len(options):
        parser.error("--config needs a file.")
    file = options[index + 1]
    del options[index : index + 2]
    try:
        with open(file, encoding="utf-8") as opened:
            settings = yaml.safe_load(opened)
    except (OSError, yaml.YAMLError) as error:
        parser.error(f"--config {file} cannot be read: {' '.join(str(error).split())}")
    known = {field.name for field in fields(arguments)}
    if not isinstance(settings, dict) or not settings.keys() <= known:
        wrong = sorted(set(settings) - known) if isinstance(settings, dict) else "no options"
        parser.error(f"--config {file} has {wrong}; the options are {', '.join(sorted(known))}.")
    found: list[str] = []
    for key, value in settings.items():
        if isinstance(value, dict):
            parser.error(f"--config {file} gives a mapping for {key}: give a value or a list.")
        found += [f"--{key}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return found
