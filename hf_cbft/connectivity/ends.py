# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Two ends joined: one live model, and how it is put at any point between them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from hf_cbft.architectures import has_adapter
from hf_cbft.checkpoints.curve_files import CURVE_FILE, load_curve
from hf_cbft.checkpoints.loading import LoadOptions, source_name, stored_weights
from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.paths.geometry import LazyWeights, LinearPath, PolylinePath, QuadraticPath, Weights, other_dtype
from hf_cbft.paths.interpolation import check_same_weights, local, moving, named_weights, sharded_like

Source = str | Path | nn.Module


class Ends(Protocol):
    """Both ends of a path."""

    model: nn.Module

    def along(self, path: Any) -> "Ends":
        """The same ends joined by another path: `"linear"`, a curve, or checkpoints that a polyline goes through."""
        ...

    def moving(self) -> AbstractContextManager[Callable[[float], None]]:
        """For a block, a function that puts the model at a point; 0 is the start."""
        ...

    def fingerprints(self) -> dict[str, str]:
        """What tells these ends, and the path, from others; of sharded weights, this rank's part."""
        ...


class WeightEnds:
    """Ends whose weights are written into the live model, which is the start.

    Args:
        model (`torch.nn.Module`): the start.
        end (`Mapping[str, torch.Tensor]`): the weights of the end, in memory or read when they are asked for.
        options ([`LoadOptions`]): for checkpoints that a path goes through.
    """

    def __init__(self, model: nn.Module, end: Weights, options: LoadOptions) -> None:
        self.model, self.options = model, options
        self.end = self._fitting(end, "The end point")
        self._path: Any = LinearPath(start=None, end=self.end)

    def along(self, path: Any) -> "WeightEnds":
        ends = copy(self)
        if isinstance(path, (str, Path)) and (Path(path) / CURVE_FILE).is_file():
            path = load_curve(path, named_weights(self.model), self.end)
        if isinstance(path, str) and path == "linear":
            ends._path = LinearPath(start=None, end=self.end)
        elif isinstance(path, QuadraticPath):
            self._check_ends(path.start, path.end)
            middle = self._fitting(_given(path.middle), "The middle of the path")
            ends._path = replace(path, start=None, middle=middle, end=self.end)
        elif isinstance(path, PolylinePath):
            self._check_ends(path.anchors[0], path.anchors[-1])
            inner = [self._fitting(_given(anchor), "A point of the path") for anchor in path.anchors[1:-1]]
            ends._path = PolylinePath([None, *inner, self.end])
        elif isinstance(path, Sequence) and not isinstance(path, str):
            inner = [self._fitting(self._weights_of(source), source_name(source)) for source in path]
            ends._path = PolylinePath([None, *inner, self.end])
        else:
            raise ValueError(
                f'The path {path!r} is unknown: "linear" is the straight line; the folder of a fitted curve, a '
                "QuadraticPath, a PolylinePath or a list of checkpoints to go through are the others."
            )
        return ends

    def moving(self) -> AbstractContextManager[Callable[[float], None]]:
        return moving(self.model, self._path)

    def fingerprints(self) -> dict[str, str]:
        live = {name: local(tensor.detach()) for name, tensor in named_weights(self.model).items()}
        anchors = [live if anchor is None else anchor for anchor in self._path.anchors]
        # By the names of the live model, so that a weight that is tied in one of them does not count twice.
        return {str(index): fingerprint(LazyWeights(live, anchor.__getitem__)) for index, anchor in enumerate(anchors)}

    def _weights_of(self, source: Source) -> Weights:
        if isinstance(source, nn.Module):
            return named_weights(source)
        return stored_weights(source, self.options)

    def _fitting(self, weights: Weights, what: str) -> Weights:
        """The weights, sharded as the model is; a `ValueError` where they cannot be interpolated with it."""
        live = named_weights(self.model)
        if any(hasattr(tensor, "to_local") for tensor in live.values()):
            weights = {n: sharded_like(live[n], w.detach()) if n in live else w for n, w in weights.items()}
        check_same_weights(live, weights, what)
        other = other_dtype(live, weights)
        if other is not None:
            place = "end" if what == "The end point" else what
            raise ValueError(
                f"{other} is {live[other].dtype} at the start and {weights[other].dtype} at the {place}, so "
                "rounding would keep the path from its end: load both models in one dtype, with dtype=."
            )
        return weights

    def _check_ends(self, start: Weights | None, end: Weights | None) -> None:
        live = named_weights(self.model)
        for given, own, what in ((start, live, "starts"), (end, self.end, "ends")):
            if given is None:
                continue
            check_same_weights(live, given, "The path")
            for name, weight in own.items():
                if not torch.equal(given[name].detach().to(weight), weight.detach()):
                    raise ValueError(
                        f"The path {what} at other weights than those of the evaluator ({name} differs): give the "
                        "ends that it was fitted between."
                    )


