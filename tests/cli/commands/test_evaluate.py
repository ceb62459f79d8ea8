# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft evaluate`: from names to a report, from a wrong word to one sentence, from a kill to the same result."""

import html
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers.hub_endpoint import HubEndpoint
from transformers import ViTImageProcessor

from hf_cbft import BoxCue, ConnectivityResult, make_counterfactuals
from hf_cbft.cli.commands import evaluate as evaluate_command
from hf_cbft.cli.main import main
from hf_cbft.cli.options import CommandParser

QUICK = ["--num_points", "3", "--num_resamples", "50", "--device", "cpu", "--batch_size", "4"]


def make_images(rows=12):
    draw = np.random.default_rng(0)
    return datasets.Dataset.from_dict(
        {
            "image": draw.integers(0, 255, (rows, 8, 8, 3), dtype=np.uint8),
            "label": [index % 4 for index in range(rows)],
            "place": ["land", "water", "land"] * (rows // 3),
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["a", "b", "c", "d"]),
                "place": datasets.Value("string"),
            }
        ),
    )


@pytest.fixture
def saved(make_model, tmp_path):
    """A folder with two checkpoints, their image processor, and data."""
    for name, seed in (("start", 1), ("end", 2)):
        model = make_model("vit", seed=seed)
        model.config.id2label = dict(enumerate("abcd"))
        model.config.label2id = {name: index for index, name in enumerate("abcd")}
        model.save_pretrained(tmp_path / name)
        ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / name)
    make_images().save_to_disk(tmp_path / "images")
    return tmp_path


def evaluate(folder, *options, out="out"):
    return main(["evaluate", str(folder / "start"), str(folder / "end"), "--output_dir", str(folder / out), *options])


def test_the_report_is_whole(saved, capsys):
    # The command people use: its figures are those of the Python call, and all files are there.
    assert evaluate(saved, "--dataset", str(saved / "images"), "--group_column", "place", *QUICK) == 0
    printed = capsys.readouterr().out
    assert "data: 12 rows, image from 'image', label from 'label'" in printed
    assert "linear path, 3 points" in printed
    assert "barrier of each group" in printed
    out = saved / "out"
    files = ["evaluate.yaml", "examples.safetensors", "path.png", "result.json"]
    assert sorted(path.name for path in out.iterdir()) == files
    result = ConnectivityResult.load(out)
    assert str(result) in printed
    assert result.settings["path"] == "linear"
    assert result.references["data"].tolist() == make_images()["label"]


def test_mechanisms_are_compared_where_there_are_several_sets(saved, capsys):
    # Which attribute each model relies on is the question.
    digits = make_images().remove_columns("place")
    for name, rows in make_counterfactuals(digits, BoxCue(4), seed=0).items():
        rows.save_to_disk(saved / name)
    sets = [f"{name}={saved / name}" for name in ("no_cue", "cue", "rand_cue", "rand_input")]
    assert evaluate(saved, "--dataset", *sets, *QUICK) == 0
    printed = capsys.readouterr().out
    assert "no_cue -> rand_cue" in printed
    assert "mechanisms:" in printed
    assert json.loads((saved / "out" / "mechanisms.json").read_text())


