# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A live model at a point of a path: the right weights inside the block, the old bits after it."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hf_cbft import LinearPath, at_point
from hf_cbft.paths import interpolation as module_under_test
from hf_cbft.paths.interpolation import copy_weights, evaluation_mode, named_weights

ALL_MODELS = ("vit", "bert", "resnet", "gpt2")


def tensors_of(model):
    """Every parameter and buffer, also the ones that are not persistent."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def bits(tensor):
    return tensor.detach().clone().reshape(-1).view(torch.uint8)


def snapshot(model):
    return {name: bits(tensor) for name, tensor in tensors_of(model).items()}


def assert_same_bits(model, before):
    after = snapshot(model)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(after[name], before[name])] == []


def other_weights(model, seed=1, dtype=None):
    """An anchor apart from the model everywhere: floats by noise (variances stay positive), integers by 7."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in copy_weights(model).items():
        if not tensor.is_floating_point():
            weights[name] = tensor + 7
            continue
        noise = 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        moved = tensor.double() + (noise.abs() if name.endswith("running_var") else noise)
        weights[name] = moved.to(dtype or tensor.dtype)
    return weights


def explicit(start, end, alpha):
    """(1 - alpha) * start + alpha * end in float64."""
    return {
        name: (1.0 - alpha) * start[name].double() + alpha * end[name].double()
        for name in start
        if start[name].is_floating_point()
    }


def rounding(dtype, start, end):
    """A few roundings of the working precision, plus one to the dtype of the weights."""
    working = torch.float64 if dtype == torch.float64 else torch.float32
    size = start.double().abs() + end.double().abs()
    allowed = 4.0 * torch.finfo(working).eps * size
    return allowed if dtype == working else allowed + 0.5 * torch.finfo(dtype).eps * size


