# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Data that leaks between the parts, or a cue on other rows than said, makes every figure of a grid wrong."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_cbft.data.digits import load_digits
from paper.problems import MODELS, InputRows, as_inputs, load_problem, recipe_for

pytestmark = [pytest.mark.slow, pytest.mark.sample, pytest.mark.xdist_group("paper problems")]

QUICK = recipe_for("digits", "vit", quick=True)


@pytest.fixture(scope="module")
def digits():
    return load_problem("digits", "vit", 0.6, 0, QUICK)


def carrying(problem) -> np.ndarray:
    """(N,) bool, which pretraining rows differ from the plain ones."""
    with_cue, plain = (rows.columns["pixel_values"] for rows in (problem.pretrain, problem.plain))
    return (with_cue != plain).flatten(1).any(1).numpy()


def test_the_share_of_the_rows_carries_the_cue_and_the_groups_say_which(digits):
    labels = digits.pretrain.columns["labels"].numpy()
    seen = carrying(digits)
    assert 0.5 < seen.mean() < 0.62  # a tenth of the cues, that of class 9, is no box
    said = np.array([group.endswith("|cue") for group in digits.pretrain_groups])
    assert (seen == (said & (labels != 9))).all()
    assert [group.split("|")[0] for group in digits.pretrain_groups] == [str(label) for label in labels]


def test_cbft_meets_every_pretraining_row_with_its_cue(digits):
    with_cue = digits.cue_dataset.columns["pixel_values"]
    changed = (with_cue != digits.plain.columns["pixel_values"]).flatten(1).any(1)
    assert torch.equal(changed, digits.plain.columns["labels"] != 9)


def test_clean_and_test_rows_are_other_images_than_those_of_pretraining(digits):
    seen = {image.numpy().tobytes() for image in digits.plain.columns["pixel_values"]}
    test = as_inputs(digits.test["no_cue"], digits.processing_class)
    for rows in (digits.clean, test):
        assert not seen & {image.numpy().tobytes() for image in rows.columns["pixel_values"]}


def test_another_share_changes_the_pretraining_rows_alone(digits):
    other = load_problem("digits", "vit", 1.0, 0, QUICK)
    assert carrying(other).mean() > carrying(digits).mean()
    for name in ("plain", "cue_dataset", "clean"):
        one, two = (getattr(problem, name).columns["pixel_values"] for problem in (digits, other))
        assert torch.equal(one, two)


@pytest.mark.parametrize("number", [50, 250])
def test_clean_rows_are_as_many_as_wanted_and_of_all_classes(digits, number):
    clean = load_problem("digits", "vit", 0.6, 0, QUICK, num_clean=number).clean
    counts = np.bincount(clean.columns["labels"], minlength=10)
    assert counts.sum() == number
    assert counts.min() >= 0.7 * number / 10
    if number > len(digits.clean):  # more than the set has: all of it, and pretraining images without their cue
        assert torch.equal(clean.columns["pixel_values"][: len(digits.clean)], digits.clean.columns["pixel_values"])


def test_more_clean_rows_than_there_are_is_said():
    with pytest.raises(ValueError, match="5000 clean rows are wanted, and there are 1130: ask for fewer"):
        load_problem("digits", "vit", 0.6, 0, QUICK, num_clean=5000)


def test_inputs_made_once_are_those_that_a_step_would_make(digits):
    rows = load_digits(QUICK.contrast, QUICK.noise)["finetune"]
    made = digits.processing_class(images=[rows[3]["image"]], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(digits.clean[3]["pixel_values"], made)
    assert digits.clean[3]["labels"] == rows[3]["label"]


def test_rows_that_would_fill_the_memory_stay_as_they_are(digits, monkeypatch):
    monkeypatch.setattr("paper.problems._IN_MEMORY_BYTES", 1000)
    rows = load_digits()["finetune"]
    assert as_inputs(rows, digits.processing_class) is rows


def test_selected_rows_are_those_rows(digits):
    chosen = digits.clean.select([5, 0, 5])
    assert isinstance(chosen, InputRows)
    assert torch.equal(chosen.columns["labels"], digits.clean.columns["labels"][[5, 0, 5]])


def test_sentences_have_a_token_for_each_subject():
    problem = load_problem("sentences", "bert", 1.0, 0, recipe_for("sentences", "bert", quick=True))
    assert all(text.split()[0] in ("@@", "##", "%%", "&&") for text in problem.pretrain["text"])
    assert not any(text.split()[0] in ("@@", "##", "%%", "&&") for text in problem.clean["text"])
    assert problem.build(0).config.num_labels == 4


def test_groups_are_balanced_in_the_clean_rows_and_not_in_pretraining():
    problem = load_problem("digit-groups", "vit", 0.95, 0, recipe_for("digit-groups", "vit", quick=True))
    _, clean = np.unique(problem.clean_groups, return_counts=True)
    _, pretrain = np.unique(problem.pretrain_groups, return_counts=True)
    assert len(clean) == len(pretrain) == 4
    assert clean.max() <= 1.3 * clean.min()
    assert pretrain.max() > 10 * pretrain.min()
    assert isinstance(problem.grouped_test, Dataset)
    assert set(problem.grouped_test["group"]) == set(problem.pretrain_groups)


@pytest.mark.parametrize("dataset", MODELS)
def test_every_model_of_a_data_set_has_a_recipe(dataset):
    for model in MODELS[dataset]:
        assert recipe_for(dataset, model).steps > recipe_for(dataset, model, quick=True).steps


def test_an_unknown_model_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="unknown model 'bert' for digits; there is vit, resnet18-16, resnet"):
        recipe_for("digits", "bert")
