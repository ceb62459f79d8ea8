# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The command line itself: words, flags and files, and whose fault it was."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import hf_cbft
from hf_cbft.cli import main as cli
from hf_cbft.cli.config_files import write_config
from hf_cbft.cli.options import CommandParser


@dataclass
class Arguments:
    """Not a command's own: every kind of option."""

    start: str = field(default="", metadata={"help": "A word."})
    rest: list[str] = field(default_factory=list, metadata={"help": "Words."})
    data: list[str] = field(default_factory=list, metadata={"help": "Several values."})
    number: int = field(default=3, metadata={"help": "A number."})
    deep: bool = field(default=False, metadata={"help": "A switch."})


@dataclass
class WithFolder(Arguments):
    output_dir: str = field(default="", metadata={"help": "A folder."})


@pytest.fixture
def run(monkeypatch):
    """`run(*argv, fails=None)`: the exit status, and the arguments that a command was given."""

    def call(*argv, fails=None, act=None, arguments=Arguments, **more):
        seen = []

        def command_run(given):
            seen.append(given)
            if act is not None:
                act(given)
            if fails is not None:
                raise fails
            return 0

        command = SimpleNamespace(
            Arguments=arguments, POSITIONAL=("start", "rest..."), check=lambda given: None, run=command_run, **more
        )
        monkeypatch.setitem(cli._COMMANDS, "try", "tried")
        monkeypatch.setattr(cli, "import_module", lambda name: command)
        return cli.main(["try", *argv]), seen[0] if seen else None

    return call


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a"], {"start": "a"}),
        (["a", "b", "c", "--number", "5"], {"start": "a", "rest": ["b", "c"], "number": 5}),
        (["a", "--number", "5", "b"], {"start": "a", "rest": ["b"], "number": 5}),
        (["--number", "5", "a", "b"], {"start": "a", "rest": ["b"], "number": 5}),
        (["--start", "a", "--data", "x", "y"], {"start": "a", "data": ["x", "y"]}),
        (["--deep", "a", "b"], {"deep": True, "start": "a", "rest": ["b"]}),
        (["--deep", "false", "--start", "a"], {"start": "a"}),
        (["a", "--deep", "--data", "x"], {"start": "a", "deep": True, "data": ["x"]}),
        (["a", "--data", "x", "--debug", "y"], {"start": "a", "data": ["x", "y"]}),
    ],
)
def test_words_go_to_their_fields(run, argv, expected):
    # A word that is taken for the value of a switch is a checkpoint that was not compared.
    status, arguments = run(*argv)
    assert status == 0
    assert arguments == Arguments(**expected)


