# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The path of a LoRA adapter. The only file that imports peft.

The straight line from the base W to W + s B A is the adapter's scale: W + alpha s B A. No second model is kept, and
autograd gives A and B their right gradients. From another adapter, it is both adapters at once, scaled by 1 - alpha
and alpha. (The line between the factors A and B themselves is another path.)
Every other tensor that is trained (`modules_to_save`, biases, token deltas) is interpolated against where it started.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from hf_cbft.checkpoints.adapters import PLAIN_INITIALISATIONS, VARIANTS
from hf_cbft.checkpoints.loading import load_model
from hf_cbft.checkpoints.sources import split_revision
from hf_cbft.fingerprint import fingerprint
from hf_cbft.interpolation import named_weights
from hf_cbft.reference import WeightReference, moving_weights

# What a LoRA layer keeps of each adapter.
_FACTORS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
_PARTS = (*_FACTORS, "lora_dropout", "lora_bias", "scaling")
_TOKENS, _ORIGINAL_TOKENS = ".token_adapter.trainable_tokens_delta", ".token_adapter.trainable_tokens_original"
_REFERENCE = "cbft_reference"
_LOADED = "cbft_loaded"


def add_adapter(model: nn.Module, peft_config: Any) -> PeftModel:
    """The model with a new adapter.

    Raises:
        ValueError: the model has an adapter already.
        NotImplementedError: a kind of adapter whose path is not its scale.
    """
    if isinstance(model, PeftModel):
        raise ValueError("The model has an adapter already: leave peft_config out, or pass the base model.")
    _check_config(peft_config)
    return get_peft_model(model, peft_config)


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


def check_adapter(model: PeftModel) -> None:
    """Raise a `NotImplementedError` that says why the path of the model's adapter is not its scale."""
    if len(model.active_adapters) != 1:
        raise NotImplementedError(
            f"The model has {len(model.active_adapters)} active adapters ({', '.join(model.active_adapters)}), and an "
            "end of the path is one adapter: activate the one to train with set_adapter."
        )
    _check_config(model.peft_config[model.active_adapters[0]])
    if any(layer.merged for layer in _layers(model).values()):
        raise NotImplementedError(
            "The adapter is merged into the base, which has no scale any more: unmerge it first."
        )


def _check_config(config: Any) -> None:
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


