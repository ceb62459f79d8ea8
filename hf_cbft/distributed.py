# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Sums over ranks, such that N ranks compute what one would on their joint batch.

Everything here is written for gradients that are averaged over the ranks afterwards, as DDP and FSDP2 do: a rank's own
part carries N times its gradient. On one process nothing changes, not even in the last bit.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_objects(value: T) -> list[T]:
    """`value` of every rank, in their order, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


@torch.no_grad()
def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all ranks, without a gradient; `values` stay what they are."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def differentiable_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all ranks, differentiable in this rank's own."""
    if world_size() == 1:
        return values
    own = world_size() * values
    return own + (sum_over_ranks(values) - own.detach())


def differentiable_mean(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean of a scalar over all ranks, differentiable in this rank's own.

    Args:
        value (`torch.Tensor`): scalar, this rank's mean.
        weight (`torch.Tensor`): scalar, how many rows (or tokens) it is a mean of.
    """
    if world_size() == 1:
        return value
    return differentiable_sum(value * (weight / sum_over_ranks(weight)).to(value.dtype))


def no_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Leave gradients unreduced in the block, so that a later backward pass reduces the sum: one all-reduce a step.

    Sharded models (FSDP2) go on reducing: unreduced gradients would have to be kept at full size.
    """
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def on_main_rank(function: Callable[[], T]) -> T:
    """What `function` gives on rank 0, handed to every rank; a `ValueError` or `OSError` is raised on each of them."""
    if world_size() == 1:
        return function()
    outcome: list = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except (ValueError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
