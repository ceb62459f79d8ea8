# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What the search finds, against brute force and naive second implementations."""

import copy
import itertools
import logging

import numpy as np
import pytest
import torch
from helpers import alignment_zoo as zoo
from torch import nn

from hf_cbft import align
from hf_cbft.alignment.activations import ActivationMatching
from hf_cbft.alignment.assignment import assign, assign_tree, value_of
from hf_cbft.alignment.binding import bind
from hf_cbft.alignment.known import find_family
from hf_cbft.alignment.symmetries import Specification, spaces_of
from hf_cbft.alignment.weights import WeightMatching, match_weights
from hf_cbft.paths.interpolation import named_weights


def pair(name):
    """Two independent models, their specification, and their parameters, tied ones once."""
    start, end = zoo.make(name, 0), zoo.make(name, 1)
    weights = [dict(model.named_parameters()) for model in (start, end)]
    return start, end, bind(find_family(end), end), *weights


# Assignment


def tree(sizes, parents):
    return Specification("tree", {}, sizes, parents, [], {}, False)


ATTENTION = tree({"heads": 3, "query": 3, "value": 2}, {"query": "heads", "value": "heads"})
GROUPS = tree({"groups": 3, "heads": 2, "value": 2}, {"heads": "groups", "value": "groups"})


def all_permutations(specification, root):
    """Every one of a root and of what lies within it."""
    children = specification.children(root)
    per_unit = [
        list(
            itertools.product(itertools.permutations(range(specification.sizes[c])), repeat=specification.sizes[root])
        )
        for c in children
    ]
    for outer in itertools.permutations(range(specification.sizes[root])):
        for inner in itertools.product(*per_unit):
            yield {root: np.array(outer), **dict(zip(children, map(np.array, inner), strict=True))}


def random_similarities(specification, parts, seed):
    rng = np.random.default_rng(seed)
    lengths = {part: specification.length(part) for part in parts}
    return {part: rng.standard_normal((length, length)) for part, length in lengths.items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("specification", "root", "parts"),
    [
        (tree({"units": 5}, {}), "units", [("units",)]),
        (ATTENTION, "heads", [("heads", "query"), ("heads", "value")]),
        (ATTENTION, "heads", [("heads",), ("heads", "value")]),
        (GROUPS, "groups", [("groups",), ("groups", "heads"), ("groups", "value")]),
    ],
    ids=["units", "heads", "heads of an own", "groups"],
)
def test_the_optimum_is_that_of_all_together(specification, root, parts, seed):
    similarities = random_similarities(specification, parts, seed)
    found = assign_tree(specification, root, similarities)
    best = max(value_of(specification, similarities, p) for p in all_permutations(specification, root))
    assert value_of(specification, similarities, found) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_heads_and_value_units_of_a_group_take_turns(seed):
    """Where one part holds both, neither can be bettered with the other held still; and a scramble is undone."""
    parts = [("groups", "heads"), ("groups", "value"), ("groups", "heads", "value")]
    similarities = random_similarities(GROUPS, parts, seed)
    found = assign_tree(GROUPS, "groups", similarities)
    value = value_of(GROUPS, similarities, found)
    everything = list(all_permutations(GROUPS, "groups"))
    for child, other in (("heads", "value"), ("value", "heads")):
        held = [p for p in everything if all(np.array_equal(p[s], found[s]) for s in ("groups", other))]
        assert len(held) == 8, child
        assert max(value_of(GROUPS, similarities, p) for p in held) == pytest.approx(value, rel=1e-12)

    rng = np.random.default_rng(seed)
    wanted = GROUPS.random(seed)
    scrambled = {}
    for part in parts:
        ours = rng.standard_normal((GROUPS.length(part), 20))
        # The end's rows are the start's, so that the wanted permutation brings them back.
        theirs = np.empty_like(ours)
        theirs[GROUPS.index(part, wanted)] = ours
        scrambled[part] = ours @ theirs.T
    for space, own in assign_tree(GROUPS, "groups", scrambled).items():
        np.testing.assert_array_equal(own, wanted[space])


def test_the_matrix_is_as_it_was():
    matrix = np.random.default_rng(0).standard_normal((6, 6))
    before = matrix.copy()
    assign(matrix)
    np.testing.assert_array_equal(matrix, before)


# Weights


def naive_distance(specification, start, end, permutations):
    """Between the parameters of a start and of a copy of the end whose units were moved."""
    moved = copy.deepcopy(end)
    specification.permute_(moved, permutations)
    theirs = dict(moved.named_parameters())
    return sum(float((p - theirs[n]).detach().double().square().sum()) for n, p in start.named_parameters())


