# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What enters the last linear layer: found without a table of models, taken in the forward pass of the loss."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def check_single_label(model: nn.Module) -> None:
    """Raise a `ValueError` unless the model gives one of several classes to a row.

    Args:
        model (`torch.nn.Module`): the unwrapped model; its `config` tells, and a model without one passes.
    """
    config = getattr(model, "config", None)
    problem, num_labels = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    if problem == "multi_label_classification":
        given, why = f'problem_type = "{problem}"', "a row may be of several classes or of none"
    elif problem == "regression":
        given, why = f'problem_type = "{problem}"', "its targets are numbers"
    elif num_labels == 1:
        given, why = "num_labels = 1", "its one output is a number"
    else:
        return
    raise ValueError(
        f"{type(model).__name__} has {given}: {why}, so there are no class means to hold invariant, and no "
        "cross-entropy to raise a barrier of. Give every row one of at least two classes, and load the model with "
        'num_labels and problem_type="single_label_classification".'
    )


def find_representation_layer(model: nn.Module, num_classes: int, name: str | None = None) -> tuple[str, nn.Module]:
    """The module whose input is the representation f_r, and its name.

    What counts as a linear layer is told by its `out_features`, so that one with an adapter is found as a whole.

    Args:
        model (`torch.nn.Module` or `PeftModel`): the unwrapped model.
        num_classes (`int`): size of the logits.
        name (`str`, *optional*):
            A module of the model, or of the base inside of a `PeftModel`; `None` takes the last linear layer with
            `num_classes` outputs.

    Raises:
        ValueError: no module of that name (the nearest are listed), or no such linear layer.
    """
    # A PeftModel is told without importing peft.
    outer: Any = model
    base = outer.get_base_model() if hasattr(outer, "peft_config") and hasattr(outer, "get_base_model") else model
    prefix = next(f"{n}." if n else "" for n, module in model.named_modules() if module is base)
    modules = {n: module for n, module in base.named_modules() if n}
    if name is not None:
        inner = name.removeprefix(prefix)
        if inner not in modules:
            near = difflib.get_close_matches(inner, modules, n=3, cutoff=0.0)
            raise ValueError(
                f"representation_layer {name!r} is not a module of {type(base).__name__}; the nearest names are "
                f"{', '.join(near)}."
            )
        return prefix + inner, modules[inner]
    found = None
    inside: tuple[str, ...] = tuple(_idle_copies(modules))
    for n, module in modules.items():  # a module comes before those inside of it
        outputs = getattr(module, "out_features", None)
        if f"{n}.".startswith(inside) or not isinstance(outputs, int):
            continue
        inside = (*inside, f"{n}.")
        if outputs == num_classes:
            found = prefix + n, module
    if found is None:
        raise ValueError(
            f"{type(base).__name__} has no linear layer with {num_classes} outputs, so there is no representation to "
            "hold invariant: name the module that it enters with representation_layer, or set invariance_coef=0."
        )
    return found


def _idle_copies(modules: dict[str, nn.Module]) -> Iterator[str]:
    """Beginnings of the names of modules that PEFT keeps (`modules_to_save`) and the active adapter does not run."""
    for name, module in modules.items():
        copies, active = module._modules.get("modules_to_save"), getattr(module, "active_adapters", None)
        if not isinstance(copies, nn.ModuleDict) or not isinstance(active, list):
            continue
        runs = active[0] if active else None
        if runs is not None and runs in copies:
            yield f"{name}.original_module."
        yield from (f"{name}.modules_to_save.{adapter}." for adapter in copies if adapter != runs)


