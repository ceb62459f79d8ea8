# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Options in YAML: what a file may say, how its mistakes are named, and that a written one reads back the same."""

import math
import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from hf_cbft.cli.config_files import nearest, read_config, write_config
from hf_cbft.cli.options import CommandParser


@dataclass
class Arguments:
    start: str = field(default="", metadata={"help": "A word."})
    data: list[str] = field(default_factory=list, metadata={"help": "Several values."})
    points: list[float] = field(default_factory=list, metadata={"help": "Several numbers."})
    number: int = field(default=3, metadata={"help": "A whole number."})
    rate: float | None = field(default=None, metadata={"help": "A number or none."})
    deep: bool = field(default=False, metadata={"help": "A switch."})
    kind: str = field(default="a", metadata={"help": "A choice.", "choices": ["a", "b"]})
    extra: dict[str, Any] | str | None = field(default=None, metadata={"help": "A mapping."})
    resume: bool = field(default=False, metadata={"help": "Never written."})
    resume_from_checkpoint: str | None = field(default=None, metadata={"help": "Never written."})
    overwrite: bool = field(default=False, metadata={"help": "Never written."})
    hub_token: str | None = field(default=None, metadata={"help": "Never written."})


def parser():
    return CommandParser("try", SimpleNamespace(Arguments=Arguments))


def read(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    return read_config(tmp_path / "a.yaml", parser().types, "try", "hf-cbft try")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("start: x\ndata: [a, b]\n", ["--start", "x", "--data", "a", "b"]),
        ("data: a\n", ["--data", "a"]),
        ("data:\n- 1\n- no\n- 1_0\n", ["--data", "1", "no", "1_0"]),
        ("start: no\nrate: 1e-3\n", ["--start", "no", "--rate", "1e-3"]),
        ("start: 007\nnumber: -4\n", ["--start", "007", "--number", "-4"]),
        ("rate: .inf\n", ["--rate", "inf"]),
        ("rate: -.inf\n", ["--rate", "-inf"]),
        ("points: [0, 0.25, 1]\n", ["--points", "0", "0.25", "1"]),
        ("deep: yes\nkind: 'b'\n", ["--deep", "--kind", "b"]),
        ("rate: null\nnumber:\ndata: ~\n", []),
        ("resume-from-checkpoint: x\n", ["--resume-from-checkpoint", "x"]),
        ("start: 2026-11-26\n# a comment\n", ["--start", "2026-11-26"]),
        ("start: Grüße\n", ["--start", "Grüße"]),
    ],
)
def test_a_file_is_read_as_the_flags_are(tmp_path, text, flags):
    # YAML has its own idea of what no, 1e-3 and 007 are; a model may be called any of them.
    read(tmp_path, text)
    from_file = parser().resolve(["--config", str(tmp_path / "a.yaml")])
    from_flags = parser().resolve(flags if "-inf" not in flags else [f"{flags[0]}={flags[1]}"])
    assert from_file == from_flags
    assert {name: type(value) for name, value in from_file.items()} == {
        name: type(value) for name, value in from_flags.items()
    }


