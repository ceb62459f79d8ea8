# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""One training step of CBFT: its passes, the block at the path point and its collectives.

A function of (model, reference, batch, alpha). The model may be wrapped (DDP) or sharded (FSDP2): every pass goes
through the wrapper, so that its hooks run. N ranks compute what one would on their joint batch.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from hf_cbft.distributed import differentiable_mean, differentiable_sum, no_gradient_sync
from hf_cbft.paths.batchnorm import batch_statistics
from hf_cbft.representations import Representation, capture_representation, pooled_states
from hf_cbft.training.losses import barrier_loss, invariance_loss

Batch = dict[str, Any]
LossAndOutputs = tuple[torch.Tensor, Any]


class Reference(Protocol):
    """theta_C: weights or an adapter."""

    def loss_factor(self, alpha: float) -> float: ...

    def at(self, model: nn.Module, alpha: float) -> AbstractContextManager[None]: ...


def mean_loss(model: nn.Module, batch: Batch) -> LossAndOutputs:
    """The model's own mean loss on a batch, in nats, and its outputs."""
    outputs = model(**{name: value for name, value in batch.items() if name != "class_labels"})
    return (outputs["loss"] if isinstance(outputs, dict) else outputs[0]), outputs


def counted(batch: Batch, causal: bool) -> torch.Tensor:
    """What the mean loss of a batch is a mean of: its rows, or the tokens that are predicted from the ones before."""
    labels = batch["labels"]
    return (labels[:, 1:] != -100).sum() if causal else torch.tensor(len(labels), device=labels.device)


@dataclass
class RepresentationReader:
    """What enters the representation layer, one vector a row, and the rows' classes.

    Args:
        layer_name (`str`): of the module whose input it is.
        num_classes (`int`): K.
        causal (`bool`, *optional*, defaults to `False`):
            Whether the model is a causal language model: its states are pooled over the tokens that count, and the
            classes stand in `class_labels`.
        checked (`bool`, *optional*, defaults to `False`):
            Whether the layer is known to give the logits; otherwise the first batch tells.
    """

    layer_name: str
    num_classes: int
    causal: bool = False
    checked: bool = False

    def classes(self, batch: Batch) -> torch.Tensor:
        return batch["class_labels" if self.causal else "labels"]

    def read(self, captured: Representation, outputs: Any, batch: Batch) -> torch.Tensor:
        """(B, D). Raises a `ValueError` if the layer does not give the logits."""
        if self.causal:
            assert captured.input is not None
            return pooled_states(captured.input, batch["labels"])
        logits = outputs["logits"] if isinstance(outputs, dict) else next(o for o in outputs if o.ndim == 2)
        if not self.checked:
            if not captured.gives(logits):
                raise ValueError(
                    f"The linear layer {self.layer_name!r} does not give the model's logits: name the module that the "
                    "representation enters with representation_layer."
                )
            self.checked = True
        return captured.per_row(logits)


