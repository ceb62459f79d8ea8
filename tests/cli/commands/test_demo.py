# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft demo`: what it leaves, that it can be measured again without this library, and how it fails."""

import json
import shutil
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_cbft import BoxCue, ConnectivityEvaluator, ConnectivityResult
from hf_cbft.cli.commands.demo import Arguments, check
from hf_cbft.cli.demo_report import DemoReport, _reliance
from hf_cbft.cli.main import main
from hf_cbft.connectivity.matrix import connectivity_matrix
from hf_cbft.data.counterfactuals import add_cue
from hf_cbft.data.digits import load_digits
from hf_cbft.training.curves import default_arguments, fit_curve
from paper.recipes import RECIPES

# One worker runs the quick demo for all of them.
pytestmark = pytest.mark.xdist_group("demo")

MODELS = ["pretrained", "naive-small", "naive-medium", "naive-large", "cbft", "cbft-paper"]
SETS = ["no_cue", "cue", "rand_cue", "rand_input"]


def run_demo(*options: str, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hf_cbft", "demo", "--quick", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def without_times(results: dict) -> dict:
    for models in results["seeds"].values():
        for model in models.values():
            model.pop("train_seconds")
    return results


def test_it_leaves_the_promised_layout(quick_demo):
    assert quick_demo.process.returncode == 0, quick_demo.process.stderr
    folder = quick_demo.folder
    files = {"README.md", "paths.png", "results.json", "demo.json", "demo.yaml", "seed-0"}
    assert files == {p.name for p in folder.iterdir()}
    assert {*MODELS, "data", "paths"} == {p.name for p in (folder / "seed-0").iterdir()}
    assert set(SETS) == {p.name for p in (folder / "seed-0" / "data").iterdir()}
    assert (folder / "paths.png").read_bytes().startswith(b"\x89PNG")


def test_the_screen_shows_a_row_and_a_sentence_for_each_model(quick_demo):
    said = quick_demo.process.stdout
    for name in MODELS:
        assert f"\n{name} " in said
        assert f"- {name} " in said
    assert "whose figures mean nothing" in said
    assert "figures mean nothing" in (quick_demo.folder / "README.md").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_plain_transformers_measures_the_same_accuracies(quick_demo, name):
    folder = quick_demo.folder / "seed-0"
    model = AutoModelForImageClassification.from_pretrained(folder / name).eval()
    processor = ViTImageProcessorPil.from_pretrained(folder / name)
    measured = json.loads((quick_demo.folder / "results.json").read_text())["seeds"]["0"][name]
    for part in SETS:
        rows = datasets.load_from_disk(str(folder / "data" / part))
        assert set(rows.column_names) == {"image", "label"}
        with torch.no_grad():
            logits = model(**processor(images=list(rows["image"]), return_tensors="pt")).logits
        accuracy = (logits.argmax(-1).numpy() == np.array(rows["label"])).mean()
        assert abs(accuracy - measured["accuracy"][part]) <= 1.0 / len(rows)
        if name != "pretrained":
            barrier = measured["barriers"][part]
            assert barrier["low"] <= barrier["height"] <= barrier["high"]
            assert barrier["connected"] in (True, False, None)


def test_every_path_starts_at_pretrained_and_ends_at_its_model(quick_demo):
    accuracies = json.loads((quick_demo.folder / "results.json").read_text())["seeds"]["0"]
    for name in MODELS[1:]:
        result = ConnectivityResult.load(quick_demo.folder / "seed-0" / "paths" / name)
        for part in SETS:
            values = result.metrics[part]["accuracy"]
            assert values[0] == accuracies["pretrained"]["accuracy"][part]
            assert values[-1] == accuracies[name]["accuracy"][part]


def test_naive_large_is_picked_on_validation_images(quick_demo):
    record = json.loads((quick_demo.folder / "seed-0" / "naive-large" / "record.json").read_text())
    assert record["validation_rand_cue"] == max(record["tried"].values())
    assert record["tried"][f"{record['learning_rate']:g}"] == record["validation_rand_cue"]


@pytest.mark.slow
@pytest.mark.xdist_group("interrupted demo")  # beside the full one, not after it
def test_interrupt_keeps_what_is_whole_and_resume_makes_what_is_missing(quick_demo, tmp_path):
    # What a second run makes is what the first one made, whatever it finds there.
    folder = tmp_path / "interrupted"
    # A suite that is started in the background ignores SIGINT, and what it starts would too.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from hf_cbft.cli.main import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--quick", "--output-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not (folder / "seed-0" / "pretrained" / "record.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "seed-0/pretrained" in errors
    assert "--resume" in errors
    assert not [path for path in folder.rglob(".*-*") if path.is_dir()]
    AutoModelForImageClassification.from_pretrained(folder / "seed-0" / "pretrained")
    # The pretrained model is of this run. All others are there but for one trained model, and for one path.
    for part in (path for path in (quick_demo.folder / "seed-0").iterdir() if path.name not in ("pretrained", "cbft")):
        shutil.copytree(part, folder / "seed-0" / part.name, dirs_exist_ok=True)
    for gone in ("cbft", "naive-small"):
        shutil.rmtree(folder / "seed-0" / "paths" / gone)
    (folder / "seed-0" / ".cbft-killed").mkdir()
    kept = {name: folder / "seed-0" / name / "record.json" for name in ("pretrained", "naive-small")}
    before = {name: file.stat().st_mtime_ns for name, file in kept.items()}
    resumed = run_demo("--resume", "--output-dir", str(folder))
    assert resumed.returncode == 0, resumed.stderr
    assert {name: file.stat().st_mtime_ns for name, file in kept.items()} == before
    assert not (folder / "seed-0" / ".cbft-killed").exists()
    first, second = (json.loads((f / "results.json").read_text()) for f in (quick_demo.folder, folder))
    assert without_times(first) == without_times(second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vgg"}, "unknown model 'vgg'; there is vit and resnet"),
        ({"device": "warp"}, "device 'warp' cannot be used"),
        ({"seeds": [0, -1]}, "seeds are whole numbers from 0 on; got -1"),
        ({"seeds": [1, 1]}, r"each seed once, at least one; got \[1, 1\]"),
        ({"overwrite": True, "resume": True}, "give one of them"),
        ({"resume": True}, "holds no demo to resume"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_written(options, message, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        check(Arguments(output_dir=str(folder), **options))
    assert not folder.exists()


def test_a_folder_that_is_not_free_is_left_alone(quick_demo, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not empty"):
        check(Arguments(output_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="is not a folder of this demo, so --overwrite will not remove it"):
        check(Arguments(output_dir=str(tmp_path), overwrite=True))
    with pytest.raises(ValueError, match="is a file"):
        check(Arguments(output_dir=str(tmp_path / "thesis.txt")))
    with pytest.raises(ValueError, match="was started with --model vit"):
        check(Arguments(output_dir=str(quick_demo.folder), resume=True, quick=True, model="resnet"))
    check(Arguments(output_dir=str(quick_demo.folder), overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--version"], 0, "hf-cbft 0."),
        (["--help"], 0, "commands:"),
        ([], 2, "commands:"),
        (["tune"], 2, "unknown command 'tune'"),
        (["demo", "--model", "vgg"], 2, "error: unknown model 'vgg'"),
        (["demo", "--sedes", "1"], 2, "--sedes"),
        (["demo", "--seeds", "one"], 2, "--seeds takes a whole number, not 'one'"),
    ],
)
def test_exit_status_says_whose_fault_it_is(argv, status, said, capsys):
    assert main(argv) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    assert "Traceback" not in captured.err


def test_a_failure_while_running_is_status_1(monkeypatch, capsys, tmp_path):
    def fail(arguments):
        raise RuntimeError("out of paper")

    monkeypatch.setattr("hf_cbft.cli.commands.demo.run", fail)
    assert main(["demo", "--output-dir", str(tmp_path / "out")]) == 1
    assert "out of paper" in capsys.readouterr().err


def verdict_report(monkeypatch, folder, **changes):
    """The quick demo's report with other accuracies and verdicts: (RI, verdict) by model."""
    settings = json.loads((folder / "demo.json").read_text())
    report = DemoReport(folder, [0], settings)
    monkeypatch.setattr(report, "verdicts", lambda name: [changes.get(name, (0.9, True))[1]])
    monkeypatch.setattr(report, "barrier", lambda name: 1.0 if report.verdicts(name) == [False] else 0.0)
    monkeypatch.setattr(report, "accuracy", lambda name, part: changes.get(name, (0.9, True))[0])
    return "\n".join(report.sentences())


def test_sentences_follow_the_figures(quick_demo, monkeypatch):
    lost = verdict_report(monkeypatch, quick_demo.folder, cbft=(0.1, False), **{"naive-large": (0.1, True)})
    assert "pretrained relies on the cue" in lost
    assert "cbft ignores the cue" in lost
    assert "cbft ignores the cue (RI 10 %, RC 10 % against NC 10 %) and is not connected to pretrained" in lost
    assert "naive-large stopped following the cue without a barrier" in lost
    kept = verdict_report(monkeypatch, quick_demo.folder, cbft=(0.3, None))
    assert "cbft still follows the cue in part" in kept
    assert "is connected to pretrained: undecided" in kept
    assert "without a barrier" not in kept


@pytest.mark.parametrize(
    ("only_cue", "lost", "said"),
    [
        (0.7, 0.6, "relies on the cue"),
        (0.3, 0.0, "still follows the cue in part"),
        (0.1, 0.2, "no longer follows the cue but is thrown off by it"),
        (0.1, 0.05, "ignores the cue"),
    ],
)
def test_a_model_that_a_wrong_cue_throws_off_does_not_ignore_it(only_cue, lost, said):
    assert _reliance(only_cue, lost) == said


@pytest.mark.slow
def test_the_table_of_seed_0_is_as_promised(tmp_path):
    # The README's first command: a model off its cue, behind a barrier; naive fine-tuning still on it, and connected.
    folder = tmp_path / "out"
    subprocess.run([sys.executable, "-m", "hf_cbft", "demo", "--output-dir", str(folder)], check=True)
    report = DemoReport(folder, [0], json.loads((folder / "demo.json").read_text()))
    assert report.accuracy("pretrained", "rand_input") >= 0.60
    assert report.accuracy("naive-small", "rand_input") >= 0.60
    assert report.verdicts("naive-small") == [True]
    assert report.accuracy("cbft", "rand_input") <= 0.20
    assert report.barrier("cbft") >= 0.5
    assert report.verdicts("cbft") == [False]
    best = max(("naive-small", "naive-medium", "naive-large"), key=lambda name: report.accuracy(name, "rand_cue"))
    assert report.advantage(best)[1] > 0.0

    # A curve gets round the barrier on the cue data, measured on images that it was not fitted to.
    pretrained, cbft = folder / "seed-0" / "pretrained", folder / "seed-0" / "cbft"
    with_cue = add_cue(load_digits(RECIPES["vit"].contrast)["pretrain"], BoxCue(), 1.0, 0)
    processor = AutoImageProcessor.from_pretrained(cbft)
    args = default_arguments(str(tmp_path / "fit"), max_steps=100, use_cpu=True, disable_tqdm=True)
    path = fit_curve(pretrained, cbft, with_cue, args, processing_class=processor)
    held_out = datasets.load_from_disk(str(folder / "seed-0" / "data" / "cue"))
    result = ConnectivityEvaluator(pretrained, cbft, processor, batch_size=256).evaluate({"cue": held_out}, path=path)
    assert result.losses["cue"].max() < report.barrier("cbft")
    assert result.barriers["cue"].connected is True

    # Being connected pair by pair: naive fine-tuning stays with the pretrained model, CBFT does not.
    names = ("pretrained", "naive-small", "naive-medium", "naive-large", "cbft")
    checkpoints = [folder / "seed-0" / name for name in names]
    matrix = connectivity_matrix(checkpoints, {"cue": held_out}, processor, batch_size=256, num_points=3)
    (own,) = (cluster for cluster in matrix.clusters if "pretrained" in cluster)
    assert {"naive-small", "naive-medium"} <= set(own)
    assert "cbft" not in own
