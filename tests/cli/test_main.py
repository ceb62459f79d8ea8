# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The command line itself: words, flags and files, and whose fault it was."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from hf_cbft.cli import main as cli


@dataclass
class Arguments:
    """Not a command's own: every kind of option."""

    start: str = field(default="", metadata={"help": "A word."})
    rest: list[str] = field(default_factory=list, metadata={"help": "Words."})
    data: list[str] = field(default_factory=list, metadata={"help": "Several values."})
    number: int = field(default=3, metadata={"help": "A number."})
    deep: bool = field(default=False, metadata={"help": "A switch."})


@pytest.fixture
def run(monkeypatch):
    """`run(*argv, fails=None)`: the exit status, and the arguments that a command was given."""

    def call(*argv, fails=None):
        seen = []

        def command_run(arguments):
            seen.append(arguments)
            if fails is not None:
                raise fails
            return 0

        command = SimpleNamespace(
            Arguments=Arguments, POSITIONAL=("start", "rest..."), check=lambda arguments: None, run=command_run
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
    for text, message in (
        ("strat: x\n", "has ['strat']; the options are data, deep"),
        ("- x\n", "has no options"),
        ("data: {a: 1}\n", "gives a mapping for data"),
        ("a: [\n", "cannot be read"),
    ):
        (tmp_path / "b.yaml").write_text(text)
        assert run("--config", str(tmp_path / "b.yaml"))[0] == 2
        assert message in capsys.readouterr().err
    assert run("--config")[0] == 2
    assert "--config needs a file" in capsys.readouterr().err
    assert run("--config", str(tmp_path / "none.yaml"))[0] == 2
    assert "No such file" in capsys.readouterr().err


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
