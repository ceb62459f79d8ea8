# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The summands of the training loss beside the cross-entropy of the clean rows. L_B and L_I are two of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_cbft.training.losses import barrier_loss, invariance_loss

# Log keys that are not a term's: loss/clean, loss/path and loss/ref.
_TAKEN = ("clean", "path", "ref")


@dataclass(frozen=True)
class Representations:
    """The representations of a batch of pairs, one vector a row (a labelled token, in token classification).

    Attributes:
        clean (`torch.Tensor`): (N, D), of the clean rows.
        clean_classes (`torch.Tensor`): (N,), their classes.
        cue (`torch.Tensor`): (M, D), of the rows with the cue.
        cue_classes (`torch.Tensor`): (M,).
        num_classes (`int`): K.
        sum_over_ranks (`Callable`): sums a tensor over all ranks, differentiably; on one process it gives it back.
    """

    clean: torch.Tensor
    clean_classes: torch.Tensor
    cue: torch.Tensor
    cue_classes: torch.Tensor
    num_classes: int
    sum_over_ranks: Callable[[torch.Tensor], torch.Tensor]


class Term:
    """One summand of the training loss: coefficient x value. Derive from [`PathTerm`] or [`RepresentationTerm`].

    A term holds no state: a resumed run would not have it.

    Args:
        name (`str`): logged as `loss/<name>`.
        coefficient (`float`, *optional*, defaults to 1.0): weight in the sum, at least 0.

    Raises:
        ValueError: a name that is no identifier or is taken, or a negative coefficient.
    """

    def __init__(self, name: str, coefficient: float = 1.0) -> None:
        if not name.isidentifier() or name in _TAKEN:
            raise ValueError(
                f"A term is called {name!r}, and its values are logged as loss/<name>: use letters, digits and "
                f"underscores, and none of {', '.join(_TAKEN)}."
            )
        if not coefficient >= 0.0 or coefficient == float("inf"):
            raise ValueError(f"The term {name!r} has the coefficient {coefficient}: give a finite number >= 0.")
        self.name, self.coefficient = name, coefficient

    def is_on(self, step: int, max_steps: int) -> bool:
        """Whether the term takes part in a step: a pure function of its number and of how many there are."""
        return True


class PathTerm(Term):
    """A function of the path loss: the mean cross-entropy of the cue rows at a point gamma(alpha) of the path."""

    def value(self, path_loss: torch.Tensor, ref_loss: float) -> torch.Tensor:
        """The value, not yet weighted.

        Args:
            path_loss (`torch.Tensor`): scalar, nats, the mean over the rows of all ranks.
            ref_loss (`float`): the reference's own loss on the cue data, nats.

        Returns:
            `torch.Tensor`: scalar, differentiable in `path_loss`.
        """
        raise NotImplementedError


class RepresentationTerm(Term):
    """A function of the representations of both halves of a batch, at the model itself (alpha = 1)."""

    def value(self, representations: Representations) -> torch.Tensor:
        """The value, not yet weighted: a scalar, made of sums over all ranks, so that N ranks compute what one would.

        Args:
            representations ([`Representations`]): of this rank's rows.
        """
        raise NotImplementedError


class BarrierTerm(PathTerm):
    """L_B of [`barrier_loss`], on for the first `stop_ratio` of the steps."""

    def __init__(self, coefficient: float = 1.0, margin: float = 1.0, stop_ratio: float = 1.0) -> None:
        super().__init__("barrier", coefficient)
        self.margin, self.stop_ratio = margin, stop_ratio

    def is_on(self, step: int, max_steps: int) -> bool:
        return step < self.stop_ratio * max_steps

    def value(self, path_loss: torch.Tensor, ref_loss: float) -> torch.Tensor:
        return barrier_loss(path_loss, ref_loss, self.margin)


class InvarianceTerm(RepresentationTerm):
    """L_I / K of [`invariance_loss`], on after the first `warmup_ratio` of the steps."""

    def __init__(self, coefficient: float = 1.0, warmup_ratio: float = 0.0) -> None:
        super().__init__("invariance", coefficient)
        self.warmup_ratio = warmup_ratio

    def is_on(self, step: int, max_steps: int) -> bool:
        return step >= self.warmup_ratio * max_steps

    def value(self, representations: Representations) -> torch.Tensor:
        r = representations
        return invariance_loss(r.clean, r.clean_classes, r.cue, r.cue_classes, r.num_classes, r.sum_over_ranks)


def terms_of(args: Any, more: Sequence[Term] | None = None) -> list[Term]:
    """L_B and L_I as [`CBFTConfig`] sets them, where their coefficients are above 0, and a user's own terms.

    Raises:
        TypeError: something that is no term.
        ValueError: two terms of one name.
    """
    terms: list[Term] = []
    if args.barrier_coef > 0.0 and args.barrier_stop_ratio > 0.0:
        terms.append(BarrierTerm(args.barrier_coef, args.barrier_margin, args.barrier_stop_ratio))
    if args.invariance_coef > 0.0:
        terms.append(InvarianceTerm(args.invariance_coef, args.invariance_warmup_ratio))
    for term in more or ():
        if not isinstance(term, PathTerm | RepresentationTerm):
            raise TypeError(f"terms holds a {type(term).__name__}: derive it from PathTerm or RepresentationTerm.")
        terms.append(term)
    names = [term.name for term in terms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two terms are called {twice!r}, and their values would be logged as one: rename one.")
    return terms
