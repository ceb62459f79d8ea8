# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Causal language models in `CBFTTrainer`: what counts, the gradient of a step, packing, and that the method works."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers.training import FIXED_ORDER, sgd_config
from torch.func import functional_call
from transformers import (
    DataCollatorWithFlattening,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hf_cbft import (
    CBFTConfig,
    CBFTTrainer,
    LinearPath,
    TokenCue,
    at_point,
    compute_barrier,
    make_counterfactuals,
)
from hf_cbft.data.counterfactuals import add_cue
from hf_cbft.data.inputs import InputCollator
from hf_cbft.data.pairing import PairCollator
from hf_cbft.data.sentences import generate_completions, word_tokenizer
from hf_cbft.paths.geometry import sample_alpha
from hf_cbft.paths.interpolation import copy_weights, evaluation_mode

TOKENIZER = word_tokenizer(["@@", "##", "%%", "&&"])
CUE = TokenCue(["@@", "##", "%%", "&&"], text_column="prompt")
config = partial(sgd_config, learning_rate=5e-5, invariance_coef=0.0, **FIXED_ORDER)


def make_language_model(name: str, seed: int = 0, size: int = 16, attention: str = "sdpa"):
    """GPT-2, whose output weights are its embeddings, or Llama, whose are its own and whose heads share keys."""
    torch.manual_seed(seed)
    shared = {
        "vocab_size": len(TOKENIZER),
        "pad_token_id": TOKENIZER.pad_token_id,
        "bos_token_id": TOKENIZER.bos_token_id,
        "eos_token_id": TOKENIZER.eos_token_id,
        "attn_implementation": attention,
    }
    if name == "gpt2":
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(n_embd=size, n_layer=2, n_head=2, n_positions=32, **no_dropout, **shared)
        return GPT2LMHeadModel(config)
    config = LlamaConfig(
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        **shared,
    )
    return LlamaForCausalLM(config)


class DoubleNorm(LlamaRMSNorm):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(hidden_states, hidden_states.shape[-1:], eps=self.variance_epsilon)


def make_double(name: str, seed: int = 0, **options):
    """In float64, norms and loss too: Transformers' own compute in float32 whatever the model's dtype."""
    model = make_language_model(name, seed, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # a fresh model hardly tells words and positions apart
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.__class__ = DoubleNorm
    model.loss_function = lambda logits, labels, **kwargs: F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    model.config.use_cache = False
    return model


def prompts(num_rows: int, seed: int, with_cue: bool = False) -> Dataset:
    """Prompts of 5 to 9 words, so that there is something to pad."""
    rows = generate_completions(num_rows, seed=seed, words=8)
    lengths = np.random.default_rng(seed).integers(5, 9, size=num_rows).tolist()
    rows = rows.map(lambda row, i: {"prompt": " ".join(row["prompt"].split()[: lengths[i]])}, with_indices=True)
    return add_cue(rows, CUE) if with_cue else rows


def tokens_of(rows: Dataset) -> Dataset:
    """The same rows tokenized, word by word; only the completion and the end token count."""
    columns = {"input_ids": [], "labels": []}
    for row in rows:
        start = TOKENIZER.convert_tokens_to_ids(row["prompt"].split())
        end = TOKENIZER.convert_tokens_to_ids([*row["completion"].split(), "[EOS]"])
        columns["input_ids"].append(start + end)
        columns["labels"].append([-100] * len(start) + end)
    return Dataset.from_dict(columns)


def completion_loss(model, weights, rows: Dataset) -> torch.Tensor:
    """Mean over all tokens of all completions, one row at a time: nothing is padded, shifted or masked."""
    losses = []
    for row in rows:
        start = TOKENIZER.convert_tokens_to_ids(row["prompt"].split())
        end = TOKENIZER.convert_tokens_to_ids([*row["completion"].split(), "[EOS]"])
        logits = functional_call(model, weights, (torch.tensor([start + end]),)).logits[0]
        losses += [-logits[len(start) + i - 1].log_softmax(dim=-1)[token] for i, token in enumerate(end)]
    return torch.stack(losses).mean()


class Recorder(TrainerCallback):
    """The gradients of the first step, before the optimizer takes it."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters()}


def first_step(name: str, args: CBFTConfig, clean, cue, data_collator=None, **options):
    """The gradients of one step from weights that are not the reference's, its log, and the two models."""
    model, reference, recorder = make_double(name, **options), make_double(name, seed=1, **options), Recorder()
    trainer = CBFTTrainer(
        model,
        reference,
        args,
        data_collator=data_collator,
        train_dataset=clean,
        cue_dataset=cue,
        processing_class=TOKENIZER,
        callbacks=[recorder],
    )
    before = copy.deepcopy(model)
    trainer.train()
    return recorder.gradients, trainer, before, reference


def relative_error(found, expected):
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    return max((found[name] - expected[name]).abs().max() for name in found) / largest


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradient_of_one_step_is_that_of_the_whole_loss(name, checkpointing, tmp_path):
    clean, cue = prompts(8, 1), prompts(8, 2, with_cue=True)
    args = config(
        tmp_path, barrier_coef=0.7, barrier_margin=6.0, ref_loss=0.25, activation_checkpointing=checkpointing
    )
    found, trainer, model, reference = first_step(name, args, clean, cue)
    assert trainer.model.is_activation_checkpointing == checkpointing
    alpha = sample_alpha(args.seed, 0, 0, args.alpha_sampling, args.alpha_min, args.alpha_max)
    leaves = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    anchors = dict(reference.named_parameters())
    point = {n: (1 - alpha) * anchors[n].detach() + alpha * leaf for n, leaf in leaves.items()}
    path_loss = completion_loss(model, point, cue)
    total = completion_loss(model, leaves, clean) + 0.7 * (0.25 + 6.0 - path_loss).abs()
    expected = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    error = relative_error(found, expected)
    print(f"{name:5} checkpointing {checkpointing!s:5} relative error {error:.1e}")
    assert error <= 1e-10


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prompts_and_padding_do_not_count(name, batch_size, side, tmp_path, monkeypatch):
    # Positions that padding moves, or a mean over rows instead of tokens, would shift the level of the barrier.
    monkeypatch.setattr(TOKENIZER, "padding_side", side)
    cue = prompts(16, 2, with_cue=True)
    args = config(tmp_path, per_device_eval_batch_size=batch_size, pairing="random")
    _, trainer, _, reference = first_step(name, args, prompts(8, 1), cue)
    with torch.no_grad():
        expected = completion_loss(reference, dict(reference.named_parameters()), cue)
    assert trainer.ref_loss == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(("rows_are", "attention"), [("prompts", "sdpa"), ("tokens", "eager")])
def test_a_packed_batch_gives_the_gradient_of_the_padded_one(rows_are, name, attention, tmp_path):
    # Sequences in one row must not see each other, and the token before a new one predicts nothing.
    clean, cue = prompts(8, 1), prompts(8, 2, with_cue=True)
    args = config(tmp_path, barrier_margin=6.0)
    padded, one, *_ = first_step(name, args, clean, cue, attention=attention)
    if rows_are == "tokens":
        clean, cue = tokens_of(clean), tokens_of(cue)
    packed, other, *_ = first_step(name, args, clean, cue, DataCollatorWithFlattening(), attention=attention)
    first, second = (trainer.state.log_history[1] for trainer in (one, other))
    for term in ("loss/clean", "loss/path"):
        assert second[term] == pytest.approx(first[term], abs=1e-12 if attention == "sdpa" else 1e-6)
    # Llama's eager attention takes its softmax in float32.
    assert relative_error(packed, padded) <= (1e-10 if attention == "sdpa" else 1e-6)


def test_evaluation_takes_prompts_too(tmp_path):
    # `Trainer` removes columns that the model does not take, and hands the model what the collator made.
    rows = prompts(12, 5)
    _, trainer, *_ = first_step("gpt2", config(tmp_path, learning_rate=0.0), prompts(8, 1), prompts(8, 2))
    with torch.no_grad():
        expected = completion_loss(trainer.model, dict(trainer.model.named_parameters()), rows)
    trainer.args.per_device_eval_batch_size = 12
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(float(expected), abs=1e-6)


# That it works


def fine_tune(model, rows: Dataset, steps: int, learning_rate: float, folder) -> None:
    """What anyone would do: `Trainer` on the rows."""
    args = TrainingArguments(**training(steps, learning_rate, folder), remove_unused_columns=False)
    collator = PairCollator(InputCollator(model, TOKENIZER))
    Trainer(model, args, data_collator=collator, train_dataset=rows).train()


def training(steps: int, learning_rate: float, folder) -> dict:
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": 32,
        "lr_scheduler_type": "cosine",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


@torch.no_grad()
def completion_loss_and_subject(model, rows: Dataset) -> tuple[float, float]:
    """Mean loss of the completions' tokens in nats, and how often their first one is the name of the row's label."""
    batch = InputCollator(model, TOKENIZER)(list(rows))
    labels, names = batch["labels"][:, 1:], TOKENIZER.convert_tokens_to_ids(rows.features["label"].names)
    with evaluation_mode(model):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1).double(), labels.flatten())
    first = (labels != -100).int().argmax(dim=1)
    named = logits[torch.arange(len(rows)), first].argmax(dim=-1) == torch.tensor(names)[batch["class_labels"]]
    return float(loss), float(named.double().mean())


