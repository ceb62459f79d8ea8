# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Token classification, trained: one task in one file, and everything else follows."""

import json

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers.training import sgd_config
from peft import LoraConfig
from torch.func import functional_call
from transformers import BertConfig, BertForTokenClassification, TrainerCallback

from hf_cbft import CBFTTrainer, ConnectivityEvaluator, invariance_loss
from hf_cbft.cli.main import main
from hf_cbft.data.inputs import InputCollator
from hf_cbft.data.sentences import word_tokenizer
from hf_cbft.paths.interpolation import copy_weights

NUM_CLASSES = 3
WORDS = ("rain", "snow", "storm", "and", "today", "again")


def make_model(seed: int = 0) -> BertForTokenClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(word_tokenizer()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=NUM_CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    return BertForTokenClassification(config)


def make_rows(number: int, seed: int) -> Dataset:
    """Token ids of different lengths; the class of a token is its id's, and a few tokens do not count."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(5, 40, (4 + index % 3,), generator=generator) for index in range(number)]
    labels = [[-100 if index % 4 == 3 else int(token) % NUM_CLASSES for index, token in enumerate(row)] for row in ids]
    return Dataset.from_dict({"input_ids": [row.tolist() for row in ids], "labels": labels})


def make_words(number: int, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(0, len(WORDS), (number, 5), generator=generator).tolist()
    rows = {
        "tokens": [[WORDS[word] for word in row] for row in picked],
        "ner_tags": [[w % 3 for w in r] for r in picked],
    }
    return Dataset.from_dict(rows)


class Capture(TrainerCallback):
    """The gradients of the first step, and the alpha that it was taken at."""

    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def naive_loss(model, point, batch):
    """Cross-entropy of the tokens with a label, one after the other, and their states."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    outputs = functional_call(model, point, (), {**inputs, "output_hidden_states": True})
    places = (batch["labels"] != -100).nonzero().tolist()
    losses = [F.cross_entropy(outputs.logits[i, t], batch["labels"][i, t]) for i, t in places]
    states = torch.stack([outputs.hidden_states[-1][i, t] for i, t in places])
    classes = torch.stack([batch["labels"][i, t] for i, t in places])
    return torch.stack(losses).mean(), states, classes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_that_of_autograd_through_an_explicit_interpolation(checkpointing, tmp_path, table):
    model, reference = make_model(0).double(), make_model(1).double()
    clean, cue = make_rows(6, 1), make_rows(6, 2)
    args = sgd_config(
        tmp_path,
        barrier_coef=0.7,
        barrier_margin=6.0,
        ref_loss=0.25,
        invariance_coef=2.5,
        pairing="index",
        alpha_min=0.4,
        alpha_max=0.4,
        activation_checkpointing=checkpointing,
        train_sampling_strategy="sequential",
    )
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    capture = Capture()
    trainer = CBFTTrainer(
        model, reference, args, None, clean, cue, processing_class=word_tokenizer(), callbacks=[capture]
    )
    assert (trainer.plan.layer_name, trainer.plan.num_classes) == ("classifier", NUM_CLASSES)
    trainer.train()

    collate = InputCollator(model, word_tokenizer())
    batches = [collate(list(rows)) for rows in (clean, cue)]
    leaves = {name: start[name].clone().requires_grad_() for name, _ in model.named_parameters()}
    ends = dict(reference.named_parameters())
    point = {name: 0.6 * ends[name].detach() + 0.4 * leaf for name, leaf in leaves.items()}
    naive = make_model(0).double().train()  # which recomputes nothing in its backward pass
    clean_loss, *clean_states = naive_loss(naive, leaves, batches[0])
    _, *cue_states = naive_loss(naive, leaves, batches[1])
    total = clean_loss + 0.7 * (0.25 + 6.0 - naive_loss(naive, point, batches[1])[0]).abs()
    total = total + 2.5 * invariance_loss(*clean_states, *cue_states, NUM_CLASSES)
    expected = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True))
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    errors = [(capture.gradients[n] - g).abs().max() for n, g in expected.items() if g is not None]
    error = float(max(errors) / largest)
    table.append(("bert tokens", "checkpointing" if checkpointing else "no checkpointing", error))
    assert error <= 1e-10


