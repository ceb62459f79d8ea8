# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A method that trains on other rows, other weights or another loss than its name says makes the comparison void."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from hf_cbft.paths.batchnorm import batchnorm_modules
from hf_cbft.training.terms import BarrierTerm
from paper import methods
from paper.experiments import FINETUNINGS, Job
from paper.jobs import Grid, run_job
from paper.methods import METHODS, Finetuning, HingeTerm, accuracies, barrier
from paper.problems import load_problem, recipe_for
from paper.recipes import build_model
from paper.run import main

pytestmark = [pytest.mark.slow, pytest.mark.sample, pytest.mark.xdist_group("paper methods")]


@pytest.fixture(scope="module")
def problem():
    recipe = replace(recipe_for("digits", "vit", quick=True), steps=3, num_points=3)
    return load_problem("digits", "vit", 0.9, 0, recipe)


@pytest.fixture
def run(problem, tmp_path):
    return Finetuning(problem, lambda: problem.build(0), seed=0, scratch=str(tmp_path), device="cpu")


def changed(problem, model) -> set[str]:
    before = problem.build(0).state_dict()
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def test_every_method_of_the_tables_is_there():
    assert tuple(METHODS) == FINETUNINGS


@pytest.mark.parametrize("name", ["llrt", "dfr"])
def test_last_layer_methods_change_the_last_layer_alone(problem, run, name):
    assert changed(problem, METHODS[name](run)) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", ["naive-small", "naive-medium", "lp-ft", "balanced", "cbft", "cbft-paper"])
def test_the_others_change_all_weights(problem, run, name):
    assert len(changed(problem, METHODS[name](run))) > 20


def test_naive_large_is_the_rate_that_validation_rows_prefer_and_all_are_recorded(problem, run):
    model = METHODS["naive-large"](run)
    assert [tried["learning_rate"] for tried in run.tried] == list(problem.recipe.large_lrs)
    best = max(run.tried, key=lambda tried: tried["validation_rand_cue"])
    own = {name: values["accuracy"] for name, values in accuracies(model, problem, problem.test).items()}
    assert own == best["accuracy"]
    assert set(best["barrier"]) == {"height", "low", "high", "connected", "alpha"}


@pytest.mark.parametrize("kind", ["weights", "activations"])
def test_an_aligned_path_records_what_alignment_takes_off_the_barrier(kind, tmp_path, monkeypatch):
    grid = Grid(tmp_path / "symmetry-digits-mlp", "symmetry", "digits", "mlp", quick=True)
    quick = replace(recipe_for("digits", "mlp", quick=True), num_points=3)
    monkeypatch.setattr("paper.jobs.recipe_for", lambda *names: quick)
    models = [Job("clean", 0.9, 0, kept=True), Job("clean-2", 0.9, 0, kept=True)]
    paths = [Job(how, 0.9, 0, pair="clean-clean") for how in ("linear", kind)]
    for job in (*models, *paths):
        run_job(grid, job, "cpu")
    before, after = (json.loads(grid.record_file(job).read_text())["path"] for job in paths)
    assert (before["kind"], after["kind"]) == ("linear", kind)
    assert after["alignment"].startswith(f"{kind}, ")
    for part, heights in before["barriers"].items():
        assert after["unaligned"][part] == pytest.approx(heights["height"], abs=1e-6)
        removed = after["removed"][part]
        assert removed["mean"] == pytest.approx(heights["height"] - after["barriers"][part]["height"], abs=1e-6)
        assert removed["low"] <= removed["mean"] <= removed["high"]
    assert after["removed"]["no_cue"]["low"] > 0, "networks that know something, apart"
    assert after["loss"]["no_cue"][0] == pytest.approx(before["loss"]["no_cue"][0], abs=1e-6)
    assert after["loss"]["no_cue"][-1] == pytest.approx(before["loss"]["no_cue"][-1], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "overrides", "fields"),
    [
        ("cbft", {}, {"barrier_stop_ratio": 0.5, "ref_loss": None, "learning_rate": 3e-3}),
        ("cbft-paper", {}, {"barrier_stop_ratio": 1.0, "ref_loss": 0.0}),
        ("cbft", {"barrier_coef": 0.0, "learning_rate": 1e-4}, {"barrier_coef": 0.0, "learning_rate": 1e-4}),
    ],
)
def test_cbft_trains_with_the_settings_of_its_row(run, monkeypatch, name, overrides, fields):
    seen = {}

    class Spy(methods.CBFTTrainer):
        def train(self):
            seen.update({field: getattr(self.args, field) for field in fields})
            seen["terms"] = [type(term) for term in self.terms if isinstance(term, BarrierTerm)]

    monkeypatch.setattr(methods, "CBFTTrainer", Spy)
    METHODS[name](replace(run, overrides=overrides))
    assert seen == {**fields, "terms": [BarrierTerm] if seen.get("barrier_coef", 1.0) else []}
    METHODS[name](replace(run, overrides={"hinge": True}))
    assert seen["terms"] == [HingeTerm]


