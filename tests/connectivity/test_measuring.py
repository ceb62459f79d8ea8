# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""One model where it stands: its figures are those of plain Transformers, and it stays what it is."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForTokenClassification

from hf_cbft import ConnectivityEvaluator, measure
from hf_cbft.paths.interpolation import copy_weights

NUM_CLASSES = 4


def rows_of(batch) -> Dataset:
    return Dataset.from_dict({name: values.tolist() for name, values in batch.items()})


@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_a_classifiers_figures_are_its_own(name, make_model, make_batch):
    model, batch = make_model(name).train(), make_batch(name, rows=7)
    before = copy_weights(model)
    found = measure(model, {"clean": rows_of(batch), "same": rows_of(batch)}, batch_size=3)
    assert model.training
    assert all(torch.equal(weight, before[key]) for key, weight in copy_weights(model).items())
    outputs = model.eval()(**batch)
    for part in ("clean", "same"):
        assert found[part]["loss"] == pytest.approx(outputs.loss.item(), rel=1e-6)
        right = (outputs.logits.argmax(-1) == batch["labels"]).float().mean().item()
        assert found[part]["accuracy"] == pytest.approx(right, rel=1e-6)


def test_a_language_models_loss_is_a_mean_over_tokens(make_model, make_batch):
    model, batch = make_model("gpt2").eval(), make_batch("gpt2", rows=5)
    found = measure(model, rows_of(batch), batch_size=2, metrics=["perplexity"])["data"]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert found["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)


@pytest.mark.parametrize("task", ["token classification", "causal language model"])
def test_the_loss_of_tokens_is_that_of_the_models_own_forward_pass(task, make_model, make_batch):
    batch = make_batch("gpt2", rows=5)
    model = make_model("gpt2", seed=3)
    if task == "token classification":
        sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        torch.manual_seed(0)
        model = BertForTokenClassification(BertConfig(**sizes, intermediate_size=32, num_labels=NUM_CLASSES))
        batch["labels"] = torch.where(batch["labels"] < 0, -100, batch["labels"] % NUM_CLASSES)
    found = measure(model, {"cue": rows_of(batch)}, batch_size=2)["cue"]
    with torch.no_grad():
        outputs = model.eval()(**batch)
    assert found["loss"] == pytest.approx(outputs.loss.item(), rel=1e-6)
    logits, labels = outputs.logits, batch["labels"]
    if task == "causal language model":
        logits, labels = logits[:, :-1], labels[:, 1:]
    right = (logits.argmax(-1) == labels)[labels != -100].double().mean().item()
    assert found["accuracy"] == pytest.approx(right, rel=1e-6)


def test_it_is_the_end_of_a_path(make_model, make_batch, tmp_path):
    start, end, rows = make_model("bert"), make_model("bert", seed=1), rows_of(make_batch("bert"))
    end.save_pretrained(tmp_path / "end")
    path = ConnectivityEvaluator(start, end).evaluate({"cue": rows}, num_points=3, num_resamples=20)
    assert measure(tmp_path / "end", {"cue": rows})["cue"]["loss"] == pytest.approx(path.losses["cue"][-1], rel=1e-7)


def test_an_adapter_on_its_base_is_measured_with_it(make_model, make_batch, tmp_path):
    base = make_model("bert")
    base.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(target_modules=["query"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    batch = make_batch("bert")
    found = measure(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", rows_of(batch))["data"]["loss"]
    assert found == pytest.approx(adapted.eval()(**batch).loss.item(), rel=1e-6)


def test_statistics_are_estimated_for_the_measurement_alone(make_model, make_batch):
    model, batch = make_model("resnet"), make_batch("resnet", rows=8)
    before = copy_weights(model)
    rows = rows_of(batch)
    plain, calibrated = (measure(model, rows, calibration_dataset=own)["data"]["loss"] for own in (None, rows))
    assert plain != calibrated
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}

    def fails(predictions, references):
        raise RuntimeError("no such metric")

    with pytest.raises(ValueError, match="The metric 'fails' failed"):
        measure(model, rows, calibration_dataset=rows, metrics=[fails])
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in model.named_buffers())
    assert all(torch.equal(weight, before[key]) for key, weight in copy_weights(model).items())


def test_groups_and_a_table(make_model, make_batch):
    rows = rows_of(make_batch("bert", rows=4)).add_column("place", ["land", "water", "land", "water"])
    found = measure(make_model("bert"), rows, metrics=["accuracy", "worst_group_accuracy"], group_column="place")
    assert found["data"]["worst_group_accuracy"] <= found["data"]["accuracy"]
    lines = str(found).splitlines()
    assert lines[0].split() == ["set", "loss", "accuracy", "worst_group_accuracy"]
    assert lines[1].split()[0] == "data"


@pytest.mark.parametrize(
    ("datasets", "options", "message"),
    [
        ({}, {}, "datasets is an empty dict: give at least one data set to measure on."),
        ([], {}, "The data set 'data' is empty."),
        (None, {"batch_size": 0}, "batch_size = 0: give at least 1."),
        (None, {"metrics": ["acuracy"]}, "acuracy"),
        (None, {"calibration_dataset": []}, "calibration_dataset is empty."),
    ],
)
def test_what_cannot_be_measured_is_refused(datasets, options, message, make_model, make_batch):
    rows = rows_of(make_batch("bert")) if datasets is None else datasets
    with pytest.raises(ValueError, match=message):
        measure(make_model("bert"), rows, **options)


def test_a_metric_that_is_called_as_the_loss_is_refused(make_model, make_batch):
    def loss(predictions, references):
        return 99.0

    with pytest.raises(ValueError, match="A metric is called 'loss', and the mean cross-entropy is too"):
        measure(make_model("bert"), rows_of(make_batch("bert")), metrics=[loss])


def test_rows_without_a_label_have_no_mean(make_model):
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[-100, -100, -100]]})
    with pytest.raises(ValueError, match="The data set 'cue' has no labelled tokens: all of its labels are -100"):
        measure(make_model("gpt2"), {"cue": rows})


def test_labels_beyond_the_classes_are_refused(make_model):
    rows = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [NUM_CLASSES]})
    with pytest.raises(ValueError, match="The data set 'cue' has the label 4, but the classes are 0 to 3"):
        measure(make_model("bert"), {"cue": rows})
