# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A model run over whole data sets: on one rank or many, in batches that fit."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn
from torch.utils.data import DataLoader

from hf_cbft.data.columns import unreadable_row
from hf_cbft.distributed import gather_objects, rank, world_size
from hf_cbft.paths.batchnorm import batchnorm_modules, recalibrate
from hf_cbft.tasks.task import Scores, Task, joined

logger = logging.getLogger(__name__)


# Batches of all data sets that are kept from one point to the next.
_KEPT_BYTES = 1 << 29
# Logits that wait for their losses.
_WAITING_BYTES = 1 << 24
# Rows that are made twice to see whether they are the same.
_PROBED_ROWS = 16


class BatchRunner:
    """Runs a model over whole data sets.

    The batches are those of one process, whatever the number of ranks, and go to the ranks whole: padding and batch
    statistics do not depend on how many there are. Where they fit into 512 MB, they are kept from point to point.

    Args:
        model (`torch.nn.Module`): in evaluation mode.
        task ([`~hf_cbft.tasks.task.Task`]): its losses.
        collator (`Callable`): from rows to a batch.
        batch_size (`int`): rows in a batch.
    """

    def __init__(self, model: nn.Module, task: Task, collator: Callable[[list[Any]], Any], batch_size: int) -> None:
        self.model, self.task, self.collator, self.batch_size = model, task, collator, batch_size
        self._digests: dict[tuple[int, int], str] = {}
        self._kept: dict[tuple[int, ...], list[_Batch]] = {}
        self._probed: set[int] = set()
        self._room = _KEPT_BYTES
        # Ranks that hold shards must pass together.
        self._together = world_size() > 1 and any(hasattr(p, "to_local") for p in model.parameters())

    def scores(self, dataset: Any, what: str) -> tuple[Scores, str]:
        """The scores of every row, on every rank, and a digest of what the model saw.

        Where memory runs out the batch size is halved, for this pass and those that follow.
        """
        while True:
            found = self._on_all_ranks(dataset, what, self._scored)
            if found is not None:
                parts, checksums = zip(*found, strict=True)
                scores = joined(parts)
                if len(scores.losses) != len(dataset):
                    raise ValueError(
                        f"The data_collator made {len(scores.losses)} rows of the {len(dataset)} of {what}: it packs "
                        "several rows into one, and the interval resamples rows. Leave it out, or pad instead."
                    )
                digest = self._digests[id(dataset), self.batch_size] = _digest(checksums)
                return scores, digest
            self.batch_size //= 2
            self._kept, self._room = {}, _KEPT_BYTES
            clear_device_cache(garbage_collection=True)
            logger.warning("Out of memory: going on with batches of %d rows.", self.batch_size)

    def digest(self, dataset: Any, what: str) -> str:
        """The digest alone, without the model; a set is read for it once."""
        key = (id(dataset), self.batch_size)
        if key not in self._digests:
            self._digests[key] = _digest(self._on_all_ranks(dataset, what, _checksums))
        return self._digests[key]

    def calibrate(self, dataset: Any) -> None:
        """Estimate BatchNorm's running statistics, where there are any, with the batches of one process."""
        if dataset is None or not batchnorm_modules(self.model):
            return
        batches = self._batches(dataset, "calibration_dataset")
        if self._together:  # a pass that counts for nothing would count in the average
            every = list(range(len(self._rows_of_batches(len(dataset)))))
            batches = self._loaded(dataset, "calibration_dataset", every)
        on_device = (batch.on(self._device) for batch in batches)
        recalibrate(self.model, on_device, lambda batch: self.task.forward(self.model, batch))

    def _scored(self, batches: Iterator["_Batch"]) -> Iterator[tuple[int, tuple[Scores, list[Any]]]]:
        """Scores and checksums of batches by number.

        The losses wait until there are some: an accelerator would stand still for each batch that is fetched, and a
        processor has everything else but the model out of its caches after each forward pass.
        """
        waiting: list[tuple[int, torch.Tensor, torch.Tensor, list[Any]]] = []
        room = _WAITING_BYTES
        for batch in batches:
            logits, labels = self.task.outputs(self.model, batch.on(self._device))
            room -= logits.nbytes
            # A copy, since a model may write its next output to the same place (a CUDA graph does).
            waiting.append((batch.number, logits.clone() if room > 0 else logits, labels, batch.checksum()))
            del logits, labels  # those of a language model take more than its weights
            if room <= 0:
                yield from self._finished(waiting)
                waiting, room = [], _WAITING_BYTES
        yield from self._finished(waiting)

    def _finished(
        self, waiting: list[tuple[int, torch.Tensor, torch.Tensor, list[Any]]]
    ) -> Iterator[tuple[int, tuple[Scores, list[Any]]]]:
        return ((number, (self.task.scores(logits, labels), checksum)) for number, logits, labels, checksum in waiting)

    def _on_all_ranks(
        self, dataset: Any, what: str, function: Callable[[Iterator["_Batch"]], Iterator[tuple[int, Any]]]
    ) -> Any:
        """The results of `function` for the batches, by number and in order; `None` where a rank ran out of memory."""
        own: dict[int, Any] = {}
        failure: Exception | None = None
        try:
            self._check_made_alike(dataset, what)
            own.update(function(self._batches(dataset, what)))
        except Exception as error:  # the other ranks wait for this one: it has to tell them
            failure = error
        # Sharded ranks run collectives in lockstep: one that fails cannot be recovered.
        if failure is not None and self._together:
            raise failure
        out_of_memory = failure is not None and self.batch_size > 1 and should_reduce_batch_size(failure)
        if out_of_memory:
            failure = None  # its traceback holds the tensors of the pass, and the ranks need memory to talk
        reason = None if failure is None else f"{type(failure).__name__}: {failure}"
        everyone = gather_objects((own, reason, out_of_memory))
        if failure is not None:
            raise failure
        for number, (_, other, _) in enumerate(everyone):
            if other is not None:
                raise RuntimeError(f"Rank {number} failed: {other}")
        if any(without for _, _, without in everyone):
            return None
        found = {index: value for part, _, _ in everyone for index, value in part.items()}
        return [found[index] for index in sorted(found)]

    def _rows_of_batches(self, number: int) -> list[list[int]]:
        """Rows of each batch. A last batch of one row, which has no batch statistics, joins the one before."""
        batches = [
            list(range(first, min(first + self.batch_size, number))) for first in range(0, number, self.batch_size)
        ]
        if self.batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [batches[-2] + batches[-1]]
        return batches

    def _batches(self, dataset: Any, what: str) -> Iterator["_Batch"]:
        """This rank's batches. Where ranks pass together, each has as many; some come twice."""
        number = len(self._rows_of_batches(len(dataset)))
        mine = list(range(rank(), number, world_size()))
        if self._together:
            mine += [0] * (-(-number // world_size()) - len(mine))
        return self._loaded(dataset, what, mine)

    def _loaded(self, dataset: Any, what: str, numbers: list[int]) -> Iterator["_Batch"]:
        """Batches by number: made once, where there is room to keep them, and else at each point."""
        key = (id(dataset), self.batch_size, *numbers)
        if key in self._kept:
            yield from self._kept[key]
            return
        rows = self._rows_of_batches(len(dataset))
        batches = []
        room = self._room
        for number, values in zip(numbers, self._made(dataset, what, [rows[n] for n in numbers]), strict=True):
            batch = _Batch(number, values)
            yield batch
            room -= sum(tensor.nbytes for tensor in batch.tensors.values())
            if room > 0:
                batches.append(batch)
        if room > 0:
            self._kept[key], self._room = batches, room

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _check_made_alike(self, dataset: Any, what: str) -> None:
        """Refuse rows that something random makes anew each time, before the model sees any of them."""
        if id(dataset) in self._probed:
            return
        self._probed.add(id(dataset))
        rows = self._rows_of_batches(len(dataset))[0][:_PROBED_ROWS]
        first, second = (_Batch(0, values).checksum() for values in self._made(dataset, what, [rows, rows]))
        if first != second:
            raise rows_changed(what)

    def _made(self, dataset: Any, what: str, batches: list[list[int]]) -> DataLoader:
        return DataLoader(
            _Rows(dataset, what),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.collator,
            # A generator of its own: iterating a loader draws from the global one otherwise.
            generator=torch.Generator(),  # type: ignore[arg-type]
        )


def rows_changed(what: str) -> ValueError:
    """The points of a path are compared example by example: each has to see the same ones."""
    return ValueError(
        f"{what[0].upper()}{what[1:]} is not the same each time it is read: its rows changed, or something random (an "
        "augmentation, a masking collator) draws anew. Draw once, and keep the rows."
    )


class _Batch:
    """Some rows, as the collator put them together."""

    def __init__(self, number: int, values: Mapping[str, Any]) -> None:
        self.number, self.values = number, values
        self.tensors = {name: value for name, value in sorted(values.items()) if torch.is_tensor(value)}
        self._checksum: list[Any] = []
        self._versions: list[int] = []

    def on(self, device: torch.device) -> dict[str, Any]:
        return {name: value.to(device) if hasattr(value, "to") else value for name, value in self.values.items()}

    def checksum(self) -> list[Any]:
        """A few numbers: cheap, and other rows or another draw of a random transform give others.

        Of a batch that is kept they are computed again where something, such as the model, has written into it.
        """
        versions = [tensor._version for tensor in self.tensors.values()]
        if versions != self._versions or not self._checksum:
            self._checksum = [[name, list(tensor.shape), _sum(tensor)] for name, tensor in self.tensors.items()]
            self._versions = versions
        return self._checksum


class _Rows:
    """A data set whose unreadable rows are named."""

    def __init__(self, dataset: Any, what: str) -> None:
        self.dataset, self.what = dataset, what

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: list[int]) -> list[Any]:
        try:
            if hasattr(self.dataset, "__getitems__"):
                return self.dataset.__getitems__(rows)
            return [self.dataset[row] for row in rows]
        except (OSError, SyntaxError, ValueError) as error:  # what decoders raise
            blamed = unreadable_row(self.dataset, self.what, rows)
            if blamed is None:
                raise
            raise blamed from error


def _checksums(batches: Iterator[_Batch]) -> Iterator[tuple[int, list[Any]]]:
    return ((batch.number, batch.checksum()) for batch in batches)


def _sum(tensor: torch.Tensor) -> str:
    return repr((tensor.float() if tensor.is_floating_point() else tensor).sum().item())


def _digest(checksums: Any) -> str:
    return hashlib.blake2b(json.dumps(list(checksums)).encode(), digest_size=16).hexdigest()
