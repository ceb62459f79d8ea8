# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Runs read back from disk: what is selected, and what is refused because it would give wrong tables."""

import json
from dataclasses import replace

import numpy as np
import pytest

from paper.findings.records import (
    accuracy,
    by_seed,
    find_runs,
    in_common,
    lost_to_random_cue,
    picked_rate,
    read_run,
    show_value,
    show_variant,
    verdict_counts,
)


def edit(run, number, **fields):
    """Change fields of the line with this number."""
    file = run.folder / "results.jsonl"
    lines = file.read_text().splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **fields})
    file.write_text("\n".join(lines) + "\n")


def test_a_selection_is_in_the_order_of_the_seeds(make_run):
    """Pairs would otherwise be made of different seeds."""
    run = make_run(seeds=(2, 0, 1), shares=(0.9, 0.6))
    records = run.select(method="cbft", share=0.6)
    assert [record["seed"] for record in records] == run.seeds == [0, 1, 2]
    assert {(record["method"], record["share"]) for record in records} == {("cbft", 0.6)}
    assert run.shares == [0.6, 0.9]
    assert run.methods[0] == "pretrained"
    assert run.methods[-2:] == ["cbft", "cbft-paper"]


def test_values_that_are_not_there_are_left_out_and_pairs_are_of_common_seeds(make_run):
    """A missing seed on one side must not shift the others."""

    def drop(record):
        if record["method"] == "cbft" and record["seed"] == 1:
            record["accuracy"]["rand_cue"] = None
        return not (record["method"] == "llrt" and record["seed"] == 0)

    run = make_run(change=drop)
    ours = by_seed(run.select(method="cbft"), accuracy("rand_cue"))
    theirs = by_seed(run.select(method="llrt"), accuracy("rand_cue"))
    assert (list(ours), list(theirs)) == ([0, 2], [1, 2])
    first, second = in_common(ours, theirs)
    np.testing.assert_array_equal((first, second), ([ours[2]], [theirs[2]]))
    assert list(by_seed(run.select(method="cbft"), lost_to_random_cue)) == [0, 2]


def test_the_full_method_is_the_first_variant_and_lists_are_tuples(make_run):
    run = make_run("sensitivity")
    assert run.variants[0] == ("default", None)
    backwards = replace(run, records=run.records[::-1])
    numbers = [value for setting, value in backwards.variants if setting == "num_clean"]
    assert numbers == sorted(numbers)
    assert len(numbers) > 1
    pair = ("learning_rate x invariance_coef", (0.001, 0.3))
    assert len(run.select(variant=pair)) == 3
    assert show_variant(("alpha range", (0.25, 0.75))) == "alpha range = 0.25 to 0.75"
    assert (show_variant(("full", None)), show_value(1.0), show_value("hinge")) == ("full", "1", "hinge")


def test_the_rate_is_picked_on_validation_data_and_of_equals_the_smaller():
    """Picked on the test sets, the rival would be better than anyone can make it."""
    tried = [{"learning_rate": rate, "validation_rand_cue": score} for rate, score in ((3, 0.8), (2, 0.8), (1, 0.7))]
    assert picked_rate({"tried": tried}) == 2
    assert picked_rate({"tried": None}) is None


def test_connected_counts_name_what_is_undecided():
    records = [{"barrier": {"connected": verdict}} for verdict in (True, None, False)] + [{"barrier": None}]
    assert verdict_counts(records) == "1/3, 1 undecided"
    assert verdict_counts(records[3:]) == "n/a"


def test_failed_jobs_with_and_without_reasons(make_run):
    assert make_run(failed=["a"]).failed == {"a": ""}
    assert make_run(failed={"a": "why"}).failed == {"a": "why"}


def test_runs_are_found_by_experiment(make_run):
    for experiment in ("groups", "ablation", "table1"):
        make_run(experiment)
    (make_run.output_dir / "models").mkdir()
    assert [run.experiment for run in find_runs(make_run.output_dir)] == ["table1", "ablation", "groups"]


def test_a_run_without_a_job_that_is_done_is_empty(make_run):
    run = make_run()
    (run.folder / "results.jsonl").unlink()
    assert read_run(run.folder).records == []


def test_no_run_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        find_runs(tmp_path)


def test_another_schema_of_the_grid(make_run):
    with pytest.raises(ValueError, match="schema version 2, this version reads 1"):
        make_run(schema_version=2)


def test_an_unknown_experiment_of_the_grid(make_run):
    run = make_run()
    grid = json.loads((run.folder / "grid.json").read_text())
    (run.folder / "grid.json").write_text(json.dumps({**grid, "experiment": "table9"}))
    with pytest.raises(ValueError, match=r"'table9', known: table1, paths, symmetry, ablation"):
        read_run(run.folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema_version": 7}, r"Line 2 of .* is of schema version 7, this version reads 1"),
        ({"experiment": "text"}, "Line 2 of .* is of experiment 'text', the grid beside it of 'table1'"),
        ({"model": "resnet"}, "Line 2 of .* is of model 'resnet'"),
        ({"seed": 0}, "Lines 1 and 2 of .* are of the same job"),
        ({"loss": {"cue": float("nan")}}, "Line 2 of .* is damaged"),
    ],
)
def test_a_line_that_does_not_belong_is_named(make_run, fields, message):
    """Taken in, it would be averaged with the others."""
    run = make_run()
    edit(run, 2, **fields)
    with pytest.raises(ValueError, match=message):
        read_run(run.folder)


def test_a_damaged_line_is_named(make_run):
    """What a killed process leaves: half a line."""
    run = make_run()
    file = run.folder / "results.jsonl"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(ValueError, match=f"Line {len(run.records)} of .* is damaged"):
        read_run(run.folder)


def test_a_line_without_its_seed_is_named(make_run):
    run = make_run()
    file = run.folder / "results.jsonl"
    lines = file.read_text().splitlines()
    record = json.loads(lines[0])
    del record["seed"]
    file.write_text("\n".join([json.dumps(record), *lines[1:]]))
    with pytest.raises(ValueError, match=r"Line 1 of .* lacks seed"):
        read_run(run.folder)
