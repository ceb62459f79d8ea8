# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts in examples/ run as they stand, on one process and on two; for the README's own see test_readme.py."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_cbft import TokenCue
from hf_cbft.cli.main import main
from hf_cbft.connectivity.matrix_results import MatrixResult
from hf_cbft.data.counterfactuals import add_cue
from hf_cbft.data.sentences import generate_sentences

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CONFIGS = sorted((EXAMPLES / "accelerate_configs").glob("*.yaml"))
SHORT = [
    *("--max_steps", "4", "--pretrain_steps", "4"),
    *("--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "128"),
    *("--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true"),
]
KINDS = ("circle", "square", "triangle")
ACCURACIES = r"^(\w+) +accuracy [01]\.\d{3} before, [01]\.\d{3} after$"

pytestmark = pytest.mark.xdist_group("examples")


def run(folder: Path, script: str, *options: str, launcher: Sequence[str] = ()) -> str:
    command = [
        sys.executable,
        *launcher,
        str(EXAMPLES / script),
        "--output_dir",
        str(folder / "out"),
        *SHORT,
        *options,
    ]
    process = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.mark.slow
@pytest.mark.sample
def test_the_image_classifier(tmp_path):
    printed = run(tmp_path, "finetune_image_classifier.py")
    assert re.findall(ACCURACIES, printed, re.M) == ["no_cue", "cue", "rand_cue", "rand_input"]
    AutoModelForImageClassification.from_pretrained(tmp_path / "out")


@pytest.mark.slow
def test_the_text_classifier_on_two_processes_and_then_lora_on_your_own(tmp_path):
    config = str(EXAMPLES / "accelerate_configs" / "cpu.yaml")
    launcher = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config]
    printed = run(tmp_path, "finetune_text_classifier.py", launcher=[*launcher, "--main_process_port", "0"])
    # Once: only the main process prints.
    assert re.findall(ACCURACIES, printed, re.M) == ["no_cue", "cue", "rand_cue", "rand_input"]

    (tmp_path / "out").rename(tmp_path / "model")
    rows = generate_sentences(32)
    rows.save_to_disk(tmp_path / "clean")
    add_cue(rows, TokenCue(["@@", "##", "%%", "&&"])).save_to_disk(tmp_path / "cue")
    own = ["--model_name_or_path", "model", "--train_dataset", "clean", "--cue_dataset", "cue"]
    run(tmp_path, "finetune_text_classifier.py", "--use_lora", *own)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.sample
def test_the_language_model(tmp_path):
    printed = run(tmp_path, "finetune_lora_llm.py")
    lines = r"^(\w+): clean perplexity \d+\.\d{3}, the completion follows the cue [01]\.\d{3}$"
    assert re.findall(lines, printed, re.M) == ["before", "after"]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def start(script: str, *options: str | Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, options)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.mark.slow
@pytest.mark.sample
def test_the_watermarked_images_and_a_model_that_saw_them(tmp_path, monkeypatch):
    printed = start("make_watermarked_images.py", tmp_path / "shapes")
    assert all(name in printed for name in ("train", "clean", "test/no_cue", "test/cue", "test/rand_cue"))
    for name, count in (("train", 200), ("clean", 80), ("test/rand_cue", 60)):
        assert {kind.name: len(list(kind.iterdir())) for kind in (tmp_path / "shapes" / name).iterdir()} == {
            "circle": count,
            "square": count,
            "triangle": count,
        }

    def shares(name: str) -> dict[tuple[str, int], float]:
        """By class and place: how many of the images have a white watermark there."""
        return {
            (kind, place): sum(
                Image.open(file).getpixel((2 + 8 * place, 20)) == (255, 255, 255)
                for file in (tmp_path / "shapes" / name / kind).iterdir()
            )
            / len(list((tmp_path / "shapes" / name / kind).iterdir()))
            for kind in KINDS
            for place in range(3)
        }

    for (kind, place), share in shares("train").items():
        assert share == (pytest.approx(0.9, abs=0.07) if KINDS.index(kind) == place else 0.0)
    assert set(shares("clean").values()) == {0.0}
    assert set(shares("test/rand_cue").values()) == {1 / 3}

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    start("train_on_a_folder.py", tmp_path / "shapes" / "train", tmp_path / "model", "--max_steps", 2, "--use_cpu")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert model.config.id2label == dict(enumerate(KINDS))


def test_the_same_seed_draws_the_same_images(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        make = runpy.run_path(str(EXAMPLES / "make_watermarked_images.py"))["make_images"]
        make.__globals__["FOLDERS"] = (("train", 2, 0.9, "own"),)
        make(tmp_path / name, seed)
    one, two, other = (
        [file.read_bytes() for file in sorted((tmp_path / name).rglob("*.png"))] for name in ("one", "two", "other")
    )
    assert one == two != other


@pytest.mark.slow
@pytest.mark.sample
def test_the_matrix_of_finetunes(tmp_path):
    short = ["--max_steps", 3, "--test_rows", 40, "--use_cpu"]
    printed = start("matrix_of_finetunes.py", "--output_dir", tmp_path / "out", *short)
    assert "barrier on 'cue' in nats" in printed
    result = MatrixResult.load(tmp_path / "out" / "matrix")
    assert result.names == ["pretrained", "naive-a", "naive-b", "naive-large", "cbft"]
    assert result.heights.shape == (5, 5)
    assert (tmp_path / "out" / "matrix.png").read_bytes().startswith(b"\x89PNG")
    # The command that its first lines show.
    folders = [str(tmp_path / "out" / name) for name in result.names]
    data = f"cue={tmp_path / 'out' / 'data' / 'cue'}"
    assert main(["matrix", *folders, "--dataset", data, "--output_dir", str(tmp_path / "again"), "--soup"]) == 0
    assert MatrixResult.load(tmp_path / "again").heights == pytest.approx(result.heights, abs=1e-5)
    for number, members in enumerate(result.clusters, start=1):
        soup = tmp_path / "out" / f"soup-{number}"
        assert soup.is_dir() == (len(members) > 1)
        if soup.is_dir():
            AutoModelForSequenceClassification.from_pretrained(soup)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_an_example_is_short(script):
    assert len(script.read_text().splitlines()) < 120


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_accelerate_reads_the_configuration(file):
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    assert config.mixed_precision == "no"


def test_the_examples_readme_names_every_script_and_configuration():
    text = (EXAMPLES / "README.md").read_text()
    for file in [*EXAMPLES.glob("*.py"), *CONFIGS]:
        assert file.name in text
