# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A live model put at a point of a path, for as long as a `with` block lasts."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn

from hf_cbft.paths.geometry import Weights


class Path(Protocol):
    """What a path has to offer: its anchors (None is the live model) and their coefficients at alpha."""

    @property
    def anchors(self) -> Sequence[Weights | None]: ...

    def coefficients(self, alpha: float) -> Sequence[float]: ...


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers under every name they have."""
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if torch.is_tensor(tensor)}


def named_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers of `model` by name, tied ones once. The tensors are the model's own."""
    weights: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in _state(model).items():
        weights.setdefault(id(tensor), (name, tensor))
    return dict(weights.values())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a sharded tensor (`DTensor`), as a view; a plain tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def sharded_like(live: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a whole weight, where the model's own is sharded (`DTensor`)."""
    if not hasattr(live, "to_local") or hasattr(weight, "to_local"):
        return local(weight)
    from torch.distributed.tensor import distribute_tensor

    # Rank 0's values count: loading that spares memory leaves the others without.
    device = torch.device(live.device_mesh.device_type)  # type: ignore[attr-defined]
    if device.type != "cpu":
        device = torch.device(device.type, dist.get_rank() % torch.get_device_module(device.type).device_count())
    whole = torch.empty_like(weight, device=device) if weight.is_meta else weight.to(device)
    return local(distribute_tensor(whole, live.device_mesh, live.placements))  # type: ignore[attr-defined]


def _without_tied_names(model: nn.Module, anchor: Weights) -> Weights:
    """A state dict names tied weights once for each place they are in; here each tensor has one name."""
    names: dict[int, str] = {}
    aliases = set()
    for name, tensor in _state(model).items():
        first = names.setdefault(id(tensor), name)
        if first == name or name not in anchor or first not in anchor:
            continue
        given, kept = anchor[name], anchor[first]
        if given.data_ptr() != kept.data_ptr() and not torch.equal(given, kept):
            raise ValueError(f"{first} and {name} are tied in the model but differ in the other end of the path.")
        aliases.add(name)
    return {name: tensor for name, tensor in anchor.items() if name not in aliases} if aliases else anchor


def copy_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A detached copy of [`named_weights`], on the same devices: an anchor that later training does not move."""
    return {name: tensor.detach().clone() for name, tensor in named_weights(model).items()}


def check_same_weights(expected: Weights, given: Weights, what: str) -> None:
    """Raise a `ValueError` that names the first three weights in which `given` differs from `expected`."""
    differences = [f"{name} is missing" for name in expected if name not in given]
    differences += [f"{name} is not in the model" for name in given if name not in expected]
    differences += [
        f"{name} has shape {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and local(given[name]).shape != local(tensor).shape
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise ValueError(
            f"{what} cannot be interpolated with the model: {'; '.join(differences[:3])}{more}. "
            "Both ends need the same architecture and sizes."
        )


def _write_combination(out: torch.Tensor, tensors: Sequence[torch.Tensor], coefficients: Sequence[float]) -> None:
    """Write sum_i c_i * tensors[i] into `out`, in place.

    Written as A_k + sum_i c_i (A_i - A_k) around the anchor with the largest coefficient: exact at the anchors
    themselves, and where all anchors agree (frozen weights stay bit for bit what they are). Integers follow A_k.
    """
    alike = all(tensor.dtype == out.dtype and tensor.device == out.device for tensor in tensors)
    if len(tensors) == 2 and alike and out.dtype in (torch.float32, torch.float64) and all(coefficients):
        torch.lerp(tensors[0], tensors[1], coefficients[1], out=out)  # the same, in one pass over the memory
        return
    largest = max(range(len(tensors)), key=lambda i: coefficients[i])
    base = tensors[largest].to(out.device)
    if not out.is_floating_point():
        out.copy_(base)
        return
    # bfloat16 and float16 would round the differences away.
    dtype = torch.promote_types(out.dtype, torch.float32)
    base = base.to(dtype)
    moved = base
    for i, (tensor, coefficient) in enumerate(zip(tensors, coefficients, strict=True)):
        if i != largest and coefficient != 0.0:
            moved = moved + coefficient * (tensor.to(out.device, dtype) - base)
    out.copy_(moved)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()` for a block; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _forget_derived_copies(model: nn.Module) -> None:
    """Drop what was made of the weights before they were written: autocast's casts, what FSDP2 has gathered."""
    torch.clear_autocast_cache()
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


@contextmanager
def at_point(model: nn.Module, path: Path, alpha: float, names: Collection[str] | None = None) -> Iterator[nn.Module]:
    r"""Put a live model at gamma(alpha) of a path; afterwards it is bit for bit what it was.

    The weights are written into the model's own parameters and persistent buffers, so it stays the same module object:
    wrappers, hooks and compiled code go on to hold. The displaced weights are saved once and serve as the live anchor:
    an open block costs one copy of the weights. Sharded parameters (FSDP2) are written shard by shard, and nothing is
    gathered: the anchors then hold this rank's shards.

    Gradients: run backward *inside* the block (activation checkpointing computes the forward pass again in backward).
    The gradients that arrive are dL/dgamma. Where the live model is the end of a `LinearPath`, dL/dtheta is alpha
    times that: multiply the loss by alpha.

    Buffers: running statistics are interpolated like weights and restored with them. To leave them out of a training
    pass see `hf_cbft.paths.batchnorm.batch_statistics`; to estimate them anew, `hf_cbft.paths.batchnorm.recalibrate`.

    Args:
        model (`torch.nn.Module`): the live model.
        path ([`LinearPath`]): its anchors are weights by name; `None` among them is the live model.
        alpha (`float`): in [0, 1].
        names (`Collection[str]`, *optional*):
            The weights that lie on the path, by the first of their names; the others stay what they are. `None`: all.

    Yields:
        `torch.nn.Module`: the same object.

    Raises:
        ValueError: alpha outside [0, 1], or an anchor with other names or shapes (the first three are named). Nothing
        has been written by then.

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft import LinearPath, at_point
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(model.weight, 4.0)
    >>> with at_point(model, LinearPath(start={"weight": torch.zeros(1, 1)}), 0.25):
    ...     print(model.weight.item())
    1.0
    >>> model.weight.item()
    4.0

    ```
    """
    with moving(model, path, names) as move:
        move(alpha)
        yield model


@contextmanager
def moving(model: nn.Module, path: Path, names: Collection[str] | None = None) -> Iterator[Callable[[float], None]]:
    """[`at_point`] for many points: yields a function of alpha that puts the model there.

    The displaced weights are saved once, when the model is first moved, and put back once, when the block ends.
    """
    live = named_weights(model)
    if names is not None:
        live = {name: tensor for name, tensor in live.items() if name in names}
    given = [None if anchor is None else _without_tied_names(model, anchor) for anchor in path.anchors]
    for anchor in given:
        if anchor is not None:
            check_same_weights(live, anchor, "The other end of the path")
    written = {name: local(tensor.detach()) for name, tensor in live.items()}
    displaced: dict[str, torch.Tensor] = {}

    def move(alpha: float) -> None:
        coefficients = path.coefficients(alpha)
        unmoved = not displaced
        if unmoved:
            displaced.update({name: tensor.clone() for name, tensor in written.items()})
        # An anchor that does not count is not read: it may lie on a disk.
        counted = [
            (displaced if anchor is None else anchor, coefficient)
            for anchor, coefficient in zip(given, coefficients, strict=True)
            if coefficient != 0.0
        ]
        if unmoved and all(anchor is displaced for anchor, _ in counted):
            return  # it is there
        with torch.no_grad():
            for name, tensor in written.items():
                _write_combination(tensor, [local(anchor[name]) for anchor, _ in counted], [c for _, c in counted])
        _forget_derived_copies(model)

    try:
        yield move
    finally:
        with torch.no_grad():
            for name, tensor in displaced.items():
                written[name].copy_(tensor)
        _forget_derived_copies(model)