def _layers(model: nn.Module) -> dict[str, LoraLayer]:
    """LoRA layers by the names that they have without FSDP's wrapper for activation checkpointing."""
    return {
        name.replace("_checkpoint_wrapped_module.", ""): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def _parts(model: PeftModel, adapter: str) -> dict[str, dict[str, Any]]:
    """A frozen copy of an adapter: for each layer that has it, its parts."""
    copied = {}
    for name, layer in _layers(model).items():
        parts = {part: getattr(layer, part)[adapter] for part in _PARTS if adapter in getattr(layer, part, {})}
        if any(part in parts for part in _FACTORS):
            copied[name] = copy.deepcopy(parts)
            for part in _FACTORS:
                if part in copied[name]:
                    copied[name][part].requires_grad_(False)
    return copied


def _other_trained(model: PeftModel, adapter: str) -> dict[str, torch.Tensor]:
    """What training can change beside the factors of the adapter."""
    factors = {
        id(parameter)
        for layer in _layers(model).values()
        for part in _FACTORS
        if adapter in getattr(layer, part, {})
        for parameter in _parameters(getattr(layer, part)[adapter])
    }
    return {n: t for n, t in moving_weights(model).items() if id(t) not in factors and _ORIGINAL_TOKENS not in n}


def _parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [part] if isinstance(part, nn.Parameter) else list(part.parameters())


def _is_new(model: PeftModel, adapter: str) -> bool:
    """Whether the adapter adds nothing: every B (weight and bias) is zero."""
    return not any(
        parameter.count_nonzero()
        for layer in _layers(model).values()
        for part in ("lora_B", "lora_embedding_B")
        if adapter in getattr(layer, part, {})
        for parameter in _parameters(getattr(layer, part)[adapter])
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


class AdapterReference:
    """The reference of a model that trains an adapter: the base, or another adapter on it.

    Args:
        model (`PeftModel`): the model, whole.
        adapter (`str`): the adapter that is trained.
        parts (`dict`): the other adapter's parts by layer; empty where the reference is the base.
        others (`Mapping[str, torch.Tensor]`): where the other trained weights start.
        device (`torch.device`, *optional*), dtype (`torch.dtype`, *optional*): of those, as in [`WeightReference`].
    """

    def __init__(
        self,
        model: PeftModel,
        adapter: str,
        parts: dict[str, dict[str, Any]],
        others: Mapping[str, torch.Tensor],
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.adapter, self.parts = adapter, parts
        self.others = WeightReference(others, device, dtype)
        self._base = base_weights(model)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """All that is kept beside the model, by name."""
        kept = {f"others.{name}": weight for name, weight in self.others.weights.items()}
        for layer, parts in self.parts.items():
            for part in _FACTORS:
                for i, parameter in enumerate(_parameters(parts[part]) if part in parts else []):
                    kept[f"adapter.{layer}.{part}.{i}"] = parameter.detach()
            kept[f"adapter.{layer}.scaling"] = torch.tensor(float(parts["scaling"]), dtype=torch.float64)
        return kept

    def fingerprint(self) -> str:
        """A hash of what is kept, and one of the base."""
        trained = {_start_name(name) for name in self.others.weights}
        base = {name: weight for name, weight in self._base.items() if name not in trained}
        return f"{fingerprint(self.weights)}+{fingerprint(base)}"

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over what an earlier run kept."""
        self.others.restore({n.removeprefix("others."): w for n, w in weights.items() if n.startswith("others.")})
        with torch.no_grad():
            for name, tensor in self.weights.items():
                if name.startswith("adapter.") and not name.endswith(".scaling"):
                    tensor.copy_(weights[name])

    def settle(self, model: nn.Module) -> None:
        self.others.settle(model)
        self._base = {}
        layers = _layers(model)
        for name, parts in self.parts.items():
            device = next(layers[name].get_base_layer().parameters()).device
            for part in (*_FACTORS, "lora_dropout"):
                if isinstance(parts.get(part), nn.Module):
                    parts[part].to(device)
                elif part in parts:
                    parts[part] = nn.Parameter(parts[part].to(device), requires_grad=False)

    def loss_factor(self, alpha: float) -> float:
        """1: the scale is part of the graph, and the other weights' gradients are scaled when the block ends."""
        return 1.0

    @contextmanager
    def at(self, model: nn.Module, alpha: float) -> Iterator[None]:
        """The model at the point alpha of the line from the reference to itself. Run backward inside."""
        others = [parameter for name, parameter in named_weights(model).items() if name in self.others.weights]
        earlier = [parameter.grad for parameter in others]
        with self.others.at(model, alpha, self._is_factor), self._scaled(model, alpha):
            for parameter in others:
                parameter.grad = None
            try:
                yield
            finally:
                # By the chain rule, as for any interpolated weight; the factors have it from the scale.
                for parameter, gradient in zip(others, earlier, strict=True):
                    if parameter.grad is not None:
                        parameter.grad.mul_(alpha)
                    if gradient is not None:
                        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _is_factor(self, name: str) -> bool:
        return any(f".{part}.{self.adapter}" in name for part in _FACTORS)

    @contextmanager
    def _scaled(self, model: nn.Module, alpha: float) -> Iterator[None]:
        """The adapter scaled by alpha; a reference adapter, where there is one, active beside it by 1 - alpha."""
        layers: dict[str, Any] = dict(_layers(model))
        if not self.parts.keys() <= layers.keys():
            raise ValueError(
                "The model has lost LoRA layers since its reference was taken: train the model as it was."
            )
        before = {name: (layer.scaling.get(self.adapter), layer._active_adapter) for name, layer in layers.items()}
        try:
            for name, layer in layers.items():
                if self.adapter in layer.scaling:
                    layer.scaling[self.adapter] = alpha * before[name][0]
                if name in self.parts:
                    for part, value in self.parts[name].items():
                        if part == "lora_dropout":
                            value.train(layer.training)
                        getattr(layer, part)[_REFERENCE] = (1.0 - alpha) * value if part == "scaling" else value
                    layer._active_adapter = [_REFERENCE, self.adapter]
            yield
        finally:
            for name, layer in layers.items():
                scale, active = before[name]
                if scale is not None:
                    layer.scaling[self.adapter] = scale
                layer._active_adapter = active
                for part in self.parts.get(name, ()):
                    if _REFERENCE in getattr(layer, part):
                        del getattr(layer, part)[_REFERENCE]


def adapter_reference(
    model: PeftModel,
    ref_model: nn.Module | str | Path | None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> AdapterReference:
    """The reference of a model that trains an adapter.

    Args:
        model (`PeftModel`): its active adapter is trained.
        ref_model (`PeftModel`, `torch.nn.Module`, `str` or `Path`, *optional*):
            Another adapter on the same base, as a model or as what `PeftModel.load_adapter` takes; or the base itself.
            `None`: the base for an adapter that is new (B = 0), else a frozen copy of the adapter as it is now.

    Raises:
        ValueError: `ref_model` is on another base, or trains modules that `model` does not.
    """
    (adapter,) = model.active_adapters
    others = {name: tensor.detach().clone() for name, tensor in _other_trained(model, adapter).items()}
    if ref_model is None or ref_model is model:
        parts = {} if _is_new(model, adapter) else _parts(model, adapter)
        return AdapterReference(model, adapter, parts, others, device, dtype)
    if isinstance(ref_model, (str, Path)):
        ref_config = adapter_config(str(ref_model))
        if ref_config is None:
            ref_model = load_model(ref_model)
        else:
            return _loaded_reference(model, str(ref_model), ref_config, adapter, others, device, dtype)
    _check_same_base(model, ref_model, {_start_name(name) for name in others})
    if not isinstance(ref_model, PeftModel):
        starts = _values_in_base(others, model, adapter, named_weights(ref_model))
        return AdapterReference(model, adapter, {}, starts, device, dtype)
    check_adapter(ref_model)
    (ref_adapter,) = ref_model.active_adapters
    starts = _starting_values(others, adapter, ref_model, ref_adapter)
    return AdapterReference(model, adapter, _parts(ref_model, ref_adapter), starts, device, dtype)


def _loaded_reference(
    model: PeftModel, source: str, config: Any, adapter: str, others: dict[str, torch.Tensor], device: Any, dtype: Any
) -> AdapterReference:
    """The adapter at `source`, taken through the model's own base and off it again."""
    _check_config(config)
    own = model.peft_config[adapter].base_model_name_or_path
    if own and config.base_model_name_or_path and own != config.base_model_name_or_path:
        raise ValueError(
            f"ref_model {source} is an adapter on {config.base_model_name_or_path}, the model's is on {own}: both "
            "ends of the path need the same base."
        )
    name, revision = split_revision(source)
    try:
        model.load_adapter(name, _LOADED, revision=revision)
        starts = _starting_values(others, adapter, model, _LOADED)
        return AdapterReference(model, adapter, _parts(model, _LOADED), starts, device, dtype)
    except RuntimeError as error:  # sizes that do not match
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"ref_model {source} does not fit on the model's base: {reason}") from error
    finally:
        if _LOADED in model.peft_config:
            model.delete_adapter(_LOADED)
            model.set_adapter(adapter)


def path_reference(
    model: PeftModel, other: PeftModel | nn.Module | Mapping[str, torch.Tensor] | str
) -> AdapterReference:
    """The reference of an evaluation: the other end of the path of an adapter that need not be set up for training.

    Args:
        model (`PeftModel`): its active adapter is scaled.
        other (`PeftModel`, `torch.nn.Module`, `Mapping[str, torch.Tensor]` or `str`):
            Another adapter on the same base, the base (a model, or its weights), or where another adapter is stored.

    Raises:
        ValueError: `other` is on another base, or trains modules that `model` does not.
        NotImplementedError: a stored adapter that brings biases, which would take the place of the model's.
    """
    (adapter,) = model.active_adapters
    with _marked_as_trained(model, adapter):
        if isinstance(other, str):
            for config in (model.peft_config[adapter], adapter_config(other)):
                if config is not None and config.bias != "none":
                    raise NotImplementedError(f"An adapter trains biases (bias={config.bias!r}) of the base itself.")
            return adapter_reference(model, other)
        others = {name: tensor.detach() for name, tensor in _other_trained(model, adapter).items()}
        if isinstance(other, Mapping):
            return AdapterReference(model, adapter, {}, _values_in_base(others, model, adapter, other))
        _check_same_base(model, other, {_start_name(name) for name in others}, "The other end")
        if not isinstance(other, PeftModel):
            return AdapterReference(model, adapter, {}, _values_in_base(others, model, adapter, named_weights(other)))
        (other_adapter,) = other.active_adapters
        starts = _starting_values(others, adapter, other, other_adapter)
        return AdapterReference(model, adapter, _parts(other, other_adapter), starts)


@contextmanager
def _marked_as_trained(model: PeftModel, adapter: str) -> Iterator[None]:
    """What the adapter trains needs gradients in the block; an adapter that was loaded to be used has none."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    bias = model.peft_config[adapter].bias
    own = {id(layer.get_base_layer().bias) for layer in _layers(model).values() if hasattr(layer, "get_base_layer")}
    try:
        for name, parameter in model.named_parameters():
            of_bias = (bias == "all" and name.endswith("bias")) or (bias == "lora_only" and id(parameter) in own)
            parameter.requires_grad_(of_bias or f".{adapter}" in name)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


def _check_same_base(model: PeftModel, ref_model: nn.Module, trained: set[str], what: str = "ref_model") -> None:
    own, given = base_weights(model), base_weights(ref_model)
    for name, tensor in own.items():
        if name in trained:  # a bias of the base
            continue
        other = given.get(name)
        if other is None or other.shape != tensor.shape or not torch.equal(other.to(tensor), tensor):
            how = "is missing" if other is None else "differs"
            raise ValueError(
                f"{what} is on another base: {name} {how} there. The path of an adapter starts at its own base, "
                "or at another adapter on it."
            )


def _start_name(name: str) -> str:
    """The plain name of a trained weight of an adapter model."""
    head, found, tail = name.removeprefix("base_model.model.").partition(".modules_to_save.")
    plain = f"{head}.{tail.partition('.')[2]}" if found else head
    return plain.replace(".base_layer.", ".")


def _values_in_base(
    others: dict[str, torch.Tensor], model: PeftModel, adapter: str, given: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What the other trained weights are in the base: a row of the embedding for a token delta."""
    values = {}
    for name in others:
        module, found, _ = name.partition(_TOKENS)
        if found:
            token_adapter: Any = model.get_submodule(f"{module}.token_adapter")
            indices = token_adapter.token_indices[adapter]
            values[name] = given[_start_name(f"{module}.weight")][indices]
        else:
            values[name] = given[_start_name(name)]
    return {name: value.detach().clone() for name, value in values.items()}


def _starting_values(
    others: dict[str, torch.Tensor], adapter: str, ref_model: PeftModel, ref_adapter: str
) -> dict[str, torch.Tensor]:
    """Where the other trained weights start: what they are with the reference adapter, or in the base."""
    given = named_weights(ref_model)
    starts = {}
    for name in others:
        there = name.replace(f".modules_to_save.{adapter}.", f".modules_to_save.{ref_adapter}.")
        there = there.replace(f"trainable_tokens_delta.{adapter}", f"trainable_tokens_delta.{ref_adapter}")
        if there not in given:
            there = name.replace(f".modules_to_save.{adapter}.", ".original_module.")
        if there not in given or given[there].shape != others[name].shape:
            raise ValueError(
                f"The reference adapter has nothing for {name}, which the model trains: train both alike."
            )
        starts[name] = given[there].detach().clone()
    trained = {n.partition(".modules_to_save.")[0] for n in others if ".modules_to_save." in n}
    for name in given:
        module, found, rest = name.partition(".modules_to_save.")
        if found and rest.startswith(f"{ref_adapter}.") and module not in trained:
            raise ValueError(
                f"The reference adapter brings its own {module.removeprefix('base_model.model.')}, which the model "
                "does not train: name it in modules_to_save of the model's adapter too."
            )
    return starts
