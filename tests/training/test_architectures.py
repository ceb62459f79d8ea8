# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The gradient of one step of `CBFTTrainer`, over architectures, against autograd through an explicit interpolation.

The naive one is one graph: `functional_call` at (1 - alpha) * reference + alpha * theta for the barrier loss, and for
the invariance loss a copy of the model without its last layer, whose output is the representation. Errors are
max |difference| / max |gradient| in float64; a table of them is printed at the end.
"""

import copy
from collections import Counter
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from torch.func import functional_call
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.paths.geometry import sample_alpha
from hf_cbft.representations import find_representation_layer

NUM_CLASSES = 4
ROWS = 8
PAD = 0
BOUND = 1e-10
BARRIER_COEF, MARGIN, REF_LOSS, INVARIANCE_COEF, SEED = 0.7, 6.0, 0.25, 2.5, 3
CHECKPOINTING = {"none": None, "non-reentrant": {"use_reentrant": False}, "reentrant": {"use_reentrant": True}}

TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VISION = {**TRANSFORMER, "image_size": 8, "patch_size": 4}
TEXT = {**TRANSFORMER, "vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": PAD, "classifier_dropout": 0.0}
DECODER = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "attention_dropout": 0.0,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}


class Architecture(NamedTuple):
    """A model, the kind of its inputs, and the layer whose input is the representation."""

    model: type[PreTrainedModel]
    config: PreTrainedConfig
    inputs: str
    head: str


ARCHITECTURES = {
    "vit": Architecture(ViTForImageClassification, ViTConfig(**VISION), "pixels", "classifier"),
    "deit": Architecture(DeiTForImageClassification, DeiTConfig(**VISION), "pixels", "classifier"),
    "dinov2": Architecture(Dinov2ForImageClassification, Dinov2Config(**VISION), "pixels", "classifier"),
    "swin": Architecture(
        SwinForImageClassification,
        SwinConfig(
            image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, drop_path_rate=0.0
        ),
        "pixels",
        "classifier",
    ),
    "convnext": Architecture(
        ConvNextForImageClassification,
        ConvNextConfig(num_stages=2, patch_size=2, hidden_sizes=[8, 16], depths=[1, 1], layer_scale_init_value=1.0),
        "pixels",
        "classifier",
    ),
    "resnet": Architecture(
        ResNetForImageClassification,
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        "pixels",
        "classifier.1",
    ),
    "bert": Architecture(BertForSequenceClassification, BertConfig(**TEXT), "tokens", "classifier"),
    "roberta": Architecture(RobertaForSequenceClassification, RobertaConfig(**TEXT), "tokens", "classifier.out_proj"),
    "distilbert": Architecture(
        DistilBertForSequenceClassification,
        DistilBertConfig(
            vocab_size=50,
            dim=16,
            n_layers=2,
            n_heads=2,
            hidden_dim=32,
            max_position_embeddings=32,
            dropout=0.0,
            attention_dropout=0.0,
            seq_classif_dropout=0.0,
            pad_token_id=PAD,
        ),
        "tokens",
        "classifier",
    ),
    "electra": Architecture(
        ElectraForSequenceClassification, ElectraConfig(**TEXT, embedding_size=8), "tokens", "classifier.out_proj"
    ),
    "deberta-v2": Architecture(
        DebertaV2ForSequenceClassification,
        DebertaV2Config(
            **{n: v for n, v in TEXT.items() if n != "classifier_dropout"},
            cls_dropout=0.0,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=4,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
        ),
        "tokens",
        "classifier",
    ),
    "modernbert": Architecture(
        ModernBertForSequenceClassification,
        ModernBertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            local_attention=4,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=None,
            cls_token_id=None,
            sep_token_id=None,
        ),
        "tokens",
        "classifier",
    ),
    "gpt2": Architecture(
        GPT2ForSequenceClassification,
        GPT2Config(
            vocab_size=50,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=None,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
        "tokens",
        "score",
    ),
    "llama": Architecture(LlamaForSequenceClassification, LlamaConfig(**DECODER), "tokens", "score"),
    "qwen2": Architecture(
        Qwen2ForSequenceClassification,
        Qwen2Config(**{n: v for n, v in DECODER.items() if n != "head_dim"}),
        "tokens",
        "score",
    ),
    "qwen3": Architecture(Qwen3ForSequenceClassification, Qwen3Config(**DECODER), "tokens", "score"),
    "wav2vec2": Architecture(
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=[8, 8],
            conv_kernel=[4, 3],
            conv_stride=[4, 2],
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=8,
            hidden_dropout=0.0,
            activation_dropout=0.0,
            attention_dropout=0.0,
            final_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
        ),
        "waveform",
        "classifier",
    ),
    "ast": Architecture(
        ASTForAudioClassification,
        ASTConfig(**TRANSFORMER, patch_size=4, frequency_stride=4, time_stride=4, max_length=16, num_mel_bins=8),
        "spectrogram",
        "classifier.dense",
    ),
}
NO_CHECKPOINTING = ["convnext", "resnet"]
# Those that compute something in float32 whatever their dtype: norms, rotary embeddings, or the loss (DeBERTa).
FLOAT32 = ["deberta-v2", "modernbert", "llama", "qwen2", "qwen3"]
FLOAT32_BOUND = 1e-8
DECODERS = ["llama", "qwen2", "qwen3"]  # with norms in float32


@contextmanager
def float64_throughout():
    """Takes no number of a float64 model down to float32, whose roundings would hide errors up to 1e-7.

    Gives the set of the methods that would have. Patched, because modes of PyTorch are off when a backward pass
    computes checkpointed layers again.
    """
    used = set()

    def unless_float64(method):
        def convert(tensor, *args, **kwargs):
            down = method.__name__ == "float" or any(v is torch.float32 for v in (*args, *kwargs.values()))
            if down and tensor.dtype == torch.float64:
                if tensor.requires_grad:  # a part of the model, not a loss on its way into a log
                    used.add(method.__name__)
                return tensor
            return method(tensor, *args, **kwargs)

        return convert

    with pytest.MonkeyPatch.context() as patch:
        for method in (torch.Tensor.float, torch.Tensor.to):
            patch.setattr(torch.Tensor, method.__name__, unless_float64(method))
        yield used


def make_model(name):
    architecture = ARCHITECTURES[name]
    config = copy.deepcopy(architecture.config)
    config.num_labels = NUM_CLASSES
    torch.manual_seed(0)
    return moved(architecture.model(config).double(), 0)


def moved(model, seed):
    """Every weight some way off: scales are not 1, shifts are not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def make_batch(inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(ROWS) % NUM_CLASSES
    shape = {"pixels": (3, 8, 8), "waveform": (80,), "spectrogram": (16, 8)}.get(inputs)
    if shape is not None:
        column = "pixel_values" if inputs == "pixels" else "input_values"
        return {column: torch.randn(ROWS, *shape, generator=generator), "labels": labels}
    input_ids = torch.randint(1, 50, (ROWS, 10), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[seed, 7:] = 0
    return {
        "input_ids": input_ids.masked_fill(attention_mask == 0, PAD),
        "attention_mask": attention_mask,
        "labels": labels,
    }


def double(batch):
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def double_collator(features):
    return double({name: torch.tensor(np.array([row[name] for row in features])) for name in features[0]})


def without_labels(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def naive_invariance(clean, cue, labels):
    total = 0.0
    for k in range(NUM_CLASSES):
        first, second = clean[labels == k].mean(0), cue[labels == k].mean(0)
        total = total + (first / first.norm() - second / second.norm()).square().sum()
    return total / NUM_CLASSES


class Case(NamedTuple):
    model: nn.Module
    reference: nn.Module
    clean: dict
    cue: dict
    gradients: dict


def make_case(name, alpha=None):
    """A model, a reference, both halves of a batch, and the naive gradient of L_CBFT."""
    architecture = ARCHITECTURES[name]
    model = make_model(name).train()
    reference = moved(copy.deepcopy(model), 5)
    clean, cue = (double(make_batch(architecture.inputs, seed)) for seed in (1, 2))
    headless = copy.deepcopy(model)
    headless.set_submodule(architecture.head, nn.Identity())

    theta = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    body = {n: p for n, p in theta.items() if not n.startswith(f"{architecture.head}.")}
    anchors = {n: p.detach() for n, p in reference.named_parameters()}
    drawn = sample_alpha(SEED, 0) if alpha is None else alpha
    point = {n: (1.0 - drawn) * anchors[n] + drawn * p for n, p in theta.items()}

    path_loss = functional_call(model, {**point, **buffers}, (), cue).loss
    halves = [functional_call(headless, {**body, **buffers}, (), without_labels(h)).logits for h in (clean, cue)]
    assert halves[0].ndim == 2
    if alpha is None or name not in DECODERS:
        clean_loss = functional_call(model, {**theta, **buffers}, (), clean).loss
    else:  # from the same pass as the representation, so that the float32 of the norms rounds the same sums
        clean_loss = F.cross_entropy(F.linear(halves[0], theta[f"{architecture.head}.weight"]), clean["labels"])
    terms = [
        clean_loss,
        BARRIER_COEF * (REF_LOSS + MARGIN - path_loss).abs(),
        INVARIANCE_COEF * naive_invariance(*halves, clean["labels"]),
    ]

    def gradient(loss):
        found = torch.autograd.grad(loss, list(theta.values()), allow_unused=True, retain_graph=True)
        return {n: g for n, g in zip(theta, found, strict=True) if g is not None}

    assert all(largest(gradient(term)) > 1e-3 for term in terms)  # one without a gradient would agree with anything
    gradients = [gradient(terms[0] + terms[2]), gradient(terms[1])]
    total = {n: sum(g[n] for g in gradients if n in g) for n in theta if any(n in g for g in gradients)}
    return Case(model, reference, clean, cue, total)


cached_case = cache(make_case)  # in float64 throughout


def largest(gradients):
    return max(gradient.abs().max() for gradient in gradients.values()).item()


class FirstGradients(TrainerCallback):
    """Gradients of the first step, before the optimizer takes it."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def count_passes(model):
    """How often each layer with weights of its own runs, from now on."""
    passes = Counter()
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(lambda *_, name=name: passes.update([name]))
    return passes


def relative_error(found, expected):
    assert found.keys() == expected.keys()
    return max((found[n] - g).abs().max() for n, g in expected.items()).item() / largest(expected)


def one_step(model, case, checkpointing, folder, **options):
    """Gradients of the first step of `CBFTTrainer`."""
    kwargs = CHECKPOINTING[checkpointing]
    args = CBFTConfig(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=ROWS,
        learning_rate=1e-3,
        optim="sgd",
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=SEED,
        barrier_coef=BARRIER_COEF,
        barrier_margin=MARGIN,
        ref_loss=REF_LOSS,
        barrier_stop_ratio=1.0,
        invariance_coef=INVARIANCE_COEF,
        invariance_warmup_ratio=0.0,
        pairing="index",
        train_sampling_strategy="sequential",
        activation_checkpointing=kwargs is not None,
        activation_checkpointing_kwargs=kwargs,
        **options,
    )
    recorder = FirstGradients()
    trainer = CBFTTrainer(
        model,
        case.reference,
        args,
        data_collator=double_collator,
        train_dataset=Dataset.from_dict({n: v.tolist() for n, v in case.clean.items()}),
        cue_dataset=Dataset.from_dict({n: v.tolist() for n, v in case.cue.items()}),
        callbacks=[recorder],
    )
    trainer.train()
    return recorder.gradients


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradient_of_one_step_is_that_of_the_whole_loss(name, checkpointing, table, tmp_path):
    # Training would follow another loss than L_CBFT, without any other sign of it.
    with float64_throughout() as used:
        case = cached_case(name)
        model = copy.deepcopy(case.model)
        head, _ = find_representation_layer(model, NUM_CLASSES)
        assert head == ARCHITECTURES[name].head
        if checkpointing != "none" and name in NO_CHECKPOINTING:
            assert not model.supports_gradient_checkpointing
            with pytest.raises(ValueError, match="does not support activation checkpointing"):
                one_step(model, case, checkpointing, tmp_path)
            table.append((name, checkpointing, "not supported by the model"))
            return
        if checkpointing == "reentrant" and name == "deberta-v2":
            # Its layers share the relative embeddings, and a reentrant backward frees their graph in the first.
            model.activation_checkpointing_enable(CHECKPOINTING[checkpointing])
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                model(**case.clean).loss.backward()
            table.append((name, checkpointing, "not supported by the model"))
            return
        passes = count_passes(model)
        model(**case.clean)
        once = Counter(passes)
        passes.clear()
        gradients = one_step(model, case, checkpointing, tmp_path)
    assert bool(used) == (name in FLOAT32)
    # Clean, cue and path point. Checkpointed layers run once more in each backward pass; Swin nests them.
    assert passes[head] == 3
    again = max(passes[layer] // once[layer] for layer in passes)
    assert again == 3 if checkpointing == "none" else again >= 6
    error = relative_error(gradients, case.gradients)
    table.append((name, checkpointing, error))
    assert error <= BOUND


@pytest.mark.parametrize("name", FLOAT32)
def test_gradient_with_the_float32_of_the_model_itself(name, table, tmp_path):
    # The models above as they are. Alpha, a factor before or after their float32, is a power of two: others round.
    case = make_case(name, alpha=0.5)
    found = one_step(copy.deepcopy(case.model), case, "none", tmp_path, alpha_min=0.5, alpha_max=0.5)
    error = relative_error(found, case.gradients)
    table.append((name, "none, float32", error))
    assert error <= FLOAT32_BOUND