def pooled_states(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""f_r = mean of h_t over the positions t < T that predict a counted token, labels[t + 1] != -100

    The representation of a row in a causal language model: its states are those from which the completion is read off.

    Args:
        states (`torch.Tensor`): (B, T, D), what enters the language model head.
        labels (`torch.Tensor`): (B, T), the tokens themselves, -100 for those that do not count (prompt, padding).

    Returns:
        `torch.Tensor`: (B, D), differentiable in `states`; float32 for half-precision input.

    Raises:
        ValueError: a row without a token that counts, or states of other positions than the labels'.

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft.representations import pooled_states
    >>> states = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [5.0, 4.0], [9.0, 9.0]]])
    >>> pooled_states(states, torch.tensor([[-100, -100, 7, 8]]))
    tensor([[4., 3.]])

    ```
    """
    if states.ndim != 3 or states.shape[:2] != labels.shape:
        raise ValueError(
            f"The states that enter the head have the shape {tuple(states.shape)} and the labels "
            f"{tuple(labels.shape)}: there is no state for each token, so set invariance_coef=0."
        )
    counted = labels[:, 1:] != -100
    counts = counted.sum(dim=1)
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(
            f"Row {empty[0]} of the batch has no token that counts (all its labels after the first are -100), so it "
            "has no representation: leave out rows without a completion, or cut the prompt instead of the completion."
        )
    states = states[:, :-1].to(torch.promote_types(states.dtype, torch.float32))
    # Not a product with the mask: what is not counted may be infinite, and 0 * inf is not 0.
    return torch.where(counted[:, :, None], states, 0.0).sum(dim=1) / counts[:, None]


class Representation:
    """Input and output of the representation layer in the last forward pass."""

    def __init__(self) -> None:
        self.input: torch.Tensor | None = None
        self.output: torch.Tensor | None = None

    def gives(self, logits: torch.Tensor) -> bool:
        """Whether the layer's output is `logits`, or holds each of its rows at one position."""
        if not isinstance(self.output, torch.Tensor) or self.output.shape[-1:] != logits.shape[-1:]:
            return False
        if self.output.ndim == logits.ndim:
            return torch.equal(self.output.to(logits.dtype), logits)
        return self.output.ndim == 3 and bool(self._matches(logits).any(dim=1).all())

    def _matches(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, T), where a position's output is the row of `logits`. Mixed precision hands logits on in float32."""
        assert self.output is not None  # as `gives` has checked
        return (self.output.to(logits.dtype) == logits[:, None, :]).all(dim=-1)

    def per_row(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, D), the representation that gave each row of `logits` (B, K).

        Heads that classify every position and then pick one (decoders, at the last token) are followed by their
        result: the position whose output equals the row's logits. Where several do, as happens in bfloat16, the
        indices that picked the logits are read from their graph.

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
            positions = matches.int().argmax(dim=1)
            if (matches.sum(dim=1) > 1).any():
                picked = _picked_positions(logits, matches)
                if picked is None:
                    raise ValueError(
                        "Several positions of a row give its logits, so the one that was picked cannot be told: name "
                        "another module with representation_layer, or set invariance_coef=0."
                    )
                positions = picked
            return entered[torch.arange(len(entered), device=entered.device), positions]
        raise ValueError(
            f"The representation layer gets an input of shape {tuple(entered.shape)}, not one vector a row: name "
            "another module with representation_layer, or set invariance_coef=0."
        )


def _picked_positions(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor | None:
    """(B,), the positions at which `outputs[rows, positions]` picked the logits; `None` where there was no such step.

    The graph is read, not run: a backward pass to the outputs would make FSDP2 reshard weights that are still needed.
    """
    node: Any = logits.grad_fn
    rows = torch.arange(len(matches), device=matches.device)
    while node is not None:
        indices: Any = getattr(node, "_saved_indices", ())
        if len(indices) == 2 and all(isinstance(index, torch.Tensor) for index in indices):
            positions = (indices[1].to(matches.device) % matches.shape[1]).broadcast_to(rows.shape)
            return positions if matches[rows, positions].all() else None
        before = [following for following, _ in node.next_functions if following is not None]
        node = before[0] if len(before) == 1 else None
    return None


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
