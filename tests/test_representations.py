# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The representation f_r: which layer it enters, and what exactly enters it."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from hf_cbft.representations import Representation, capture_representation, find_representation_layer

PAD = 0


@pytest.fixture
def decoder():
    """A classifier that reads the last token that is no padding."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        num_labels=4,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2ForSequenceClassification(config)


def padded_rows(side, lengths=(10, 7, 1, 4)):
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, 50, (len(lengths), 10), generator=generator)
    for row, length in enumerate(lengths):
        input_ids[row, slice(length, None) if side == "right" else slice(0, 10 - length)] = PAD
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# Which layer


@pytest.mark.parametrize(
    ("name", "expected"), [("vit", "classifier"), ("bert", "classifier"), ("resnet", "classifier.1")]
)
def test_the_last_linear_layer_is_found(make_model, name, expected):
    # The invariance loss would hold another layer invariant.
    model = make_model(name)
    found, layer = find_representation_layer(model, model.config.num_labels)
    assert (found, layer) == (expected, model.get_submodule(expected))


def test_the_last_linear_layer_of_a_decoder_is_found(decoder):
    # Its blocks have no linear layers at all (Conv1D), its head does.
    assert find_representation_layer(decoder, 4) == ("score", decoder.score)


def test_the_last_of_several_linear_layers_counts():
    # A bottleneck may happen to have as many outputs as there are classes.
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 7))
    assert find_representation_layer(model, 4) == ("1", model[1])


def test_a_named_module_is_taken_as_it_is(make_model):
    # The way out where the search finds the wrong one.
    model = make_model("bert")
    name = "bert.encoder.layer.1.output.dense"
    assert find_representation_layer(model, 4, name) == (name, model.get_submodule(name))


@pytest.mark.parametrize(
    ("given", "nearest"), [("clasifier", "classifier"), ("bert.poler.dense", "bert.pooler.dense")]
)
def test_an_unknown_name_lists_the_nearest(make_model, given, nearest):
    # A typing error should cost one look.
    with pytest.raises(ValueError, match="is not a module of BertForSequenceClassification") as raised:
        find_representation_layer(make_model("bert"), 4, given)
    message = str(raised.value)
    assert repr(given) in message
    assert nearest in message.split("nearest names are ")[1].rstrip(".").split(", ")


def test_the_empty_name_is_no_layer(make_model):
    # It is the model itself, whose input is the batch.
    with pytest.raises(ValueError, match="representation_layer '' is not a module"):
        find_representation_layer(make_model("vit"), 4, "")


def test_a_model_without_a_linear_head_is_refused(make_model):
    # Some other layer in its place would be held invariant in silence.
    with pytest.raises(ValueError, match="ResNetForImageClassification has no linear layer with 5 outputs"):
        find_representation_layer(make_model("resnet"), 5)


# What enters it


def manual_representation(name, model, batch):
    if name == "vit":
        return model.vit(batch["pixel_values"]).last_hidden_state[:, 0]
    if name == "bert":
        return model.bert(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    return model.resnet(batch["pixel_values"]).pooler_output.flatten(1)


@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_capture_is_exactly_what_enters_the_layer(make_model, make_batch, name):
    # An approximation of f_r, or one row's for another's, is another loss.
    model, batch = make_model(name).eval(), make_batch(name)
    _, layer = find_representation_layer(model, 4)
    with capture_representation(layer) as captured:
        logits = model(**batch).logits
    expected = manual_representation(name, model, batch)
    got = captured.per_row(logits)
    assert got.shape == (6, 16)
    assert torch.equal(got, expected)
    assert torch.equal(captured.output, logits)
    assert torch.equal(layer(got), logits)
    assert captured.gives(logits)


@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_capture_keeps_the_graph(make_model, make_batch, name):
    # Without it the invariance loss has no gradient, and trains nothing without an error.
    model, batch = make_model(name).eval(), make_batch(name)
    layer_name, layer = find_representation_layer(model, 4)
    with capture_representation(layer) as captured:
        logits = model(**batch).logits
    backbone = [p for n, p in model.named_parameters() if not n.startswith(layer_name)]
    got = torch.autograd.grad(captured.per_row(logits).square().sum(), backbone)
    expected = torch.autograd.grad(manual_representation(name, model, batch).square().sum(), backbone)
    assert any(gradient.abs().max() > 0 for gradient in got)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_capture_holds_the_last_forward_pass(make_model, make_batch):
    # The clean rows come first, the rows with the cue second, through one capture.
    model = make_model("vit").eval()
    with capture_representation(model.classifier) as captured:
        for seed in (1, 2):
            batch = make_batch("vit", seed=seed)
            logits = model(**batch).logits
            assert torch.equal(captured.per_row(logits), manual_representation("vit", model, batch))


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_gives_the_last_token_that_is_no_padding(decoder, side):
    # At a padding position the representation says nothing of the text.
    decoder.eval()
    batch = padded_rows(side)
    with capture_representation(decoder.score) as captured:
        logits = decoder(**batch).logits
    hidden = decoder.transformer(**batch).last_hidden_state
    last = [max(i for i, token in enumerate(row) if token != PAD) for row in batch["input_ids"].tolist()]
    assert last == ([9, 6, 0, 3] if side == "right" else [9, 9, 9, 9])
    expected = torch.stack([hidden[row, position] for row, position in enumerate(last)])
    assert captured.input.shape == (4, 10, 16)
    assert captured.gives(logits)
    assert torch.equal(captured.per_row(logits), expected)
    parameter = decoder.transformer.h[0].mlp.c_fc.weight
    (gradient,) = torch.autograd.grad(captured.per_row(logits).sum(), parameter)
    assert gradient.abs().max() > 0


def test_a_decoder_in_half_precision(decoder):
    # Logits may be handed on in float32 while the layer's output is not.
    decoder.eval().to(torch.bfloat16)
    batch = padded_rows("right")
    with capture_representation(decoder.score) as captured:
        logits = decoder(**batch).logits.float()
    assert captured.output.dtype == torch.bfloat16
    assert captured.gives(logits)
    expected = captured.input[torch.arange(4), torch.tensor([9, 6, 0, 3])]
    assert torch.equal(captured.per_row(logits), expected)


@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_gives_in_half_precision(make_model, make_batch, name):
    # Under mixed precision the logits come back in float32: the head would not be known for the head any more.
    model, batch = make_model(name).eval(), make_batch(name)
    _, layer = find_representation_layer(model, 4)
    with capture_representation(layer) as captured, torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**batch).logits
    assert captured.output.dtype == torch.bfloat16
    assert captured.gives(logits.float())
    assert not captured.gives(logits.float() + 0.1)


def test_a_decoder_whose_head_is_zero_gets_no_wrong_position(decoder):
    # All positions then give the same logits: the right row or an error, but not the first token in silence.
    decoder.eval()
    nn.init.zeros_(decoder.score.weight)
    batch = padded_rows("right")
    with capture_representation(decoder.score) as captured:
        logits = decoder(**batch).logits
    expected = captured.input[torch.arange(4), torch.tensor([9, 6, 0, 3])]
    try:
        got = captured.per_row(logits)
    except ValueError:
        return
    assert torch.equal(got, expected)


def test_feature_maps_are_flattened(make_model, make_batch):
    # A head may pool or flatten by itself; its input is (B, C, H, W).
    model, batch = make_model("resnet").eval(), make_batch("resnet")
    for name, pooled in (("classifier", True), ("resnet.pooler", False)):
        _, layer = find_representation_layer(model, 4, name)
        with capture_representation(layer) as captured:
            logits = model(**batch).logits
        outputs = model.resnet(batch["pixel_values"])
        maps = outputs.pooler_output if pooled else outputs.last_hidden_state
        assert maps.ndim == 4
        assert torch.equal(captured.per_row(logits), maps.flatten(1))


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("vit", "classifier", True),
        ("vit", "vit.layernorm", False),
        ("bert", "classifier", True),
        ("bert", "bert.pooler.dense", False),
        ("resnet", "classifier.1", True),
        ("resnet", "classifier", True),
        ("resnet", "resnet.pooler", False),
    ],
)
def test_gives_tells_whether_the_logits_come_from_the_layer(make_model, make_batch, name, layer, expected):
    # The search goes by the number of outputs: an auxiliary head would be taken for the real one.
    model = make_model(name).eval()
    with capture_representation(model.get_submodule(layer)) as captured:
        logits = model(**make_batch(name)).logits
    assert captured.gives(logits) is expected


def test_gives_is_false_for_other_numbers_of_the_same_shape(make_model, make_batch, decoder):
    # Same shape, other values: a second head.
    model = make_model("vit").eval()
    with capture_representation(model.classifier) as captured:
        logits = model(**make_batch("vit")).logits
    assert captured.gives(logits)
    assert not captured.gives(logits + 1e-3)
    with capture_representation(decoder.score) as captured:
        logits = decoder(**padded_rows("right")).logits
    logits[2] += 1e-3  # one row that no position gives
    assert not captured.gives(logits)


def test_an_input_without_one_vector_a_row_is_refused(make_model, make_batch):
    # Averaged or cut to one position it would be some other representation.
    model = make_model("vit").eval()
    with capture_representation(model.vit.layernorm) as captured:
        logits = model(**make_batch("vit")).logits
    with pytest.raises(ValueError, match=r"input of shape \(6, 5, 16\), not one vector a row"):
        captured.per_row(logits)


def test_a_layer_that_did_not_run_is_refused(make_model, make_batch):
    # An unused head of a multi-task model has no representation.
    model = make_model("vit").eval()
    with capture_representation(nn.Linear(16, 4)) as captured:
        logits = model(**make_batch("vit")).logits
    assert not captured.gives(logits)
    with pytest.raises(ValueError, match="did not run in the forward pass"):
        captured.per_row(logits)
    with pytest.raises(ValueError, match="did not run in the forward pass"):
        Representation().per_row(logits)


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_end_with_the_block(make_model, make_batch, fails):
    # A hook left behind keeps the graph of a batch in memory for good.
    model, batch = make_model("vit").eval(), make_batch("vit")
    before = hooks(model)
    try:
        with capture_representation(model.classifier) as captured:
            assert hooks(model) == before + 1
            model(**batch)
            if fails:
                raise RuntimeError("in the block")
    except RuntimeError:
        assert fails
    assert hooks(model) == before
    held = captured.input
    model(**make_batch("vit", seed=3))
    assert captured.input is held
