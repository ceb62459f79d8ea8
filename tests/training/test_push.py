# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`CBFTTrainer.push_to_hub` against a Hub on this machine: what arrives, and what is said if nothing can."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.hub_endpoint import HubEndpoint
from huggingface_hub import ModelCard

HERE = Path(__file__).parent
TOKEN = "hf_given_to_the_run"
BESIDE = {"README.md", "training.png"}
FULL = {"config.json", "model.safetensors", *BESIDE}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors", *BESIDE}


@pytest.fixture
def push(tmp_path):
    """`push(kind, ...)`: the endpoint after the run into `tmp_path / "out"`, and the finished process."""

    def run(kind, writer=TOKEN, failing=None):
        (tmp_path / "hub").mkdir()
        with HubEndpoint(tmp_path / "hub", writer=writer) as hub:
            if failing:
                hub.fail("503", path=failing)
            environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN",)}
            environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
            # The Hub's own storage protocol needs a server of its own; and no waiting for a server that stays away.
            environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, str(HERE / "push_run.py"), str(tmp_path / "out"), kind]
            process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return hub, process

    return run


def arrived(folder):
    repository = folder / "hub" / "org" / "birds"
    files = {path.relative_to(repository).as_posix(): path for path in repository.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "names"), [("full", FULL), ("adapter", ADAPTER), ("resave", FULL)])
def test_what_is_saved_arrives_and_nothing_else(push, tmp_path, kind, names):
    """The reference is another model's weights; checkpoints and pickled arguments, with the token, stay here too."""
    hub, process = push(kind)
    assert process.returncode == 0, process.stderr
    files = arrived(tmp_path)
    assert files.keys() == names
    assert all(content == (tmp_path / "out" / name).read_bytes() for name, content in files.items())
    here = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"checkpoint-2", "training_args.bin"} <= here
    assert "_reference" in here
    assert TOKEN.encode() not in b"".join(files.values())
    assert hub.tokens_at_cdn == 0
    assert set(hub.cards) == {files["README.md"].decode()}  # the Hub was asked, and found nothing wrong with it
    data = ModelCard(files["README.md"].decode()).data
    assert "hf-cbft" in data.tags
    assert ("birds" in data.tags) == (kind != "resave")
    assert data.library_name == ("peft" if kind == "adapter" else "transformers")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("empty", {}, r"ValueError: \S+/out holds no weights and none were trained to push: call train\(\) first\."),
        (
            "full",
            {"failing": "/commit/"},
            r"OSError: \S+/out could not be pushed to org/birds: the Hub answers 503; try again later\.",
        ),
        (
            "full",
            {"failing": "/repos/create"},
            r"OSError: The repository on the Hub could not be made: the Hub answers 503; try again later\.",
        ),
        (
            "full",
            {"writer": "another"},
            r"OSError: The repository on the Hub could not be made: the Hub answers 403; use a token that may "
            r"write there\.",
        ),
    ],
)
def test_a_push_that_cannot_be_says_so_in_one_sentence(push, tmp_path, kind, options, message):
    _, process = push(kind, **options)
    assert process.returncode == 1
    assert re.fullmatch(message, process.stderr.strip().splitlines()[-1])
    assert not arrived(tmp_path)


@pytest.mark.slow
def test_a_large_file_that_the_storage_refuses_is_one_sentence_too(push, tmp_path):
    """The client wraps this one in an error of its own."""
    _, process = push("full", failing="/cdn/_lfs/")
    assert process.returncode == 1
    assert "the Hub answers 503; try again later." in process.stderr
    assert not arrived(tmp_path)


@pytest.mark.slow
@pytest.mark.sample
def test_what_is_pushed_while_training_goes_on_holds_no_reference_and_no_token_either(push, tmp_path):
    """There the upload is the Trainer's own."""
    _, process = push("saving")
    assert process.returncode == 0, process.stderr
    files = arrived(tmp_path)
    # A second push waits for no first one: it is left out.
    assert files["model.safetensors"] in [file.read_bytes() for file in (tmp_path / "out").glob("*/model.safetensors")]
    assert not [name for name in files if "reference" in name or "checkpoint" in name]
    assert TOKEN.encode() not in b"".join(files.values())
