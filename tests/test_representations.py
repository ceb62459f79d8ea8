# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The representation f_r: which layer it enters, and what exactly enters it."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from hf_cbft.representations import (
    Representation,
    capture_representation,
    check_single_label,
    find_representation_layer,
    pooled_states,
)

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


def test_a_convolutional_head_is_refused():
    # Its input is a feature map: whether it is pooled before or after the head is not known.
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="Sequential has no linear layer with 4 outputs"):
        find_representation_layer(model, 4)


def test_a_head_of_several_layers_counts_as_one():
    # Its author calls it a linear layer, with what is inside of it as its own business.
    class Head(nn.Module):
        out_features = 4

        def __init__(self):
            super().__init__()
            self.bottleneck, self.output = nn.Linear(8, 4), nn.Linear(4, 4)

    model = nn.Sequential(nn.Linear(3, 8), Head())
    assert find_representation_layer(model, 4) == ("1", model[1])


# Which layer of a model with an adapter


RANK = 4  # as many as there are classes: the adapter's own layers have the head's number of outputs


def with_lora(model, **options):
    torch.manual_seed(0)
    # Unlike a new adapter's, these weights add something.
    return get_peft_model(
        model, LoraConfig(**{"r": RANK, "init_lora_weights": False, "task_type": "SEQ_CLS", **options})
    )


@pytest.fixture
def roberta():
    """A classifier whose head, a dense and a linear layer, is one module."""
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            num_labels=4,
        )
    )


def found_and_captured(model, batch, num_classes=4):
    """The name of the layer, after a check that it gives the logits and that its input gave them."""
    model.eval()
    name, layer = find_representation_layer(model, num_classes)
    assert layer is model.get_submodule(name)
    with capture_representation(layer) as captured:
        logits = model(**batch).logits
    assert captured.gives(logits)
    torch.testing.assert_close(layer(captured.per_row(logits)), logits)
    return name


def test_an_adapter_leaves_the_head_what_it_is(make_model, make_batch):
    model = with_lora(make_model("bert"), target_modules=["query", "value"], task_type=None)
    assert found_and_captured(model, make_batch("bert")) == "base_model.model.classifier"


def test_a_head_that_is_trained_beside_the_adapter(make_model, make_batch):
    # The copy that is trained, through its wrapper: the original one does not run.
    model = with_lora(make_model("bert"), target_modules=["query", "value"], modules_to_save=["classifier"])
    assert hasattr(model.base_model.model.classifier, "original_module")
    assert found_and_captured(model, make_batch("bert")) == "base_model.model.classifier"


def test_a_head_with_an_adapter_of_its_own(make_model, make_batch):
    # The whole head: its base layer or a factor alone does not give the logits.
    model = with_lora(make_model("bert"), target_modules=["query", "classifier"], task_type=None)
    assert model.base_model.model.classifier.lora_A["default"].out_features == 4
    assert found_and_captured(model, make_batch("bert")) == "base_model.model.classifier"


@pytest.mark.parametrize("options", [{"target_modules": ["score"], "task_type": None}, {"target_modules": ["c_attn"]}])
def test_a_decoder_with_an_adapter(decoder, options):
    model = with_lora(decoder, fan_in_fan_out="c_attn" in options["target_modules"], **options)
    assert found_and_captured(model, padded_rows("right")) == "base_model.model.score"


@pytest.mark.parametrize("active", ["default", "second"])
@pytest.mark.parametrize("options", [{"modules_to_save": ["classifier"]}, {"target_modules": ["classifier", "query"]}])
def test_two_adapters(make_model, make_batch, options, active):
    options = {"target_modules": ["query"], "task_type": None, **options}
    model = with_lora(make_model("bert"), **options)
    model.add_adapter("second", LoraConfig(r=RANK, init_lora_weights=False, **options))
    model.set_adapter(active)
    assert found_and_captured(model, make_batch("bert")) == "base_model.model.classifier"


@pytest.mark.parametrize("active", ["default", "second"])
def test_two_adapters_each_with_a_head_of_several_layers(roberta, make_batch, active):
    # Only the active adapter's copy runs: another one has no representation.
    model = with_lora(roberta, target_modules=["query"])  # PEFT saves the head of a SEQ_CLS model
    model.add_adapter("second", LoraConfig(r=RANK, task_type="SEQ_CLS", target_modules=["query"]))
    model.set_adapter(active)
    name = f"base_model.model.classifier.modules_to_save.{active}.out_proj"
    assert found_and_captured(model, make_batch("bert")) == name


