# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What enters the last linear layer: found without a table of models, taken in the forward pass of the loss."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def find_representation_layer(model: nn.Module, num_classes: int, name: str | None = None) -> tuple[str, nn.Module]:
    """The module whose input is the representation f_r, and its name.

    Args:
        model (`torch.nn.Module`): the unwrapped model.
        num_classes (`int`): size of the logits.
        name (`str`, *optional*): a module of the model; `None` takes the last linear layer with `num_classes` outputs.

    Raises:
        ValueError: no module of that name (the nearest are listed), or no such linear layer.
    """
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules or name == "":
            near = difflib.get_close_matches(name, [m for m in modules if m], n=3, cutoff=0.0)
            raise ValueError(
                f"representation_layer {name!r} is not a module of {type(model).__name__}; the nearest names are "
                f"{', '.join(near)}."
            )
        return name, modules[name]
    linear = [(n, m) for n, m in modules.items() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layer with {num_classes} outputs, so there is no representation to "
            "hold invariant: name the module that it enters with representation_layer, or set invariance_coef=0."
        )
    return linear[-1]


class Representation:
    """Input and output of the representation layer in the last forward pass."""

    def __init__(self) -> None:
        self.input: torch.Tensor | None = None
        self.output: torch.Tensor | None = None

    def gives(self, logits: torch.Tensor) -> bool:
        """Whether the layer's output is `logits`, or holds each of its rows at one position."""
        if not isinstance(self.output, torch.Tensor) or self.output.shape[-1:] != logits.shape[-1:]:
            return False
        if self.output.ndim == 2:
            return torch.equal(self.output.to(logits.dtype), logits)
        return self.output.ndim == 3 and bool(self._matches(logits).any(dim=1).all())

    def _matches(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, T), where a position's output is the row of `logits`. Mixed precision hands logits on in float32."""
        assert self.output is not None  # as `gives` has checked
        return (self.output.to(logits.dtype) == logits[:, None, :]).all(dim=-1)

    def per_row(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, D), the representation that gave each row of `logits` (B, K).

        Heads that classify every position and then pick one (decoders, at the last token) are followed by their
        result: the position whose output equals the row's logits.

        Raises:
            ValueError: the layer did not run, or its input cannot be told apart row by row.
        """
        entered = self.input
        if entered is None:
            raise ValueError("The representation layer did not run in the forward pass: name another one.")
        if entered.ndim == 2:
            return entered
        if entered.ndim == 4:  # feature maps that enter a pooling or flattening head
            return entered.flatten(start_dim=1)
        if entered.ndim == 3 and self.gives(logits):
            matches = self._matches(logits)
            if (matches.sum(dim=1) > 1).any():
                raise ValueError(
                    "Several positions of a row give its logits, so the one that was picked cannot be told: name "
                    "another module with representation_layer, or set invariance_coef=0."
                )
            positions = matches.int().argmax(dim=1)
            return entered[torch.arange(len(entered), device=entered.device), positions]
        raise ValueError(
            f"The representation layer gets an input of shape {tuple(entered.shape)}, not one vector a row: name "
            "another module with representation_layer, or set invariance_coef=0."
        )


@contextmanager
def capture_representation(layer: nn.Module) -> Iterator[Representation]:
    """Record what enters and leaves `layer` while the block lasts, with its graph."""
    captured = Representation()

    def record(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        captured.input, captured.output = args[0], output

    handle = layer.register_forward_hook(record)
    try:
        yield captured
    finally:
        handle.remove()
