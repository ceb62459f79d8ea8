# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of the tasks: from logits and labels, whatever a model adds to its own, and a task of one's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_cbft import CBFTConfig, CBFTTrainer, ConnectivityEvaluator
from hf_cbft.paths.interpolation import copy_weights
from hf_cbft.tasks import registry
from hf_cbft.tasks.causal_lm import CausalLM
from hf_cbft.tasks.classification import Classification
from hf_cbft.tasks.registry import register_task, task_of
from hf_cbft.tasks.task import Task

NUM_CLASSES = 4


def config(folder, **options) -> CBFTConfig:
    defaults = {"output_dir": str(folder / "out"), "max_steps": 1, "per_device_train_batch_size": 6, "seed": 3}
    defaults |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return CBFTConfig(**{**defaults, **options})


def rows_of(batch) -> Dataset:
    return Dataset.from_dict({name: values.tolist() for name, values in batch.items()})


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2"])
def test_the_loss_is_that_of_the_model_itself_where_it_adds_nothing(name, make_model, make_batch):
    model, batch = make_model(name).eval(), make_batch(name)
    loss, outputs = task_of(model).loss(model, batch)
    assert torch.equal(loss, model(**batch).loss)
    assert outputs["logits"].shape[:-1] == batch["labels"].shape
    assert int(task_of(model).count(batch)) == (batch["labels"][:, 1:] != -100).sum() if name == "gpt2" else 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_loss_is_computed_in_at_least_float32(dtype, make_model, make_batch):
    model, batch = make_model("bert").to(dtype).eval(), make_batch("bert")
    loss, outputs = task_of(model).loss(model, batch)
    assert loss.dtype == (torch.float32 if dtype == torch.bfloat16 else torch.float64)
    assert torch.equal(loss, F.cross_entropy(outputs.logits.to(loss.dtype), batch["labels"]))


def test_a_batch_in_which_nothing_counts_has_no_loss_and_no_gradient(make_model, make_batch):
    """A mean of nothing is NaN, which would end a run on several processes of which one has no token."""
    model, batch = make_model("gpt2"), make_batch("gpt2")
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss, _ = task_of(model).loss(model, batch)
    loss.backward()
    assert loss == 0.0
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_routers_loss_is_no_part_of_a_measured_or_trained_one(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": 50, "num_key_value_heads": 2, "num_local_experts": 4, "max_position_embeddings": 32}
    routed = MixtralConfig(**sizes, output_router_logits=True, router_aux_loss_coef=1.0, initializer_range=0.3)
    model, other = MixtralForCausalLM(routed).eval(), MixtralForCausalLM(routed)
    ids = torch.randint(1, 50, (6, 8), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    plain = F.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    assert model(**batch).loss.item() > plain + 0.5  # with the router's
    assert task_of(model).loss(model, batch)[0].item() == pytest.approx(plain, rel=1e-6)
    rows = rows_of(batch)
    measured = ConnectivityEvaluator(model, other, batch_size=6).evaluate(rows, num_points=3, num_resamples=20)
    assert measured.losses["data"][0] == pytest.approx(plain, rel=1e-5)
    trainer = CBFTTrainer(model, None, config(tmp_path, invariance_coef=0.0, pairing="index"), None, rows, rows)
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(plain, rel=1e-5)
    trainer.train()
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    assert logged["loss/ref"] == pytest.approx(plain, rel=1e-5)
    assert logged["loss/clean"] == pytest.approx(plain, rel=1e-5)


class PlainConfig(PretrainedConfig):
    model_type = "plain"


class Plain(PreTrainedModel):
    """A classifier whose forward pass gives logits alone, as research code does."""

    config_class = PlainConfig

    def __init__(self, config):
        super().__init__(config)
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, config.num_labels)
        self.post_init()

    def forward(self, features):
        return self.answer(self.head(self.body(features).tanh()))

    def answer(self, logits):
        return SequenceClassifierOutput(logits=logits)


class PlainTuple(Plain):
    def answer(self, logits):
        return (logits,)


@pytest.mark.parametrize("kind", [Plain, PlainTuple])
def test_a_classifier_without_a_loss_of_its_own_is_trained_and_measured(kind, tmp_path):
    torch.manual_seed(0)
    model = kind(PlainConfig(num_labels=NUM_CLASSES))
    before = copy_weights(model)
    rows = Dataset.from_dict({"features": torch.randn(12, 5).tolist(), "labels": [r % NUM_CLASSES for r in range(12)]})
    features, labels = torch.tensor(rows["features"][:]), torch.tensor(rows["labels"][:])
    logits = model(features)
    expected = F.cross_entropy(logits["logits"] if isinstance(logits, dict) else logits[0], labels).item()
    trainer = CBFTTrainer(model, None, config(tmp_path), None, rows, rows, rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    trainer.train()
    assert any(not torch.equal(weight, before[name]) for name, weight in copy_weights(model).items())
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    assert logged["loss/ref"] == pytest.approx(expected, rel=1e-5)


class Doubled(Classification):
    """A task of one's own: the labels count from 1."""

    name = "counted from one"
    classes = frozenset({"PlainTuple"})

    def labels(self, batch):
        return batch["labels"] - 1


def test_a_task_of_ones_own_serves_training_and_measuring(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "TASKS", list(registry.TASKS))
    assert register_task(Doubled) is Doubled
    torch.manual_seed(0)
    model, other = (PlainTuple(PlainConfig(num_labels=NUM_CLASSES + 1)) for _ in range(2))
    assert isinstance(task_of(model), Doubled)
    assert type(task_of(Plain(PlainConfig(num_labels=2)))) is Classification
    labels = [1 + r % NUM_CLASSES for r in range(12)]
    rows = Dataset.from_dict({"features": torch.randn(12, 5).tolist(), "labels": labels})
    expected = F.cross_entropy(model(torch.tensor(rows["features"][:]))[0], torch.tensor(labels) - 1).item()
    measured = ConnectivityEvaluator(model, other, batch_size=5).evaluate(rows, num_points=3, num_resamples=20)
    assert measured.losses["data"][0] == pytest.approx(expected, rel=1e-6)
    trainer = CBFTTrainer(model, None, config(tmp_path), None, rows, rows)
    trainer.train()
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    assert logged["loss/ref"] == pytest.approx(expected, rel=1e-5)


def test_a_task_without_a_name_or_classes_is_refused():
    class Nameless(Task):
        pass

    with pytest.raises(ValueError, match="Nameless has no name or no classes: set both"):
        register_task(Nameless)


def test_the_known_tasks_say_what_they_are():
    names = [task.name for task in registry.TASKS]
    assert names == ["seq2seq", "masked_lm", "causal_lm", "token_classification", "classification"]
    for task in registry.TASKS:
        assert task.__doc__
        assert len(task.classes) > 10
    assert CausalLM.classes & {"GPT2LMHeadModel", "LlamaForCausalLM"}


def test_a_guess_is_log_k_of_a_classifier_and_nothing_of_a_language_model(make_model):
    assert task_of(make_model("vit")).guess_loss == pytest.approx(math.log(NUM_CLASSES))
    assert task_of(make_model("gpt2")).guess_loss == 0.0