def test_a_file_gives_options_and_flags_beside_it_win(run, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("start: x\ndata: [1, 2]\nnumber: 7\ndeep: true\n")
    _, arguments = run("--config", str(tmp_path / "a.yaml"), "--number", "8")
    assert arguments == Arguments(start="x", data=["1", "2"], number=8, deep=True)
    (tmp_path / "b.yaml").write_text("number: many\n")
    assert run("--config", str(tmp_path / "b.yaml"))[0] == 2
    said = capsys.readouterr().err
    assert said == f"hf-cbft try: error: {tmp_path / 'b.yaml'}, line 1: number takes a whole number, not 'many'.\n"


@pytest.mark.parametrize(
    ("fails", "status", "said", "traceback"),
    [
        (ValueError("two\nlines"), 2, "hf-cbft try: error: two lines\n", False),
        (OSError("no such place"), 2, "no such place", False),
        (NotImplementedError("not that"), 2, "not that", False),
        (RuntimeError("out of paper"), 1, "out of paper", True),
        (KeyboardInterrupt("Go on with --resume."), 130, "interrupted. Go on with --resume.", False),
    ],
)
def test_the_status_says_whose_fault_it_was(run, capsys, fails, status, said, traceback):
    # Scripts read the status, people the sentence; a traceback is for a fault of this program.
    assert run("a", fails=fails)[0] == status
    errors = capsys.readouterr().err
    assert said in errors
    assert ("Traceback" in errors) == traceback
    if status == 2:
        run("a", "--debug", fails=fails)
        assert "Traceback" in capsys.readouterr().err


def test_interrupted_means_130_and_says_nothing_it_does_not_know(run, capsys):
    assert run("a", fails=KeyboardInterrupt())[0] == 130
    assert capsys.readouterr().err == "\nhf-cbft try: interrupted.\n"


@pytest.mark.parametrize(
    ("argv", "status", "out", "err"),
    [
        (["--version"], 0, f"hf-cbft {hf_cbft.__version__}\n", ""),
        (["--help"], 0, "usage: hf-cbft COMMAND", ""),
        (["-h"], 0, "usage: hf-cbft COMMAND", ""),
        ([], 2, "", "usage: hf-cbft COMMAND"),
        (["--debug"], 2, "", "usage: hf-cbft COMMAND"),
        (["evalute"], 2, "", "hf-cbft: error: unknown command 'evalute'; did you mean evaluate?\n"),
        (["--debug", "Tarin"], 2, "", "unknown command 'Tarin'; did you mean train?"),
        (
            ["xyzzy"],
            2,
            "",
            "unknown command 'xyzzy'; there is align, check, curve, demo, evaluate, matrix, train.",
        ),
        (
            ["reproduce", "--experiment", "table1"],
            2,
            "",
            "hf-cbft: error: 'reproduce' is no command any more: in a clone of the repository, python "
            "examples/paper/run.py takes the same options, and resumes what was begun with it.\n",
        ),
        (["matrix", "--help"], 0, "usage: hf-cbft matrix CHECKPOINTS... [options]\n", ""),
        (["matrix", "--help-all"], 0, "usage: hf-cbft matrix CHECKPOINTS... [options]\n", ""),
        (["check", "--depe"], 2, "", "hf-cbft check: error: check has no option --depe; did you mean --deep?\n"),
        (["evaluate", "a", "b"], 2, "", "hf-cbft evaluate: error: no data to measure on: give --dataset"),
        (["curve", "a", "b"], 2, "", "--train_dataset and --output_dir must be given: hf-cbft curve --help shows an"),
    ],
)
def test_what_is_asked_is_answered_on_the_right_stream(capsys, argv, status, out, err):
    assert cli.main(argv) == status
    shown = capsys.readouterr()
    assert out in shown.out
    assert err in shown.err
    assert bool(shown.out) == bool(out)
    assert bool(shown.err) == bool(err)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_may_stand_anywhere(capsys, place):
    argv = ["check", "a"]
    argv.insert(place, "--debug")
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("hf-cbft check: error: two checkpoints are needed: hf-cbft check START END.\n")


@pytest.mark.parametrize(
    ("argv", "status"), [(["try", "a"], 2), (["try", "--nope"], 2), (["xyzzy"], 2), (["try", "--help"], 0)]
)
def test_one_of_several_processes_speaks_and_all_of_them_fail(run, capsys, monkeypatch, argv, status):
    # Eight times the same sentence hides it. The launcher ends the others while they wait; a process that it did not
    # end is the only one that failed, and its reason must not be lost.
    run("a")  # registers the command
    monkeypatch.setattr(cli, "import_module", _failing_command)
    waited = []
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: waited.append((seconds, capsys.readouterr().err)))
    monkeypatch.setenv("RANK", "0")
    assert cli.main(argv) == status
    said = capsys.readouterr().err
    assert bool(said) == (status != 0)
    assert waited == []
    monkeypatch.setenv("RANK", "1")
    assert cli.main(argv) == status
    assert capsys.readouterr().err == (f"On process 1: {said}" if status else "")
    assert waited == ([(10, "")] if status else [])


def _failing_command(name):
    def fail(arguments):
        raise ValueError("no such thing")

    return SimpleNamespace(Arguments=Arguments, POSITIONAL=("start", "rest..."), check=fail)