def mixed_model():
    """Frozen and trained parameters, batch statistics, integers, and buffers that are not persistent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    model[0].bias.requires_grad_(False)
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("cache", torch.tensor([0.25, -0.0, 3.0]), persistent=False)
    return model


# Restoration


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ALL_MODELS)
def test_the_block_restores_every_bit(make_model, name, alpha):
    # A user's weights would drift a little with each evaluation or training step.
    model = make_model(name)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = -0.0  # equal to 0.0, yet other bits
    before = snapshot(model)
    with at_point(model, LinearPath(start=other_weights(model)), alpha):
        moved = snapshot(model)
    assert alpha == 1.0 or any(not torch.equal(moved[n], before[n]) for n in before)
    assert_same_bits(model, before)


def test_the_block_yields_the_model_itself(make_model):
    # Wrappers and hooks hold only if it is the same object.
    model = make_model("vit")
    with at_point(model, LinearPath(start=other_weights(model)), 0.5) as yielded:
        assert yielded is model


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ALL_MODELS)
def test_an_exception_in_the_block_restores_every_bit(make_model, name, error):
    # A failing batch, or Ctrl-C, would leave the model at a path point.
    model = make_model(name)
    before = snapshot(model)
    with pytest.raises(error), at_point(model, LinearPath(start=other_weights(model)), 0.6):
        raise error
    assert_same_bits(model, before)


def test_an_exception_while_writing_restores_every_bit(make_model, monkeypatch):
    # Running out of memory half way would leave a model of two kinds of weights.
    model = make_model("resnet")
    before = snapshot(model)
    write, calls = module_under_test._write_combination, []

    def write_two_and_fail(out, *args):
        calls.append(out)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("third tensor")
        write(out, *args)

    monkeypatch.setattr(module_under_test, "_write_combination", write_two_and_fail)
    with (
        pytest.raises(torch.OutOfMemoryError, match="third tensor"),
        at_point(model, LinearPath(start=other_weights(model)), 0.5),
    ):
        pytest.fail("the block was entered with weights half written")
    assert len(calls) == 3
    assert_same_bits(model, before)


def test_a_training_pass_of_batchnorm_in_the_block_is_undone(make_model, make_batch):
    # Running statistics of the path point would end up in the model.
    model = make_model("resnet").train()
    before = snapshot(model)
    with at_point(model, LinearPath(start=other_weights(model)), 0.5):
        inside = snapshot(model)
        model(**make_batch("resnet"))
        after_pass = snapshot(model)
        changed = [n for n in inside if not torch.equal(inside[n], after_pass[n])]
        assert any("running_mean" in n for n in changed)
        assert any("num_batches_tracked" in n for n in changed)
    assert_same_bits(model, before)


def test_weights_changed_inside_the_block_are_restored(make_model):
    # Whatever a block does to the weights ends with it.
    model = make_model("bert")
    before = snapshot(model)
    with at_point(model, LinearPath(end=other_weights(model)), 0.5), torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_same_bits(model, before)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_tensors_stay_the_same_objects_and_storages(make_model, name):
    # Optimizers, DDP buckets and compiled code hold on to these objects and addresses.
    model = make_model(name)

    def identities():
        return {n: (id(t), t.data_ptr(), t.requires_grad) for n, t in tensors_of(model).items()}

    before = identities()
    with at_point(model, LinearPath(start=other_weights(model)), 0.4):
        assert identities() == before
    assert identities() == before


def test_gradients_and_requires_grad_survive(make_model, make_batch):
    # The gradient of the path loss is added to that of the clean loss, which is there already.
    model = make_model("vit")
    model.vit.embeddings.cls_token.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    with at_point(model, LinearPath(start=other_weights(model)), 0.4):
        model(**make_batch("vit")).loss.backward()
    assert model.vit.embeddings.cls_token.grad is None
    assert not model.vit.embeddings.cls_token.requires_grad
    gradient = model.classifier.bias.grad
    assert gradient is not None
    assert not torch.equal(gradient, torch.ones_like(gradient))
    # Cross-entropy moves the class biases by amounts that add up to zero, on top of the ones.
    assert gradient.sum().item() == pytest.approx(gradient.numel(), abs=1e-5)


# The point


@pytest.mark.parametrize("live_is", ["start", "end"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("name", ALL_MODELS)
def test_the_ends_are_exactly_the_anchors(make_model, name, alpha, live_is):
    # A barrier is measured against the untouched models.
    model, other = make_model(name), other_weights(make_model(name))
    path = LinearPath(start=other) if live_is == "end" else LinearPath(end=other)
    live = copy_weights(model)
    expected = live if (alpha == 0.0) == (live_is == "start") else other
    with at_point(model, path, alpha):
        got = named_weights(model)
        assert [n for n in expected if not torch.equal(bits(got[n]), bits(expected[n]))] == []


@pytest.mark.parametrize("live_is", ["start", "end", "neither"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_interior_values_are_the_explicit_interpolation(make_model, name, dtype, live_is):
    # Other weights than gamma(alpha), or ones rounded more often than needed: a barrier of another path.
    model = make_model(name).to(dtype)
    start, end = other_weights(model, seed=1), other_weights(model, seed=2)
    if live_is == "start":
        start, path = copy_weights(model), LinearPath(end=end)
    elif live_is == "end":
        end, path = copy_weights(model), LinearPath(start=start)
    else:
        path = LinearPath(start=start, end=end)
    for alpha in (0.125, 0.3, 0.5, 0.77):
        with at_point(model, path, alpha):
            got = named_weights(model)
            for n, value in explicit(start, end, alpha).items():
                error = (got[n].detach().double() - value).abs()
                assert (error <= rounding(dtype, start[n], end[n])).all(), (n, alpha)


def test_half_precision_is_interpolated_in_float32():
    # In bfloat16 the difference of two near weights is mostly rounding.
    model = nn.Linear(64, 64).to(torch.bfloat16)
    other = {n: (t.double() * 1.3).to(torch.bfloat16) for n, t in copy_weights(model).items()}
    live = copy_weights(model)
    with at_point(model, LinearPath(start=other), 0.37):
        for n, value in explicit(other, live, 0.37).items():
            # The nearest bfloat16, but for ties that float32 breaks another way.
            nearest = 0.5 * torch.finfo(torch.bfloat16).eps * value.abs()
            assert ((named_weights(model)[n].detach().double() - value).abs() <= 1.001 * nearest + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_anchors_that_agree_stay_bit_for_bit_equal(make_model, dtype):
    # Frozen layers would differ between the points, and with them everything that is cached for them.
    model = make_model("vit").to(dtype)
    other = copy_weights(model)
    other["classifier.bias"] += 1.0
    before = snapshot(model)
    for alpha in (0.1, 1 / 3, 0.5, 0.9):
        with at_point(model, LinearPath(start=other), alpha):
            inside = snapshot(model)
        assert [n for n in before if not torch.equal(inside[n], before[n])] == ["classifier.bias"]


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.0, 17), (0.2, 17), (0.4999, 17), (0.5001, 10), (0.8, 10), (1.0, 10)]
)
def test_integer_buffers_follow_the_nearer_anchor(alpha, expected):
    # Counts cannot be interpolated; truncated ones would fit neither end.
    model = mixed_model()
    model[1].num_batches_tracked.fill_(10)
    other = copy_weights(model)
    other["1.num_batches_tracked"].fill_(17)
    other["mask"].logical_not_()
    with at_point(model, LinearPath(start=other), alpha):
        assert model[1].num_batches_tracked.item() == expected
        assert model.mask.tolist() == ([True, False] if expected == 10 else [False, True])
    assert model[1].num_batches_tracked.item() == 10
    assert model.mask.tolist() == [True, False]


def test_tied_weights_are_written_once_and_stay_tied(make_model, monkeypatch):
    # Written twice they would be interpolated from an interpolated value; untied they would train apart.
    model = make_model("gpt2")
    other = other_weights(model)
    assert "lm_head.weight" not in other
    live = copy_weights(model)["transformer.wte.weight"]
    write, addresses = module_under_test._write_combination, []

    def write_and_note(out, *args):
        addresses.append(out.data_ptr())
        write(out, *args)

    monkeypatch.setattr(module_under_test, "_write_combination", write_and_note)
    with at_point(model, LinearPath(start=other), 0.25):
        assert model.lm_head.weight is model.transformer.wte.weight
        torch.testing.assert_close(
            model.lm_head.weight.detach(), 0.75 * other["transformer.wte.weight"] + 0.25 * live, rtol=1e-6, atol=1e-7
        )
    assert len(addresses) == len(set(addresses)) == len(other)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_state_dict_of_a_tied_model_is_an_anchor(make_model):
    # What a user has at hand is `reference.state_dict()`, where tied weights come under each of their names.
    model, reference = make_model("gpt2"), make_model("gpt2", seed=1)
    live = copy_weights(model)["transformer.wte.weight"]
    with at_point(model, LinearPath(start=reference.state_dict()), 0.25):
        expected = 0.75 * reference.lm_head.weight.detach() + 0.25 * live
        torch.testing.assert_close(model.lm_head.weight.detach(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("live_dtype", "anchor_dtype"),
    [(torch.float32, torch.float64), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)],
)
def test_anchors_in_another_dtype(make_model, live_dtype, anchor_dtype):
    # References are often kept in half precision; the model keeps its own dtype.
    model = make_model("vit").to(live_dtype)
    other = other_weights(model, dtype=anchor_dtype)
    live = copy_weights(model)
    with at_point(model, LinearPath(start=other), 0.3):
        for n, value in explicit(other, live, 0.3).items():
            got = named_weights(model)[n]
            assert got.dtype == live_dtype
            error = (got.detach().double() - value).abs()
            assert (error <= rounding(live_dtype, other[n], live[n])).all(), n
    with at_point(model, LinearPath(start=other), 0.0):
        got = named_weights(model)
        assert all(torch.equal(got[n], other[n].to(live_dtype)) for n in other)


def test_nested_blocks(make_model):
    # The inner block's live model is the outer point, and the inner block gives that point back.
    model = make_model("resnet")
    first, second = other_weights(model, seed=1), other_weights(model, seed=2)
    before = snapshot(model)
    with at_point(model, LinearPath(start=first), 0.5):
        outer, outer_weights = snapshot(model), copy_weights(model)
        with at_point(model, LinearPath(start=second), 0.25):
            got = named_weights(model)
            for n, value in explicit(second, outer_weights, 0.25).items():
                torch.testing.assert_close(got[n].detach().double(), value, rtol=1e-6, atol=1e-6)
        assert_same_bits(model, outer)
    assert_same_bits(model, before)


def test_buffers_that_are_not_persistent_are_left_alone():
    # They are no weights: checkpoints do not have them, so anchors do not either.
    model = mixed_model()
    other = other_weights(model)
    assert "cache" not in other
    before = bits(model.cache)
    version = model.cache._version
    with at_point(model, LinearPath(start=other), 0.5):
        assert torch.equal(bits(model.cache), before)
    assert model.cache._version == version


def test_named_weights_are_the_models_own_and_copies_are_not():
    # Anchors that alias the model would move with it; copies in place of its own tensors would not be written.
    model = mixed_model()
    assert all(tensor is tensors_of(model)[name] for name, tensor in named_weights(model).items())
    assert named_weights(model).keys() == model.state_dict().keys()
    for name, tensor in copy_weights(model).items():
        assert tensor.data_ptr() != tensors_of(model)[name].data_ptr()
        assert not tensor.requires_grad
        assert torch.equal(tensor, tensors_of(model)[name])


@dataclass(frozen=True)
class BezierPath:
    """A user's own path: (1 - a)^2 A + 2 a (1 - a) B + a^2 C."""

    anchors: tuple

    def coefficients(self, alpha):
        return (1.0 - alpha) ** 2, 2.0 * alpha * (1.0 - alpha), alpha**2


