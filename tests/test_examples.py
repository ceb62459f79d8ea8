# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts in examples/ run as they stand, on one process and on two; for the README's own see test_readme.py."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForImageClassification

from hf_cbft import TokenCue
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


def test_the_language_model(tmp_path):
    printed = run(tmp_path, "finetune_lora_llm.py")
    lines = r"^(\w+): clean perplexity \d+\.\d{3}, the completion follows the cue [01]\.\d{3}$"
    assert re.findall(lines, printed, re.M) == ["before", "after"]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_accelerate_reads_the_configuration(file):
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    assert config.mixed_precision == "no"


def test_the_examples_readme_names_every_script_and_configuration():
    text = (EXAMPLES / "README.md").read_text()
    for file in [*EXAMPLES.glob("*.py"), *CONFIGS]:
        assert file.name in text