def test_flags_beside_a_file_win(tmp_path):
    read(tmp_path, "number: 5\nrate: 0.5\ndata: [a, b]\n")
    resolved = parser().resolve(["--config", str(tmp_path / "a.yaml"), "--number", "6", "--data", "c"])
    assert (resolved["number"], resolved["rate"], resolved["data"]) == (6, 0.5, ["c"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml is empty: give options as lines of name: value."),
        ("- x\n", "a.yaml, line 1: a list is no mapping"),
        ("just words\n", "a.yaml, line 1: 'just words' is no mapping"),
        ("start: x\nstrat: y\n", "a.yaml, line 2: try has no option 'strat'; did you mean start?"),
        ("zzzz: y\n", "a.yaml, line 1: try has no option 'zzzz'; hf-cbft try --help lists them."),
        ("start: x\n\nstart: y\n", "a.yaml, line 3: start is there already, in line 1: keep one of them."),
        ("hub_token: x\nhub-token: y\n", "a.yaml, line 2: hub_token is there already, in line 1"),
        ("[a]: y\n", "a.yaml, line 1: a list is no name of an option."),
        ("number: many\n", "a.yaml, line 1: number takes a whole number, not 'many'."),
        ("number: 1.5\n", "a.yaml, line 1: number takes a whole number, not '1.5'."),
        ("number: [1]\n", "a.yaml, line 1: number takes a whole number, not a list."),
        ("start: x\ndeep: often\n", "a.yaml, line 2: deep takes true or false, not 'often'."),
        ("kind: c\n", "a.yaml, line 1: kind takes one of a, b, not 'c'."),
        ("data: {a: 1}\n", "a.yaml, line 1: data takes a list, each a text, not a mapping."),
        ("data:\n- a\n- [b]\n", "a.yaml, line 3: in the list, data takes a text, not a list."),
        ("points: [0, null]\n", "a.yaml, line 1: in the list, points takes a number, not null."),
        ("points:\n- 0\n- x\n", "a.yaml, line 3: points takes a number, not 'x'."),
        ("start: x\n  number: 3\n", "a.yaml, line 2: this is no YAML: mapping values are not allowed here."),
        ("data: [a\n", "this is no YAML: "),
        ("start: *x\n", "a.yaml, line 1: this is no YAML: found undefined alias"),
        ("start: x\n---\nstart: y\n", "a.yaml, line 2: this is no YAML: but found another document."),
        ("start: '\x00'\n", "a.yaml: this is no YAML: "),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--config .*none.yaml cannot be read: No such file or directory\."):
        read_config(tmp_path / "none.yaml", parser().types, "try", "hf-cbft try")
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory\."):
        read_config(tmp_path, parser().types, "try", "hf-cbft try")
    (tmp_path / "latin.yaml").write_bytes("start: Grüße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"cannot be read: it is not UTF-8\."):
        read_config(tmp_path / "latin.yaml", parser().types, "try", "hf-cbft try")


def test_what_is_written_reads_back_the_same(tmp_path):
    # A run is only known by what was really resolved; numbers to the last bit, texts that look like something else.
    given = [
        *("--start", "no", "--data", "null", "1e3", "a: b", "~", "", "Grüße", "--points", "0.1", "1e-323", "inf"),
        *("--rate", "0.30000000000000004", "--deep", "--kind", "b", "--extra", '{"a": 1}'),
    ]
    resolved = parser().resolve(given)
    write_config(tmp_path, "try", resolved, "hf-cbft try")
    assert parser().resolve(["--config", str(tmp_path / "try.yaml")]) == resolved
    head = (tmp_path / "try.yaml").read_text().splitlines()[0]
    assert head.endswith(": hf-cbft try --config try.yaml is this run again.")


def test_a_mapping_and_a_nan_read_back_too(tmp_path):
    write_config(tmp_path, "try", {"extra": {"min_lr": 1e-05}, "rate": math.nan}, "hf-cbft try")
    found = read_config(tmp_path / "try.yaml", parser().types, "try", "hf-cbft try")
    assert found["extra"] == {"min_lr": 1e-05}
    assert math.isnan(found["rate"])


def test_how_the_folder_was_found_and_secrets_are_not_written(tmp_path):
    # A config with resume in it would not start in a new folder, and one with a token is not to be shared.
    flags = [
        "--resume",
        "--resume_from_checkpoint",
        "true",
        "--overwrite",
        "--hub_token",
        "hf_secret",
        "--number",
        "4",
    ]
    write_config(tmp_path, "try", parser().resolve(flags), "hf-cbft try")
    written = yaml.safe_load((tmp_path / "try.yaml").read_text())
    assert written["number"] == 4
    assert not written.keys() & {"resume", "resume_from_checkpoint", "overwrite", "hub_token"}


def test_the_nearest_name_is_near():
    assert nearest("tolerence", ["tolerance", "error_tolerance"]) == "tolerance"
    assert nearest("xyz", ["tolerance"]) is None
