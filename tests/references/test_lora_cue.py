# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA-CBFT takes a small BERT off a token that gives the label away. `pytest -m slow -s` prints the table.

The adapter reaches the word embeddings: where it does not, the token's embedding goes on pointing at its class, and
the model is still thrown off by it.
"""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_cbft import CBFTConfig, CBFTTrainer, TokenCue, make_counterfactuals
from hf_cbft.data.counterfactuals import add_cue
from hf_cbft.data.inputs import InputCollator
from hf_cbft.data.sentences import generate_sentences, word_tokenizer

SUBJECTS, STEPS = 10, 300
CUE = TokenCue([f"@{subject}" for subject in range(SUBJECTS)])
TOKENIZER = word_tokenizer(CUE.tokens, SUBJECTS)
SETS = ("no_cue", "cue", "rand_cue", "rand_input")
NAIVE_RATES = {"naive small": [1e-4], "naive medium": [1e-3], "naive large": [3e-3, 5e-3, 1e-2]}
CBFT_RATE = 1e-2


def sentences(num_rows: int, seed: int):
    return generate_sentences(num_rows, seed, subject_words=3, num_subjects=SUBJECTS)


def with_classifier_token(dataset):
    """BERT reads the class off the first token, which here is none of the sentence's."""
    return dataset.map(lambda row: {"text": f"[CLS] {row['text']}"})


def adapter() -> LoraConfig:
    return LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["query", "key", "value", "dense", "word_embeddings"],
        modules_to_save=["classifier"],
    )


def options(folder, learning_rate: float, seed: int) -> dict:
    return {
        "output_dir": str(folder),
        "learning_rate": learning_rate,
        "max_steps": STEPS,
        "per_device_train_batch_size": 32,
        "seed": seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def train_naively(model, dataset, **arguments):
    collator = InputCollator(None, TOKENIZER)
    Trainer(model, TrainingArguments(**arguments, remove_unused_columns=False), collator, dataset).train()
    return model


def pretrained(folder, seed: int):
    """A model that relies on the cue: in pretraining it agrees with the label in 70 % of the rows."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=32,
            num_labels=SUBJECTS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=TOKENIZER.pad_token_id,
        )
    )
    rows = with_classifier_token(add_cue(sentences(3000, 100 + seed), CUE, share=0.7, seed=seed))
    return train_naively(model, rows, **{**options(folder, 1e-3, seed), "max_steps": 400})


@torch.no_grad()
def accuracies(model, sets) -> dict[str, float]:
    model.eval()
    found = {}
    for name, dataset in sets.items():
        batch = TOKENIZER(list(dataset["text"]), padding=True, return_tensors="pt")
        batch = {n: batch[n] for n in ("input_ids", "attention_mask")}
        right = model(**batch).logits.argmax(dim=-1) == torch.tensor(dataset["label"])
        found[name] = 100.0 * right.float().mean().item()
    return found


def run(folder, seed: int) -> dict[str, dict[str, float]]:
    """Accuracies in % of the pretrained model, of naive LoRA and of LoRA-CBFT."""
    sets = {n: with_classifier_token(s) for n, s in make_counterfactuals(sentences(800, 300 + seed), CUE, 0).items()}
    clean = with_classifier_token(sentences(256, 200 + seed))
    cued = with_classifier_token(add_cue(sentences(3000, 100 + seed), CUE))
    start = pretrained(folder, seed)
    table = {"pretrained": accuracies(start, sets)}
    for name, rates in NAIVE_RATES.items():
        tried = []
        for rate in rates:
            torch.manual_seed(seed)
            model = get_peft_model(copy.deepcopy(start), adapter())
            tried.append(accuracies(train_naively(model, clean, **options(folder, rate, seed)), sets))
        # The best large rate: by accuracy with the cue randomised, which is what counts.
        table[name] = max(tried, key=lambda found: found["rand_cue"])
    torch.manual_seed(seed)
    trainer = CBFTTrainer(
        copy.deepcopy(start),
        args=CBFTConfig(**options(folder, CBFT_RATE, seed)),
        train_dataset=clean,
        cue_dataset=cued,
        processing_class=TOKENIZER,
        peft_config=adapter(),
    )
    trainer.train()
    table["lora-cbft"] = accuracies(trainer.model, sets)
    return table


def show(table) -> str:
    rows = [f"{name:13}" + "".join(f"{found[s]:8.1f}" for s in SETS) for name, found in table.items()]
    return "\n".join([f"{'accuracy in %':13}{'NC':>8}{'C':>8}{'RC':>8}{'RI':>8}", *rows])


@pytest.mark.slow
def test_lora_cbft_forgets_the_token(tmp_path):
    table = run(tmp_path, seed=0)
    print("\n" + show(table))
    chance = 100.0 / SUBJECTS
    assert table["pretrained"]["rand_input"] > 50.0  # it does rely on the cue
    found = table["lora-cbft"]
    assert found["rand_input"] <= chance + 10.0
    assert found["no_cue"] - found["rand_cue"] <= 6.0
