# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft curve`: from two folders and a file to a curve that can be evaluated, and what it refuses."""

import json

import pytest
import torch
from helpers.sentences import sentence_config, write_sentences
from transformers import BertForSequenceClassification

from hf_cbft.checkpoints.curve_files import load_curve
from hf_cbft.cli.commands.curve import Arguments, check, run
from hf_cbft.cli.main import main
from hf_cbft.data.sentences import word_tokenizer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with two tiny text classifiers, their tokenizer, and training rows in a JSON lines file."""
    folder = tmp_path_factory.mktemp("curve")
    tokenizer = word_tokenizer()
    config = sentence_config(len(tokenizer))
    for seed, name in enumerate(("start", "end")):
        torch.manual_seed(seed)
        BertForSequenceClassification(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_sentences(folder / "train.jsonl")
    return folder


def arguments(inputs, output_dir, **changes):
    usual = {
        "start": str(inputs / "start"),
        "end": str(inputs / "end"),
        "train_dataset": f"train={inputs / 'train.jsonl'}",
        "output_dir": str(output_dir),
        "num_steps": 20,
        "batch_size": 8,
        "use_cpu": True,
    }
    return Arguments(**{**usual, **changes})


def test_it_leaves_a_curve_between_the_two_and_says_how_to_measure_it(inputs, tmp_path, capsys):
    """The folder is what `hf-cbft evaluate --path` takes; the screen shows that the loss goes down."""
    folder = tmp_path / "out"
    given = arguments(inputs, folder, learning_rate=1e-2)
    check(given)
    assert run(given) == 0
    said = capsys.readouterr().out
    assert f"from {inputs / 'start'} to {inputs / 'end'}\ntrain: 24 rows, text from 'text', label from" in said
    losses = [float(line.split()[-1]) for line in said.splitlines() if line.startswith("step")]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    assert f"hf-cbft evaluate {inputs / 'start'} {inputs / 'end'} --path {folder} --dataset" in said
    path = load_curve(folder, inputs / "start", inputs / "end")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.allclose(path.middle[name], (path.start[name] + path.end[name]) / 2)
    assert (folder / "tokenizer.json").exists()
    facts = json.loads((folder / "curve.json").read_text())
    assert facts["start"]["name"] == str(inputs / "start")


def test_a_second_run_gives_the_same_middle_and_another_seed_another_one(inputs, tmp_path):
    """A figure that cannot be had again is none."""
    files = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        run(arguments(inputs, folder, num_steps=2, seed=seed))
        files.append((folder / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps = 0: give a number above 0"),
        ({"learning_rate": -1.0}, r"learning_rate = -1\.0: give a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan: give a number above 0"),
        ({"batch_size": 0}, "batch_size = 0: give a number above 0"),
        ({"seed": -1}, "seeds are whole numbers from 0 on; got -1"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_written(inputs, tmp_path, changes, message):
    """Minutes of training must not end in a sentence that could have come first."""
    with pytest.raises(ValueError, match=message):
        check(arguments(inputs, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_not_free_is_left_alone(inputs, tmp_path):
    """Nobody's files are written over."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not empty: name another folder with --output_dir"):
        check(arguments(inputs, tmp_path))
    with pytest.raises(ValueError, match="is a file: name a folder with --output_dir"):
        check(arguments(inputs, tmp_path / "thesis.txt"))
    check(arguments(inputs, tmp_path / "new"))


@pytest.mark.parametrize(
    ("start", "data", "said"),
    [
        ("nowhere", "train.jsonl", "nowhere"),
        ("adapter", "train.jsonl", "start carries an adapter, and a curve runs between whole weights: merge it first"),
        ("start", "nothing.jsonl", "nothing.jsonl"),
        ("start", "numbers.jsonl", "The data set 'train'"),
    ],
)
def test_input_that_cannot_be_had_is_one_sentence_and_status_2(inputs, tmp_path, capsys, start, data, said):
    """A traceback tells a user that the program is broken; a folder that was begun, that something is in it."""
    (inputs / "adapter").mkdir(exist_ok=True)
    (inputs / "adapter" / "adapter_config.json").write_text("{}")
    (inputs / "numbers.jsonl").write_text('{"number": 1, "label": 0}\n')
    options = ["--train_dataset", f"train={inputs / data}", "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert main(["curve", str(inputs / start), str(inputs / "end"), *options]) == 2
    errors = capsys.readouterr().err
    assert "hf-cbft curve: error: " in errors
    assert said in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
