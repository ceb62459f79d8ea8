# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft COMMAND`: picks the command, keeps its options beside its output, and turns what goes wrong into a status.

0 done, 1 failed while running (or, for `check`, not compatible), 2 wrong usage or an input that cannot be had, 130
interrupted.
"""

import json
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType

import hf_cbft
from hf_cbft.cli.config_files import config_file, nearest, write_config

# Each command is a module with `Arguments` (a dataclass), `check(arguments)` and `run(arguments)`. It may also have
# POSITIONAL        the fields that are given without their flags; a last one that ends in "..." takes all the rest
# EXAMPLE           for its help
# more_arguments    a function that gives further dataclasses, whose instances `check` and `run` get too
# MORE_SHOWN        the inherited fields of those that the help shows
# RESULT_FILES      JSON files in its output folder, which --json prints
# APPEARS_WHOLE     True where the output folder must not be there before the command has finished
_COMMANDS = {
    "align": "hf_cbft.cli.commands.align",
    "check": "hf_cbft.cli.commands.check",
    "curve": "hf_cbft.cli.commands.curve",
    "demo": "hf_cbft.cli.commands.demo",
    "evaluate": "hf_cbft.cli.commands.evaluate",
    "matrix": "hf_cbft.cli.commands.matrix",
    "train": "hf_cbft.cli.commands.train",
}

# What was a command once, and how it is run now from a clone of the repository.
_MOVED = {"reproduce": "python examples/paper/run.py"}

# What an input is to blame for rather than this program.
_INPUT_ERRORS = (ValueError, OSError, ImportError, NotImplementedError)
_SECONDS_FOR_MAIN_RANK = 10


def _usage() -> str:
    lines = ["usage: hf-cbft COMMAND [options]", "", hf_cbft.__doc__ or "", "", "commands:"]
    for name, module in _COMMANDS.items():
        summary = (import_module(module).__doc__ or "").splitlines()[0]
        lines += textwrap.wrap(f"  {name:10} {summary}", 100, subsequent_indent=" " * 13)
    return "\n".join(
        [
            *lines,
            "",
            "hf-cbft COMMAND --help lists the options; each can also stand in a file: --config file.yaml.",
            "--debug shows where an error came from; hf-cbft --version prints the version.",
            "On several processes: accelerate launch -m hf_cbft COMMAND [options].",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv (`list[str]`, *optional*): command and options; `None` takes those of the process.

    Returns:
        `int`: the exit status.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in given if word != "--debug"]
    if words[:1] == ["--version"]:
        print(f"hf-cbft {hf_cbft.__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, *options = words
    if name in _MOVED:
        how = (
            f"in a clone of the repository, {_MOVED[name]} takes the same options, and resumes what was begun with it."
        )
        _say_error(f"hf-cbft: error: {name!r} is no command any more: {how}")
        return 2
    if name not in _COMMANDS:
        near = nearest(name, _COMMANDS)
        advice = f"did you mean {near}?" if near else f"there is {', '.join(_COMMANDS)}."
        _say_error(f"hf-cbft: error: unknown command {name!r}; {advice}")
        return 2
    return run_command(name, lambda: import_module(_COMMANDS[name]), options, f"hf-cbft {name}", "--debug" in given)


def run_command(
    name: str, load: Callable[[], ModuleType], options: list[str], program: str, debug: bool = False
) -> int:
    """Run one command; what goes wrong becomes a status and a sentence.

    Args:
        name (`str`): of the file beside its output, `NAME.yaml`.
        load (`Callable`): gives its module.
        options (`list[str]`): as they were given.
        program (`str`): how the messages call it.
        debug (`bool`, *optional*, defaults to `False`): whether they say where an error came from.
    """
    try:
        status = _start(name, load(), options, program)
        _leave_process_group()
        return status
    except SystemExit as stop:  # the help was shown
        return int(stop.code or 0)
    except KeyboardInterrupt as interruption:
        if _is_main_rank():
            print(f"\n{program}: interrupted. {interruption}".rstrip(), file=sys.stderr)
        return 130
    except _INPUT_ERRORS as error:
        origin = traceback.format_exc() if debug else ""
        _say_error(f"{origin}{program}: error: {' '.join(str(error).split())}")
        return 2
    except Exception:  # the last line of defence: whatever it is, the status says that the run failed
        traceback.print_exc()  # of each rank: it may be the only one that failed
        return 1


def _start(name: str, command: ModuleType, options: list[str], program: str) -> int:
    from hf_cbft.cli.options import CommandParser

    as_json = hasattr(command, "RESULT_FILES") and "--json" in options
    parser = CommandParser(name, command, "--help-all" in options, program)
    resolved = parser.resolve([option for option in options if not (as_json and option == "--json")])
    arguments = parser.instances(resolved)
    command.check(*arguments)
    folder = Path(resolved["output_dir"]) if "output_dir" in resolved and _is_main_rank() else None
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        if folder is None:
            status = command.run(*arguments)
        elif getattr(command, "APPEARS_WHOLE", False):
            status = command.run(*arguments)
            write_config(folder, name, resolved, program)
        else:
            with _config_beside(folder, name, resolved, program):
                status = command.run(*arguments)
    if as_json and folder is not None:
        print(_results(folder, command.RESULT_FILES))
    return status


@contextmanager
def _config_beside(folder: Path, name: str, resolved: dict, program: str) -> Iterator[None]:
    """Have the options in the folder while the command runs and afterwards, unless it left nothing there.

    They are there from the start, as a run that is killed leaves checkpoints too.
    """
    file = config_file(folder, name)
    earlier = file.read_text(encoding="utf-8") if file.is_file() else None
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, name, resolved, program)
    try:
        yield
    except BaseException as error:
        if earlier is not None and isinstance(error, _INPUT_ERRORS):
            # What is there was made with other options, and this run was refused.
            file.write_text(earlier, encoding="utf-8")
        elif earlier is None and {path.name for path in folder.iterdir()} <= {file.name}:
            # Else the folder would stand in the way of the next try.
            file.unlink(missing_ok=True)
            if is_new:
                folder.rmdir()
        raise


def _results(folder: Path, files: tuple[str, ...]) -> str:
    """The first file, with what is in the others under their names."""
    results = json.loads((folder / files[0]).read_text(encoding="utf-8"))
    others = {
        Path(file).stem: json.loads((folder / file).read_text(encoding="utf-8"))
        for file in files[1:]
        if (folder / file).is_file()
    }
    return json.dumps({**results, **others}, indent=2)


def _is_main_rank() -> bool:
    """As the launcher says: torch may not be there yet."""
    return os.environ.get("RANK", "0") == "0"


def _leave_process_group() -> None:
    """Else a process may abort while it exits: the threads of gloo outlive what they use."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _say_error(text: str) -> None:
    """Once, if several processes were launched.

    The launcher ends all of them as soon as one has failed. So those beside the main one wait for that. Whoever is
    still there then is the only one that failed.
    """
    if not _is_main_rank():
        time.sleep(_SECONDS_FOR_MAIN_RANK)
        text = f"On process {os.environ['RANK']}: {text}"
    print(text, file=sys.stderr)