class AdapterEnds:
    """Ends that are adapters on one base, or the base itself.

    Args:
        model (`PeftModel`): the one whose adapter is scaled.
        reference ([`~hf_cbft.references.adapter.AdapterReference`]): the other end.
        flipped (`bool`): whether `model` is the start.
    """

    def __init__(self, model: nn.Module, reference: Any, flipped: bool = False) -> None:
        self.model, self.reference, self.flipped = model, reference, flipped

    def along(self, path: Any) -> "AdapterEnds":
        if path != "linear":
            raise NotImplementedError(
                "A path that is not the straight line cannot be had by scaling adapters: merge each adapter into its "
                "base (merge_and_unload), save both, and give these folders."
            )
        return self

    @contextmanager
    def moving(self) -> Iterator[Callable[[float], None]]:
        with ExitStack() as here:

            def move(alpha: float) -> None:
                here.close()
                here.enter_context(self.reference.at(self.model, 1.0 - alpha if self.flipped else alpha))

            yield move

    def fingerprints(self) -> dict[str, str]:
        return {"model": fingerprint(named_weights(self.model)), "other end": self.reference.fingerprint()}


class OneHeadEnds:
    """Ends that differ in their bodies only: the head is that of one of them all along the line.

    Args:
        ends ([`WeightEnds`]): from the model whose head it is to the body of the other.
        flipped (`bool`): whether that model is the end.
    """

    def __init__(self, ends: WeightEnds, flipped: bool) -> None:
        self.model, self.ends, self.flipped = ends.model, ends, flipped

    def along(self, path: Any) -> "OneHeadEnds":
        if path != "linear":
            raise NotImplementedError("With head_from, the path is the straight line: leave path out.")
        return self

    @contextmanager
    def moving(self) -> Iterator[Callable[[float], None]]:
        with self.ends.moving() as move:
            yield (lambda alpha: move(1.0 - alpha)) if self.flipped else move

    def fingerprints(self) -> dict[str, str]:
        return self.ends.fingerprints()


def _given(weights: Weights | None) -> Weights:
    if weights is None:
        raise ValueError("An inner point of the path is None (the live model): give its weights.")
    return weights


def save_ordinary(model: Any, folder: Path) -> None:
    """Save a model as it is now; one with an adapter as an ordinary model, the adapter merged into a copy.

    Raises:
        NotImplementedError: sharded weights, or a model that Transformers cannot save.
    """
    if any(hasattr(parameter, "to_local") for parameter in model.parameters()):
        raise NotImplementedError("The model is sharded, and a shard is no checkpoint: save the point on one process.")
    if has_adapter(model):
        from hf_cbft.references.lora import merged

        model = merged(deepcopy(model))
    if not hasattr(model, "save_pretrained"):
        raise NotImplementedError(f"A {type(model).__name__} has no save_pretrained: give a Transformers model.")
    model.save_pretrained(folder)
