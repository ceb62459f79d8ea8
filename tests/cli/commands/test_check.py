# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft check`: what it prints, its exit status, and what it costs on large checkpoints behind a Hub endpoint."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.hub_endpoint import HubEndpoint
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from hf_cbft.cli.main import main

SHAPES = {
    # Of 130M and 7B parameters.
    "bert": (BertForSequenceClassification, BertConfig(vocab_size=57_000), "F32", 1),
    "llama": (LlamaForCausalLM, LlamaConfig(), "BF16", 4),
}


def write_sparse(folder: Path, name: str) -> int:
    """A checkpoint of a real shape: headers, then holes. Returns how many bytes its weights would take."""
    model_class, config, dtype, shards = SHAPES[name]
    with torch.device("meta"):
        model = model_class(config)
    config.architectures = [model_class.__name__]
    config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {str(i): i for i in range(32_000)}}}))
    (folder / "tokenizer.model").write_bytes(bytes(500_000))
    names = list(model.state_dict())
    size, weight_map = 0, {}
    for shard in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header, end = {}, 0
        for tensor in names[shard * len(names) // shards : (shard + 1) * len(names) // shards]:
            shape = model.state_dict()[tensor].shape
            length = shape.numel() * {"F32": 4, "BF16": 2}[dtype]
            header[tensor] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + length]}
            end += length
            weight_map[tensor] = file
        raw = json.dumps(header).encode()
        with (folder / file).open("wb") as opened:
            opened.write(struct.pack("<Q", len(raw)) + raw)
            opened.truncate(8 + len(raw) + end)
        size += end
    if shards > 1:
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return size


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    sizes = {name: write_sparse(root / "org" / name, name) for name in SHAPES}
    for name in SHAPES:
        write_sparse(root / "org" / f"{name}-tuned@v2", name)
        (root / "org" / f"{name}-tuned").mkdir()
        (root / "org" / f"{name}-tuned@v2" / "tokenizer.model").write_bytes(bytes(500_001))
    assert sizes["bert"] > 4 * 125e6
    assert sizes["llama"] > 2 * 6.5e9
    return root


def run(url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    command = [sys.executable, "-m", "hf_cbft", "check", *arguments]
    environment = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("name", "parameters"), [("bert", "129,818,882"), ("llama", "6,738,415,616")])
def test_a_large_pair_on_the_hub_takes_seconds_and_little_traffic(root, tmp_path, name, parameters, capsys):
    # Gigabytes would be downloaded to say that two models do not fit.
    with HubEndpoint(root) as hub:
        began = time.perf_counter()
        process = run(hub.url, tmp_path, f"org/{name}", f"org/{name}-tuned@v2", "--json")
        seconds = time.perf_counter() - began
        sent = hub.bytes_sent
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    report = json.loads(process.stdout)
    assert report["compatible"]
    assert f" {parameters} parameters" in report["interpolates"]
    # By its hash alone.
    assert "tokenizer.model differs" in str(report["findings"])
    with capsys.disabled():
        print(f"\ncheck {name}: {seconds:.1f} s with the start of Python, {sent:,} bytes", end=" ")
    assert sent < 1_000_000
    # 5 s where nothing else runs on the machine.
    assert seconds < 15
    assert not (tmp_path / "hub").exists()


def test_a_hub_that_fails_is_one_sentence(root, tmp_path):
    # A traceback through the libraries, or minutes of waiting.
    with HubEndpoint(root) as hub:
        hub.fail("cut", path="/cdn/")
        process = run(hub.url, tmp_path, "org/bert", "org/bert-tuned@v2")
        tries = hub.requests["GET /cdn/org/bert/model.safetensors"]
    assert (process.returncode, process.stdout, tries) == (2, "", 4)
    assert process.stderr.startswith("hf-cbft check: error: org/bert: model.safetensors cannot be had from http://")
    assert process.stderr.count("\n") == 1


def test_nothing_there_and_nothing_cached_is_one_sentence(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        process = run(f"http://127.0.0.1:{free.getsockname()[1]}", tmp_path, "org/a", "org/b")
    assert process.returncode == 2
    assert "org/a: its list of files cannot be had from" in process.stderr
    assert process.stderr.rstrip().endswith("Nothing of it is in the cache.")
    assert process.stderr.count("\n") == 1


@pytest.fixture
def folders(make_model, tmp_path):
    make_model("bert", seed=1).save_pretrained(tmp_path / "a")
    make_model("bert", seed=2).save_pretrained(tmp_path / "b")
    make_model("vit").save_pretrained(tmp_path / "c")
    return tmp_path


def test_exit_status_and_report(folders, capsys):
    # A script that stops at the first pair that does not fit relies on it.
    a, b, c = (str(folders / name) for name in "abc")
    assert main(["check", a, b]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{a} -> {b}: can be interpolated\n  a path moves ")
    assert "architecture:  BertForSequenceClassification" in printed
    assert main(["check", a, c]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{a} -> {c}: cannot be interpolated\nin the way:\n  architecture:")
    assert "-> There is no line between two architectures" in printed
    assert main(["check", a, c, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["compatible"] is False
    assert report["findings"][0]["level"] == "blocking"
    assert set(report["findings"][0]) == {"topic", "level", "text", "advice"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "two checkpoints are needed"),
        (["{a}"], "two checkpoints are needed"),
        (["{a}", "{a}/missing"], "neither a folder here nor the id of a Hub repository"),
        (["{a}", "org/name"], "not in the cache, and HF_HUB_OFFLINE is set"),
        (["{a}", "{b}", "--head_from", "middle"], "--head_from is start or end; got 'middle'"),
        (["{a}", "{b}", "--head_from", "end", "--ignore_head"], "give one of the two"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(folders, capsys, options, text):
    assert main(["check", *(option.format(a=folders / "a", b=folders / "b") for option in options)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert text in printed.err
    assert printed.err.startswith("hf-cbft check: error: ")
    assert printed.err.count("\n") == 1


def test_options_reach_the_comparison(folders, make_model, capsys):
    a, b = folders / "a", folders / "b"
    config = json.loads((b / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {str(i): name for i, name in enumerate("wxyz")}
    (a / "config.json").write_text(json.dumps(config), encoding="utf-8")
    config["id2label"] = {str(i): name for i, name in enumerate("xwyz")}
    (b / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["check", str(a), str(b)]) == 1
    assert "w is 0 at the start and 1 at the end; x is 1 at the start and 0 at the end" in capsys.readouterr().out
    assert main(["check", str(a), str(b), "--ignore_head"]) == 0
    assert main(["check", str(a), str(b), "--head_from", "end"]) == 0
    for folder, lower in ((a, True), (b, False)):
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_resize": lower}), encoding="utf-8")
    capsys.readouterr()
    assert main(["check", str(a), str(b), "--ignore_head", "--deep"]) == 0
    assert "do_resize is True at the start, False at the end" in capsys.readouterr().out