@pytest.mark.parametrize("live_at", [0, 1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_custom_path_with_three_anchors(make_model, alpha, live_at):
    # at_point takes whatever has anchors and coefficients, not only straight lines.
    model = make_model("resnet")
    before, live = snapshot(model), copy_weights(model)
    anchors = [other_weights(model, seed=seed) for seed in range(3)]
    anchors[live_at] = None
    path = BezierPath(tuple(anchors))
    anchors[live_at] = live
    with at_point(model, path, alpha):
        got = named_weights(model)
        for n in live:
            if live[n].is_floating_point():
                value = sum(c * a[n].double() for c, a in zip(path.coefficients(alpha), anchors, strict=True))
                torch.testing.assert_close(got[n].detach().double(), value, rtol=1e-6, atol=1e-6)
            if alpha in (0.0, 1.0):
                assert torch.equal(got[n], anchors[0 if alpha == 0.0 else 2][n])
    assert_same_bits(model, before)


# Errors


def assert_untouched(model, before, versions):
    assert_same_bits(model, before)
    assert {n: t._version for n, t in tensors_of(model).items()} == versions


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf")])
def test_alpha_outside_the_path_is_refused(make_model, alpha):
    # Extrapolated weights are on no path between the two models.
    model = make_model("vit")
    path = LinearPath(start=other_weights(model))
    before, versions = snapshot(model), {n: t._version for n, t in tensors_of(model).items()}
    with pytest.raises(ValueError, match=r"is not on the path: it runs from 0 \(start\) to 1 \(end\)"):
        at_point(model, path, alpha).__enter__()
    assert_untouched(model, before, versions)


def _without_five(weights):
    for name in list(weights)[:5]:
        del weights[name]


def _with_five(weights):
    weights.update({f"extra.{i}": torch.zeros(1) for i in range(5)})


def _reshaped_five(weights):
    for name in list(weights)[:5]:
        weights[name] = weights[name][None]


@pytest.mark.parametrize(
    ("spoil", "phrase", "named"),
    [
        (_without_five, "{} is missing", lambda names: names[:5]),
        (_with_five, "{} is not in the model", lambda names: [f"extra.{i}" for i in range(5)]),
        (_reshaped_five, "{} has shape (1, ", lambda names: names[:5]),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_anchors_that_do_not_fit_are_refused_by_name(make_model, spoil, phrase, named):
    # Weights left out or repaired in silence give a barrier of other models.
    model = make_model("vit")
    weights = other_weights(model)
    names = named(list(weights))
    spoil(weights)
    before, versions = snapshot(model), {n: t._version for n, t in tensors_of(model).items()}
    for path in (LinearPath(start=weights), LinearPath(end=weights)):
        with pytest.raises(ValueError, match=re.escape("(and 2 more)")) as raised:
            at_point(model, path, 0.5).__enter__()
        message = str(raised.value)
        assert all(phrase.format(name) in message for name in names[:3])
        assert not any(name in message for name in names[3:])
        assert_untouched(model, before, versions)


def test_up_to_three_differences_are_all_named(make_model):
    # "(and 0 more)" would send a user looking.
    model = make_model("vit")
    weights = other_weights(model)
    del weights["classifier.bias"]
    weights["classifier.weight"] = torch.zeros(2, 16)
    with pytest.raises(ValueError, match="cannot be interpolated") as raised:
        at_point(model, LinearPath(start=weights), 0.5).__enter__()
    assert "classifier.bias is missing; classifier.weight has shape (2, 16), not (4, 16)." in str(raised.value)
    assert "more)" not in str(raised.value)


# Modes


def mixed_modes(model):
    model.train()
    for index, module in enumerate(model.modules()):
        if index % 3 == 1:
            module.training = False
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_mode_restores_mixed_modes(make_model, fails):
    # Frozen BatchNorm layers, kept in eval mode by their owner, would start to train.
    model = make_model("resnet")
    modes = mixed_modes(model)
    assert len(set(modes)) == 2
    try:
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            if fails:
                raise RuntimeError("in the block")
    except RuntimeError:
        assert fails
    assert [module.training for module in model.modules()] == modes


def test_at_point_leaves_modes_alone(make_model):
    # A training pass at a point is a training pass.
    model = make_model("resnet")
    modes = mixed_modes(model)
    with at_point(model, LinearPath(start=other_weights(model)), 0.5):
        assert [module.training for module in model.modules()] == modes
    assert [module.training for module in model.modules()] == modes


def test_an_anchor_that_unties_what_the_model_ties_is_refused(make_model):
    # Otherwise one of the two tensors would be left out in silence.
    model = make_model("gpt2")
    anchor = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    anchor["lm_head.weight"] += 1.0
    with pytest.raises(ValueError, match="are tied in the model but differ"), at_point(model, LinearPath(anchor), 0.5):
        pass
