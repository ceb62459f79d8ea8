# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny models, made from configurations once a session; a test that changes one works on a deep copy."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import copy
import gc
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

# Two workers share two cores.
torch.set_num_threads(1)
datasets.disable_progress_bars()

NUM_CLASSES = 4

# Scripts that the tests or people start.
collect_ignore_glob = ["benchmarks/*", "helpers/*", "distributed/run_*.py", "training/*_run.py"]


def pytest_addoption(parser) -> None:
    parser.addoption("--update-errors", action="store_true", help="Write tests/errors.txt anew.")


def pytest_collection_finish() -> None:
    """Each training ends with a collection of garbage, which takes 0.3 s less without what is imported by now."""
    gc.collect()
    gc.freeze()


def make_vit() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=8,
            patch_size=4,
            num_labels=NUM_CLASSES,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
    )


def make_bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            num_labels=NUM_CLASSES,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
    )


def make_resnet() -> ResNetForImageClassification:
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=NUM_CLASSES)
    )


def make_gpt2() -> GPT2LMHeadModel:
    """Its output weights are its input embeddings: one tied tensor."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="sdpa",
        )
    )


MAKERS = {"vit": make_vit, "bert": make_bert, "resnet": make_resnet, "gpt2": make_gpt2}


@pytest.fixture(scope="session")
def _originals():
    models = {}
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        models[name] = make()
    return models


@pytest.fixture
def make_model(_originals):
    """`make_model(name, seed=None)`: a deep copy of the session's model, or one of other weights with a seed."""

    def make(name: str, seed: int | None = None) -> torch.nn.Module:
        model = copy.deepcopy(_originals[name])
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


@pytest.fixture
def make_batch():
    """`make_batch(name, rows, seed)`: model inputs with labels, in float32; texts are padded on the right."""

    def make(name: str, rows: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(rows) % NUM_CLASSES
        if name in ("vit", "resnet"):
            size = 8 if name == "vit" else 32
            return {"pixel_values": torch.randn(rows, 3, size, size, generator=generator), "labels": labels}
        input_ids = torch.randint(1, 50, (rows, 10), generator=generator)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[0, 7:] = 0
        labels = labels if name == "bert" else input_ids.masked_fill(attention_mask == 0, -100)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}

    return make


@pytest.fixture(scope="session", autouse=True)
def measured() -> dict[str, str]:
    """The environment in which the lines of a process count for coverage.

    The demo is started in it, as its code runs nowhere else; other processes are not: tracing doubles their time.
    """
    name = "COVERAGE_PROCESS_CONFIG"
    return {name: os.environ.pop(name, "")}


@contextmanager
def one_core():
    """Processes that start meanwhile see one core, where the system can say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def quick_demo(measured, tmp_path_factory) -> SimpleNamespace:
    """`hf-cbft demo --quick`, run once: its `folder` and its finished `process`."""
    folder = Path(tmp_path_factory.mktemp("demo")) / "cbft-demo"
    command = [sys.executable, "-m", "hf_cbft", "demo", "--quick", "--output-dir", str(folder)]
    # The imports of a second worker would take as long as what it trains.
    with one_core():
        process = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **measured})
    return SimpleNamespace(folder=folder, process=process)


@pytest.fixture
def table(record_property, request) -> SimpleNamespace:
    """`table.append((what, ..., error))`: a row of the table of gradients that the end of the test run prints."""

    def append(row) -> None:
        *what, error = row
        cells = [request.path.stem.removeprefix("test_"), *map(str, what)]
        record_property("gradient", [*cells, error if isinstance(error, str) else f"{float(error):.1e}"])

    return SimpleNamespace(append=append)


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [value for report in reports for name, value in report.user_properties if name == "gradient"]
    if not rows:
        return
    terminalreporter.section("gradients: max |difference| / max |gradient| to autograd through explicit weights")
    for row in sorted(rows):
        terminalreporter.write_line("  ".join(f"{cell:16}" for cell in row).rstrip())
