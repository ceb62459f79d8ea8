# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The two loss terms against values by hand and a naive implementation, with its gradients by autograd."""

import pytest
import torch

from hf_cbft import barrier_loss, invariance_loss

# Labels of the clean and of the cue rows, and the number of classes.
LABELS = {
    "every class in both": ([0, 1, 2, 0, 1, 2, 2], [2, 1, 0, 0, 1], 3),
    "one row a class": ([1, 0], [0, 1], 2),
    "a class only in the clean half": ([0, 1, 2, 2, 0], [0, 1, 1], 3),
    "a class only in the cue half": ([0, 1], [2, 0, 1, 2], 3),
    "a class of its own in each half": ([0, 1, 1], [1, 2], 3),
    "more classes than are present": ([0, 4, 4], [4, 0, 0], 10),
}


def naive_invariance_loss(clean, clean_labels, cue, cue_labels, num_classes):
    total = 0.0 * clean.sum() + 0.0 * cue.sum()
    for k in range(num_classes):
        units = []
        for representations, labels in ((clean, clean_labels), (cue, cue_labels)):
            rows = [row for row, label in zip(representations, labels, strict=True) if label == k]
            if rows:
                mean = sum(rows) / len(rows)
                length = sum(entry**2 for entry in mean) ** 0.5 if mean.any() else None
                units.append([0.0 if length is None else entry / length for entry in mean])
        if len(units) == 2:
            total = total + sum((a - b) ** 2 for a, b in zip(*units, strict=True))
    return total / num_classes


def make_rows(labels, seed, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    rows = scale * torch.randn(len(labels), 5, generator=generator, dtype=torch.float64)
    return rows.to(dtype).requires_grad_()


def value_and_gradients(function, clean, clean_labels, cue, cue_labels, num_classes):
    if function is invariance_loss:
        clean_labels, cue_labels = torch.tensor(clean_labels), torch.tensor(cue_labels)
    value = function(clean, clean_labels, cue, cue_labels, num_classes)
    return value.detach(), *torch.autograd.grad(value, (clean, cue))


def assert_like_naive(clean, clean_labels, cue, cue_labels, num_classes):
    arguments = clean, clean_labels, cue, cue_labels, num_classes
    expected = value_and_gradients(naive_invariance_loss, *arguments)
    actual = value_and_gradients(invariance_loss, *arguments)
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-12)
    return actual


@pytest.mark.parametrize(
    ("path_loss", "settings", "value", "gradient"),
    [
        (0.25, {}, 0.75, -1.0),
        (1.75, {}, 0.75, 1.0),
        (1.0, {}, 0.0, 0.0),
        # Above the paper's level of 1 nat, below the reference's own loss + 1: the paper's formula would push it down.
        (2.5, {"ref_loss": 2.0}, 0.5, -1.0),
        (3.5, {"ref_loss": 2.0}, 0.5, 1.0),
        (0.75, {"margin": 0.5}, 0.25, 1.0),
        (0.25, {"ref_loss": torch.tensor(1.0), "margin": torch.tensor(0.5)}, 1.25, -1.0),
    ],
)
def test_barrier_loss_pulls_towards_the_level(path_loss, settings, value, gradient):
    """A wrong level or sign trains the model towards the cue."""
    path_loss = torch.tensor(path_loss, requires_grad=True)
    loss = barrier_loss(path_loss, **settings)
    loss.backward()
    assert loss.item() == value
    assert path_loss.grad.item() == gradient


@pytest.mark.parametrize(("clean_labels", "cue_labels", "num_classes"), LABELS.values(), ids=LABELS.keys())
def test_invariance_loss_is_the_naive_one(clean_labels, cue_labels, num_classes):
    """A class counted that either half lacks, a wrong factor or a lost gradient."""
    assert_like_naive(make_rows(clean_labels, 0), clean_labels, make_rows(cue_labels, 1), cue_labels, num_classes)


