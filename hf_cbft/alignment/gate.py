# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The gate: an alignment passes if the model computes what it did, in a float64 copy, on random and on real input."""

import copy
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from hf_cbft.alignment.symmetries import Permutations, Specification
from hf_cbft.paths.interpolation import evaluation_mode

# The largest difference of the logits that rounding explains, relative to the largest logit.
_BOUND = 1e-8
# Of models whose modules compute in float32 whatever they are given (RMSNorm, rotary embeddings).
_BOUND_FLOAT32_INSIDE = 1e-5
_ROWS, _IMAGE_SIZE, _LENGTHS = 3, 64, (5, 16, 11)


class AlignmentError(ValueError):
    """The aligned model does not compute what the original did: the specification is wrong."""


class Gate:
    """A float64 copy of a model, and what it computes: to be held against the same copy with its units moved.

    Args:
        model (`torch.nn.Module`): as it is. It stays so.
        batches (`Iterable`, *optional*): real input, beside the random one.

    Raises:
        ValueError: no logits, logits that do not depend on the input, or input that cannot be made up.
    """

    def __init__(self, model: Any, batches: Iterable[Any] = ()) -> None:
        self.copy = _in_float64(model)
        given = [_in_double(batch) for batch in batches]
        try:
            self.batches = [*random_batches(self.copy, seed=0), *given]
        except ValueError:
            if not given:
                raise
            self.batches = given
        with torch.no_grad(), evaluation_mode(self.copy):
            self.logits = [_logits(self.copy, batch) for batch in self.batches]
        if not all(bool(torch.isfinite(logits).all()) for logits in self.logits):
            raise ValueError(f"{type(model).__name__} gives logits that are not finite, so nothing can be compared.")
        rows = torch.cat([logits.reshape(-1, logits.shape[-1]) for logits in self.logits])
        if bool((rows == rows[0]).all()):
            raise ValueError(
                f"{type(model).__name__} gives the same logits for every input, so they cannot show whether an "
                "alignment changed it: give a trained model."
            )

    def difference(self, specification: Specification, permutations: Permutations) -> float:
        """The largest difference that the permutations make to the logits, relative to the largest of them.

        The copy's units are moved, and moved back.
        """
        specification.permute_(self.copy, permutations)
        try:
            with torch.no_grad(), evaluation_mode(self.copy):
                return max(
                    float((_logits(self.copy, batch) - before).abs().max() / before.abs().max().clamp_min(1e-300))
                    for batch, before in zip(self.batches, self.logits, strict=True)
                )
        finally:
            specification.permute_(self.copy, specification.inverse(permutations))

    def bound(self, specification: Specification) -> float:
        """Up to where a difference is rounding."""
        return _BOUND_FLOAT32_INSIDE if specification.float32_inside else _BOUND

    def passes(self, specification: Specification, permutations: Permutations) -> bool:
        return self.difference(specification, permutations) <= self.bound(specification)

    def check(self, specification: Specification, permutations: Permutations) -> float:
        """The difference, where it is rounding.

        Raises:
            AlignmentError: it is more; the first layer that differs is named.
        """
        difference, bound = self.difference(specification, permutations), self.bound(specification)
        if not difference <= bound:
            layer = self.first_difference(specification, permutations, bound)
            raise AlignmentError(
                f"The aligned model is not the same function: its logits differ by {difference:.2g} of the largest "
                f"(allowed: {bound:.0e}), first at {layer}. The specification of {specification.name} is wrong there, "
                "and nothing was changed."
            )
        return difference

    @torch.no_grad()
    def first_difference(self, specification: Specification, permutations: Permutations, bound: float) -> str:
        """The first module, in the order in which they run, whose output is not the original's in the new order."""
        with evaluation_mode(self.copy):
            before = self._outputs(specification)
            specification.permute_(self.copy, permutations)
            try:
                after = self._outputs(specification)
            finally:
                specification.permute_(self.copy, specification.inverse(permutations))
        for (name, output), (_, moved) in zip(before, after, strict=True):
            dims, axis = specification.outputs[name]
            index = specification.axis_index(axis, permutations)
            candidates = [(moved, output)]
            if index is not None:
                order = torch.from_numpy(index).to(output.device)
                # A norm does not say which axis holds its units.
                axes = [dim for dim in dims if output.shape[dim] == len(index)]
                candidates = [(moved, output.index_select(dim, order)) for dim in axes]
            elif len(dims) > 1 and output.dim() > 1:
                # A norm inside of each head: its units stay, and the heads may trade places.
                candidates.append((moved.sort(-2).values, output.sort(-2).values))
            limit = bound * float(output.abs().max().clamp_min(1e-300))
            if all(float((given - expected).abs().max()) > limit for given, expected in candidates):
                return name
        return "the logits"

    def _outputs(self, specification: Specification) -> list[tuple[str, torch.Tensor]]:
        """The outputs of all modules in the specification, in the order in which they run."""
        found: list[tuple[str, torch.Tensor]] = []

        def keep(name: str) -> Any:
            # A copy: the sum of a residual block is written over it.
            return lambda module, inputs, output: (
                found.append((name, output.clone())) if torch.is_tensor(output) else None
            )

        modules = dict(self.copy.named_modules())
        with ExitStack() as stack:
            for name in specification.outputs:
                stack.callback(modules[name].register_forward_hook(keep(name)).remove)
            for batch in self.batches:
                _logits(self.copy, batch)
        return found


