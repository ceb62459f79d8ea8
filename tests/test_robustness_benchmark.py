# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of remedies: a rate that is chosen on test rows or held-out seeds would decide by luck."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    file = Path(__file__).parent / "benchmarks" / "robustness.py"
    specification = importlib.util.spec_from_file_location("robustness", file)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "robustness", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORDS", tmp_path / "records" / "robustness.csv.gz")
    return module


def row(seed, rate, validation, test, random_cue=0.0):
    figures = {"validation clean": validation, "validation rand_cue": random_cue, "rand_cue": test}
    return {"problem": "shapes", "method": "naive", "rate": rate, "seed": seed, "seconds": 1.0, **figures}


def test_a_rate_is_chosen_by_validation_rows_of_the_development_seeds_alone(benchmark):
    rows = pd.DataFrame(
        [
            *(row(seed, 0.1, validation=80.0, test=50.0, random_cue=60.0) for seed in (11, 12)),
            *(row(seed, 0.2, validation=70.0, test=90.0, random_cue=70.0) for seed in (11, 12)),
            row(101, 0.1, validation=10.0, test=40.0),
            row(101, 0.2, validation=99.0, test=99.0),
        ]
    )
    found = benchmark.chosen(rows, "clean")
    assert found[["rate", "seed"]].values.tolist() == [[0.1, 11], [0.1, 12], [0.1, 101]]
    assert set(benchmark.chosen(rows, "rand_cue").rate) == {0.2}


def test_what_is_recorded_is_not_run_again(benchmark, monkeypatch, capsys):
    ran = []

    def pretend(name, method, rate, seed):
        ran.append((name, method, rate, seed))
        if len(ran) == 3:
            raise KeyboardInterrupt
        return {**row(seed, rate, 1.0, 1.0), "problem": name, "method": method}

    monkeypatch.setattr(benchmark, "one_run", pretend)
    monkeypatch.setattr("sys.argv", ["robustness.py", "--problems", "shapes", "--methods", "naive", "--seeds", "11"])
    with pytest.raises(KeyboardInterrupt):
        benchmark.main()
    assert len(benchmark.read()) == 2
    benchmark.main()
    assert "3 of 5 runs are left: 3 s of one core, 0 of them of unknown length." in capsys.readouterr().out
    assert ran[3:] == ran[2:3] + [("shapes", "naive", rate, 11) for rate in (4e-3, 8e-3)]
    assert sorted(benchmark.read().rate) == [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["digits-1.0", "sentences", pytest.param("shapes", marks=pytest.mark.sample)])
def test_every_method_runs_on_every_problem(benchmark, monkeypatch, problem):
    monkeypatch.setitem(benchmark.PROBLEMS, problem, replace(benchmark.PROBLEMS[problem], steps=2))
    starts = {}
    for method, (_, has_rate) in benchmark.METHODS.items():
        found = benchmark.one_run(problem, method, benchmark.PROBLEMS[problem].rate * has_rate, 11)
        assert all(
            0.0 <= found[name] <= 100.0 for name in (*benchmark.SETS, "validation clean", "validation rand_cue")
        )
        starts[method] = tuple(found[name] for name in benchmark.SETS)
    data = benchmark.load(problem, 11)
    assert len(data.augmented) == 2 * len(data.clean)
    assert len(data.ideal) == len(data.pretrain)
    # Nothing that one run does reaches the next: each begins at the pretrained model.
    assert tuple(benchmark.one_run(problem, "pretrained", 0.0, 11)[n] for n in benchmark.SETS) == starts["pretrained"]
