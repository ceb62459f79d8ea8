# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Every task that is measured, against the models' own losses, row by row; and what is refused."""

import copy

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from hf_cbft import ConnectivityEvaluator, compute_barrier
from hf_cbft.data.sentences import word_tokenizer
from hf_cbft.tasks.registry import task_of

ALPHAS = (0.0, 0.4, 1.0)
BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "num_labels": 5,
}
SPEECH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "num_labels": 3,
}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ),
    "tokens": lambda: BertForTokenClassification(BertConfig(**BERT)),
    "masked": lambda: BertForMaskedLM(BertConfig(**BERT)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
    ),
    "speech": lambda: Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SPEECH)),
}
TASKS = {
    "gpt2": "causal_lm",
    "llama": "causal_lm",
    "tokens": "token_classification",
    "masked": "masked_lm",
    "t5": "seq2seq",
    "speech": "classification",
}


def make_pair(name):
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = MODELS[name]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        models.append(model)
    return models


def make_rows(name, number=7):
    """Rows of different lengths, each with labels for some of its tokens; of speech, one class."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index in range(number):
        if name == "speech":
            values = torch.randn(400, generator=generator)
            rows.append({"input_values": values.tolist(), "labels": index % 3})
            continue
        length = 4 + 2 * (index % 3)
        ids = torch.randint(1, 40, (length,), generator=generator)
        labels = torch.randint(0, 5 if name == "tokens" else 40, (length,), generator=generator)
        if name in ("gpt2", "llama"):
            labels = ids.clone()
        labels[torch.rand(length, generator=generator) < 0.4] = -100
        labels[-1] = 1 if name == "tokens" else ids[-1]
        rows.append({"input_ids": ids.tolist(), "attention_mask": [1] * length, "labels": labels.tolist()})
    return datasets.Dataset.from_list(rows)


def between(start, end, alpha):
    first, second = start.state_dict(), end.state_dict()
    model = copy.deepcopy(start)
    model.load_state_dict(
        {n: ((1.0 - alpha) * first[n].double() + alpha * second[n].double()).to(first[n].dtype) for n in first}
    )
    return model.eval()


@torch.no_grad()
def own_losses(model, rows):
    """The loss that the model gives for each row alone, without padding, and how many tokens that counts."""
    losses, weights = [], []
    for row in rows:
        batch = {name: torch.tensor([value]) for name, value in row.items()}
        losses.append(model(**batch).loss.item())
        shifted = batch["labels"][:, 1:] if task_of(model).name == "causal_lm" else batch["labels"]
        weights.append(float((shifted != -100).sum()))
    return np.array(losses), np.array(weights)


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_the_model_itself_row_by_row(name):
    # Another shift, another mean or padding that counts: a plausible number for something else.
    start, end = make_pair(name)
    rows = make_rows(name)
    result = ConnectivityEvaluator(start, end, processing_class=word_tokenizer(), batch_size=3).evaluate(
        rows, alphas=ALPHAS, num_resamples=50
    )
    for point, alpha in enumerate(ALPHAS):
        losses, weights = own_losses(between(start, end, alpha), rows)
        np.testing.assert_allclose(result.example_losses["data"][point], losses, rtol=2e-6)
        assert result.weights["data"].tolist() == weights.tolist()
        np.testing.assert_allclose(result.losses["data"][point], (losses * weights).sum() / weights.sum(), rtol=1e-6)
    assert result.barriers["data"] == compute_barrier(
        ALPHAS,
        result.example_losses["data"],
        weights=result.weights["data"],
        num_resamples=50,
        guess_loss=result.settings["guess_loss"],
    )
    classes = start.config.num_labels if name in ("tokens", "speech") else 1
    assert result.settings["guess_loss"] == pytest.approx(np.log(classes))
    assert task_of(start).name == TASKS[name]


@pytest.mark.parametrize("name", ["gpt2", "tokens"])
def test_correct_tokens_are_counted(name):
    # Accuracy of a language model is that of the next token; of a tagger, of its tags.
    start, end = make_pair(name)
    rows = make_rows(name)
    result = ConnectivityEvaluator(start, end, processing_class=word_tokenizer(), batch_size=3).evaluate(
        rows, alphas=ALPHAS, num_resamples=20
    )
    hits, tokens, predictions, references = [], [], [], []
    for row in rows:
        with torch.no_grad():
            logits = start(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        labels = torch.tensor(row["labels"])
        if name == "gpt2":
            logits, labels = logits[:-1], labels[1:]
        counted = labels != -100
        right = logits.argmax(-1)[counted] == labels[counted]
        hits.append(right.double().mean().item())
        tokens.append(int(counted.sum()))
        predictions += logits.argmax(-1)[counted].tolist()
        references += labels[counted].tolist()
    np.testing.assert_allclose(result.example_correct["data"][0], hits)
    np.testing.assert_allclose(result.metrics["data"]["accuracy"][0], np.average(hits, weights=tokens))
    if name == "tokens":
        assert result.predictions["data"][0].tolist() == predictions
        assert result.references["data"].tolist() == references
    else:
        assert "data" not in result.predictions


def test_perplexity_is_exp_of_the_loss_over_all_tokens():
    # The mean of the rows' perplexities is another number.
    result = ConnectivityEvaluator(
        *make_pair("gpt2"), processing_class=word_tokenizer(), metrics=["perplexity"], batch_size=3
    ).evaluate(make_rows("gpt2"), alphas=ALPHAS, num_resamples=20)
    np.testing.assert_allclose(result.metrics["data"]["perplexity"], np.exp(result.losses["data"]))
    assert result.best_alpha("data", "perplexity") == result.best_alpha("data")


def test_a_plain_text_is_its_own_label():
    # Perplexity of a text needs no labels: the model predicts what it reads.
    start, end = make_pair("gpt2")
    tokenizer = word_tokenizer()
    start.resize_token_embeddings(len(tokenizer))
    end.resize_token_embeddings(len(tokenizer))
    texts = ["a storm today", "rain and snow and a storm today", "weather again"]
    dataset = datasets.Dataset.from_dict({"text": texts})
    result = ConnectivityEvaluator(start, end, processing_class=tokenizer, batch_size=2).evaluate(
        dataset, alphas=ALPHAS, num_resamples=20
    )
    rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]
    losses, weights = own_losses(start.eval(), rows)
    np.testing.assert_allclose(result.example_losses["data"][0], losses, rtol=2e-6)
    assert result.weights["data"].tolist() == weights.tolist()


def test_a_row_without_labels_counts_nothing():
    # Its loss would be nan, and with it everything.
    start, end = make_pair("gpt2")
    rows = [{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}, {"input_ids": [3, 4], "labels": [-100, -100]}]
    evaluator = ConnectivityEvaluator(start, end, processing_class=word_tokenizer())
    result = evaluator.evaluate(rows, alphas=ALPHAS, num_resamples=20)
    assert result.weights["data"].tolist() == [2.0, 0.0]
    np.testing.assert_allclose(result.losses["data"], result.example_losses["data"][:, 0])
    with pytest.raises(ValueError, match="The data set 'data' has no labelled tokens: all of its labels are -100"):
        evaluator.evaluate(rows[1:], alphas=ALPHAS)


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_masks_that_are_drawn_anew_are_refused(room, monkeypatch):
    # Each point would be measured on other tokens, or another run on others, and the barrier would be noise.
    monkeypatch.setattr("hf_cbft.connectivity.batches._KEPT_BYTES", room)
    rows = [{"input_ids": [3, 4, 5, 6, 7, 8], "attention_mask": [1] * 6} for _ in range(8)]
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    start, end = make_pair("masked")
    for model in (start, end):
        model.resize_token_embeddings(len(tokenizer))
    evaluator = ConnectivityEvaluator(start, end, data_collator=DataCollatorForLanguageModeling(tokenizer))
    with pytest.raises(ValueError, match=r"'data' is not the same each time it is read: .* a masking collator"):
        evaluator.evaluate(rows, alphas=ALPHAS)


def test_packed_rows_are_refused():
    # The examples that are resampled would be batches.
    rows = [{"input_ids": [3, 4, 5], "labels": [3, 4, 5]} for _ in range(4)]
    evaluator = ConnectivityEvaluator(*make_pair("llama"), data_collator=DataCollatorWithFlattening())
    with pytest.raises(ValueError, match="packs several rows into one"):
        evaluator.evaluate(rows, alphas=ALPHAS)


def test_a_label_beyond_the_vocabulary_is_refused():
    # An index error out of the loss names neither.
    rows = [{"input_ids": [3, 4, 5], "labels": [1, 5, 2]} for _ in range(4)]
    evaluator = ConnectivityEvaluator(*make_pair("tokens"))
    with pytest.raises(ValueError, match="A token has the label 5, but the model gives 5 logits: labels are 0 to 4"):
        evaluator.evaluate(rows, alphas=ALPHAS)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_several_or_no_classes_a_row_are_refused(make_model, problem):
    # Cross-entropy is not their loss.
    model = make_model("bert")
    model.config.problem_type = problem
    with pytest.raises(NotImplementedError, match=f"set up for {problem.replace('_', ' ')}"):
        ConnectivityEvaluator(model, make_model("bert"))


@pytest.mark.parametrize("problem", [None, "regression", "single_label_classification"])
def test_one_output_is_refused(make_model, problem):
    # A softmax over one logit is 1: a loss of 0, an accuracy of 1, and connected to everything.
    models = [make_model("bert"), make_model("bert", seed=1)]
    for model in models:
        model.config.problem_type, model.config.num_labels = problem, 1
        model.classifier = torch.nn.Linear(16, 1)
    with pytest.raises(NotImplementedError, match=r"set up for one output \(num_labels = 1\), which is a number"):
        ConnectivityEvaluator(*models)


def test_tasks_that_are_not_measured_are_refused_by_name():
    # Two logits a token look like those of a tagger.
    model = BertForQuestionAnswering(BertConfig(**{**BERT, "num_labels": 2}))
    with pytest.raises(NotImplementedError, match="BertForQuestionAnswering is made for question answering"):
        ConnectivityEvaluator(model, copy.deepcopy(model))


def test_a_class_of_ones_own_is_taken_for_a_classifier():
    # Research code has its own modules.
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, features):
            return (self.layer(features),)

    torch.manual_seed(0)
    start, end = Own(), Own()
    rows = [{"features": torch.randn(3), "labels": index % 2} for index in range(5)]
    result = ConnectivityEvaluator(start, end, batch_size=2).evaluate(rows, alphas=ALPHAS, num_resamples=20)
    expected = [nn.functional.cross_entropy(start(r["features"])[0], torch.tensor(r["labels"])).item() for r in rows]
    np.testing.assert_allclose(result.example_losses["data"][0], expected, rtol=1e-6)
    assert task_of(start).name == "classification"