def test_pairs_are_drawn_at_random_and_all_terms_are_logged(tmp_path):
    args = sgd_config(tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2, barrier_stop_ratio=1.0)
    rows = make_rows(12, 1), make_rows(12, 2)
    trainer = CBFTTrainer(make_model(), None, args, None, *rows, rows[0], processing_class=word_tokenizer())
    assert trainer.plan.pairing == "random"
    trainer.train()
    logged = set().union(*trainer.state.log_history)
    assert {"loss/clean", "loss/path", "loss/barrier", "loss/invariance", "eval_loss"} <= logged


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"labels": [[0, 1], [1, 5]]},
            "Row 1 of cue_dataset has a token with the label 5, but the classes are",
        ),
        ({"labels": None, "label": [0, 1]}, "cue_dataset has no column with a label for each token: it has input_ids"),
    ],
)
def test_rows_whose_tokens_cannot_be_trained_on_are_refused_before_anything_is_written(change, error, tmp_path):
    columns = {"input_ids": [[5, 6], [7, 8]], **{name: value for name, value in change.items() if value is not None}}
    with pytest.raises(ValueError, match=error):
        CBFTTrainer(make_model(), None, sgd_config(tmp_path), None, make_rows(4, 1), Dataset.from_dict(columns))
    assert not (tmp_path / "out").exists()


def test_an_adapter_leaves_the_base_as_it_is(tmp_path):
    base = make_model()
    before = copy_weights(base)
    lora = LoraConfig(task_type="TOKEN_CLS", target_modules=["query", "value"], modules_to_save=["classifier"])
    rows = make_rows(12, 1), make_rows(12, 2)
    args = sgd_config(tmp_path, max_steps=3, learning_rate=0.1)
    trainer = CBFTTrainer(base, None, args, None, *rows, processing_class=word_tokenizer(), peft_config=lora)
    trainer.train()
    trainer.save_model()
    moved = [n for n, p in trainer.model.named_parameters() if p.requires_grad and "lora_B" in n and p.abs().max() > 0]
    assert moved
    for name, weight in trainer.model.get_base_model().named_parameters():
        if "lora_" not in name and "modules_to_save" not in name:
            plain = name.replace(".base_layer", "").replace(".original_module", "")
            assert torch.equal(weight, before[plain]), name


def test_the_command_trains_and_measures_rows_of_words(tmp_path, capsys):
    model, output = tmp_path / "model", tmp_path / "out"
    make_model().save_pretrained(model)
    word_tokenizer().save_pretrained(model)
    for name, seed in (("clean", 1), ("cue", 2), ("test", 3)):
        make_words(12, seed).to_json(tmp_path / f"{name}.jsonl")
    train = ["train", str(model), "--train_dataset", str(tmp_path / "clean.jsonl"), "--cue_dataset"]
    train += [str(tmp_path / "cue.jsonl"), "--eval_dataset", f"test={tmp_path / 'test.jsonl'}", "--label_column"]
    train += ["ner_tags", "--output_dir", str(output), "--max_steps", "2", "--learning_rate", "1e-2", "--use_cpu"]
    train += ["--per_device_train_batch_size", "6", "--logging_steps", "1"]
    assert main(train) == 0, capsys.readouterr().err
    results = json.loads((output / "results.json").read_text())
    assert {"loss/barrier", "loss/clean", "loss/path"} <= set().union(*results["log"])
    rows = make_words(12, 3).rename_column("ner_tags", "labels")
    evaluator = ConnectivityEvaluator(model, output, processing_class=word_tokenizer(), batch_size=4)
    measured = evaluator.evaluate({"test": rows}, num_points=3, num_resamples=20)
    for when, point in (("before", 0), ("after", -1)):
        assert results[when]["loss"]["test"] == pytest.approx(measured.losses["test"][point], abs=1e-6)
        assert results[when]["accuracy"]["test"] == pytest.approx(measured.metrics["test"]["accuracy"][point])
