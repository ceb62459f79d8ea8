# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft matrix`: from folders and a file to a table, a picture and soups; going on; what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.sentences import sentence_config, write_sentences
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from hf_cbft.cli.main import main
from hf_cbft.connectivity.matrix_results import MatrixResult
from hf_cbft.data.sentences import word_tokenizer
from hf_cbft.tasks.classification import Classification


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with tiny text classifiers, near and far, their tokenizer, and rows in a JSON lines file."""
    folder = tmp_path_factory.mktemp("matrix")
    tokenizer = word_tokenizer()
    config = sentence_config(
        len(tokenizer),
        label2id={name: index for index, name in enumerate(("sport", "weather", "food", "music"))},
        id2label=dict(enumerate(("sport", "weather", "food", "music"))),
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    for name in ("first", "second", "third"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    BertForSequenceClassification(BertConfig(**{**config.to_dict(), "hidden_size": 8})).save_pretrained(
        folder / "small"
    )
    write_sentences(folder / "rows.jsonl")
    return folder


def command(inputs, output_dir, *options, names=("first", "second", "third"), data="cue=rows.jsonl"):
    name, _, file = (data or "").partition("=")
    return [
        "matrix",
        *(str(inputs / each) for each in names),
        *(["--dataset", f"{name}={inputs / file}"] if data else []),
        *("--output_dir", str(output_dir)),
        *("--device", "cpu", "--num_points", "3", "--num_resamples", "20", "--batch_size", "8"),
        # Bands of 24 rows are wide, as rows that nobody saw may lie as far away as a guess.
        *("--tolerance", "0.5", *options),
    ]


@pytest.fixture
def interrupted_after(monkeypatch):
    """`interrupted_after(batches)`: Ctrl-C there; `None`: not at all. Counts in `["count"]`."""
    state = {"count": 0, "limit": None}
    measure = Classification.outputs

    def counting(self, model, batch):
        if state["count"] == state["limit"]:
            raise KeyboardInterrupt
        state["count"] += 1
        return measure(self, model, batch)

    monkeypatch.setattr(Classification, "outputs", counting)
    return state


def test_it_leaves_a_matrix_a_picture_the_pairs_and_the_soups(inputs, tmp_path, capsys):
    """One command from checkpoints to what may be merged, and the merged checkpoint with its tokenizer."""
    folder = tmp_path / "out"
    assert main(command(inputs, folder, "--soup")) == 0
    said = capsys.readouterr().out
    assert said.startswith("cue: 24 rows, text from 'text', label from 'label'")
    assert "Cluster 1: first, second and third; every pair is connected" in said
    place = folder / "soups" / "cluster-1"
    soup = json.loads((place / "soup.json").read_text())
    assert f"The average of first, second, third is in {place}/; its loss: cue {soup['losses']['cue']:.3f}." in said
    files = ["matrix.json", "matrix.png", "matrix.yaml", "pairs", "soups"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert (folder / "matrix.png").read_bytes()[:4] == b"\x89PNG"
    result = MatrixResult.load(folder)
    assert str(result) in said
    assert result.settings["on"] == "cue"
    BertForSequenceClassification.from_pretrained(place)
    assert len(AutoTokenizer.from_pretrained(place)) == len(word_tokenizer())


@pytest.mark.parametrize(("limit", "stage"), [(10, "a pair"), (19, "the soup")])
def test_after_an_interruption_it_goes_on(inputs, tmp_path, capsys, interrupted_after, limit, stage):
    """The message names the flag, and the flag keeps its word: what is there is not measured again."""
    assert main(command(inputs, tmp_path / "whole", "--soup")) == 0
    # Three checkpoints, three middles and the soup, of three batches each.
    assert interrupted_after["count"] == 21
    interrupted_after.update(count=0, limit=limit)
    folder = tmp_path / "out"
    assert main(command(inputs, folder, "--soup")) == 130
    said = capsys.readouterr().err
    assert f"interrupted. {folder} keeps what was measured: go on with the same command and --resume." in said
    assert not (folder / "matrix.json").exists()
    assert main(command(inputs, folder, "--soup")) == 2
    assert "exists and is not empty: name another folder, or go on with --resume" in capsys.readouterr().err
    interrupted_after.update(count=0, limit=None)
    assert main(command(inputs, folder, "--soup", "--resume")) == 0
    assert interrupted_after["count"] == 21 - limit // 3 * 3
    assert MatrixResult.load(folder).to_dict() == MatrixResult.load(tmp_path / "whole").to_dict()
    weights = [(each / "soups/cluster-1/model.safetensors").read_bytes() for each in (folder, tmp_path / "whole")]
    assert weights[0] == weights[1]


def test_a_soup_that_was_finished_is_kept(inputs, tmp_path, monkeypatch, interrupted_after, capsys):
    """A run that stopped while it drew would refuse its own soup's folder, or make it again."""
    folder = tmp_path / "out"

    def stopped(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(MatrixResult, "plot", stopped)
        assert main(command(inputs, folder, "--soup")) == 2
    interrupted_after["count"] = 0
    assert main(command(inputs, folder, "--soup", "--resume")) == 0
    assert interrupted_after["count"] == 0
    assert "The average of first, second, third is in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"names": ()}, [], "A matrix needs at least two checkpoints, and 0 came"),
        ({"names": ("first", "first")}, [], "first is given twice: give each checkpoint once"),
        ({}, ["--on", "clue"], "on = 'clue' is none of the data sets: give one of cue"),
        ({}, ["--num_points", "2"], "num_points = 2: a barrier needs at least 3"),
        ({}, ["--baseline", "median"], "baseline 'median' is unknown"),
        ({}, ["--resume"], "holds no points to go on with: start it without --resume"),
        ({"data": None}, [], "no data to measure on: give --dataset NAME=SOURCE"),
        ({}, ["--output_dir", ""], "name a new folder for the result with --output_dir"),
    ],
)
def test_wrong_usage_is_one_sentence_before_anything_is_loaded(inputs, tmp_path, capsys, changes, options, message):
    """Status 2, no traceback, and nothing begun."""
    assert main(command(inputs, tmp_path / "out", *options, **changes)) == 2
    said = capsys.readouterr().err
    assert said.startswith("hf-cbft matrix: error: ")
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("first", "small", "third")}, r"small cannot be interpolated with the model: bert\.\S+ has shape"),
        ({"names": ("first", "nowhere")}, "nowhere"),
        ({"data": "cue=nothing.jsonl"}, r"nothing\.jsonl"),
    ],
)
def test_input_that_cannot_be_had_is_one_sentence(inputs, tmp_path, capsys, changes, message):
    """A traceback tells a user that the program is broken; the sentence names which of the checkpoints it is."""
    assert main(command(inputs, tmp_path / "out", **changes)) == 2
    said = capsys.readouterr().err
    error = next(line for line in said.splitlines() if line.startswith("hf-cbft matrix: error: "))
    assert re.search(message, error)
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.sample
def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(inputs, tmp_path):
    """SIGKILL leaves no time to tidy up: only what was written whole may count."""
    # Batches of one row, so that there is time to kill it in the middle.
    options = ["--batch_size", "1", "--num_points", "9"]
    folder = tmp_path / "out"
    arguments = command(inputs, folder, *options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_cbft", *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if len(list((folder / "points").glob("*/point-*.safetensors"))) >= 12:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in (folder / "points").glob("*/point-*.safetensors")}
    assert 12 <= len(kept) < 24
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        measure = Classification.outputs
        outputs = lambda self, model, batch: seen.append(1) or measure(self, model, batch)  # noqa: E731
        patch.setattr(Classification, "outputs", outputs)
        assert main([*arguments, "--resume"]) == 0
        # 3 ends and 3 x 7 points in between, of 24 batches each.
        assert len(seen) == (24 - len(kept)) * 24
    assert main(command(inputs, tmp_path / "whole", *options)) == 0
    resumed, whole = MatrixResult.load(folder), MatrixResult.load(tmp_path / "whole")
    assert resumed.to_dict() == whole.to_dict()
    for key, pair in whole.pairs.items():
        np.testing.assert_array_equal(resumed.pairs[key].example_losses["cue"], pair.example_losses["cue"])


@pytest.mark.slow
def test_two_processes_give_what_one_gives(inputs, tmp_path):
    """Figures, clusters or soups that depend on how many processes there were; files written twice at once."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hf_cbft"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*launch, *command(inputs, tmp_path / "two", "--soup")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.count("Cluster 1: ") == 1
    assert main(command(inputs, tmp_path / "one", "--soup")) == 0
    one, two = MatrixResult.load(tmp_path / "one"), MatrixResult.load(tmp_path / "two")
    assert one.clusters == two.clusters
    np.testing.assert_allclose(two.heights, one.heights, rtol=0, atol=1e-6)
    assert two.verdicts.tolist() == one.verdicts.tolist()
    soups = [json.loads((tmp_path / each / "soups/cluster-1/soup.json").read_text()) for each in ("one", "two")]
    assert soups[0]["losses"]["cue"] == pytest.approx(soups[1]["losses"]["cue"], abs=1e-6)
