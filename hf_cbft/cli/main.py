# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft COMMAND`: picks the command, and turns what goes wrong into an exit status.

0 done, 1 failed while running, 2 wrong usage or an input that cannot be had, 130 interrupted.
"""

import sys
import traceback
from importlib import import_module
from types import ModuleType

import hf_cbft

# Each command is a module with `Arguments` (a dataclass), `check(arguments)` and `run(arguments)`.
_COMMANDS = {"demo": "hf_cbft.cli.demo"}


def _usage() -> str:
    lines = ["usage: hf-cbft COMMAND [options]", "", hf_cbft.__doc__ or "", "", "commands:"]
    for name, module in _COMMANDS.items():
        summary = (import_module(module).__doc__ or "").splitlines()[0]
        lines.append(f"  {name:10} {summary}")
    return "\n".join([*lines, "", "hf-cbft COMMAND --help lists the options; hf-cbft --version prints the version."])


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv (`list[str]`, *optional*): command and options; `None` takes those of the process.

    Returns:
        `int`: the exit status.
    """
    argv = sys.argv[1:] if argv is None else argv
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
    from transformers import HfArgumentParser

    parser = HfArgumentParser(command.Arguments, prog=f"hf-cbft {name}", description=command.__doc__)
    try:
        (arguments,) = parser.parse_args_into_dataclasses(args=options, look_for_args_file=False)
        command.check(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except (ValueError, OSError, ImportError) as error:
        print(f"hf-cbft {name}: error: {error}", file=sys.stderr)
        return 2
    try:
        return command.run(arguments)
    except KeyboardInterrupt as interruption:
        print(f"\nhf-cbft {name}: interrupted. {interruption}".rstrip(), file=sys.stderr)
        return 130
    except Exception:  # the last line of defence: whatever it is, the status says that the run failed
        traceback.print_exc()
        return 1
