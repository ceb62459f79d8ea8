# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes against one with the joint batch: DDP through the trainer, FSDP2 through the step."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CASES = [
    "sgd",
    "evaluated before",
    "adamw",
    "one class a rank",
    "language model",
    "tokens",
    "own terms",
    "accumulation",
    "checkpointing",
    "alternating",
    "lora",
    "batchnorm",
    "padded last batch",
    "dropped last batch",
]
EXACT = {name: 1e-5 for name in CASES if name not in ("batchnorm", "padded last batch")}

pytestmark = [pytest.mark.slow, pytest.mark.sample, pytest.mark.xdist_group("distributed")]


def launch(script: str, *arguments: str, processes: int, timeout: float = 300.0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    if processes == 1:
        command = [sys.executable]
    return subprocess.run(
        [*command, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """`results(case, rank, processes)`: what a run of `run_trainer.py` saved."""
    folder = tmp_path_factory.mktemp("ddp")
    for processes, cases in ((2, [*CASES, "resume", "infinite rank"]), (1, CASES)):
        process = launch("run_trainer.py", str(folder), *cases, processes=processes)
        assert process.returncode == 0, process.stderr[-3000:]

    def load(case: str, rank: int = 0, processes: int = 2):
        return torch.load(folder / f"{case}-rank{rank}-of-{processes}.pt", weights_only=True)

    return load


def difference(first, second) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.parametrize("case", EXACT)
def test_two_processes_follow_one_with_the_joint_batch(case, results, table):
    # N ranks would each train on a loss of their own.
    two, one = results(case), results(case, processes=1)
    apart = difference(two["weights"], one["weights"])
    table.append((case, "DDP, weights after all steps", apart))
    assert apart <= EXACT[case]
    assert two["ref_loss"] == pytest.approx(one["ref_loss"], abs=1e-6)
    for first, second in zip(two["logs"], one["logs"], strict=True):
        assert {n for n in first if "/" in n} == {n for n in second if "/" in n}
        assert all(first[n] == pytest.approx(second[n], abs=1e-5) for n in first if n.startswith("loss"))


@pytest.mark.parametrize("case", CASES)
def test_ranks_do_not_drift_apart(case, results):
    first, second = results(case, 0)["weights"], results(case, 1)["weights"]
    # Running statistics are those of each rank; what is saved is rank 0's.
    parameters = [name for name in first if "running" not in name and "tracked" not in name]
    assert all(torch.equal(first[name], second[name]) for name in parameters)


@pytest.mark.parametrize("case", CASES)
def test_alpha_is_the_same_on_every_rank_and_pairs_are_partitioned(case, results):
    first, second = results(case, 0), results(case, 1)
    alphas = [[entry.get("path/alpha") for entry in result["logs"]] for result in (first, second)]
    assert alphas[0] == alphas[1]
    assert sum(alpha is not None for alpha in alphas[0]) == 0.8 * len(alphas[0])
    if case == "padded last batch":
        return  # rows come again, so that ranks have batches of one size
    pairs = [{tuple(pair) for pair in result["seen"]} for result in (first, second)]
    assert not pairs[0] & pairs[1]
    joint = {tuple(pair) for pair in results(case, processes=1)["seen"]}
    trained = joint if case != "dropped last batch" else joint & (pairs[0] | pairs[1])
    assert trained <= pairs[0] | pairs[1]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_reduced_once_a_step(case, results):
    # One bucket holds all gradients of these models.
    expected = [2] * 8 + [1] * 2 if case == "alternating" else [1] * len(results(case)["logs"])
    assert results(case)["buckets"] == expected


@pytest.mark.parametrize("k", [3, 5, 8])
def test_two_processes_resume_bit_for_bit(k, results):
    for rank in (0, 1):
        runs = results("resume", rank)
        assert all(torch.equal(weight, runs["resumed"][k][name]) for name, weight in runs["whole"].items())


@pytest.mark.slow
@pytest.mark.sample
def test_a_failure_on_one_rank_ends_all(tmp_path):
    # Otherwise the others would wait for it in the next sum.
    began = time.monotonic()
    process = launch("run_trainer.py", str(tmp_path), "failing rank", processes=2, timeout=90)
    assert process.returncode != 0
    assert "a failure on rank 1" in process.stderr
    assert time.monotonic() - began < 60


def test_a_loss_that_is_not_finite_on_one_rank_is_refused_on_each(results):
    messages = [results("infinite rank", rank)["message"] for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "is nan at step 2: training stopped before the step was taken" in messages[0]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp2")
    process = launch("run_fsdp2.py", str(folder), processes=2)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("case", ["bert", "checkpointing", "gpt2", "lora", "lora, wrapped"])
def test_the_step_on_sharded_modules_is_that_of_one_process(case, sharded, table):
    result = sharded[case]
    table.append((case, "FSDP2, two processes", result["gradients"]))
    assert result["sharded"]  # every parameter is a DTensor
    assert result["kept alike"]
    assert 2 * result["kept"] == result["whole"]  # the reference is nowhere whole
    assert result["gradients"] <= 1e-6
    assert result["weights"] <= 1e-6
    assert result["terms"] <= 1e-6