@pytest.mark.parametrize("name", ["bert", "bert-masked", "gpt2", "llama", "mpnet", "resnet", "convnext", "cnn"])
def test_the_distance_never_grows(name, monkeypatch):
    start, end, specification, ours, theirs = pair(name)
    if name == "bert-masked":  # the residual stream on both axes: one axis at a time is no optimum of both
        for weights in (ours, theirs):
            weights["cls.predictions.transform.dense.weight"].data *= 20
    matching = WeightMatching(specification, ours, theirs)
    path = []
    improve = WeightMatching._improve

    def followed(self, root, permutations):
        better = improve(self, root, permutations)
        path.append((better, self.distance(permutations)))
        return better

    monkeypatch.setattr(WeightMatching, "_improve", followed)
    rng = np.random.default_rng(0)
    found = matching.descend(specification.random(0), lambda: list(rng.permutation(specification.roots)), lambda: None)
    distances = np.array([distance for _, distance in path])
    assert (np.diff(distances) <= 1e-9 * distances[0]).all()
    assert sum(better for better, _ in path) >= len(specification.roots) / 2
    # Where it ends, no space by itself does better.
    assert not any(improve(matching, root, dict(found)) for root in specification.roots)
    assert distances[-1] == pytest.approx(naive_distance(specification, start, end, found), rel=1e-6)


@pytest.mark.parametrize("name", ["bert", "llama", "resnet", "gpt2", "cnn"])
def test_similarities_are_what_the_distance_loses(name):
    """|| a - P(b) ||^2 = |a|^2 + |b|^2 - 2 <a, P(b)>: for a root that stands once in each tensor."""
    _, _, specification, ours, theirs = pair(name)
    matching = WeightMatching(specification, ours, theirs)
    permutations, other = specification.random(0), specification.random(1)
    for root in specification.roots:
        if any(len({p[1] for p in matching.places[root] if p[0] == n}) > 1 for n, *_ in matching.places[root]):
            continue
        similarities = matching.similarities(root, permutations)
        moved = {**permutations, **{s: other[s] for s in (root, *specification.children(root))}}
        values = [value_of(specification, similarities, p) for p in (permutations, moved)]
        distances = [matching.distance(p) for p in (permutations, moved)]
        assert distances[1] - distances[0] == pytest.approx(2 * (values[0] - values[1]), rel=1e-4), root


def test_the_same_seed_gives_the_same_and_more_starts_are_never_worse():
    *_, specification, ours, theirs = pair("vit")

    def run(num_starts, seed):
        return match_weights(specification, ours, theirs, num_starts=num_starts, seed=seed)

    (first, before, after), (second, _, again) = run(3, 5), run(3, 5)
    assert after == again < before
    for space, own in first.items():
        np.testing.assert_array_equal(own, second[space])
    distances = [run(number, 5)[2] for number in (1, 2, 3, 4)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(distances))
    assert len({run(1, seed)[2] for seed in range(4)} | {run(3, seed)[2] for seed in range(4)}) > 1


# Activations


def naive_correlation(specification, matching, models, batches, part):
    """All that passes the sites, kept, then one correlation matrix: each site in units of its first batch."""
    sides = []
    for model in models:
        values, modules = {}, dict(model.named_modules())
        for site in matching.sites:
            if spaces_of(site.part) != part:
                continue
            store = values.setdefault(site, [])

            def enter(module, inputs, store=store):
                store.append(inputs[0])

            def leave(module, inputs, output, store=store):
                store.append(output)

            module = modules[site.module]
            handle = module.register_forward_pre_hook(enter) if site.is_input else module.register_forward_hook(leave)
            for batch in batches:
                zoo.logits_of(model, batch)
            handle.remove()
        rows, seen = [], set()
        for site, stored in values.items():
            # Query, key and value read the same.
            mark = float(stored[0].double().sum()), stored[0].shape, site.offset
            if mark in seen:
                continue
            seen.add(mark)
            kept = []
            for value, batch in zip(stored, batches, strict=True):
                flat = value.movedim(site.dim, -1)
                mask = batch.get("attention_mask")
                if mask is not None and mask.shape == flat.shape[:-1]:
                    flat = flat[mask.bool()]
                kept.append(flat.reshape(-1, flat.shape[-1])[:, site.piece].double().numpy())
            scale = np.sqrt(kept[0].var(0).mean())
            whole = np.concatenate(kept)
            rows.append((whole - whole.mean(0)) / scale)
        sides.append(np.concatenate(rows))
    n = sides[0].shape[1]
    return np.corrcoef(sides[0].T, sides[1].T)[:n, n:], len(sides[0])


def streamed_correlation(products):
    scales = [1 / np.sqrt(products.variances(side)) for side in (0, 1)]
    return products.covariance() * scales[0][:, None] * scales[1]


