# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""FSDP2 through the trainer: `pytest -m gpu`. One process proves the path; more ranks were not run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

pytestmark = pytest.mark.gpu


def run(folder: Path, *launcher: str, **environment: str):
    command = [sys.executable, *launcher, str(FOLDER / "run_trainer.py"), str(folder), "gpu", "gpu lora"]
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return {name: torch.load(folder / f"{name}-rank0-of-1.pt", weights_only=True) for name in ("gpu", "gpu lora")}


@pytest.mark.parametrize("name", ["gpu", "gpu lora"])
def test_fsdp2_through_the_trainer_follows_one_unsharded_process(name, tmp_path):
    config = ROOT / "examples" / "accelerate_configs" / "fsdp2.yaml"
    (tmp_path / "plain").mkdir()
    (tmp_path / "sharded").mkdir()
    plain = run(tmp_path / "plain")[name]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "1"]
    sharded = run(tmp_path / "sharded", *launcher, "--mixed_precision", "no")[name]
    assert sharded["sharded"]
    assert not plain["sharded"]
    assert [entry["loss"] for entry in sharded["logs"]] == pytest.approx(
        [entry["loss"] for entry in plain["logs"]], rel=1e-4
    )
    for weight, expected in zip(sharded["weights"].values(), plain["weights"].values(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)