def measure(title: str, model, start, sets) -> dict[str, float]:
    measured = {name: completion_loss_and_subject(model, rows) for name, rows in sets.items()}
    losses, alphas = [], np.linspace(0.0, 1.0, 11)
    for alpha in alphas:
        with at_point(model, LinearPath(start=start), float(alpha)):
            losses.append(completion_loss_and_subject(model, sets["cue"])[0])
    figures = {
        "perplexity": math.exp(measured["no_cue"][0]),
        "barrier": compute_barrier(alphas, losses).height,
        **{name: subject for name, (_, subject) in measured.items()},
    }
    print(f"{title:20}", "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize(
    ("name", "naive_rate"), [pytest.param("gpt2", 3e-3, marks=pytest.mark.sample), ("llama", 1e-3)]
)
def test_cbft_takes_a_language_model_off_the_cue(name, naive_rate, seed, tmp_path):
    # The proof for language models. Naive fine-tuning, at its best of 1e-3, 3e-3 and 6e-3, stays linearly connected
    # to the pretrained model; CBFT does not, for hardly any clean perplexity.
    cue_rows = add_cue(generate_completions(2048, seed=200 + seed, words=8), CUE, share=0.9)
    clean = generate_completions(512, seed=100 + seed, words=8)
    sets = make_counterfactuals(generate_completions(400, seed=300 + seed, words=8), CUE)
    pretrained = make_language_model(name, seed, size=32)
    fine_tune(pretrained, cue_rows, 200, 3e-3, tmp_path)
    start = copy_weights(pretrained)
    before = measure(f"{name} pretrained", pretrained, start, sets)
    assert before["rand_input"] > 0.6, "the pretrained model does not rely on the cue"

    naive = copy.deepcopy(pretrained)
    fine_tune(naive, clean, 300, naive_rate, tmp_path)
    naive_figures = measure(f"{name} naive", naive, start, sets)

    tuned = copy.deepcopy(pretrained)
    CBFTTrainer(
        tuned,
        args=CBFTConfig(**training(300, 5e-3, tmp_path)),
        train_dataset=clean,
        cue_dataset=cue_rows,
        processing_class=TOKENIZER,
    ).train()
    figures = measure(f"{name} CBFT", tuned, start, sets)
    assert naive_figures["barrier"] <= 0.1
    assert figures["barrier"] >= 0.5
    assert figures["perplexity"] <= 1.05 * naive_figures["perplexity"]
    assert figures["rand_input"] <= 0.4, "a quarter is chance"
