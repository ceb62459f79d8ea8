# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation at a point of a path: what its statistics are estimated on, and which of them stay."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_cbft.distributed import sum_over_ranks, world_size


def batchnorm_modules(model: nn.Module) -> list[_BatchNorm]:
    """The modules of `model` that keep running statistics of their batches."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block, layers in training mode normalise by their batch and leave the running statistics alone.

    Keep it open until backward has run: with activation checkpointing the forward pass happens there once more.
    (Restoring the statistics after the pass instead would raise autograd's version error.)
    """
    changed = [module for module in batchnorm_modules(model) if module.track_running_stats]
    try:
        for module in changed:
            module.track_running_stats = False
        yield
    finally:
        for module in changed:
            module.track_running_stats = True


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> None:
    """Estimate the running statistics anew, as the average over `batches`, each batch with the same weight.

    On several ranks the average is over the batches of all of them.

    Args:
        model (`torch.nn.Module`): its BatchNorm layers are written to; nothing else changes, modes included.
        batches (`Iterable`): one pass over the calibration data; on several ranks, over this rank's share.
        forward (`Callable`): runs the model on one batch.
    """
    modules = batchnorm_modules(model)
    before = [(module.momentum, module.training) for module in modules]
    try:
        for module in modules:
            module.reset_running_stats()
            module.momentum = None  # the cumulative average
            module.train()
        number = 0
        for batch in batches:
            forward(batch)
            number += 1
        if world_size() > 1:
            _average_over_ranks(modules, number)
    finally:
        for module, (momentum, training) in zip(modules, before, strict=True):
            module.momentum = momentum
            module.train(training)


def _average_over_ranks(modules: list[_BatchNorm], number: int) -> None:
    """Average the statistics of the ranks, each by how many batches it saw."""
    total = sum_over_ranks(torch.tensor(number))
    for module in modules:
        for buffer in (module.running_mean, module.running_var):
            assert buffer is not None  # what batchnorm_modules finds
            buffer.copy_(sum_over_ranks(number * buffer.double()) / total)
        module.num_batches_tracked.fill_(total)  # type: ignore[union-attr]
