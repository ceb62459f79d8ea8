# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""One training step of CBFT: its passes, the block at the path point and its collectives.

A function of (model, reference, batch, alpha). The model may be wrapped (DDP) or sharded (FSDP2): every pass goes
through the wrapper, so that its hooks run. N ranks compute what one would on their joint batch.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from hf_cbft.distributed import differentiable_mean, differentiable_sum, no_gradient_sync
from hf_cbft.paths.batchnorm import batch_statistics
from hf_cbft.representations import Representation, capture_representation
from hf_cbft.tasks.task import Task, TrainingPlan
from hf_cbft.training.terms import PathTerm, Representations, RepresentationTerm, Term

Batch = dict[str, Any]
LossAndOutputs = tuple[torch.Tensor, Any]


class Reference(Protocol):
    """theta_C: weights or an adapter."""

    def loss_factor(self, alpha: float) -> float: ...

    def at(self, model: nn.Module, alpha: float) -> AbstractContextManager[None]: ...


@dataclass
class CBFTStep:
    """The gradient of the training loss on one batch of pairs.

    Args:
        task ([`~hf_cbft.tasks.task.Task`]): the loss of a batch and its representations.
        plan ([`~hf_cbft.tasks.task.TrainingPlan`]): where the representations are.
        ref_loss (`float`, *optional*, defaults to 0.0): the reference's own loss on the cue data, in nats.
        clean_loss (`Callable`, *optional*): gives the clean half's mean loss and the outputs; `None`: the task's.
        backward (`Callable`, *optional*): runs backward on a loss.
        autocast (`Callable`, *optional*): the context of each forward pass.
    """

    task: Task
    plan: TrainingPlan
    ref_loss: float = 0.0
    clean_loss: Callable[[nn.Module, Batch], LossAndOutputs] | None = None
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward
    autocast: Callable[[], AbstractContextManager] = nullcontext
    _layer_checked: bool = field(default=False, init=False)

    def __call__(
        self,
        model: nn.Module,
        unwrapped: nn.Module,
        reference: Reference | None,
        batch: dict[str, Batch],
        alpha: float,
        terms: Sequence[Term],
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Add the gradient to the parameters'; gives the loss and what to log, the same on every rank.

        Args:
            model (`torch.nn.Module`): as it is trained, wrapped or not.
            unwrapped (`torch.nn.Module`): the model inside.
            reference ([`WeightReference`] or [`AdapterReference`], *optional*): `None` leaves terms of the path out.
            batch (`dict`): the `clean` and the `cue` half, with `labels`.
            alpha (`float`): the point of the path, the same on every rank.
            terms (`Sequence[Term]`): those that take part in this step.
        """
        on_path = [term for term in terms if isinstance(term, PathTerm)]
        logged: dict[str, torch.Tensor] = {}
        path = None
        if reference is not None and on_path:
            with no_gradient_sync(model):
                path, logged = self.path_pass(model, unwrapped, reference, batch["cue"], alpha, on_path)
        of_representations = [term for term in terms if isinstance(term, RepresentationTerm)]
        loss, values = self.clean_pass(model, unwrapped, batch, of_representations)
        return loss if path is None else loss + path, {**logged, **values}

    def path_pass(
        self,
        model: nn.Module,
        unwrapped: nn.Module,
        reference: Reference,
        cue: Batch,
        alpha: float,
        terms: Sequence[PathTerm],
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The terms of the path loss, in one pass at a point of the path. Each is one of the loss over all ranks."""
        factor = reference.loss_factor(alpha)
        with reference.at(unwrapped, alpha), batch_statistics(unwrapped):
            with self.autocast():
                own, _ = self.task.loss(model, cue)
                path_loss = self._mean_over_ranks(own, cue)
                values = {term.name: term.value(path_loss, self.ref_loss) for term in terms}
            self.backward(_weighted(terms, values, factor))
        return _weighted(terms, values).detach(), {"loss/path": path_loss.detach(), **_logged(values)}

    def clean_pass(
        self, model: nn.Module, unwrapped: nn.Module, batch: dict[str, Batch], terms: Sequence[RepresentationTerm]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy on the clean half, plus the terms on the representations of both halves."""
        clean, cue = batch["clean"], batch["cue"]
        clean_loss = self.clean_loss or self.task.loss
        if not terms or self.plan.layer_name is None:
            with self.autocast():
                loss = self._mean_over_ranks(clean_loss(model, clean)[0], clean)
            self.backward(loss)
            return loss.detach(), {"loss/clean": loss.detach()}
        with ExitStack() as stack:
            layer = unwrapped.get_submodule(self.plan.layer_name)
            captured = stack.enter_context(capture_representation(layer))
            with self.autocast():
                with no_gradient_sync(model):  # DDP prepares for one backward pass, in the last forward pass
                    own, outputs = clean_loss(model, clean)
                loss = self._mean_over_ranks(own, clean)
                of_clean = self._read(captured, outputs, clean)
                # From here on, backward included: the running statistics stay those of the clean data.
                stack.enter_context(batch_statistics(unwrapped))
                of_cue = self._read(captured, self.task.forward(model, cue), cue)
                representations = Representations(*of_clean, *of_cue, self.plan.num_classes, differentiable_sum)
                values = {term.name: term.value(representations) for term in terms}
                total = loss + _weighted(terms, values)
            self.backward(total)
        return total.detach(), {"loss/clean": loss.detach(), **_logged(values)}

    def _read(self, captured: Representation, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Representations and their classes; a `ValueError` if the layer that was found does not give the logits."""
        if self.plan.gives_logits and not self._layer_checked:
            if not captured.gives(self.task.logits(outputs)):
                raise ValueError(
                    f"The linear layer {self.plan.layer_name!r} does not give the model's logits: name the module "
                    "that the representation enters with representation_layer."
                )
            self._layer_checked = True
        return self.task.representation(captured, outputs, batch), self.task.classes_of(batch)

    def _mean_over_ranks(self, own: torch.Tensor, batch: Batch) -> torch.Tensor:
        return differentiable_mean(own, self.task.count(batch))


def _weighted(terms: Sequence[Term], values: dict[str, torch.Tensor], factor: float = 1.0) -> torch.Tensor:
    return torch.stack([factor * term.coefficient * values[term.name] for term in terms]).sum()


def _logged(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"loss/{name}": value.detach() for name, value in values.items()}
