# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters: what they are made of, and which of them have a scale for a path. The only file that imports peft."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from hf_cbft.architectures import class_name
from hf_cbft.checkpoints.adapters import PLAIN_INITIALISATIONS, VARIANTS
from hf_cbft.checkpoints.sources import split_revision
from hf_cbft.paths.interpolation import named_weights
from hf_cbft.references.weights import moving_weights
from hf_cbft.representations import find_representation_layer

# What a LoRA layer keeps of each adapter.
FACTORS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
_PARTS = (*FACTORS, "lora_dropout", "lora_bias", "scaling")
TOKENS, _ORIGINAL_TOKENS = ".token_adapter.trainable_tokens_delta", ".token_adapter.trainable_tokens_original"


def add_adapter(model: nn.Module, peft_config: Any) -> PeftModel:
    """The model with a new adapter.

    Raises:
        ValueError: the model has an adapter already.
        NotImplementedError: a kind of adapter whose path is not its scale.
    """
    if isinstance(model, PeftModel):
        raise ValueError("The model has an adapter already: leave peft_config out, or pass the base model.")
    check_config(peft_config)
    return get_peft_model(model, peft_config)


def make_config(
    model: Any,
    target_modules: str | list[str],
    modules_to_save: list[str] | None = None,
    task_type: str | None = None,
    **options: Any,
) -> LoraConfig:
    """A `LoraConfig` for a model; the last layer of a classifier is trained whole unless others are named.

    Args:
        model (`PreTrainedModel`): the base.
        target_modules (`str` or `list[str]`), modules_to_save (`list[str]`, *optional*): as in `LoraConfig`.
        task_type (`str`, *optional*): PEFT's word for what the model does, such as `"CAUSAL_LM"`.

    Raises:
        ValueError: a module that the model does not have.
    """
    saved = list(modules_to_save or ())
    named = [*saved, *([] if target_modules == "all-linear" else target_modules)]
    known = dict(model.named_modules())
    unknown = [name for name in named if not any(f".{full}".endswith(f".{name}") for full in known)]
    if unknown:
        kinds = sorted({name.rpartition(".")[2] for name, module in known.items() if hasattr(module, "weight")})
        raise ValueError(
            f"The model has no module {unknown[0]!r} for an adapter: its layers end in {', '.join(kinds)}."
        )
    if task_type != "CAUSAL_LM" and not saved:
        saved = [find_representation_layer(model, model.config.num_labels, None)[0]]
    if task_type is None and class_name(model).endswith("ForSequenceClassification"):
        task_type = "SEQ_CLS"
    return LoraConfig(task_type=task_type, target_modules=target_modules, modules_to_save=saved or None, **options)


def adapter_config(source: str, token: str | None = None) -> Any:
    """The configuration of the adapter at a folder or Hub id, or `None` where there is a model and no adapter."""
    name, revision = split_revision(source)
    try:
        return PeftConfig.from_pretrained(name, revision=revision, token=token)
    except ValueError:  # no adapter_config.json
        return None


def load_adapter(model: nn.Module, base: str, source: str, token: str | None = None) -> PeftModel:
    """A model with the adapter from a folder or Hub id, all that the adapter trained marked as trainable.

    Args:
        model (`torch.nn.Module`): the base; it is wrapped, not copied.
        base (`str`): where it comes from.
        source (`str`): of the adapter.

    Raises:
        ValueError: there is no adapter, or it was trained on another base.
    """
    config = adapter_config(source, token)
    if config is None:
        raise ValueError(f"{source} holds no adapter (there is no adapter_config.json): give base+adapter.")
    own = config.base_model_name_or_path
    if own and _last_part(own) != _last_part(base):
        raise ValueError(
            f"The adapter {source} was trained on {own}, not on {base}: give {own}+{source}, or, where {base} is a "
            "copy of it, load the adapter yourself and pass the model."
        )
    name, revision = split_revision(source)
    try:
        return PeftModel.from_pretrained(model, name, revision=revision, token=token, is_trainable=True)
    except RuntimeError as error:  # sizes that do not match
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"The adapter {source} does not fit on {base}: {reason}") from error