@pytest.mark.parametrize(
    ("name", "expected"), [("bert", "classifier"), ("roberta", "classifier.original_module.out_proj")]
)
def test_a_second_adapter_without_a_head_of_its_own_runs_the_original(make_model, roberta, make_batch, name, expected):
    model = roberta if name == "roberta" else make_model(name)
    model = with_lora(model, target_modules=["query"], task_type=None, modules_to_save=["classifier"])
    model.add_adapter("second", LoraConfig(r=RANK, target_modules=["query"]))
    model.set_adapter("second")
    assert found_and_captured(model, make_batch("bert")) == f"base_model.model.{expected}"


@pytest.mark.parametrize("given", ["bert.pooler.dense", "base_model.model.bert.pooler.dense"])
def test_a_name_may_be_the_one_without_the_adapter(make_model, given):
    # With peft_config, the model that a setting was written for gets its wrapper later.
    model = with_lora(make_model("bert"), target_modules=["query"])
    name = "base_model.model.bert.pooler.dense"
    assert find_representation_layer(model, 4, given) == (name, model.get_submodule(name))


@pytest.mark.parametrize("given", ["base_model", "base_model.model", "base_model.model."])
def test_the_base_itself_is_no_layer(make_model, given):
    model = with_lora(make_model("bert"), target_modules=["query"])
    with pytest.raises(ValueError, match="is not a module of BertForSequenceClassification"):
        find_representation_layer(model, 4, given)


def test_a_factor_of_an_adapter_is_no_head(make_model):
    # Here there is no head to find, and factors with its number of outputs.
    model = make_model("bert")
    model.classifier = nn.Sequential(nn.Unflatten(1, (16, 1)), nn.Conv1d(16, 4, 1), nn.Flatten())
    model = with_lora(model, target_modules=["query", "dense"], task_type=None)
    with pytest.raises(ValueError, match="BertForSequenceClassification has no linear layer with 4 outputs"):
        find_representation_layer(model, 4)


# One class a row


@pytest.mark.parametrize(
    ("change", "given", "why"),
    [
        (
            {"problem_type": "multi_label_classification"},
            'problem_type = "multi_label_classification"',
            "a row may be of several classes or of none",
        ),
        ({"problem_type": "regression"}, 'problem_type = "regression"', "its targets are numbers"),
        ({"num_labels": 1}, "num_labels = 1", "its one output is a number"),
        ({"problem_type": "regression", "num_labels": 1}, 'problem_type = "regression"', "its targets are numbers"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "num_labels = 1", "its one output"),
    ],
)
def test_a_model_without_classes_is_refused(make_model, change, given, why):
    # Its loss is no cross-entropy: a barrier in nats would be a barrier in something else.
    model = make_model("bert")
    for name, value in change.items():
        setattr(model.config, name, value)
    sentence = f"BertForSequenceClassification has {given}: {why}"
    with pytest.raises(ValueError, match=re.escape(sentence)) as raised:
        check_single_label(model)
    assert "no class means to hold invariant, and no cross-entropy to raise a barrier of" in str(raised.value)
    assert 'load the model with num_labels and problem_type="single_label_classification"' in str(raised.value)


@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_a_model_with_classes_passes(make_model, problem):
    model = make_model("bert")
    model.config.problem_type = problem
    check_single_label(model)
    check_single_label(with_lora(model, target_modules=["query"]))
    check_single_label(nn.Linear(2, 2))  # says nothing of itself


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
    (gradient,) = torch.autograd.grad(captured.per_row(logits)[:, 0].sum(), parameter)
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


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_positions_of_equal_logits_are_told_apart_by_the_graph(decoder, side, frozen, autocast):
    # In bfloat16 two classes tie in one of a thousand rows of 512 tokens: no long run would end. A zero head always.
    decoder.train()
    nn.init.zeros_(decoder.score.weight)
    decoder.score.requires_grad_(not frozen)
    batch = padded_rows(side)
    with capture_representation(decoder.score) as captured, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = decoder(**batch).logits.float()
    last = torch.tensor([9, 6, 0, 3] if side == "right" else [9] * 4)
    assert torch.equal(captured.per_row(logits), captured.input[torch.arange(4), last])


