# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Every family's symmetries, all at once: the function stays, and matching finds the way back."""

import copy
import re

import numpy as np
import pytest
import torch
from helpers import alignment_zoo as zoo
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_cbft import ConnectivityEvaluator, align
from hf_cbft.alignment.binding import bind
from hf_cbft.alignment.known import FAMILIES, find_family
from hf_cbft.data.inputs import InputCollator
from hf_cbft.paths.batchnorm import recalibrate

MODELS = tuple(zoo.MODELS)
# What no symmetry moves: the outputs, one number for each head unit in every head, and counts.
STAYS = re.compile(
    r".*(num_batches_tracked|predictions\.(decoder\.)?bias|lm_head\.(decoder\.)?bias|(q|k)_norm\.weight)"
    r"|((cls_|distillation_)?classifier(\.out_proj|\.1)?|5|6)\.bias"
)


def scrambled(model, seed=3):
    """A copy with all its units at random places, the specification, and what was done."""
    specification = bind(find_family(model), model)
    permutations = specification.random(seed)
    moved = copy.deepcopy(model)
    specification.permute_(moved, permutations)
    return moved, specification, permutations


def restored(alignment, wanted):
    """The share of the units that go back to where they were."""
    right = sum(int((alignment.permutations[space] == own).sum()) for space, own in wanted.items())
    return right / sum(own.size for own in wanted.values())


def test_every_family_is_here():
    assert {find_family(zoo.make(name)).name for name in MODELS} == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays_and_everything_moves(name):
    model = zoo.make(name).double()
    moved, specification, permutations = scrambled(model)
    bound = 1e-5 if specification.float32_inside else 1e-8
    assert zoo.difference(model, moved, zoo.make_batch(model)) <= bound
    still = set(model.state_dict()) - set(zoo.changed(moved, zoo.bits(model)))
    assert still == {tensor for tensor in model.state_dict() if STAYS.fullmatch(tensor)}

    specification.permute_(moved, specification.inverse(permutations))
    assert zoo.changed(moved, zoo.bits(model)) == []


@pytest.mark.parametrize("name", ["bert", "llama", "mpnet", "resnet", "cnn"])
def test_composition(name):
    model = zoo.make(name)
    moved, specification, first = scrambled(model)
    second = specification.random(seed=2)
    specification.permute_(moved, second)
    at_once = copy.deepcopy(model)
    specification.permute_(at_once, specification.compose(first, second))
    assert zoo.changed(at_once, zoo.bits(moved)) == []
    for there, back in ((first, specification.inverse(first)), (specification.inverse(first), first)):
        for space, own in specification.compose(there, back).items():
            np.testing.assert_array_equal(own, specification.identity()[space])


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("name", MODELS)
def test_recovery(name, method):
    model = zoo.make(name)
    moved, specification, permutations = scrambled(model)
    data = zoo.make_rows(model, 512) if method == "activations" else None
    alignment = align(model, moved, method, data, num_starts=1)
    share = restored(alignment, specification.inverse(permutations))
    assert share >= (0.99 if method == "weights" else 0.999)
    better = alignment.info["before"] - alignment.info["after"]
    assert better > 0 if method == "weights" else better < 0
    before = zoo.bits(moved)
    aligned = alignment.apply(copy.deepcopy(moved))
    if share == 1:
        assert zoo.changed(aligned, zoo.bits(model)) == []
    assert zoo.changed(moved, before) == []


@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "gpt2"])
def test_no_barrier_is_left(name):
    """Far apart on the line as they stand, and one network once aligned."""
    model = zoo.make(name)
    rows = zoo.make_rows(model, 64)
    batchnorm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if batchnorm:  # estimated anew at the interior points: the ends' are of the same rows
        recalibrate(model, [InputCollator(model)(rows[i : i + 32]) for i in (0, 32)], lambda batch: model(**batch))
    moved, *_ = scrambled(model)
    results = []
    for end in (moved, align(model, moved, num_starts=1).apply(copy.deepcopy(moved))):
        evaluator = ConnectivityEvaluator(model, end, calibration_dataset=rows if batchnorm else None, metrics=())
        results.append(evaluator.evaluate(rows, num_points=5, num_resamples=100))
    # Labels at random can make the loss in between lower than at the ends, too.
    assert np.ptp(results[0].losses["data"]) > 1e-3
    assert np.ptp(results[1].losses["data"]) <= 1e-6
    assert results[1].barriers["data"].height <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit-base", pytest.param("bert-base", marks=pytest.mark.sample)])
def test_base_sizes(name):
    """The specification is right for the sizes that are used, not only for tiny ones: a minute or more each."""
    torch.manual_seed(0)
    build = {
        "vit-base": lambda: ViTForImageClassification(ViTConfig()),
        "bert-base": lambda: BertForSequenceClassification(BertConfig()),
    }[name]
    model = build().eval()
    moved, specification, permutations = scrambled(model)
    alignment = align(model, moved, num_starts=1)
    assert restored(alignment, specification.inverse(permutations)) >= 0.99
    assert alignment.info["gate"] <= 1e-8
