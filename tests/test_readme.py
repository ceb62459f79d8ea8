# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""README.md: its commands and scripts are those that are run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from hf_cbft import ConnectivityResult

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.xdist_group("demo")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)


def body(script: Path) -> str:
    """A script without its licence lines."""
    return script.read_text().split("\n", 2)[2]


def run_script(text: str, folder: Path, **environment: str) -> str:
    script = folder / "script.py"
    script.write_text(text)
    process = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_first_two_commands_are_those_that_ci_runs():
    first, second = blocks("bash")[:2]
    assert "\nhf-cbft demo " in first
    assert "\nHF_HUB_OFFLINE=1 pytest" in second
    assert all("-c tests/constraints.txt" in block for block in (first, second))


def test_the_scripts_are_the_examples_and_short():
    shown = blocks("python")
    assert shown == [body(EXAMPLES / name) for name in ("finetune_with_cbft.py", "measure_a_path.py")]
    assert all(len(script.splitlines()) <= 25 for script in shown)


def test_every_other_block_is_run_or_is_output():
    languages = re.findall(r"^```(\w+)$", (ROOT / "README.md").read_text(), re.M)
    assert sorted(set(languages) - {"text"}) == ["bash", "python"]
    assert languages.count("bash") == 3


@pytest.mark.slow
@pytest.mark.sample
def test_the_finetuning_script_runs(quick_demo, tmp_path):
    (tmp_path / "cbft-demo").symlink_to(quick_demo.folder)
    script = body(EXAMPLES / "finetune_with_cbft.py")
    assert "max_steps=360" in script
    run_script(script.replace("max_steps=360", "max_steps=4"), tmp_path)  # the others take a minute
    AutoModelForImageClassification.from_pretrained(tmp_path / "cbft-model")


@pytest.mark.slow
@pytest.mark.sample
def test_the_measuring_script_runs(quick_demo, tmp_path):
    (tmp_path / "cbft-demo").symlink_to(quick_demo.folder)
    printed = run_script(body(EXAMPLES / "measure_a_path.py"), tmp_path)
    for name in ("no_cue", "cue", "rand_cue", "rand_input"):
        assert f"\n{name} " in printed
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")
    assert len(ConnectivityResult.load(tmp_path / "path-pretrained-to-cbft").alphas) == 11