@dataclass
class CBFTStep:
    """The gradient of L_CBFT on one batch of pairs.

    Args:
        barrier_coef (`float`), barrier_margin (`float`), ref_loss (`float`), invariance_coef (`float`):
            As in [`CBFTConfig`].
        reader ([`RepresentationReader`], *optional*): needed for the invariance loss.
        causal (`bool`, *optional*, defaults to `False`):
            Whether the loss is a mean over the tokens that count, each predicted from the ones before it.
        barrier_loss (`Callable`, *optional*): L_B as a function of (path loss, ref_loss, barrier_margin).
        clean_loss (`Callable`, *optional*): gives the clean half's mean loss and the outputs.
        backward (`Callable`, *optional*): runs backward on a loss.
        autocast (`Callable`, *optional*): the context of each forward pass.
    """

    barrier_coef: float = 1.0
    barrier_margin: float = 1.0
    ref_loss: float = 0.0
    invariance_coef: float = 1.0
    reader: RepresentationReader | None = None
    causal: bool = False
    barrier_loss: Callable[..., torch.Tensor] = barrier_loss
    clean_loss: Callable[[nn.Module, Batch], LossAndOutputs] = mean_loss
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward
    autocast: Callable[[], AbstractContextManager] = nullcontext

    def __call__(
        self,
        model: nn.Module,
        unwrapped: nn.Module,
        reference: Reference | None,
        batch: dict[str, Batch],
        alpha: float,
        invariance: bool = True,
    ) -> dict[str, torch.Tensor]:
        """Add the gradient to the parameters'; gives the terms' values, the same on every rank.

        Args:
            model (`torch.nn.Module`): as it is trained, wrapped or not.
            unwrapped (`torch.nn.Module`): the model inside.
            reference ([`WeightReference`] or [`AdapterReference`], *optional*): `None` leaves the barrier loss out.
            batch (`dict`): the `clean` and the `cue` half, with `labels`.
            alpha (`float`): the point of the path, the same on every rank.
            invariance (`bool`, *optional*, defaults to `True`): whether the invariance loss takes part.
        """
        terms: dict[str, torch.Tensor] = {}
        if reference is not None:
            with no_gradient_sync(model):
                terms.update(self.barrier(model, unwrapped, reference, batch["cue"], alpha))
        terms.update(self.clean(model, unwrapped, batch, invariance))
        return terms

    def barrier(
        self, model: nn.Module, unwrapped: nn.Module, reference: Reference, cue: Batch, alpha: float
    ) -> dict[str, torch.Tensor]:
        """The barrier loss at a point of the path. The sign of |.| is that of the loss over all ranks."""
        with reference.at(unwrapped, alpha), batch_statistics(unwrapped):
            with self.autocast():
                own, _ = mean_loss(model, cue)
                path_loss = self._mean_over_ranks(own, cue)
                barrier = self.barrier_loss(path_loss, self.ref_loss, self.barrier_margin)
            self.backward(reference.loss_factor(alpha) * self.barrier_coef * barrier)
        return {"loss/path": path_loss.detach(), "loss/barrier": barrier.detach()}

    def clean(
        self, model: nn.Module, unwrapped: nn.Module, batch: dict[str, Batch], invariance: bool
    ) -> dict[str, torch.Tensor]:
        """Cross-entropy on the clean half plus the invariance loss between the halves."""
        clean, cue, reader = batch["clean"], batch["cue"], self.reader
        if not invariance or reader is None:
            with self.autocast():
                loss = self._mean_over_ranks(self.clean_loss(model, clean)[0], clean)
            self.backward(loss)
            return {"loss/clean": loss.detach()}
        with ExitStack() as stack:
            layer = unwrapped.get_submodule(reader.layer_name)
            captured = stack.enter_context(capture_representation(layer))
            with self.autocast():
                with no_gradient_sync(model):  # DDP prepares for one backward pass, in the last forward pass
                    own, outputs = self.clean_loss(model, clean)
                clean_loss = self._mean_over_ranks(own, clean)
                clean_representations = reader.read(captured, outputs, clean)
                # From here on, backward included: the running statistics stay those of the clean data.
                stack.enter_context(batch_statistics(unwrapped))
                outputs = model(**{n: value for n, value in cue.items() if n not in ("labels", "class_labels")})
                term = invariance_loss(
                    clean_representations,
                    reader.classes(clean),
                    reader.read(captured, outputs, cue),
                    reader.classes(cue),
                    reader.num_classes,
                    differentiable_sum,
                )
            self.backward(clean_loss + self.invariance_coef * term)
        return {"loss/clean": clean_loss.detach(), "loss/invariance": term.detach()}

    def _mean_over_ranks(self, own: torch.Tensor, batch: Batch) -> torch.Tensor:
        return differentiable_mean(own, counted(batch, self.causal))
