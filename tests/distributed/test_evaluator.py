# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluator on two processes against one: the same result, down to its verdicts."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run_evaluator.py")
CASES = ["bert", "three rows", "language model", "batchnorm", "lora", "groups", "sharded", "sharded, three rows"]

pytestmark = [pytest.mark.slow, pytest.mark.sample, pytest.mark.xdist_group("distributed evaluator")]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return runpy.run_path(str(SCRIPT))["measure_all"](tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(SCRIPT),
            str(folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def assert_same(first, second, where=""):
    """Equal but for the rounding of numbers."""
    if isinstance(first, float) and isinstance(second, float):
        assert first == pytest.approx(second, rel=1e-6, abs=1e-6), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    else:
        assert first == second, where


@pytest.mark.parametrize("case", CASES)
def test_two_processes_measure_what_one_does(case, one, two):
    # A share of the rows, another padding or other batch statistics on each rank: a result of the machine.
    assert_same(two[0][case], one[case])
    assert two[0][case] == two[1][case]


def test_a_failing_rank_ends_all_of_them(two):
    # The others would wait for half an hour.
    assert two[0]["failures"]["row"] == "Rank 1 failed: RuntimeError: no such row"
    assert two[1]["failures"]["row"] == "no such row"


def test_a_rank_without_memory_makes_all_batches_smaller(two, one):
    # Ranks with batches of their own would be out of step.
    for rank in (0, 1):
        found = json.loads(two[rank]["failures"]["memory"])
        expected = {
            key: value for key, value in one["bert"].items() if key not in ("example_losses", "where it stands")
        }
        assert_same(found, expected)
