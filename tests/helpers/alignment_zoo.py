# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every family whose symmetries are known, with each kind of head, and input for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    CLIPConfig,
    CLIPForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MPNetConfig,
    MPNetForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from paper.cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
TEXT = {**_SIZES, "vocab_size": 50, "max_position_embeddings": 32}
IMAGE = {**_SIZES, "image_size": 8, "patch_size": 4}
# Three groups of two query heads.
DECODER = {**TEXT, "hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 32, "pad_token_id": 0}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
_LABELS = {"num_labels": 4}
_BASIC = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [2, 2], "layer_type": "basic", "image_size": 16}
_BOTTLENECK = {**_BASIC, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"}
_DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "vocab_size": 50}
_CONVNEXT = {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2, "image_size": 16}


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4)
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**TEXT, **_LABELS)),
    "bert-token": lambda: BertForTokenClassification(BertConfig(**TEXT, **_LABELS)),
    "bert-masked": lambda: BertForMaskedLM(BertConfig(**TEXT)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**TEXT, **_LABELS)),
    "roberta-masked": lambda: RobertaForMaskedLM(RobertaConfig(**TEXT)),
    "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**_DISTILBERT, **_LABELS)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**TEXT, **_LABELS)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**IMAGE, **_LABELS)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**IMAGE, **_LABELS)),
    "deit-teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**IMAGE, **_LABELS)),
    "clip": lambda: CLIPForImageClassification(CLIPConfig(vision_config=IMAGE, **_LABELS)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt2-sequence": lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2, **_LABELS)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER)),
    "qwen2": lambda: Qwen2ForSequenceClassification(Qwen2Config(**DECODER, **_LABELS, pad_token_id=0)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=6)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**DECODER, tie_word_embeddings=True)),
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(**_BASIC, **_LABELS)),
    "resnet-bottleneck": lambda: ResNetForImageClassification(ResNetConfig(**_BOTTLENECK, **_LABELS)),
    "cifar-resnet": lambda: CifarResNetForImageClassification(CifarResNetConfig(**_BASIC, **_LABELS)),
    "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(**_CONVNEXT, **_LABELS)),
    "mlp": _mlp,
    "cnn": _cnn,
}


def make(name: str, seed: int = 0) -> nn.Module:
    """A model of this family, in evaluation mode."""
    return with_information(MODELS[name], seed)


def with_information(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model whose norms, biases and running statistics tell units apart, as a trained one's do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            for buffer_name, buffer in model.named_buffers():
                if "running" in buffer_name:
                    buffer.add_(0.5 * torch.rand_like(buffer))
    return model


def make_rows(model: Any, number: int = 512, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with labels; every third text is padded on the right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=number)
    name = getattr(model, "main_input_name", None)
    if name == "input_ids":
        tokens = rng.integers(3, 50, size=(number, 12))
        mask = np.ones_like(tokens)
        mask[::3, 8:] = 0
        inputs = [{"input_ids": own * kept, "attention_mask": kept} for own, kept in zip(tokens, mask, strict=True)]
        if "LM" in type(model).__name__:
            return [{**row, "labels": np.where(row["attention_mask"], row["input_ids"], -100)} for row in inputs]
        return [{**row, "label": int(label)} for row, label in zip(inputs, labels, strict=True)]
    vision = getattr(getattr(model, "config", None), "vision_config", getattr(model, "config", None))
    size = getattr(vision, "image_size", None) or 16
    if name == "pixel_values":
        shape: tuple[int, ...] = (3, size, size)
    else:
        shape = (20,) if isinstance(model[0], nn.Linear) else (3, size, size)
    values = rng.standard_normal((number, *shape)).astype(np.float32)
    if name is None:
        return [{"input": torch.from_numpy(own)} for own in values]
    return [{name: torch.from_numpy(own), "label": int(label)} for own, label in zip(values, labels, strict=True)]


def make_batch(model: Any, number: int = 6, seed: int = 1) -> dict[str, torch.Tensor]:
    """Input without labels, in the precision of the model."""
    rows = make_rows(model, number, seed)
    dtype = next(model.parameters()).dtype
    found = {}
    for key in rows[0].keys() - {"label", "labels"}:
        values = torch.stack([torch.as_tensor(row[key]) for row in rows])
        found[key] = values.to(dtype) if values.is_floating_point() else values
    return found


@torch.no_grad()
def logits_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    output = model(**batch)
    return output if torch.is_tensor(output) else output.logits


def difference(model: nn.Module, other: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """The largest one of the logits of two models, relative to the largest logit."""
    ours, theirs = logits_of(model, batch), logits_of(other, batch)
    return float((ours - theirs).abs().max() / ours.abs().max())


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every tensor."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that are not what they were, bit for bit."""
    after = model.state_dict()
    assert after.keys() == before.keys()
    return [name for name, tensor in before.items() if not torch.equal(after[name], tensor)]
