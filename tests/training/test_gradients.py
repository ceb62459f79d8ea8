# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The gradient of the barrier loss through `at_point`, against autograd through an explicit interpolation.

The end of the test run prints the errors: max |difference| / max |gradient|, in float64.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from hf_cbft import LinearPath, at_point, barrier_loss
from hf_cbft.paths.batchnorm import batch_statistics
from hf_cbft.paths.interpolation import copy_weights

BOUND = 1e-10
# The ends and the middle of the stretch that is sampled, and a point that is not a binary fraction.
ALPHAS = (0.25, 0.4, 0.5, 0.75)
# One level below the path losses of these models and one above them, so that |.| has either slope.
MARGINS = (1.0, 8.0)
INNER_MODULES = {
    "vit": "vit.layers.0.attention",
    "bert": "bert.encoder.layer.0.attention",
    "gpt2": "transformer.h.0.attn",
}


def double_batch(batch):
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def path_loss(logits, batch):
    """Cross-entropy in float64. (Language models in Transformers compute theirs in float32.)"""
    labels = batch["labels"]
    if labels.ndim == 2:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(logits, labels)


def naive_gradient(model, reference, alpha, batch, margin):
    """Autograd through (1 - alpha) * reference + alpha * theta, with no weight ever written."""
    theta = dict(model.named_parameters())
    point = {name: (1.0 - alpha) * reference[name] + alpha * theta[name] for name in theta}
    logits = functional_call(model, point, kwargs=batch).logits
    loss = barrier_loss(path_loss(logits, batch), margin=margin)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))


def gradient_error(model, expected):
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 1e-3  # a gradient of zero would agree with anything
    return max((p.grad - expected[n]).abs().max().item() for n, p in model.named_parameters()) / largest


@pytest.fixture
def case(make_model, make_batch):
    """`case(name)`: a model in training mode, a reference apart from it, a batch, and the model again."""

    def make(name):
        model, naive = (make_model(name).double().train() for _ in range(2))
        reference = copy_weights(make_model(name, seed=1).double())
        return model, reference, double_batch(make_batch(name)), naive

    return make


def running_statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name or "tracked" in name}


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "gpt2"])
def test_gradient_is_that_of_the_explicit_interpolation(case, table, name, alpha, margin):
    # Training would follow another loss than L_B, without any other sign of it.
    model, reference, batch, naive = case(name)
    expected = naive_gradient(naive, reference, alpha, batch, margin)
    before = running_statistics(model)
    with at_point(model, LinearPath(start=reference), alpha), batch_statistics(model):
        inside = running_statistics(model)
        on_path = path_loss(model(**batch).logits, batch)
        assert (on_path.item() > margin) == (margin == MARGINS[0])
        (alpha * barrier_loss(on_path, margin=margin)).backward()
        assert all(torch.equal(value, inside[n]) for n, value in running_statistics(model).items())
    assert bool(before) == (name == "resnet")
    assert all(torch.equal(value, before[n]) for n, value in running_statistics(model).items())
    if name == "gpt2":
        assert model.lm_head.weight.grad is model.transformer.wte.weight.grad
        assert "lm_head.weight" not in expected
    error = gradient_error(model, expected)
    table.append((name, f"alpha {alpha}", f"margin {margin}", "no checkpointing", error))
    assert error <= BOUND


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", ["vit", "bert", "gpt2"])
def test_gradient_with_activation_checkpointing(case, table, name, alpha):
    # The forward pass runs again in backward: the weights must still be those of the point.
    model, reference, batch, naive = case(name)
    expected = naive_gradient(naive, reference, alpha, batch, MARGINS[0])
    model.activation_checkpointing_enable()
    model.config.use_cache = False
    passes = []
    # Before the module, because the recomputation stops as soon as it has what backward needs.
    model.get_submodule(INNER_MODULES[name]).register_forward_pre_hook(lambda *_: passes.append(1))
    with at_point(model, LinearPath(start=reference), alpha):
        loss = barrier_loss(path_loss(model(**batch).logits, batch), margin=MARGINS[0])
        assert len(passes) == 1
        (alpha * loss).backward()
        assert len(passes) == 2  # checkpointing is on: the layer ran once more in backward
    error = gradient_error(model, expected)
    table.append((name, f"alpha {alpha}", f"margin {MARGINS[0]}", "checkpointing", error))
    assert error <= BOUND


def test_leaving_the_block_before_backward_is_silently_wrong(case):
    # What this file guards against: with the whole forward pass recomputed, nothing complains, and the bound notices.
    model, reference, batch, naive = case("vit")
    expected = naive_gradient(naive, reference, 0.4, batch, MARGINS[0])

    def barrier():
        return barrier_loss(path_loss(model(**batch).logits, batch), margin=MARGINS[0])

    with at_point(model, LinearPath(start=reference), 0.4):
        (0.4 * checkpoint(barrier, use_reentrant=False)).backward()
    assert gradient_error(model, expected) <= BOUND
    model.zero_grad()
    with at_point(model, LinearPath(start=reference), 0.4):
        loss = 0.4 * checkpoint(barrier, use_reentrant=False)
    loss.backward()
    assert gradient_error(model, expected) > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_leaving_the_block_before_backward_raises_where_autograd_can_see_it(case, checkpointing):
    # Weights that autograd saved are written in place, so their version tells. Writes to `.data` would hide that.
    model, reference, batch, _ = case("vit")
    if checkpointing:
        model.activation_checkpointing_enable()
    with at_point(model, LinearPath(start=reference), 0.4):
        loss = path_loss(model(**batch).logits, batch)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_the_factor_alpha_the_gradient_is_off(case):
    # The chain rule's factor belongs to the caller; the gradient at the point is 1 / alpha times too long.
    model, reference, batch, naive = case("bert")
    expected = naive_gradient(naive, reference, 0.25, batch, MARGINS[0])
    with at_point(model, LinearPath(start=reference), 0.25):
        barrier_loss(path_loss(model(**batch).logits, batch), margin=MARGINS[0]).backward()
    assert gradient_error(model, expected) == pytest.approx(3.0, abs=1e-9)


def test_frozen_parameters_get_no_gradient(case):
    # A frozen backbone would be trained through the path.
    model, reference, batch, naive = case("vit")
    expected = naive_gradient(naive, reference, 0.5, batch, MARGINS[0])
    model.vit.requires_grad_(False)
    with at_point(model, LinearPath(start=reference), 0.5):
        (0.5 * barrier_loss(path_loss(model(**batch).logits, batch), margin=MARGINS[0])).backward()
    assert all(parameter.grad is None for parameter in model.vit.parameters())
    for name in ("weight", "bias"):
        torch.testing.assert_close(
            getattr(model.classifier, name).grad, expected[f"classifier.{name}"], rtol=1e-10, atol=1e-12
        )
