# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Paths in weight space, as coefficients of their anchors, and where on a path a training step looks."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from hf_cbft.tables import format_list

Weights = Mapping[str, torch.Tensor]


class LazyWeights(Mapping[str, torch.Tensor]):
    """Weights by name, each read when it is asked for: a model that is never held as a whole.

    Args:
        names (`Iterable[str]`): of the weights, in their order.
        read (`Callable[[str], torch.Tensor]`): from the name of a weight to its tensor.
    """

    def __init__(self, names: Iterable[str], read: Callable[[str], torch.Tensor]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # the mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def other_dtype(expected: Weights, given: Weights) -> str | None:
    """The first weight that `given` keeps in another dtype: rounding would keep a path from its end."""
    return next((name for name, weight in expected.items() if weight.dtype != given[name].dtype), None)


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


@dataclass(frozen=True)
class QuadraticPath:
    r"""The Bezier curve gamma(alpha) = (1 - alpha)^2 * start + 2 alpha (1 - alpha) * middle + alpha^2 * end.

    It starts in the direction of `middle` and arrives from there, but does not pass through it. With the average of
    the ends as the middle it is the straight line. [`~hf_cbft.training.curves.fit_curve`] trains the middle.

    Args:
        start (`Mapping[str, torch.Tensor]`, *optional*):
            Weights at alpha = 0, by parameter (and buffer) name. `None` stands for the live model: the weights that
            the model has when it is put at a point.
        middle (`Mapping[str, torch.Tensor]`, *optional*): The control point. `None` stands for the live model.
        end (`Mapping[str, torch.Tensor]`, *optional*): Weights at alpha = 1. `None` stands for the live model.

    Raises:
        ValueError: more than one of the three is the live model.

    Source: Garipov et al., NeurIPS 2018, section 3; Lubana et al., ICML 2023, section 2.

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft import at_point
    >>> from hf_cbft.paths.geometry import QuadraticPath
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> path = QuadraticPath(*({"weight": torch.full((1, 1), value)} for value in (0.0, 4.0, 0.0)))
    >>> path.coefficients(0.5)
    (0.25, 0.5, 0.25)
    >>> with at_point(model, path, 0.5):
    ...     print(model.weight.item())
    2.0

    ```
    """

    start: Weights | None = None
    middle: Weights | None = None
    end: Weights | None = None

    def __post_init__(self) -> None:
        _check_one_live(("start", "middle", "end"), self.anchors)

    @property
    def anchors(self) -> tuple[Weights | None, Weights | None, Weights | None]:
        return self.start, self.middle, self.end

    def coefficients(self, alpha: float) -> tuple[float, float, float]:
        """The weight of each anchor at `alpha`; they add up to 1."""
        alpha = check_alpha(alpha)
        return (1.0 - alpha) ** 2, 2.0 * alpha * (1.0 - alpha), alpha**2


@dataclass(frozen=True)
class PolylinePath:
    r"""Straight segments from anchor to anchor, each over the same share of [0, 1].

    Between the anchors k and k + 1 of n, gamma(alpha) = (1 - s) * anchors[k] + s * anchors[k + 1] with
    s = alpha (n - 1) - k: for example through the checkpoints that one training run left behind.

    Args:
        anchors (`Sequence`):
            Two or more weights by name, from alpha = 0 to alpha = 1. One of them may be `None`, the live model.

    Raises:
        ValueError: fewer than two anchors, or more than one that is the live model.

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft.paths.geometry import PolylinePath
    >>> path = PolylinePath([{"weight": torch.full((1,), value)} for value in (0.0, 1.0, 5.0)])
    >>> path.knots
    (0.0, 0.5, 1.0)
    >>> path.coefficients(0.625)
    (0.0, 0.75, 0.25)

    ```
    """

    anchors: Sequence[Weights | None]

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", tuple(self.anchors))
        if len(self.anchors) < 2:
            raise ValueError(f"A polyline through {len(self.anchors)} anchors has no length: give two or more.")
        _check_one_live([f"anchor {i}" for i in range(len(self.anchors))], self.anchors)

    @property
    def knots(self) -> tuple[float, ...]:
        """The alpha of each anchor."""
        segments = len(self.anchors) - 1
        return tuple(i / segments for i in range(segments + 1))

    def coefficients(self, alpha: float) -> tuple[float, ...]:
        """The weight of each anchor at `alpha`; they add up to 1, and at most two of them are not 0."""
        position = check_alpha(alpha) * (len(self.anchors) - 1)
        # 0.1 * 3 is not 0.3: a grid's point at an anchor is meant to be the anchor.
        if abs(position - round(position)) < 1e-9:
            position = float(round(position))
        first = min(int(position), len(self.anchors) - 2)
        found = [0.0] * len(self.anchors)
        found[first], found[first + 1] = first + 1.0 - position, position - first
        return tuple(found)


def _check_one_live(names: Sequence[str], anchors: Sequence[Weights | None]) -> None:
    live = [name for name, anchor in zip(names, anchors, strict=True) if anchor is None]
    if len(live) > 1:
        raise ValueError(
            f"{format_list(live)} are None (the live model), and only one anchor can be: give the weights of the "
            "others."
        )


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
    >>> from hf_cbft.paths.geometry import sample_alpha
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