def _last_part(name: str) -> str:
    return Path(split_revision(name)[0]).name


def merged(model: PeftModel) -> nn.Module:
    """The model with its adapter added to the weights, as an ordinary one; `model` is used up."""
    return model.merge_and_unload()


def check_adapter(model: Any) -> None:
    """Raise a `NotImplementedError` that says why the path of the model's adapter is not its scale."""
    if len(model.active_adapters) != 1:
        raise NotImplementedError(
            f"The model has {len(model.active_adapters)} active adapters ({', '.join(model.active_adapters)}), and an "
            "end of the path is one adapter: activate the one to train with set_adapter."
        )
    check_config(model.peft_config[model.active_adapters[0]])
    if any(layer.merged for layer in lora_layers(model).values()):
        raise NotImplementedError(
            "The adapter is merged into the base, which has no scale any more: unmerge it first."
        )


def check_config(config: Any) -> None:
    if config.peft_type != PeftType.LORA:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise NotImplementedError(
            f"{kind} is not LoRA, and its path from the base is not a scale: use a LoraConfig, or train all weights."
        )
    variants = [name for name in VARIANTS if getattr(config, name, None)]
    if variants:
        raise NotImplementedError(
            f"{variants[0]} makes the adapter more than W + s B A, so that its path from the base is not its scale: "
            "use plain LoRA, rsLoRA or lora_bias."
        )
    if config.init_lora_weights not in PLAIN_INITIALISATIONS:
        raise NotImplementedError(
            f"init_lora_weights={config.init_lora_weights!r} can change the base, so that the adapter at scale 0 is "
            "not the model that training started from: use True, False, 'gaussian' or 'orthogonal'."
        )


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """LoRA layers by the names that they have without FSDP's wrapper for activation checkpointing."""
    return {
        name.replace("_checkpoint_wrapped_module.", ""): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def adapter_parts(model: Any, adapter: str) -> dict[str, dict[str, Any]]:
    """A frozen copy of an adapter: for each layer that has it, its parts."""
    copied = {}
    for name, layer in lora_layers(model).items():
        parts = {part: getattr(layer, part)[adapter] for part in _PARTS if adapter in getattr(layer, part, {})}
        if any(part in parts for part in FACTORS):
            copied[name] = copy.deepcopy(parts)
            for part in FACTORS:
                if part in copied[name]:
                    copied[name][part].requires_grad_(False)
    return copied


def other_trained(model: PeftModel, adapter: str) -> dict[str, torch.Tensor]:
    """What training can change beside the factors of the adapter."""
    factors = {
        id(parameter)
        for layer in lora_layers(model).values()
        for part in FACTORS
        if adapter in getattr(layer, part, {})
        for parameter in parameters_of(getattr(layer, part)[adapter])
    }
    return {n: t for n, t in moving_weights(model).items() if id(t) not in factors and _ORIGINAL_TOKENS not in n}


def parameters_of(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [part] if isinstance(part, nn.Parameter) else list(part.parameters())


def is_new(model: PeftModel, adapter: str) -> bool:
    """Whether the adapter adds nothing: every B (weight and bias) is zero."""
    return not any(
        parameter.count_nonzero()
        for layer in lora_layers(model).values()
        for part in ("lora_B", "lora_embedding_B")
        if adapter in getattr(layer, part, {})
        for parameter in parameters_of(getattr(layer, part)[adapter])
    )


def _plain_name(name: str) -> str | None:
    """The name that a weight of the base has without adapters; `None` for one that an adapter brought."""
    if any(mark in name for mark in (".lora_", ".modules_to_save.", ".trainable_tokens_")):
        return None
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".").replace(".original_module.", ".").replace(".token_adapter.", ".")


def base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of the base by the names that they have without adapters. The tensors are the model's."""
    if not isinstance(model, PeftModel):
        return named_weights(model)
    plain = {_plain_name(name): tensor for name, tensor in named_weights(model).items()}
    return {name: tensor for name, tensor in plain.items() if name is not None}