def test_the_hinge_leaves_a_high_path_loss_alone():
    losses = torch.tensor([0.25, 1.5], requires_grad=True)
    values = HingeTerm(margin=1.0).value(losses, 0.0)
    values.sum().backward()
    assert values.tolist() == [0.75, 0.0]
    assert losses.grad.tolist() == [-1.0, 0.0]


def test_accuracies_are_those_of_a_plain_pass(problem):
    model = problem.build(0)
    rows = problem.test["cue"]
    found = accuracies(model, problem, {"cue": rows})["cue"]
    with torch.no_grad():
        inputs = problem.processing_class(images=list(rows["image"]), return_tensors="pt")
        outputs = model.eval()(**inputs, labels=torch.tensor(rows["label"]))
    right = outputs.logits.argmax(-1).numpy() == rows["label"]
    assert (found["right"] == right).all()
    assert found["accuracy"] == right.mean()
    assert found["loss"] == pytest.approx(outputs.loss.item(), rel=1e-5)


def test_batchnorm_statistics_alone_are_no_barrier(problem):
    # Ends whose statistics come from other rows than those of the points between them would look disconnected.
    start = build_model("resnet", seed=0)
    end = copy.deepcopy(start)
    for module in batchnorm_modules(end):
        module.running_mean += 1.0
    measured = barrier(start, end, replace(problem, plain=problem.plain.select(range(64))))
    assert measured["height"] == pytest.approx(0.0, abs=1e-5)
    assert measured["connected"] is True
    assert all(torch.equal(m.running_mean, torch.zeros_like(m.running_mean)) for m in batchnorm_modules(start))


def test_a_job_leaves_a_whole_record_and_is_not_done_twice(tmp_path, monkeypatch):
    grid = Grid(tmp_path / "table1-digits-vit", "table1", "digits", "vit", quick=True)
    quick = replace(recipe_for("digits", "vit", quick=True), pretrain_steps=2, steps=2, num_points=3)
    monkeypatch.setattr("paper.jobs.recipe_for", lambda *names: quick)
    for job in (Job("pretrained", 0.9, 0, kept=True), Job("naive-small", 0.9, 0)):
        run_job(grid, job, "cpu")
        assert grid.is_done(job)
    record = json.loads(grid.record_file(job).read_text())
    assert set(record["accuracy"]) == {"no_cue", "cue", "rand_cue", "rand_input"}
    assert record["barrier"]["low"] <= record["barrier"]["height"] <= record["barrier"]["high"]
    assert record["config"]["small_lr"] == quick.small_lr
    assert {"torch", "transformers", "hf_cbft", "python"} <= set(record["versions"])
    assert record["wall_seconds"] >= record["train_seconds"]
    monkeypatch.setattr("paper.jobs.load_problem", None)
    run_job(grid, job, "cpu")  # would fail if it did anything


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shares", "1.2"], "a share of the cue is a fraction from 0 to 1; got 1.2"),
        (["--shares", "0.9", "0.9"], "each share once, at least one; got"),
        (["--experiment", "table2"], "unknown experiment 'table2'; there is table1, paths"),
        (["--methods", "cbft", "sgd"], "unknown method 'sgd'; there is pretrained, naive-small"),
        (["--model", "vgg"], "unknown model 'vgg' for digits; there is vit"),
        (["--experiment", "text", "--dataset", "cifar10"], "experiment text runs on sentences, which it generates"),
        (["--seeds", "1", "1"], "each seed once, at least one"),
        (["--jobs", "0"], "jobs = 0: give at least 1"),
        (["--device", "warp"], "device 'warp' cannot be used"),
        (["--page", "page.html"], "page.html"),
        (["--dataset", "no-such-data-set/nowhere"], "no-such-data-set/nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_made(tmp_path, capsys, options, message):
    assert main(["--output_dir", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