@pytest.mark.parametrize("batch_size", [7, 16, 48])
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("bert", ("residual",)),
        ("bert", ("units.1",)),
        ("bert", ("heads.0", "value.0")),
        ("bert", ("heads.1", "query.1")),
        ("resnet", ("stem",)),
        ("resnet", ("inner.1.0.0",)),
        ("convnext", ("units.1.0",)),
    ],
)
def test_streamed_correlations_are_those_of_all_at_once(name, part, batch_size):
    """Padded tokens left out, places of an image counted, sums of many batches without a loss of precision."""
    start, end, specification, *_ = pair(name)
    rows = zoo.make_batch(start, 48)
    batches = [{k: v[i : i + batch_size] for k, v in rows.items()} for i in range(0, 48, batch_size)]
    matching = ActivationMatching(specification)
    matching.observe(start, end, batches)
    products = matching.products[part]
    expected, observations = naive_correlation(specification, matching, (start, end), batches, part)
    assert products.observations == observations
    np.testing.assert_allclose(streamed_correlation(products), expected, atol=1e-5)


def dead_mlp(seed, silent):
    """Some of its hidden units give 0 whatever comes in."""
    model = zoo.make("mlp", seed)
    with torch.no_grad():
        model[0].bias[silent] = -1e3
    return model


def test_dead_units_are_matched_last_by_their_weights(caplog):
    model = dead_mlp(0, [3, 11])
    moved = copy.deepcopy(model)
    specification = bind(find_family(model), model)
    permutations = specification.random(1)
    specification.permute_(moved, permutations)
    with caplog.at_level(logging.WARNING, logger="hf_cbft"):
        alignment = align(model, moved, "activations", zoo.make_rows(model, 256))
    assert alignment.info["dead"]["units.0"] == 2
    assert "2 units of units.0 never change on these data (dead): they were matched last" in caplog.text
    assert "dead units, matched last, by their weights: 2 of units.0" in str(alignment)
    for space, own in specification.inverse(permutations).items():
        np.testing.assert_array_equal(alignment.permutations[space], own)


def test_units_that_are_dead_on_one_side_take_what_is_left():
    """One of the start's, two of the end's: the living ones come first, and each unit has one place."""
    start = dead_mlp(0, [3])
    end = copy.deepcopy(start)
    with torch.no_grad():
        end[0].bias[[3, 20]] = -1e3
    alignment = align(start, end, "activations", zoo.make_rows(start, 256))
    found = alignment.permutations["units.0"]
    assert alignment.info["dead"]["units.0"] == 2
    np.testing.assert_array_equal(np.sort(found), np.arange(32))
    np.testing.assert_array_equal(found, np.arange(32))


@pytest.mark.parametrize(("rows", "warned"), [(63, True), (64, False)])
def test_fewer_observations_than_two_for_each_unit_are_said(rows, warned, caplog):
    start, end = zoo.make("mlp", 0), zoo.make("mlp", 1)
    with caplog.at_level(logging.WARNING, logger="hf_cbft"):
        alignment = align(start, end, "activations", zoo.make_rows(start, rows))
    text = f"units.0 has 32 units and was observed {rows} times, fewer than two times for each unit"
    assert (text in caplog.text) is warned
    assert alignment.info["rows"] == rows


def test_heads_are_matched_whatever_the_order_of_their_units():
    """By what they add to the residual stream: here the heads trade places, and so do the units in each."""
    model = zoo.make("vit")
    specification = bind(find_family(model), model)
    permutations = specification.identity()
    rng = np.random.default_rng(0)
    for space in ("heads.0", "value.0", "query.0"):
        permutations[space] = rng.permuted(permutations[space], axis=-1)
    moved = copy.deepcopy(model)
    specification.permute_(moved, permutations)
    alignment = align(model, moved, "activations", zoo.make_rows(model, 256))
    for space, own in specification.inverse(permutations).items():
        np.testing.assert_array_equal(alignment.permutations[space], own)


# Given


def test_given_permutations_are_taken_and_others_stay():
    start, end, specification, *_ = pair("bert")
    order = np.random.default_rng(0).permutation(24)
    alignment = align(start, end, "given", permutations={"units.1": list(order)})
    np.testing.assert_array_equal(alignment.permutations["units.1"], order)
    for space, own in specification.identity().items():
        if space != "units.1":
            np.testing.assert_array_equal(alignment.permutations[space], own)
    assert alignment.info["gate"] <= 1e-8
    assert "objective" not in alignment.info
    before = named_weights(end)["bert.encoder.layer.1.intermediate.dense.weight"].detach().clone()
    aligned = alignment.apply(end)
    assert torch.equal(aligned.bert.encoder.layer[1].intermediate.dense.weight, before[order])


def test_modes_and_gradients_are_as_they_were():
    """Dropout in the pass over the data would be noise, and the caller's modes are the caller's."""
    start, end = zoo.make("bert", 0).train(), zoo.make("bert", 1)
    rows = zoo.make_rows(start, 64)
    first, second = (align(start, end, "activations", rows) for _ in range(2))
    assert start.training
    assert not end.training
    assert not any(isinstance(m, nn.Dropout) and not m.training for m in start.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in end.parameters())
    for space, own in first.permutations.items():
        np.testing.assert_array_equal(own, second.permutations[space])
