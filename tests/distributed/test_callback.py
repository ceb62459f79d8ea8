# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`ConnectivityCallback` on two processes: DDP trains as without it, and the barrier is that of one process."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_cbft import ConnectivityEvaluator

SCRIPT = Path(__file__).with_name("run_callback.py")
CASES = ["bert", "evaluated before", "lora", "batchnorm", "cbft"]

pytestmark = [pytest.mark.slow, pytest.mark.sample, pytest.mark.xdist_group("distributed callback")]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.run(
        [*launcher, str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_training_on_two_processes_does_not_notice(case, ranks):
    # A bare model that accelerate has seen is not wrapped again, and the ranks drift apart.
    for found in ranks:
        watched, unwatched = found[f"{case}, True"], found[f"{case}, False"]
        assert watched["wrapped"]
        assert watched["weights"].keys() == unwatched["weights"].keys()
        for name, weight in watched["weights"].items():
            assert torch.equal(weight, unwatched["weights"][name]), name


@pytest.mark.parametrize("case", CASES)
def test_both_processes_log_what_one_measures(case, ranks):
    # With the statistics of each rank, the barrier would be that of no model.
    script = runpy.run_path(str(SCRIPT))
    first, second = (found[f"{case}, True"]["barriers"] for found in ranks)
    assert first == second
    assert [step for step in first if step] == [1, 2, 3, 4]
    end = script["make_end"](case)
    end.load_state_dict(ranks[0][f"{case}, True"]["weights"], strict=False)
    rows = {"cue": script["make_rows"](script["CASES"][case], 21, 4)}
    evaluator = ConnectivityEvaluator(script["make_reference"](case), end, batch_size=script["BATCH_SIZE"])
    result = evaluator.evaluate(rows, num_points=script["NUM_POINTS"], num_resamples=1)
    assert first[4] == pytest.approx(result.barriers["cue"].height, rel=1e-6, abs=1e-6)