def test_a_file_sets_the_same_options(saved, capsys):
    # What was run is kept beside what came out.
    (saved / "run.yaml").write_text(
        f"start: {saved / 'start'}\nend: {saved / 'end'}\ndataset: [{saved / 'images'}]\nnum_points: 3\n"
        f"num_resamples: 50\ndevice: cpu\nalphas: [0.0, 0.25, 1.0]\nerror_tolerance: 0.3\n"
    )
    out = str(saved / "out")
    assert (
        main(["evaluate", "--config", str(saved / "run.yaml"), "--error_tolerance", "0.4", "--output_dir", out]) == 0
    )
    result = ConnectivityResult.load(out)
    assert result.alphas.tolist() == [0.0, 0.25, 1.0]
    assert result.settings["error_tolerance"] == 0.4
    (saved / "wrong.yaml").write_text("strat: a\n")
    assert main(["evaluate", "--config", str(saved / "wrong.yaml")]) == 2
    assert "wrong.yaml, line 1: evaluate has no option 'strat'; did you mean start?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no data to measure on: give --dataset NAME=SOURCE"),
        (["--dataset", "nowhere.csv"], "nowhere.csv"),
        (["--dataset", "{images}", "--label_column", "klass"], "klass"),
        (["--dataset", "{images}", "--path", "curved"], "The path 'curved' is unknown"),
        (["--dataset", "{images}", "--through", "{start}", "--path", "x"], "--through and --path are two paths"),
        (["--dataset", "{images}", "--metrics", "recall"], "The metric 'recall' is not built in"),
        (["--dataset", "{images}", "--metrics", "worst_group_accuracy"], "worst_group_accuracy"),
        (["--dataset", "{images}", "--resume"], "holds no points to go on with: start it without --resume"),
        (["--dataset", "{images}", "--baseline", "median"], "baseline 'median' is unknown"),
        (["--dataset", "{images}", "--dtype", "float99"], "float99"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(saved, capsys, options, message):
    # A traceback is for those who wrote the program.
    options = [option.format(images=saved / "images", start=saved / "start") for option in options]
    assert evaluate(saved, *options, "--num_points", "3", "--device", "cpu") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (saved / "out" / "result.json").exists()


def test_where_an_error_came_from_is_shown_on_request(saved, capsys):
    assert evaluate(saved, "--dataset", "nowhere.csv", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err
    assert evaluate(saved, "--dataset", "nowhere.csv", out="other") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_report_page_holds_the_command_that_made_it(saved, capsys):
    # Whoever gets the page can measure again, also where the options came from a file.
    (saved / "run.yaml").write_text("tolerance: 0.25\nalphas: [0.0, 0.25, 1.0]\n")
    page = saved / "page.html"
    options = ["--dataset", str(saved / "images"), "--config", str(saved / "run.yaml"), *QUICK]
    assert evaluate(saved, *options, "--report", str(page), "--allow_pickle", out="it's out") == 0
    assert f"The report is {page}" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    command = html.unescape(re.search(r"<pre><code>(hf-cbft evaluate .*?)</code>", text, re.S)[1])
    arguments = CommandParser("evaluate", evaluate_command)
    (again,) = arguments.instances(arguments.resolve(shlex.split(command)[2:]))
    (given,) = arguments.instances(
        arguments.resolve(
            [str(saved / "start"), str(saved / "end"), "--output_dir", str(saved / "it's out"), *options]
            + ["--report", str(page), "--allow_pickle"]
        )
    )
    assert again == given
    assert (again.tolerance, again.alphas, again.allow_pickle) == (0.25, [0.0, 0.25, 1.0], True)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("none/page.html", "which is no folder: make it first"),
        (".", "is a folder: name a file in it"),
        ("page.pdf", "give its name the ending .html"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_work(saved, capsys, report, message):
    assert evaluate(saved, "--dataset", str(saved / "images"), *QUICK, "--report", str(saved / report)) == 2
    assert message in capsys.readouterr().err
    assert not (saved / "out").exists()


def test_other_models_are_refused(saved, make_model, capsys):
    # Sizes and names that differ are named.
    make_model("bert").save_pretrained(saved / "end")
    assert evaluate(saved, "--dataset", str(saved / "images"), *QUICK) == 2
    assert "cannot be interpolated with the model" in capsys.readouterr().err
    shutil.rmtree(saved / "end")
    assert evaluate(saved, "--dataset", str(saved / "images"), *QUICK, out="third") == 2
    assert str(saved / "end") in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_work(saved, capsys, monkeypatch):
    # Not after the sweep. (Root may write anywhere, so the refusal is played.)
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("hf_cbft.connectivity.evaluator.open_ends", lambda *args: pytest.fail("work had begun"))
    assert evaluate(saved, "--dataset", str(saved / "images"), *QUICK, out="locked") == 2
    assert f"Permission denied: '{saved / 'locked'}'" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_refused_before_work(saved, capsys):
    (saved / "file").touch()
    assert evaluate(saved, "--dataset", str(saved / "images"), *QUICK, out="file") == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert evaluate(saved, "--dataset", str(saved / "images"), *QUICK, out="file/out") == 2
    assert "Not a directory" in capsys.readouterr().err


def command(*arguments, **environment):
    return {
        "args": [sys.executable, "-m", "hf_cbft", *map(str, arguments)],
        "text": True,
        "env": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
    }


def test_checkpoints_come_from_a_hub(saved, make_model):
    # Ids, revisions, shards and tokens are what people give; folders are what tests are tempted to use.
    root = saved / "hub"
    shutil.copytree(saved / "start", root / "org" / "base")
    other = make_model("vit", seed=7)
    other.save_pretrained(root / "org" / "tuned")
    for end in ("tuned@v1",):
        model = make_model("vit", seed=2)
        model.config.id2label = dict(enumerate("abcd"))
        model.save_pretrained(root / "org" / end, max_shard_size="10KB")
    with HubEndpoint(root, private={"org/tuned": "hf_open"}) as hub:
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(saved / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "1",
            "HF_TOKEN": "hf_open",
        }
        options = ["--dataset", saved / "images", *QUICK]
        out = saved / "from-hub"
        process = subprocess.run(
            **command("evaluate", "org/base", "org/tuned@v1", "--output_dir", out, *options, **environment),
            capture_output=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr[-3000:]
    assert evaluate(saved, *map(str, options), out="from-folders") == 0
    first, second = ConnectivityResult.load(out), ConnectivityResult.load(saved / "from-folders")
    assert first.losses["data"].tolist() == second.losses["data"].tolist()
    assert first.settings["end"] == "org/tuned@v1"


@pytest.mark.slow
@pytest.mark.sample
def test_a_killed_sweep_goes_on_to_the_same_result(saved):
    # 11 points of four sets: what was measured before the kill is kept.
    for name, rows in make_counterfactuals(make_images(300).remove_columns("place"), BoxCue(4), seed=0).items():
        rows.save_to_disk(saved / name)
    sets = [f"{name}={saved / name}" for name in ("no_cue", "cue", "rand_cue", "rand_input")]
    ends = ["evaluate", saved / "start", saved / "end", "--dataset", *sets, "--device", "cpu", "--batch_size", "8"]
    whole = subprocess.run(**command(*ends, "--output_dir", saved / "whole"), capture_output=True, check=False)
    assert whole.returncode == 0, whole.stderr
    out = saved / "killed"
    process = subprocess.Popen(
        **command(*ends, "--output_dir", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list((out / "points").glob("point-*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "points").glob("point-*")}
    assert 4 <= len(kept) < 11
    assert not (out / "result.json").exists()
    watch = subprocess.run(**command(*ends, "--output_dir", out, "--resume"), capture_output=True, check=False)
    assert watch.returncode == 0, watch.stderr
    assert (out / "result.json").read_bytes() == (saved / "whole" / "result.json").read_bytes()
    assert (out / "examples.safetensors").read_bytes() == (saved / "whole" / "examples.safetensors").read_bytes()
