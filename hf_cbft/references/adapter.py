# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The path of a LoRA adapter from its base, or from another adapter on it.

The straight line from the base W to W + s B A is the adapter's scale: W + alpha s B A. No second model is kept, and
autograd gives A and B their right gradients. From another adapter, it is both adapters at once, scaled by 1 - alpha
and alpha. (The line between the factors A and B themselves is another path.)
Every other tensor that is trained (`modules_to_save`, biases, token deltas) is interpolated against where it started.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_cbft.architectures import has_adapter
from hf_cbft.checkpoints.loading import load_model
from hf_cbft.checkpoints.sources import split_revision
from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.paths.interpolation import named_weights
from hf_cbft.references.lora import (
    FACTORS,
    TOKENS,
    adapter_config,
    adapter_parts,
    base_weights,
    check_adapter,
    check_config,
    is_new,
    lora_layers,
    other_trained,
    parameters_of,
)
from hf_cbft.references.weights import WeightReference

_REFERENCE = "cbft_reference"
_LOADED = "cbft_loaded"


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
        model: Any,
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
            for part in FACTORS:
                for i, parameter in enumerate(parameters_of(parts[part]) if part in parts else []):
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
        layers = lora_layers(model)
        for name, parts in self.parts.items():
            device = next(layers[name].get_base_layer().parameters()).device
            for part in (*FACTORS, "lora_dropout"):
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
        return any(f".{part}.{self.adapter}" in name for part in FACTORS)

    @contextmanager
    def _scaled(self, model: nn.Module, alpha: float) -> Iterator[None]:
        """The adapter scaled by alpha; a reference adapter, where there is one, active beside it by 1 - alpha."""
        layers: dict[str, Any] = dict(lora_layers(model))
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
    model: Any, ref_model: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
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
    others = {name: tensor.detach().clone() for name, tensor in other_trained(model, adapter).items()}
    if ref_model is None or ref_model is model:
        parts = {} if is_new(model, adapter) else adapter_parts(model, adapter)
        return AdapterReference(model, adapter, parts, others, device, dtype)
    if isinstance(ref_model, (str, Path)):
        ref_config = adapter_config(str(ref_model))
        if ref_config is None:
            ref_model = load_model(ref_model)
        else:
            return _loaded_reference(model, str(ref_model), ref_config, adapter, others, device, dtype)
    _check_same_base(model, ref_model, {_start_name(name) for name in others})
    if not has_adapter(ref_model):
        starts = _values_in_base(others, model, adapter, named_weights(ref_model))
        return AdapterReference(model, adapter, {}, starts, device, dtype)
    check_adapter(ref_model)
    (ref_adapter,) = ref_model.active_adapters
    starts = _starting_values(others, adapter, ref_model, ref_adapter)
    return AdapterReference(model, adapter, adapter_parts(ref_model, ref_adapter), starts, device, dtype)


def _loaded_reference(
    model: Any, source: str, config: Any, adapter: str, others: dict[str, torch.Tensor], device: Any, dtype: Any
) -> AdapterReference:
    """The adapter at `source`, taken through the model's own base and off it again."""
    check_config(config)
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
        return AdapterReference(model, adapter, adapter_parts(model, _LOADED), starts, device, dtype)
    except RuntimeError as error:  # sizes that do not match
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"ref_model {source} does not fit on the model's base: {reason}") from error
    finally:
        if _LOADED in model.peft_config:
            model.delete_adapter(_LOADED)
            model.set_adapter(adapter)


def path_reference(model: Any, other: Any) -> AdapterReference:
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
        others = {name: tensor.detach() for name, tensor in other_trained(model, adapter).items()}
        if isinstance(other, Mapping):
            return AdapterReference(model, adapter, {}, _values_in_base(others, model, adapter, other))
        _check_same_base(model, other, {_start_name(name) for name in others}, "The other end")
        if not has_adapter(other):
            return AdapterReference(model, adapter, {}, _values_in_base(others, model, adapter, named_weights(other)))
        (other_adapter,) = other.active_adapters
        starts = _starting_values(others, adapter, other, other_adapter)
        return AdapterReference(model, adapter, adapter_parts(other, other_adapter), starts)


@contextmanager
def _marked_as_trained(model: Any, adapter: str) -> Iterator[None]:
    """What the adapter trains needs gradients in the block; an adapter that was loaded to be used has none."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    bias = model.peft_config[adapter].bias
    own = {
        id(layer.get_base_layer().bias) for layer in lora_layers(model).values() if hasattr(layer, "get_base_layer")
    }
    try:
        for name, parameter in model.named_parameters():
            of_bias = (bias == "all" and name.endswith("bias")) or (bias == "lora_only" and id(parameter) in own)
            parameter.requires_grad_(of_bias or f".{adapter}" in name)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


def _check_same_base(model: Any, ref_model: nn.Module, trained: set[str], what: str = "ref_model") -> None:
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
    others: dict[str, torch.Tensor], model: Any, adapter: str, given: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What the other trained weights are in the base: a row of the embedding for a token delta."""
    values = {}
    for name in others:
        module, found, _ = name.partition(TOKENS)
        if found:
            token_adapter: Any = model.get_submodule(f"{module}.token_adapter")
            indices = token_adapter.token_indices[adapter]
            values[name] = given[_start_name(f"{module}.weight")][indices]
        else:
            values[name] = given[_start_name(name)]
    return {name: value.detach().clone() for name, value in values.items()}


def _starting_values(
    others: dict[str, torch.Tensor], adapter: str, ref_model: Any, ref_adapter: str
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
