# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The reference theta_C of a training run, kept as weights; for adapters see `hf_cbft.references.adapter`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.paths.geometry import LinearPath
from hf_cbft.paths.interpolation import at_point, check_same_weights, local, named_weights, sharded_like


def moving_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training can change, by name: trainable parameters and persistent buffers. The tensors are the model's."""
    return {
        name: tensor
        for name, tensor in named_weights(model).items()
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
    }


def check_same_dtypes(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise a `ValueError` that names the first weight in which the dtype of `given` differs."""
    for name, tensor in expected.items():
        if tensor.is_floating_point() and given[name].dtype != tensor.dtype:
            raise ValueError(
                f"{what} keeps {name} in {given[name].dtype}, the model in {tensor.dtype}: load both in one dtype, or "
                "name the one that the reference is to be kept in with ref_dtype."
            )


class WeightReference:
    """The reference as weights by name: one copy at rest.

    Args:
        weights (`Mapping[str, torch.Tensor]`): all that lies on the path; what is not named stays the model's own.
        device (`torch.device`, *optional*): where they are kept; `None`: where the model's are.
        dtype (`torch.dtype`, *optional*): of those in floating point; `None`: as they are.
    """

    def __init__(
        self, weights: Mapping[str, torch.Tensor], device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.weights = dict(weights)
        self.device, self.dtype = device, dtype
        self._settled = False

    def settle(self, model: nn.Module) -> None:
        """Move the weights to where they are needed, once: each beside the model's, sharded as the model's is."""
        if self._settled:
            return
        self._settled = True
        live = named_weights(model)
        for name, weight in self.weights.items():
            weight = sharded_like(live[name], weight.detach())
            dtype = self.dtype if weight.is_floating_point() else None
            self.weights[name] = weight.to(device=self.device or local(live[name]).device, dtype=dtype)

    def loss_factor(self, alpha: float) -> float:
        """What the loss at the point is multiplied by, so that its gradient is that of the model's weights."""
        return alpha

    def fingerprint(self) -> str:
        """A hash of what the reference is made of."""
        return fingerprint(self.weights)

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over what an earlier run kept."""
        check_same_weights(self.weights, weights, "The stored reference")
        self.weights = dict(weights)
        self._settled = False

    @contextmanager
    def at(
        self, model: nn.Module, alpha: float, elsewhere: Callable[[str], bool] = lambda name: False
    ) -> Iterator[None]:
        """The model at the point alpha of the line from the reference to itself. Run backward inside.

        `elsewhere` tells by name which trained weights are moved by other means.
        """
        moving = moving_weights(model)
        moved = [name for name in moving if name not in self.weights and not elsewhere(name)]
        if moved:
            raise ValueError(
                f"{moved[0]} can be trained but is not on the path, because it was frozen when training began: set "
                "what is trainable before."
            )
        with at_point(model, LinearPath(start=self.weights), alpha, names=self.weights):
            yield


def weight_reference(
    model: nn.Module, ref_model: nn.Module | None, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> WeightReference:
    """The reference of `model`: a copy of what it can train, or all the weights of `ref_model`.

    Raises:
        ValueError: `ref_model` has other names, shapes or (unless one is asked for) dtypes than `model`.
    """
    if ref_model is None or ref_model is model:
        return WeightReference({n: t.detach().clone() for n, t in moving_weights(model).items()}, device, dtype)
    live, given = named_weights(model), named_weights(ref_model)
    check_same_weights(live, given, "ref_model")
    if dtype is None:
        check_same_dtypes(live, given, "ref_model")
    # Frozen and equal: the model's own tensor serves both ends.
    weights = {
        name: weight.detach()
        for name, weight in given.items()
        if live[name].requires_grad or not isinstance(live[name], nn.Parameter) or not _equal(weight, live[name])
    }
    return WeightReference(weights, device, dtype)


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first.to(second.device), second)
