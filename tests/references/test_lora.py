# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA: the gradient of a step against autograd through explicitly merged weights, and what is refused.

The end of the test run prints the errors: max |difference| / max |gradient|, in float64.
"""

import copy
from functools import partial

import pytest
import torch
from helpers.training import FIXED_ORDER, dataset, double_collator, sgd_config
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.func import functional_call
from transformers import TrainerCallback

from hf_cbft import CBFTTrainer, invariance_loss
from hf_cbft.paths.geometry import sample_alpha
from hf_cbft.paths.interpolation import copy_weights
from hf_cbft.references.adapter import adapter_reference

NUM_CLASSES = 4
TARGETS = ["query", "value"]
config = partial(sgd_config, **FIXED_ORDER)


class Recorder(TrainerCallback):
    """Gradients and weights of the first step, before the optimizer takes it."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "gradients"):
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def moved(model, seed: int, scale: float = 0.2):
    """The adapter model with all of its trainable weights moved off where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def merged(model: PeftModel, leaves: dict[str, torch.Tensor], adapter: str = "default") -> dict[str, torch.Tensor]:
    """The weights of the plain model with the adapter in them, W + s B A, as a function of `leaves`."""
    weights = {}
    for name, tensor in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if ".lora_" in name or ".modules_to_save." in name or "trainable_tokens" in name:
            continue
        weights[plain.replace(".original_module.", ".").replace(".token_adapter.", ".")] = leaves.get(
            name, tensor.detach()
        )
    for name, layer in model.named_modules():
        plain = name.removeprefix("base_model.model.")
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
            a = leaves[f"{name}.lora_A.{adapter}.weight"]
            b = leaves[f"{name}.lora_B.{adapter}.weight"]
            delta = layer.scaling[adapter] * (b @ a)
            weights[f"{plain}.weight"] = weights[f"{plain}.weight"] + (delta.T if layer.fan_in_fan_out else delta)
            if f"{name}.lora_B.{adapter}.bias" in leaves:
                bias = leaves[f"{name}.lora_B.{adapter}.bias"]
                weights[f"{plain}.bias"] = weights[f"{plain}.bias"] + layer.scaling[adapter] * bias
    for name, tensor in leaves.items():
        head, found, tail = name.removeprefix("base_model.model.").partition(f".modules_to_save.{adapter}.")
        if found:
            weights[f"{head}.{tail}"] = tensor
        head, found, _ = name.removeprefix("base_model.model.").partition(".token_adapter.trainable_tokens_delta")
        if found:
            indices = model.peft_config[adapter].trainable_token_indices
            table = weights[f"{head}.weight"]
            weights[f"{head}.weight"] = table.index_copy(0, torch.tensor(indices), tensor)
    return weights


def leaves_of(model, requires_grad: bool) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    return {n: p.detach().clone().requires_grad_(requires_grad) for n, p in named.items() if p.requires_grad}


def naive_gradients(plain, model, start_weights, clean, cue, alpha, args):
    """Autograd through W_0 + alpha (W_1 - W_0) on the plain model: no adapter, no scale, no hook."""
    leaves = leaves_of(model, True)
    end = merged(model, leaves)
    point = {n: (1 - alpha) * start_weights[n] + alpha * end[n] for n in end}
    buffers = dict(plain.named_buffers())

    def run(weights, batch, **options):
        return functional_call(plain, {**weights, **buffers}, (), {**batch, **options})

    total = run(end, clean).loss
    total = total + args.barrier_coef * (args.ref_loss + args.barrier_margin - run(point, cue).loss).abs()
    if args.invariance_coef > 0:

        def pooled(batch):
            last = run(end, {n: v for n, v in batch.items() if n != "labels"}, output_hidden_states=True)
            dense = last.hidden_states[-1][:, 0] @ end["bert.pooler.dense.weight"].T + end["bert.pooler.dense.bias"]
            return dense.tanh()

        term = invariance_loss(pooled(clean), clean["labels"], pooled(cue), cue["labels"], NUM_CLASSES)
        total = total + args.invariance_coef * term
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def relative_error(found, expected):
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 1e-3
    for gradient in expected.values():
        assert gradient.abs().max() > 0  # a weight without a gradient would agree with anything
    return (max((found[n] - expected[n]).abs().max() for n in expected) / largest).item()


ADAPTERS = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 4},
    "lora_bias": {"lora_bias": True},
    "bias=lora_only": {"bias": "lora_only"},
    "modules_to_save": {"modules_to_save": ["classifier"]},
    "head targeted": {"target_modules": [*TARGETS, "classifier"]},
    "tokens": {"trainable_token_indices": [1, 2, 3, 4, 5]},
}


def adapter_config(name: str) -> LoraConfig:
    return LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": TARGETS, "task_type": None, **ADAPTERS[name]})


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("reference", ["base", "itself", "another"])
@pytest.mark.parametrize("name", list(ADAPTERS))
def test_gradient_of_one_step(name, reference, checkpointing, table, make_model, make_batch, tmp_path):
    # Training would follow another path than the straight line, without any other sign of it.
    plain = make_model("bert").double()
    model = get_peft_model(copy.deepcopy(plain), adapter_config(name))
    if reference == "base":
        start, ref_model = merged(model, leaves_of(model, False)), plain
        moved(model, 1)
    elif reference == "itself":
        moved(model, 1)
        start, ref_model = merged(model, leaves_of(model, False)), None
    else:
        other = moved(get_peft_model(copy.deepcopy(plain), adapter_config(name)), 2)
        start, ref_model = merged(other, leaves_of(other, False)), other
        moved(model, 1)
    clean, cue = make_batch("bert", 8, 1), make_batch("bert", 8, 2)
    args = config(
        tmp_path,
        barrier_coef=0.7,
        barrier_margin=6.0,
        ref_loss=0.25,
        invariance_coef=2.5,
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
    )
    recorder = Recorder()
    trainer = CBFTTrainer(
        model,
        ref_model,
        args,
        data_collator=double_collator,
        train_dataset=dataset(clean),
        cue_dataset=dataset(cue),
        callbacks=[recorder],
    )
    before = copy.deepcopy(model)
    trainer.train()
    alpha = sample_alpha(args.seed, 0)
    expected = naive_gradients(plain.train(), before, start, clean, cue, alpha, args)
    error = relative_error(recorder.gradients, expected)
    table.append((name, f"from {reference}", "checkpointing" if checkpointing else "no checkpointing", error))
    assert error <= 1e-10


def fresh(model, **options) -> PeftModel:
    return get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": TARGETS, **options}))


def trainer_for(model, make_batch, folder, ref_model=None, **options) -> CBFTTrainer:
    data = {"train_dataset": dataset(make_batch("bert", 8, 1)), "cue_dataset": dataset(make_batch("bert", 8, 2))}
    return CBFTTrainer(model, ref_model, config(folder, **options), **data)


def test_a_new_adapter_starts_at_the_base_and_keeps_no_copy(make_model, make_batch, tmp_path):
    model = fresh(make_model("bert"))
    trainer = trainer_for(model, make_batch, tmp_path, max_steps=3, ref_loss=None)
    trainer.train()
    assert trainer.reference.weights == {}
    base, batch = make_model("bert"), make_batch("bert", 8, 2)
    with torch.no_grad():
        assert trainer.ref_loss == pytest.approx(base.eval()(**batch).loss.item(), rel=1e-6)
        model.eval()
        with trainer.reference.at(model, 0.0):
            assert torch.equal(model(**batch).logits, base(**batch).logits)
        assert not torch.equal(model(**batch).logits, base(**batch).logits)


@pytest.mark.parametrize("fails", [False, True])
def test_the_block_leaves_no_trace(fails, make_model, make_batch, tmp_path):
    model = moved(fresh(make_model("bert"), modules_to_save=["classifier"]), 1)
    reference = adapter_reference(model, None)
    moved(model, 2)
    before, batch = copy_weights(model), make_batch("bert", 8, 1)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    state = {n: (dict(m.scaling), list(m.lora_A), list(m.lora_dropout), m.active_adapters) for n, m in layers.items()}
    gradient = torch.ones_like(model.classifier.weight)
    model.classifier.weight.grad = gradient.clone()
    try:
        with reference.at(model, 0.5):
            assert layers["base_model.model.bert.encoder.layer.0.attention.self.query"].active_adapters == [
                "cbft_reference",
                "default",
            ]
            if fails:
                raise KeyError
            model(**batch).loss.backward()
    except KeyError:
        pass
    after = copy_weights(model)
    assert all(torch.equal(weight, after[n]) for n, weight in before.items())
    assert after.keys() == before.keys()
    assert state == {
        n: (dict(m.scaling), list(m.lora_A), list(m.lora_dropout), m.active_adapters) for n, m in layers.items()
    }
    # What was accumulated before is still there, and unscaled.
    assert torch.equal(model.classifier.weight.grad, gradient) == fails


def test_dropout_of_the_adapter_is_on_in_training_and_off_when_measured(make_model, make_batch):
    model = moved(fresh(make_model("bert"), lora_dropout=0.5), 1)
    reference = adapter_reference(model, None)
    batch = make_batch("bert", 8, 1)
    for mode, same in ((True, False), (False, True)):
        model.train(mode)
        with torch.no_grad(), reference.at(model, 0.5):
            assert torch.equal(model(**batch).logits, model(**batch).logits) == same


def test_the_way_between_two_adapters_is_not_that_of_their_factors(make_model, make_batch):
    # What a lerp of A and B would give.
    plain = make_model("bert").double()
    first, second = (moved(fresh(copy.deepcopy(plain)), seed) for seed in (1, 2))
    ends = [merged(model, leaves_of(model, False)) for model in (first, second)]
    reference = adapter_reference(second, first)
    batch = {n: v.double() if v.is_floating_point() else v for n, v in make_batch("bert", 8, 1).items()}
    second.eval()
    with torch.no_grad():
        point = {n: 0.5 * ends[0][n] + 0.5 * ends[1][n] for n in ends[0]}
        expected = functional_call(plain.eval(), point, (), batch).logits
        with reference.at(second, 0.5):
            torch.testing.assert_close(second(**batch).logits, expected, rtol=0, atol=1e-12)
        factors = {n: 0.5 * leaves_of(first, False)[n] + 0.5 * t for n, t in leaves_of(second, False).items()}
        lerped = functional_call(plain, merged(second, factors), (), batch).logits
    assert (lerped - expected).abs().max() > 1e-4


def test_a_reference_adapter_is_read_from_its_folder_and_leaves_the_model_as_it_was(make_model, make_batch, tmp_path):
    other = moved(fresh(make_model("bert"), r=3, modules_to_save=["classifier"]), 1)
    other.save_pretrained(tmp_path / "adapter")
    model = moved(fresh(make_model("bert"), modules_to_save=["classifier"]), 2)
    names = [name for name, _ in model.named_parameters()]
    trainer = trainer_for(model, make_batch, tmp_path, str(tmp_path / "adapter"), ref_loss=None)
    trainer.train()
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.peft_config) == ["default"]
    with torch.no_grad():
        expected = other.eval()(**make_batch("bert", 8, 2)).loss.item()
    assert trainer.ref_loss == pytest.approx(expected, rel=1e-6)


def test_peft_config_makes_the_adapter(make_model, make_batch, tmp_path):
    trainer = CBFTTrainer(
        make_model("bert"),
        args=config(tmp_path),
        train_dataset=dataset(make_batch("bert", 8, 1)),
        cue_dataset=dataset(make_batch("bert", 8, 2)),
        peft_config=LoraConfig(r=2, target_modules=TARGETS),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert {file.name for file in (tmp_path / "saved").glob("adapter*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


REFUSED = {
    "dora": ({"use_dora": True}, "use_dora makes the adapter more than W"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' can change the base"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights='olora' can change the base"),
}


@pytest.mark.parametrize("given", ["model", "peft_config"])
@pytest.mark.parametrize("name", list(REFUSED))
def test_adapters_that_are_not_a_scale_away_from_the_base_are_refused(name, given, make_model, make_batch, tmp_path):
    options, message = REFUSED[name]
    adapter = LoraConfig(r=2, target_modules=TARGETS, **options)
    data = {"train_dataset": dataset(make_batch("bert", 8, 1)), "cue_dataset": dataset(make_batch("bert", 8, 2))}
    model = make_model("bert")
    given = {"model": get_peft_model(model, adapter)} if given == "model" else {"model": model, "peft_config": adapter}
    with pytest.raises(NotImplementedError, match=message):
        CBFTTrainer(**given, args=config(tmp_path), **data)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        (IA3Config(target_modules=TARGETS, feedforward_modules=[]), "IA3"),
        (AdaLoraConfig(target_modules=TARGETS, total_step=10, tinit=1, tfinal=1), "ADALORA"),
    ],
)
def test_other_kinds_of_adapters_are_refused(adapter, kind, make_model, make_batch, tmp_path):
    with pytest.raises(NotImplementedError, match=f"{kind} is not LoRA"):
        trainer_for(get_peft_model(make_model("bert"), adapter), make_batch, tmp_path)


def two_active(model):
    model.add_adapter("second", LoraConfig(r=2, target_modules=TARGETS))
    model.base_model.set_adapter(["default", "second"])
    return model


def merged_in(model):
    model.merge_adapter()
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (two_active, r"2 active adapters \(default, second\)"),
        (merged_in, "The adapter is merged into the base"),
    ],
)
def test_adapters_that_have_no_scale_now_are_refused(change, message, make_model, make_batch, tmp_path):
    with pytest.raises(NotImplementedError, match=message):
        trainer_for(change(fresh(make_model("bert"))), make_batch, tmp_path)


def test_an_adapter_on_an_adapter_is_refused(make_model, make_batch, tmp_path):
    data = {"train_dataset": dataset(make_batch("bert", 8, 1)), "cue_dataset": dataset(make_batch("bert", 8, 2))}
    with pytest.raises(ValueError, match="has an adapter already"):
        CBFTTrainer(fresh(make_model("bert")), args=config(tmp_path), peft_config=adapter_config("lora"), **data)
    with pytest.raises(ValueError, match="peft_config with model_init"):
        CBFTTrainer(
            model_init=lambda: make_model("bert"), args=config(tmp_path), peft_config=adapter_config("lora"), **data
        )


def test_references_on_another_base_are_refused(make_model, make_batch, tmp_path):
    model = fresh(make_model("bert"))
    for ref_model in (
        fresh(make_model("bert", seed=4)),
        make_model("bert", seed=4),
        fresh(make_model("vit"), target_modules=["q_proj"]),
    ):
        with pytest.raises(ValueError, match=r"ref_model is on another base: .* there"):
            trainer_for(model, make_batch, tmp_path, ref_model)


def test_an_adapter_folder_of_another_base_is_refused(make_model, make_batch, tmp_path):
    other = fresh(make_model("bert"))
    other.peft_config["default"].base_model_name_or_path = "org/other"
    other.save_pretrained(tmp_path / "named")
    model = fresh(make_model("bert"))
    model.peft_config["default"].base_model_name_or_path = "org/base"
    with pytest.raises(ValueError, match="is an adapter on org/other, the model's is on org/base"):
        trainer_for(model, make_batch, tmp_path, str(tmp_path / "named"))
    wide = make_model("bert").config
    wide.hidden_size = 32
    fresh(type(make_model("bert"))(wide)).save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="does not fit on the model's base: size mismatch"):
        trainer_for(model, make_batch, tmp_path, str(tmp_path / "wide"))
    assert list(model.peft_config) == ["default"]


def test_a_reference_adapter_that_trains_more_than_the_model_is_refused(make_model, make_batch, tmp_path):
    other = fresh(make_model("bert"), modules_to_save=["classifier"])
    with pytest.raises(ValueError, match="brings its own classifier, which the model does not train"):
        trainer_for(fresh(make_model("bert")), make_batch, tmp_path, other)