def _logits(model: Any, batch: Any) -> torch.Tensor:
    output = run(model, batch)
    logits = output if torch.is_tensor(output) else getattr(output, "logits", None)
    if logits is None:
        raise ValueError(
            f"{type(model).__name__} gives no logits: what it gives moves with its units, so it is no proof. Give the "
            "model with its head."
        )
    return logits


def _in_double(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {name: _in_double(value) for name, value in batch.items()}
    return batch.double() if torch.is_tensor(batch) and batch.is_floating_point() else batch


def run(model: nn.Module, batch: Any) -> Any:
    """The outputs of a model for a batch without its labels, on the device where the model is."""
    device = next(model.parameters()).device
    if isinstance(batch, Mapping):
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "class_labels")}
        return model(**send_to_device(inputs, device))
    return model(send_to_device(batch, device))


def _in_float64(model: Any) -> Any:
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    config = getattr(copied, "config", None)
    if getattr(copied, "_supports_sdpa", False) and getattr(config, "_attn_implementation", None) != "sdpa":
        copied.set_attn_implementation("sdpa")  # the others take their softmax in float32, or do not run in float64
    return copied.double()


def random_batches(model: Any, seed: int) -> list[dict[str, Any] | torch.Tensor]:
    """Input that a model takes, drawn at random, by its configuration.

    Raises:
        ValueError: a model whose input this cannot make up.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    device = next(model.parameters()).device

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    if name == "input_ids" and hasattr(config, "vocab_size"):
        # RoBERTa counts its positions from 2.
        longest = max(1, (getattr(config, "max_position_embeddings", None) or max(_LENGTHS) + 2) - 2)
        texts = [  # one row at a time, so that nothing is padded
            torch.randint(config.vocab_size, (1, min(length, longest)), generator=generator).to(device)
            for length in _LENGTHS
        ]
        if getattr(config, "is_encoder_decoder", False):
            for text in texts:
                text[:, -1] = config.eos_token_id  # where T5 and BART read the class
        return [{"input_ids": text} for text in texts]
    vision = getattr(config, "vision_config", config)
    if name == "pixel_values":
        size = getattr(vision, "image_size", None) or _IMAGE_SIZE
        height, width = (size, size) if isinstance(size, int) else size
        return [{"pixel_values": normal(_ROWS, getattr(vision, "num_channels", 3), height, width)}]
    first = next((module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))), None)
    if config is None and isinstance(first, nn.Linear):
        return [normal(_ROWS, first.in_features)]
    if config is None and isinstance(first, nn.Conv2d):
        return [normal(_ROWS, first.in_channels, _IMAGE_SIZE // 2, _IMAGE_SIZE // 2)]
    raise ValueError(
        f"What a {type(model).__name__} takes cannot be made up: give data, so that the aligned model can be compared "
        "with the original."
    )