@pytest.mark.parametrize("pick", [lambda outputs: outputs.amax(dim=1), lambda outputs: outputs.detach()[:, -1]])
def test_equal_logits_that_nothing_tells_apart_are_refused(pick):
    # The first of them in silence would be some other token's representation.
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    with capture_representation(layer) as captured:
        logits = pick(layer(torch.randn(4, 5, 3)))
    with pytest.raises(ValueError, match="Several positions of a row give its logits"):
        captured.per_row(logits)


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


# The states of a causal language model


def naive_pooled(states, labels):
    rows = []
    for row, tokens in zip(states, labels.tolist(), strict=True):
        chosen = [row[t] for t in range(len(tokens) - 1) if tokens[t + 1] != -100]
        rows.append(sum(chosen) / len(chosen))
    return torch.stack(rows)


def completions():
    """States and labels: padding on the right, on the left, one token, all tokens."""
    states = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.full((4, 6), -100)
    labels[0, 2:4], labels[1, 4:], labels[2, 5], labels[3, :] = 7, 8, 9, 1
    return states.requires_grad_(), labels


def test_pooled_states_are_those_that_predict_a_counted_token():
    # One position too far, the representation would contain the token that it should predict.
    states, labels = completions()
    got, expected = pooled_states(states, labels), naive_pooled(states, labels)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-15)
    weights = torch.arange(12, dtype=torch.float64).view(4, 3)
    gradients = [torch.autograd.grad((pooled * weights).sum(), states)[0] for pooled in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-15)
    assert (gradients[0][2] != 0).any(dim=1).tolist() == [False] * 4 + [True, False]


def test_pooled_states_are_those_that_enter_the_head(make_model, make_batch):
    model, batch = make_model("gpt2").eval(), make_batch("gpt2")
    batch["labels"][:, :5] = -100
    with capture_representation(model.lm_head) as captured:
        loss = model(**batch).loss
    hidden = model.transformer(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert torch.equal(captured.input, hidden)
    # The same positions as the loss takes: its gradient reaches no other state.
    captured.input.retain_grad()
    (pooled_gradient,) = torch.autograd.grad(pooled_states(captured.input, batch["labels"]).sum(), captured.input)
    (loss_gradient,) = torch.autograd.grad(loss, captured.input)
    assert torch.equal(pooled_gradient.any(dim=-1), loss_gradient.any(dim=-1))


@pytest.mark.parametrize("autocast", [False, True])
def test_pooled_states_of_half_precision_are_a_mean_in_float32(autocast):
    # In bfloat16 a sum of more than 256 ones is 256.
    states, labels = torch.ones(1, 1001, 2, dtype=torch.bfloat16), torch.ones(1, 1001, dtype=torch.long)
    states[:, ::2] = 3.0
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = pooled_states(states, labels)
    assert torch.equal(got, torch.full((1, 2), 2.0))


def test_states_that_do_not_count_may_be_anything():
    # Positions that attend to nothing can be infinite, and 0 * inf would make the row and its gradient nan.
    states, labels = completions()
    expected = pooled_states(states, labels)
    broken = states.detach().clone()
    broken[0, 4:], broken[1, 0] = float("inf"), float("nan")
    broken.requires_grad_()
    got = pooled_states(broken, labels)
    assert torch.equal(got, expected)
    (gradient,) = torch.autograd.grad(got.sum(), broken)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("first", [-100, 7])
def test_a_row_without_counted_tokens_is_refused(first):
    # A mean of nothing is nan. The first label counts for nothing either: no position predicts it.
    states, labels = completions()
    labels[2, :] = -100
    labels[2, 0] = first
    with pytest.raises(ValueError, match="Row 2 of the batch has no token that counts"):
        pooled_states(states, labels)


@pytest.mark.parametrize("shape", [(4, 7, 3), (4, 2, 3), (4, 3), (24, 3)])
def test_states_of_other_positions_are_refused(shape):
    # Virtual tokens or a head that runs on some positions only: labels would belong to other states.
    _, labels = completions()
    with pytest.raises(ValueError, match="there is no state for each token"):
        pooled_states(torch.zeros(shape), labels)