def test_an_interruption_is_told_once_and_a_failure_by_whoever_failed(run, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run("a", fails=KeyboardInterrupt("Later."))[0] == 130
    assert capsys.readouterr().err == ""
    assert run("a", fails=RuntimeError("this one only"))[0] == 1
    assert "this one only" in capsys.readouterr().err


def test_the_options_lie_beside_the_output_while_the_command_runs_and_afterwards(run, tmp_path, monkeypatch):
    # A run that is killed leaves checkpoints, and what made them has to be known.
    out = tmp_path / "out"
    given = ["a", "b", "--number", "5", "--output_dir", str(out)]
    seen = []
    status, first = run(
        *given, arguments=WithFolder, act=lambda _: seen.append((out / "try.yaml").read_text()), fails=None
    )
    assert status == 0
    assert seen == [(out / "try.yaml").read_text()]
    assert yaml.safe_load(seen[0]) == vars(first)
    again = tmp_path / "again"
    _, second = run("--config", str(out / "try.yaml"), "--output_dir", str(again), arguments=WithFolder)
    assert second == WithFolder(**{**vars(first), "output_dir": str(again)})
    monkeypatch.setenv("RANK", "1")
    assert run("--output_dir", str(tmp_path / "other"), arguments=WithFolder)[0] == 0
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("fails", [ValueError("bad data"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_run_that_left_nothing_leaves_no_folder_in_the_way(run, tmp_path, fails):
    out = tmp_path / "out"
    run("--output_dir", str(out), arguments=WithFolder, fails=fails)
    assert not out.exists()
    out.mkdir()
    run("--output_dir", str(out), arguments=WithFolder, fails=fails)
    assert list(out.iterdir()) == []
    run("--output_dir", str(out), arguments=WithFolder, fails=fails, act=lambda _: (out / "half").touch())
    assert sorted(path.name for path in out.iterdir()) == ["half", "try.yaml"]


def test_a_refused_second_run_does_not_change_what_the_first_one_says(run, tmp_path):
    # --resume with other options is refused by the command; the results there are still those of the first.
    out = tmp_path / "out"
    run("--output_dir", str(out), "--number", "5", arguments=WithFolder, act=lambda _: (out / "results").touch())
    first = (out / "try.yaml").read_text()
    run("--output_dir", str(out), "--number", "6", arguments=WithFolder, fails=ValueError("other options"))
    assert (out / "try.yaml").read_text() == first
    run("--output_dir", str(out), "--number", "6", arguments=WithFolder)
    assert yaml.safe_load((out / "try.yaml").read_text())["number"] == 6


def test_a_folder_that_appears_whole_gets_its_options_in_the_end(run, tmp_path):
    out = tmp_path / "out"
    options = {"arguments": WithFolder, "APPEARS_WHOLE": True}
    run("--output_dir", str(out), **options, act=lambda _: out.mkdir())
    assert [path.name for path in out.iterdir()] == ["try.yaml"]
    run("--output_dir", str(tmp_path / "none"), **options, fails=ValueError("bad data"))
    assert not (tmp_path / "none").exists()


def test_json_alone_goes_to_stdout(run, tmp_path, capsys):
    # A script reads it with json.load: no line of progress may stand in front.
    def act(given):
        print("a line for people")
        Path(given.output_dir, "result.json").write_text('{"loss": 1.5}')

    options = {"arguments": WithFolder, "RESULT_FILES": ("result.json", "mechanisms.json"), "act": act}
    assert run("--json", "--output_dir", str(tmp_path), **options)[0] == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"loss": 1.5}
    assert shown.err == "a line for people\n"
    (tmp_path / "mechanisms.json").write_text('{"distance": 2}')
    run("--output_dir", str(tmp_path), "--json", **options)
    assert json.loads(capsys.readouterr().out) == {"loss": 1.5, "mechanisms": {"distance": 2}}
    run("--output_dir", str(tmp_path), **options)
    assert capsys.readouterr().out == "a line for people\n"


def _values(option):
    """A word or two that the option takes, most of them no default."""
    words = option.takes.removeprefix("one of ").split(", ") if option.takes.startswith("one of ") else []
    for word in (*reversed(words), "7", "0.25", "true", '{"a": 1}'):
        try:
            option.convert(word)
        except ValueError:
            continue
        return [word] if option.single else [word, word]
    raise AssertionError(option)


@pytest.mark.parametrize("name", [name for name in cli._COMMANDS if name != "try"])
def test_a_file_and_flags_resolve_to_the_same_options_in_each_command(name, tmp_path):
    parser = CommandParser(name, import_module(cli._COMMANDS[name]))
    given = {option: _values(kind) for option, kind in parser.types.items()}
    flags = [word for option, values in given.items() for word in (f"--{option}", *values)]
    lines = [
        f"{option}: {values[0] if kind.single else values}"
        for (option, values), kind in zip(given.items(), parser.types.values(), strict=True)
    ]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    from_flags = parser.resolve(flags)
    assert parser.resolve(["--config", str(tmp_path / "a.yaml")]) == from_flags
    write_config(tmp_path, name, from_flags, f"hf-cbft {name}")
    written = parser.resolve(["--config", str(tmp_path / f"{name}.yaml")])
    differing = {option for option in written if written[option] != from_flags[option]}
    assert differing <= {"resume", "resume_from_checkpoint", "overwrite", "hub_token"}


def test_the_help_of_a_command_that_measures_does_not_wait_for_torch():
    code = (
        "import sys; from hf_cbft.cli.main import main; "
        "print([main([*words, '--help']) for words in ([], ['evaluate'], ['matrix'], ['demo'])], file=sys.stderr); "
        "sys.exit('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stderr == "[0, 0, 0, 0]\n"
    assert process.returncode == 0


def test_python_m_hf_cbft_is_the_same_command():
    # `accelerate launch -m hf_cbft` starts it this way.
    command = [sys.executable, "-m", "hf_cbft", "demo", "--seed", "1"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "hf-cbft demo: error: demo has no option --seed; did you mean --seeds?\n"
