# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Options from dataclasses: what each kind of field takes, what is refused, and what the help shows."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import pytest

from hf_cbft.cli.options import CommandParser


@dataclass
class Base:
    TITLE: ClassVar[str] = "what it inherits"

    rate: float | None = field(default=None, metadata={"help": "A number that may be none."})
    secret: str = field(default="", metadata={"help": "Hidden unless all is shown."})


@dataclass
class Arguments:
    start: str = field(default="", metadata={"help": "A word."})
    data: list[str] = field(default_factory=lambda: ["usual"], metadata={"help": "Several values."})
    points: list[float] | None = field(default=None, metadata={"help": "Several numbers."})
    number: int = field(default=3, metadata={"help": "A number of %%."})
    deep: bool = field(default=False, metadata={"help": "A switch."})
    wide: bool = field(default=True, metadata={"help": "A switch that is on."})
    kind: str = field(default="a", metadata={"help": "A choice.", "choices": ["a", "b"]})
    sharded: str | None = field(default=None, metadata={"help": "A text or none.", "nargs": "?", "const": True})
    sizes: dict[str, int] | None = field(default=None, metadata={"help": "A mapping."})
    steps: int | None = field(default=None, metadata={"help": "Steps; 300 if not given."})


@dataclass
class More(Base):
    out: str = field(kw_only=True, metadata={"help": "Needed."})
    number: int = field(default=9, metadata={"help": "The other one's."})
    debug: str = field(default="", metadata={"help": "Another debug than ours."})


COMMAND = SimpleNamespace(
    Arguments=Arguments,
    POSITIONAL=("start",),
    MORE_SHOWN=("rate",),
    EXAMPLE="hf-cbft try a --out b",
    more_arguments=lambda: (More,),
)


def resolve(*options):
    parser = CommandParser("try", COMMAND)
    return parser.instances(parser.resolve([*options, "--out", "o"]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["a"], {"start": "a"}),
        (["--deep", "a"], {"deep": True, "start": "a"}),
        (["--deep", "No", "a"], {"start": "a"}),
        (["--no_wide", "a"], {"wide": False, "start": "a"}),
        (["--wide", "0"], {"wide": False}),
        (["--data", "x", "y"], {"data": ["x", "y"]}),
        (["--data", "x", "--deep", "--data", "y"], {"data": ["x", "y"], "deep": True}),
        (["--points", "-1e-3", "-.5", "2"], {"points": [-1e-3, -0.5, 2.0]}),
        (["--number=-4"], {"number": -4}),
        (["--number", "1", "--number", "2"], {"number": 2}),
        (["--kind", "b"], {"kind": "b"}),
        (["--sizes", '{"a": 1}'], {"sizes": {"a": 1}}),
        (["--sharded", "fully", "a"], {"sharded": "fully", "start": "a"}),
        (["a", "--sharded", "--deep"], {"sharded": True, "start": "a", "deep": True}),
        (["--sharded", "true"], {"sharded": True}),
    ],
)
def test_each_kind_of_field_takes_its_values(options, expected):
    assert resolve(*options)[0] == Arguments(**expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a", "b"], r"'b' is one word too many: try takes START\."),
        (["--numbr", "3"], "try has no option --numbr; did you mean --number?"),
        (["--num-ber=3"], "try has no option --num-ber; did you mean --number?"),
        (["--zzzz"], "try has no option --zzzz; hf-cbft try --help lists them"),
        (["--num", "3"], "try has no option --num; did you mean --number?"),
        (["-n", "3"], "try has no option -n; hf-cbft try --help lists them"),
        (["--number", "x"], "--number takes a whole number, not 'x'"),
        (["--number", "1.5"], "--number takes a whole number, not '1.5'"),
        (["--number"], r"--number needs a value\."),
        (["--data"], r"--data needs a value\."),
        (["--points", "1", "x"], "--points takes a number, not 'x'"),
        (["--deep=maybe"], "--deep takes true or false, not 'maybe'"),
        (["--kind", "c"], "--kind takes one of a, b, not 'c'"),
        (["--sizes", "[1]"], r"--sizes takes a mapping as JSON, not '\[1\]'"),
        (["--sizes", "a=1"], "--sizes takes a mapping as JSON, not 'a=1'"),
        (["--config"], r"--config needs a value\."),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_flag(options, message):
    with pytest.raises(ValueError, match=message):
        resolve(*options)


def test_what_has_no_default_must_be_given_on_the_line_or_in_the_file(tmp_path):
    parser = CommandParser("try", COMMAND)
    with pytest.raises(ValueError, match="--out must be given: hf-cbft try --help shows an example"):
        parser.resolve(["a"])
    (tmp_path / "a.yaml").write_text("out: here\n")
    assert parser.resolve(["a", "--config", str(tmp_path / "a.yaml")])["out"] == "here"


def test_a_field_of_two_classes_is_one_option_with_the_first_ones_default():
    first, second = resolve()
    assert (first.number, second.number) == (3, 3)
    first, second = resolve("--number", "5")
    assert (first.number, second.number) == (5, 5)
    assert second.debug == ""  # --debug is the command line's own


def test_a_list_of_one_run_is_not_the_next_ones():
    parser = CommandParser("try", COMMAND)
    resolved = parser.resolve(["--out", "o"])
    parser.instances(resolved)[0].data.append("more")
    assert resolved["data"] == ["usual"]
    assert parser.resolve(["--out", "o"])["data"] == ["usual"]


@pytest.mark.parametrize("flag", ["-h", "--help", "--help-all"])
def test_the_help_shows_each_flag_once_with_its_default_and_hides_what_is_inherited(capsys, flag):
    # Transformers has 120 options: a page that lists them all is read by nobody.
    with pytest.raises(SystemExit):
        CommandParser("try", COMMAND, show_all=flag == "--help-all").resolve([flag])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: hf-cbft try START [options]\n")
    assert shown.endswith("example:\n  hf-cbft try a --out b\n")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in (
        "--number N A number of %. (default: 3)",
        "--data DATA ... Several values. (default: usual)",
        "--steps N Steps; 300 if not given.",
        "--deep A switch.",
        "--wide, --no_wide A switch that is on.",
        "--kind {a,b} A choice. (default: a)",
        "--rate X A number that may be none.",
    ):
        assert lines.count(line) == 1
    assert ("Each field of Base is an option: --help-all lists them." in lines) == (flag != "--help-all")
    assert ("--secret SECRET Hidden unless all is shown." in lines) == (flag == "--help-all")
    assert "what it inherits:" in lines
    assert "More:" in lines