@pytest.mark.parametrize(("num_classes", "value"), [(1, 4.0), (4, 1.0)])
def test_invariance_loss_of_opposite_directions(num_classes, value):
    """By hand: || n(v) - n(-v) ||^2 = 4, over all K classes; a mistake that the naive one would share."""
    rows, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([0])
    assert invariance_loss(rows, labels, -2.0 * rows, labels, num_classes).item() == pytest.approx(value)


def test_invariance_loss_without_a_common_class_is_zero():
    """A batch that pairs no class must add nothing, and no NaN, to the step."""
    labels = [0, 0, 3], [1, 2]
    value, *gradients = assert_like_naive(make_rows(labels[0], 0), labels[0], make_rows(labels[1], 1), labels[1], 5)
    assert value == 0.0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(("halves", "value"), [((0,), 0.5), ((1,), 0.5), ((0, 1), 0.0)])
def test_invariance_loss_of_a_mean_of_length_zero(halves, value):
    """A mean of length 0 (dead units, say) has no direction: 1 / 0 would turn all weights into NaN."""
    labels = [1, 1]
    rows = [make_rows(labels, 0), make_rows(labels, 1)]
    for half in halves:
        row = rows[half].detach()[:1]
        rows[half] = torch.cat([row, -row]).requires_grad_()
    actual, *gradients = assert_like_naive(rows[0], labels, rows[1], labels, 2)
    assert actual.item() == pytest.approx(value)
    for half in halves:
        assert not gradients[half].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_invariance_loss_is_computed_in_float32(dtype):
    """Half precision would overflow (float16: 1000^2) or keep 8 bits (bfloat16) of the loss."""
    clean_labels, cue_labels, num_classes = LABELS["every class in both"]
    rows = [make_rows(labels, seed, dtype, 1000.0) for seed, labels in enumerate((clean_labels, cue_labels))]
    exact_rows = [half.detach().double().requires_grad_() for half in rows]
    value, *gradients = value_and_gradients(invariance_loss, rows[0], clean_labels, rows[1], cue_labels, num_classes)
    exact, *exact_gradients = value_and_gradients(
        naive_invariance_loss, exact_rows[0], clean_labels, exact_rows[1], cue_labels, num_classes
    )
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    for gradient, exact_gradient in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-2, atol=1e-6)


def test_invariance_loss_is_computed_in_float32_under_autocast():
    # Nearly equal means: in bfloat16 the gradient was off by its own length.
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(16, 32, generator=generator).bfloat16()
    cue = (clean + 1e-2 * torch.randn(16, 32, generator=generator)).bfloat16()
    labels = torch.arange(16) % 4

    def value_and_gradient():
        leaf = clean.clone().requires_grad_()
        loss = invariance_loss(leaf, labels, cue, labels, 4)
        return loss, torch.autograd.grad(loss, leaf)[0]

    expected = value_and_gradient()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradient()
    assert all(torch.equal(first, second) for first, second in zip(found, expected, strict=True))
    assert found[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ones: barrier_loss(ones(3)), r"path_loss has the shape \(3,\), and L_B is that of the mean loss"),
        (lambda ones: _invariance(ones(2, 3), ones(2, 4)), "have 3 dimensions and the cue ones 4: take both"),
        (lambda ones: _invariance(ones(3, 3), ones(2, 3)), r"clean representations have the shape \(3, 3\) and their"),
        (lambda ones: _invariance(ones(2, 3), ones(2)), r"cue representations have the shape \(2,\) and their labels"),
    ],
    ids=["vector", "dimensions", "labels", "no matrix"],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    # The one would broadcast to a loss a row, the others fail inside a matrix product.
    with pytest.raises(ValueError, match=message):
        call(torch.ones)


def _invariance(clean, cue):
    return invariance_loss(clean, torch.tensor([0, 1]), cue, torch.tensor([0, 1]), 2)
