# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Paths in weight space, as coefficients of their anchors, and where on a path a training step looks."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

Weights = Mapping[str, torch.Tensor]


def check_alpha(alpha: float) -> float:
    """Return `alpha` if it lies in [0, 1]; raise a `ValueError` otherwise."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha = {alpha} is not on the path: it runs from 0 (start) to 1 (end).")
    return float(alpha)


@dataclass(frozen=True)
class LinearPath:
    r"""The straight line gamma(alpha) = (1 - alpha) * start + alpha * end.

    Args:
        start (`Mapping[str, torch.Tensor]`, *optional*):
            Weights at alpha = 0, by parameter (and buffer) name. `None` stands for the live model: the weights that
            the model has when it is put at a point.
        end (`Mapping[str, torch.Tensor]`, *optional*):
            Weights at alpha = 1. `None` stands for the live model.

    Raises:
        ValueError: both ends are the live model, so the path has no length.

    Source: Lubana et al., ICML 2023, section 2 (t of the training loss there is 1 - alpha).

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft import LinearPath
    >>> path = LinearPath(start={"weight": torch.zeros(2)})
    >>> path.coefficients(0.25)
    (0.75, 0.25)

    ```
    """

    start: Weights | None = None
    end: Weights | None = None

    def __post_init__(self) -> None:
        if self.start is None and self.end is None:
            raise ValueError("Both ends are None (the live model): give the weights of one end.")

    @property
    def anchors(self) -> tuple[Weights | None, Weights | None]:
        return self.start, self.end

    def coefficients(self, alpha: float) -> tuple[float, float]:
        """The weight of each anchor at `alpha`; they add up to 1."""
        alpha = check_alpha(alpha)
        return 1.0 - alpha, alpha


def _uniforms(*key: int) -> tuple[float, float]:
    """Two numbers in (0, 1) that depend on `key` alone, so that no generator state has to be kept or resumed."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=16).digest()
    first, second = (int.from_bytes(half, "big") for half in (digest[:8], digest[8:]))
    return (first + 0.5) / 2.0**64, (second + 0.5) / 2.0**64


def sample_alpha(
    seed: int,
    global_step: int,
    micro_step: int = 0,
    sampling: str = "clipped_normal",
    alpha_min: float = 0.25,
    alpha_max: float = 0.75,
) -> float:
    """Draw the point of the path for one micro-batch: a pure function of its arguments, the same on every rank.

    Args:
        seed (`int`), global_step (`int`), micro_step (`int`, *optional*, defaults to 0):
            What the draw depends on.
        sampling (`str`, *optional*, defaults to `"clipped_normal"`):
            `"clipped_normal"`: the middle plus (alpha_max - alpha_min) * N(0, 1), clipped to the stretch. With the
            default stretch this is the distribution of the authors' code: about 31 % of the mass lies at each end.
            `"uniform"`: uniform on the stretch.
        alpha_min (`float`, *optional*, defaults to 0.25), alpha_max (`float`, *optional*, defaults to 0.75):
            The stretch.

    Example:

    ```python
    >>> from hf_cbft.paths import sample_alpha
    >>> sample_alpha(seed=0, global_step=3) == sample_alpha(seed=0, global_step=3)
    True

    ```
    """
    first, second = _uniforms(seed, global_step, micro_step)
    if sampling == "uniform":
        return alpha_min + (alpha_max - alpha_min) * first
    if sampling != "clipped_normal":
        raise ValueError(f'alpha sampling {sampling!r} is unknown: use "clipped_normal" or "uniform".')
    normal = math.sqrt(-2.0 * math.log(first)) * math.cos(2.0 * math.pi * second)
    alpha = 0.5 * (alpha_min + alpha_max) + (alpha_max - alpha_min) * normal
    return min(max(alpha, alpha_min), alpha_max)
