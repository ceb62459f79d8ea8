# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The page of each command: it fits a terminal, says what each flag is for, and its example is one that works."""

import argparse
import re
import shlex
import shutil
from dataclasses import MISSING, fields
from importlib import import_module
from os import terminal_size

import pytest
from transformers import TrainingArguments

from hf_cbft.cli.main import _COMMANDS, main
from hf_cbft.cli.options import CommandParser

# Without `train`, whose page has the loss terms and the training too.
MOST_LINES = 75
MOST_LINES_TRAIN = 165


@pytest.mark.parametrize("columns", [80, 100, 300])
def test_every_page_fits_100_columns_and_is_short(capsys, monkeypatch, columns):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *fallback: terminal_size((columns, 24)))
    for name in _COMMANDS:
        for flag in ("--help", "--help-all"):
            assert main([name, flag]) == 0
            lines = capsys.readouterr().out.splitlines()
            assert max(len(line) for line in lines) <= 100, (name, flag)
            if flag == "--help" and columns >= 100:
                assert len(lines) <= (MOST_LINES_TRAIN if name == "train" else MOST_LINES), name
                headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
                assert len(set(headings)) == len(headings) > 1, name


def test_the_first_page_fits_and_names_each_command(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    for name in _COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line.split()) > 5  # the name and what it does


def test_each_flag_has_a_sentence():
    theirs = {option.name for option in fields(TrainingArguments)}
    for name, module in _COMMANDS.items():
        parser = CommandParser(name, import_module(module), show_all=True)
        for action in parser._actions:
            if not action.option_strings or action.option_strings[0].startswith("--no_"):
                continue  # the flag of the same name has the sentence
            if action.dest == "help" and action.help == argparse.SUPPRESS:
                assert not parser.more
                continue
            assert action.help, (name, action.dest)
            sentence = re.sub(r" \(default: .*\)$", "", action.help)
            assert len(sentence.split()) >= 3, (name, action.dest)
            assert sentence.endswith(".") or action.dest in theirs, (name, action.dest)


def test_every_example_is_one_command_that_parses():
    # What people copy first.
    for name, module in _COMMANDS.items():
        command = import_module(module)
        words = shlex.split(command.EXAMPLE.replace("\\\n", " "))
        assert words[:2] == ["hf-cbft", name]
        parser = CommandParser(name, command)
        resolved = parser.resolve([word for word in words[2:] if word != "--json"])
        given = {word.removeprefix("--") for word in words if word.startswith("--")}
        assert given <= resolved.keys(), name
        for positional in parser.positional:
            assert resolved[positional.removesuffix("...")], name
        assert all(resolved[option] for option, default in parser.defaults.items() if default is MISSING), name
