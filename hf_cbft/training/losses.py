# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The two terms that connectivity-based fine-tuning adds to the cross-entropy, as pure functions of tensors."""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def barrier_loss(
    path_loss: torch.Tensor, ref_loss: float | torch.Tensor = 0.0, margin: float | torch.Tensor = 1.0
) -> torch.Tensor:
    r"""L_B = | ref_loss + margin - path_loss |

    Pulls the loss at a point of the path up to `margin` above the reference's own loss. The paper's formula,
    | 1 - L |, is the one with `ref_loss` = 0; where the reference's loss on the cue data is not near 0, that formula
    would pull the path loss *down*, which trains on the cue.

    Args:
        path_loss (`torch.Tensor`): scalar, the cross-entropy of the cue data at gamma(alpha), in nats.
        ref_loss (`float` or `torch.Tensor`, *optional*, defaults to 0.0): the reference's own, in nats.
        margin (`float` or `torch.Tensor`, *optional*, defaults to 1.0): height of the wanted barrier, in nats.

    Returns:
        `torch.Tensor`: scalar, differentiable in `path_loss`.

    Raises:
        ValueError: `path_loss` is no scalar.

    Source: Lubana et al., ICML 2023, equation of L_B in section 5.

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft import barrier_loss
    >>> barrier_loss(torch.tensor(0.25))
    tensor(0.7500)

    ```
    """
    if path_loss.dim() > 0:
        raise ValueError(
            f"path_loss has the shape {tuple(path_loss.shape)}, and L_B is that of the mean loss: give a scalar, such "
            "as losses.mean()."
        )
    return (ref_loss + margin - path_loss).abs()


Sum = Callable[[torch.Tensor], torch.Tensor]


def _check_shapes(
    clean: torch.Tensor, clean_labels: torch.Tensor, cue: torch.Tensor, cue_labels: torch.Tensor
) -> None:
    for what, rows, labels in (("clean", clean, clean_labels), ("cue", cue, cue_labels)):
        if rows.dim() != 2 or labels.shape != rows.shape[:1]:
            raise ValueError(
                f"The {what} representations have the shape {tuple(rows.shape)} and their labels "
                f"{tuple(labels.shape)}: give one vector and one class a row, of shapes (N, D) and (N,)."
            )
    if clean.shape[1] != cue.shape[1]:
        raise ValueError(
            f"The clean representations have {clean.shape[1]} dimensions and the cue ones {cue.shape[1]}: take both "
            "from the same layer."
        )


def _class_means(
    representations: torch.Tensor, labels: torch.Tensor, num_classes: int, sum_over_ranks: Sum | None
) -> tuple[torch.Tensor, ...]:
    """Class means (K, D) and class counts (K,). A matrix product, so that it is deterministic on every device."""
    one_hot = F.one_hot(labels, num_classes).to(representations.dtype)
    sums, counts = one_hot.T @ representations, one_hot.sum(dim=0)
    if sum_over_ranks is not None:
        # One sum for both.
        sums, counts = sum_over_ranks(torch.cat([sums, counts[:, None]], dim=1)).split([sums.shape[1], 1], dim=1)
        counts = counts[:, 0]
    return sums / counts.clamp(min=1.0)[:, None], counts


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """n(v) = v / ||v|| over the last axis; n(0) = 0 with gradient 0 (a small epsilon would give 1 / epsilon)."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    nonzero = norms > 0
    return torch.where(nonzero, vectors / torch.where(nonzero, norms, 1.0), 0.0)


def invariance_loss(
    clean_representations: torch.Tensor,
    clean_labels: torch.Tensor,
    cue_representations: torch.Tensor,
    cue_labels: torch.Tensor,
    num_classes: int,
    sum_over_ranks: Sum | None = None,
) -> torch.Tensor:
    r"""L_I / K = 1/K * sum_k || n(mean f over clean rows of k) - n(mean f over cue rows of k) ||^2, n(v) = v / ||v||

    Classes absent from either half are left out of the sum, which is divided by K all the same. A mean of length 0
    has no direction: n(0) = 0, without a gradient.

    Args:
        clean_representations (`torch.Tensor`): (N, D), what enters the last linear layer for the clean rows.
        clean_labels (`torch.Tensor`): (N,), classes in [0, K).
        cue_representations (`torch.Tensor`): (M, D), the same for the rows with the cue.
        cue_labels (`torch.Tensor`): (M,).
        num_classes (`int`): K.
        sum_over_ranks (`Callable`, *optional*):
            Sums a tensor over all ranks, differentiably, where the rows are those of one rank: the means are then
            those of the joint batch.

    Returns:
        `torch.Tensor`: scalar in [0, 4], differentiable in both representations; float32 for half-precision input.

    Raises:
        ValueError: not one vector and one label a row, or vectors of other sizes in the two halves.

    Source: Lubana et al., ICML 2023, equation of L_I in section 5, with its factor 1 / K.

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft import invariance_loss
    >>> clean, cue = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> invariance_loss(clean, torch.tensor([1]), cue, torch.tensor([1]), num_classes=2)
    tensor(1.)

    ```
    """
    _check_shapes(clean_representations, clean_labels, cue_representations, cue_labels)
    # Autocast would take the matrix product in half precision, where differences of unit vectors drown.
    with torch.autocast(clean_representations.device.type, enabled=False):
        dtype = torch.promote_types(
            torch.promote_types(clean_representations.dtype, cue_representations.dtype), torch.float32
        )
        clean_representations, cue_representations = clean_representations.to(dtype), cue_representations.to(dtype)
        clean_means, clean_counts = _class_means(clean_representations, clean_labels, num_classes, sum_over_ranks)
        cue_means, cue_counts = _class_means(cue_representations, cue_labels, num_classes, sum_over_ranks)
        squared = (_unit(clean_means) - _unit(cue_means)).square().sum(dim=-1)
        return torch.where((clean_counts > 0) & (cue_counts > 0), squared, 0.0).sum() / num_classes
