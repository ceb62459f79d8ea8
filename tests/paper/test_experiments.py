# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A grid that forgets a cell, or starts a job before what it needs, shows a table that is not the experiment."""

import pytest

from hf_cbft.training.config import CBFTConfig
from paper.experiments import ABLATIONS, FINETUNINGS, PAIRS, check_experiment, jobs_of
from paper.findings.records import EXPERIMENTS
from paper.jobs import Grid
from paper.recipes import RECIPES

RECIPE = RECIPES["vit"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_job_has_a_name_of_its_own_and_comes_after_what_it_needs(experiment):
    jobs = jobs_of(experiment, [0.9, 1.0], [0, 3], recipe=RECIPE)
    assert len({job.name for job in jobs}) == len(jobs)
    seen = set()
    for job in jobs:
        assert {(method, job.share, job.seed) for method in job.needs} <= seen
        if job.kept:
            seen.add((job.method, job.share, job.seed))


def test_table1_has_each_method_in_each_cell_but_where_there_is_nothing_to_balance():
    jobs = jobs_of("table1", [0.6, 1.0], [0, 1])
    cells = {(job.method, job.share, job.seed) for job in jobs}
    wanted = {(m, share, seed) for m in ("pretrained", *FINETUNINGS) for share in (0.6, 1.0) for seed in (0, 1)}
    assert wanted - cells == {("balanced", 1.0, 0), ("balanced", 1.0, 1)}
    assert cells <= wanted


def test_methods_can_be_chosen():
    jobs = jobs_of("text", [0.9], [0], ["cbft", "llrt"])
    assert [job.method for job in jobs] == ["pretrained", "llrt", "cbft"]


def test_paths_measures_both_kinds_between_all_pairs():
    jobs = [job for job in jobs_of("paths", [0.9], [0]) if job.pair]
    pairs = set(PAIRS) - {"clean-cue, apart"}
    assert {(job.pair, job.method) for job in jobs} == {(p, kind) for p in pairs for kind in ("linear", "quadratic")}


def test_symmetry_aligns_networks_that_begin_with_other_weights():
    jobs = [job for job in jobs_of("symmetry", [0.9], [0]) if job.pair]
    assert {job.method for job in jobs} == {"linear", "weights", "activations"}
    assert {job.needs for job in jobs} == {("clean", "clean-2"), ("clean-2", "pretrained"), ("pretrained", "cbft")}


@pytest.mark.parametrize("experiment", ["ablation", "sensitivity"])
def test_every_variant_is_one_that_cbft_takes_and_one_of_them_is_the_whole_method(experiment, tmp_path):
    jobs = [job for job in jobs_of(experiment, [0.9], [0], recipe=RECIPE) if job.variant]
    assert [job.overrides for job in jobs].count({}) == 1
    for job in jobs:
        fields = {name: value for name, value in job.overrides.items() if name not in ("num_clean", "hinge")}
        CBFTConfig(output_dir=str(tmp_path), use_cpu=True, **fields)


def test_the_ablation_takes_out_both_terms():
    assert ABLATIONS["without L_B"] == {"barrier_coef": 0.0}
    assert ABLATIONS["without L_I"] == {"invariance_coef": 0.0}


def test_sensitivity_moves_each_setting_around_the_recipe_s_own_value():
    jobs = [job for job in jobs_of("sensitivity", [0.9], [0], recipe=RECIPE) if job.variant]
    pairs = {tuple(job.variant[1]) for job in jobs if job.variant[0] == "learning_rate x invariance_coef"}
    assert len(pairs) == 9
    assert (RECIPE.cbft_lr, RECIPE.invariance_coef) in pairs
    assert {job.variant[1] for job in jobs if job.variant[0] == "num_clean"} == {50, 90, 250, 500}
    margins = [job.variant[1] / RECIPE.barrier_margin for job in jobs if job.variant[0] == "barrier_margin"]
    assert margins == pytest.approx([0.25, 0.5, 2.0], rel=0.01)


@pytest.mark.parametrize(
    ("experiment", "dataset", "message"),
    [
        (
            "table2",
            None,
            "unknown experiment 'table2'; there is table1, paths, symmetry, ablation, sensitivity, text,",
        ),
        ("text", "digits", "experiment text runs on sentences, which it generates: leave --dataset digits out"),
    ],
)
def test_what_is_not_an_experiment_is_said(experiment, dataset, message):
    with pytest.raises(ValueError, match=message):
        check_experiment(experiment, dataset)


def test_data_sets_of_the_experiments():
    assert check_experiment("table1", None) == "digits"
    assert check_experiment("table1", "cifar10") == "cifar10"
    assert check_experiment("text", None) == check_experiment("text", "sentences") == "sentences"


def test_models_of_a_data_set_that_is_a_path_stay_in_the_output_folder(tmp_path):
    # A slash in a name would put them beside the data.
    grid = Grid(tmp_path / "table1-x", "table1", "/data/of/mine", "cifar-resnet18")
    assert grid.model_folder("pretrained", 0.9, 0).parent == tmp_path / "models"
