# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""BatchNorm at a path point: batch statistics without a trace, and statistics estimated anew."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_cbft.paths.batchnorm import batch_statistics, batchnorm_modules, recalibrate


def make_net():
    """Two BatchNorm layers whose statistics are far from those of the data."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        for index in (1, 4):
            net[index].running_mean.normal_()
            net[index].running_var.uniform_(0.5, 2.0)
            net[index].weight.uniform_(0.5, 1.5)
            net[index].bias.normal_()
            net[index].num_batches_tracked.fill_(5)
    return net


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_statistics(model, expected):
    after = statistics(model)
    assert [name for name in expected if not torch.equal(after[name], expected[name])] == []


def normalised(layer, x):
    """By the batch, with its biased variance, written out."""
    scaled = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + layer.eps).sqrt()
    return layer.weight * scaled + layer.bias


def test_batchnorm_modules_are_those_with_running_statistics():
    # A layer without buffers has nothing to estimate; resetting it would raise.
    model = nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.BatchNorm2d(2, track_running_stats=False))
    assert batchnorm_modules(model) == [model[0]]


# batch_statistics


def test_batch_statistics_normalises_by_the_batch():
    # The path pass in training would see the statistics of another point.
    net, x = make_net().train(), torch.randn(7, 3)
    expected = normalised(net[4], net[3](net[2](normalised(net[1], net[0](x)))))
    with batch_statistics(net):
        torch.testing.assert_close(net(x), expected)


def test_batch_statistics_leaves_no_trace_of_forward_and_backward():
    # The model's own running statistics would come to hold those of path points and cue data.
    net, twin, x = make_net().train(), make_net().train(), torch.randn(7, 3)
    before = statistics(net)
    versions = [buffer._version for buffer in net.buffers()]
    with batch_statistics(net):
        net(x).square().sum().backward()
        assert_statistics(net, before)
    assert_statistics(net, before)
    assert [buffer._version for buffer in net.buffers()] == versions
    twin(x).square().sum().backward()
    assert not torch.equal(statistics(twin)["1.running_mean"], before["1.running_mean"])
    for got, expected in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(got.grad, expected.grad)


def test_batch_statistics_in_a_whole_model(make_model, make_batch):
    # The same in a Transformers model, whose layers sit deep in other modules.
    model, twin, batch = make_model("resnet").train(), make_model("resnet").train(), make_batch("resnet")
    before = statistics(model)
    with batch_statistics(model):
        loss = model(**batch).loss
        loss.backward()
    assert_statistics(model, before)
    assert torch.equal(loss, twin(**batch).loss)


def test_layers_in_eval_mode_go_on_to_use_their_running_statistics():
    # A layer that its owner froze would start to depend on the batch.
    net, x = make_net().train(), torch.randn(7, 3)
    net[1].eval()
    layer = net[1]
    hidden = F.batch_norm(net[0](x), layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    expected = normalised(net[4], net[3](net[2](hidden)))
    before = statistics(net)
    with batch_statistics(net):
        torch.testing.assert_close(net(x), expected)
    assert_statistics(net, before)
    assert not layer.training


@pytest.mark.parametrize("fails", [False, True])
def test_batch_statistics_ends_with_its_block(fails):
    # The clean pass after it must update the running statistics again, and a layer without them stays without.
    net = make_net().train()
    net[4].track_running_stats = False
    try:
        with batch_statistics(net):
            assert not net[1].track_running_stats
            if fails:
                raise RuntimeError("in the block")
    except RuntimeError:
        assert fails
    assert (net[1].track_running_stats, net[4].track_running_stats) == (True, False)
    before = statistics(net)
    net(torch.randn(7, 3))
    after = statistics(net)
    assert not torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert after["1.num_batches_tracked"] == before["1.num_batches_tracked"] + 1
    assert torch.equal(after["4.running_mean"], before["4.running_mean"])


# recalibrate


def test_recalibrate_averages_batch_statistics():
    # The barrier of a BatchNorm model stands on these; every batch counts the same, whatever its size.
    net = make_net().eval()
    batches = [torch.randn(rows, 3) + shift for rows, shift in ((8, 0.0), (8, 1.0), (3, -4.0))]
    inputs = {1: [], 4: []}
    with torch.no_grad():
        for x in batches:
            first = net[0](x)
            second = net[3](net[2](normalised(net[1], first)))
            inputs[1].append(first)
            inputs[4].append(second)
    recalibrate(net, batches, net)
    for index, entered in inputs.items():
        means = torch.stack([x.mean(dim=0) for x in entered]).mean(dim=0)
        variances = torch.stack([x.var(dim=0, unbiased=True) for x in entered]).mean(dim=0)
        torch.testing.assert_close(net[index].running_mean, means)
        torch.testing.assert_close(net[index].running_var, variances)
        assert net[index].num_batches_tracked.item() == len(batches)


def test_recalibrate_forgets_the_old_statistics():
    # Those of the interpolated buffers would leak into every point.
    net, other = make_net().eval(), make_net().eval()
    with torch.no_grad():
        other[1].running_mean.fill_(100.0)
        other[4].running_var.fill_(1e6)
    batches = [torch.randn(8, 3) for _ in range(2)]
    recalibrate(net, batches, net)
    recalibrate(other, batches, other)
    assert_statistics(other, statistics(net))


@pytest.mark.parametrize("fails", [False, True])
def test_recalibrate_restores_momentum_and_modes(fails):
    # A later training run would average with another momentum, or a frozen layer would train.
    net = make_net().train()
    net[1].momentum, net[4].momentum = 0.3, None
    net[4].eval()
    net.append(nn.Dropout(0.5).eval())
    modes = [module.training for module in net.modules()]
    seen = []

    def forward(x):
        assert [net[1].training, net[4].training, net[5].training] == [True, True, False]
        seen.append(x)
        if fails and len(seen) == 2:
            raise RuntimeError("second batch")
        return net(x)

    batches = [torch.randn(4, 3) for _ in range(3)]
    if fails:
        with pytest.raises(RuntimeError, match="second batch"):
            recalibrate(net, batches, forward)
    else:
        recalibrate(net, batches, forward)
    assert [module.training for module in net.modules()] == modes
    assert (net[1].momentum, net[4].momentum) == (0.3, None)
    assert all(module.track_running_stats for module in (net[1], net[4]))


def test_recalibrate_changes_no_parameter_and_builds_no_graph():
    # It runs once a point: a graph would keep every calibration batch in memory.
    net = make_net().eval()
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    outputs = []
    recalibrate(net, [torch.randn(4, 3)], lambda x: outputs.append(net(x)))
    assert not outputs[0].requires_grad
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_recalibrate_runs_each_batch_once_in_order():
    # The average is over the calibration data, once; an iterator is used up, not indexed.
    net = make_net().eval()
    batches = [torch.full((2, 3), float(i)) + torch.eye(2, 3) for i in range(4)]
    seen = []
    recalibrate(net, iter(batches), lambda x: (seen.append(x), net(x)))
    assert [id(x) for x in seen] == [id(x) for x in batches]


def test_recalibrate_leaves_models_without_batchnorm_untouched(make_model, make_batch):
    # LayerNorm models have no statistics of batches.
    model = make_model("vit").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrate(model, [make_batch("vit", seed=seed) for seed in range(2)], lambda batch: model(**batch))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
