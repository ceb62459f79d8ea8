# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What version 0.1 wrote: runs go on, results are read, and its module paths import for one release.

The folders in fixtures/version-0.1 were made with it, by the script beside them.
"""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hf_cbft
from hf_cbft import CBFTConfig, ConnectivityEvaluator, ConnectivityResult, MatrixResult, connectivity_matrix
from hf_cbft.alignment.alignments import Alignment
from hf_cbft.checkpoints.curve_files import load_curve

SAVED = Path(__file__).parent / "fixtures" / "version-0.1"
OLD_PATHS = sorted(hf_cbft._MOVED)


@pytest.fixture(scope="module")
def maker():
    """The script that made the folders."""
    spec = importlib.util.spec_from_file_location("version_0_1", SAVED / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_goes_on_to_the_end_that_it_would_have_had(kind, maker, tmp_path):
    """A user who updates in the middle of a run would lose it, or get another model without a word."""
    for part in (SAVED / kind).iterdir():
        if part.is_dir():
            shutil.copytree(part, tmp_path / part.name)
    trainer = maker.make_trainer(kind, tmp_path)
    trainer.train(resume_from_checkpoint=True)
    ends, expected = maker.trained_weights(trainer), load_file(SAVED / kind / "end.safetensors")
    assert ends.keys() == expected.keys()
    for name, weight in expected.items():
        # Bit for bit on the machine that made them; another processor rounds otherwise.
        torch.testing.assert_close(ends[name], weight, rtol=1e-5, atol=1e-6)
    log = [entry for entry in maker.log_of(trainer) if len(entry) > 1]
    before = json.loads((SAVED / kind / "log.json").read_text())
    assert [entry.keys() for entry in log] == [entry.keys() for entry in before]
    for entry, known in zip(log, before, strict=True):
        assert entry == pytest.approx(known, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_arguments_of_a_checkpoint_load(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        args = torch.load(SAVED / kind / "checkpoint-4" / "training_args.bin", weights_only=False)
    assert type(args) is CBFTConfig
    assert (args.max_steps, args.barrier_margin, args.seed) == (8, 1.0, 3)


def test_a_result_a_matrix_and_a_curve_are_read_and_measured_again_the_same(maker, monkeypatch):
    monkeypatch.chdir(SAVED)
    rows = {"cue": maker.make_rows("full", 12, 4)}
    kept = ConnectivityResult.load("path")
    again = ConnectivityEvaluator("start", "end", batch_size=6).evaluate(rows, num_points=5, num_resamples=50)
    np.testing.assert_allclose(kept.losses["cue"], again.losses["cue"], rtol=1e-5)
    assert kept.barriers["cue"].height == pytest.approx(again.barriers["cue"].height, abs=1e-5)
    matrix = MatrixResult.load("matrix")
    measured = connectivity_matrix(["start", "end"], rows, num_points=3, num_resamples=50)
    np.testing.assert_allclose(matrix.losses["cue"], measured.losses["cue"], rtol=1e-5)
    curve = load_curve("curve", "start", "end")
    along = ConnectivityEvaluator("start", "end", batch_size=6).evaluate(rows, curve, num_points=5, num_resamples=50)
    # What 0.1 measured; at 0.5 the straight line has 1.429.
    by_0_1 = [1.5364923, 1.2810036, 1.2986537, 1.4122366, 1.5133935]
    np.testing.assert_allclose(along.losses["cue"], by_0_1, rtol=1e-5)


def test_an_alignment_is_read_and_is_still_the_same_function(maker):
    alignment = Alignment.load(SAVED / "alignment.safetensors")
    model = maker.make_model("full", 1).eval()
    pixels = torch.tensor(maker.make_rows("full", 4, 4)["pixel_values"][:])
    before = model(pixel_values=pixels).logits
    torch.testing.assert_close(alignment.apply(model)(pixel_values=pixels).logits, before)


@pytest.mark.parametrize("old", OLD_PATHS)
def test_an_old_module_path_gives_what_is_there_now(old):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(f"hf_cbft.{old}")
    for new in hf_cbft._MOVED[old]:
        now = importlib.import_module(f"hf_cbft.{new}")
        assert all(getattr(module, name) is getattr(now, name) for name in vars(now) if not name.startswith("__")), new


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """`told(old)`: what a user's script is told at the line that imports from the old path."""
    script = tmp_path_factory.mktemp("old") / "old.py"
    lines = [f"from hf_cbft.{old} import {name}" for old, name, _ in OLD_IMPORTS]
    script.write_text(
        "\n".join([*lines, "from hf_cbft import mechanisms", "assert mechanisms.__name__ == 'mechanisms'"])
    )
    command = [sys.executable, "-W", "always::DeprecationWarning", str(script)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    numbers = {old: number for number, (old, *_) in enumerate(OLD_IMPORTS, 1)}
    return lambda old: [line for line in said if f"{script}:{numbers[old]}: DeprecationWarning: " in line]


OLD_IMPORTS = [
    ("mechanisms", "mechanisms", "write `from hf_cbft import MechanismReport, mechanisms`."),
    ("config", "CBFTConfig", "hf_cbft.config has moved to hf_cbft.training.config, and this path goes with the"),
    ("batchnorm", "recalibrate", "hf_cbft.batchnorm has moved to hf_cbft.paths.batchnorm, and this path goes"),
    ("data.groups", "read_wilds_metadata", "write `from hf_cbft import BackgroundCue, read_wilds_metadata`."),
    ("reproduce.recipes", "build_model", "hf_cbft.reproduce has moved to examples/paper of the repository"),
]


@pytest.mark.xdist_group("told")
@pytest.mark.parametrize(("old", "name", "advice"), OLD_IMPORTS)
def test_the_warning_names_the_new_import_in_the_users_own_line(old, name, advice, told):
    assert any(advice in line for line in told(old)), told(old)
    assert len(told(old)) == len(set(told(old)))


def test_a_filter_that_makes_errors_of_a_users_warnings_stops_at_the_users_line(tmp_path):
    script = tmp_path / "old.py"
    script.write_text("import hf_cbft\nfrom hf_cbft.config import CBFTConfig\n")
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert f'File "{script}", line 2' in process.stderr
    assert "DeprecationWarning: hf_cbft.config has moved to hf_cbft.training.config" in process.stderr


@pytest.mark.parametrize("module_first", [False, True])
def test_the_function_is_not_hidden_by_the_module_of_its_name(module_first):
    lines = ["from hf_cbft import mechanisms as function", "from hf_cbft.mechanisms import mechanisms as old"]
    lines = [*(reversed(lines) if module_first else lines), "import hf_cbft"]
    lines += ["assert hf_cbft.mechanisms is function is old"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], check=True)


def test_a_path_that_never_was_is_not_found():
    for name in ("hf_cbft.nowhere", "hf_cbft.data.nowhere"):
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
            importlib.import_module(name)
