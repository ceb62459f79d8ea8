# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Both ends of a path, opened: one live model, and what it takes to put it at any point between them.

Ends that are folders or Hub ids cost one model and the copy that an open point keeps; the other end is read from its
files at each point. Adapters on one base cost the base alone: their path is the adapter's scale.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers.utils import cached_file

from hf_cbft.architectures import class_name, has_adapter
from hf_cbft.checkpoints.configs import BLOCKING, compare_labels
from hf_cbft.checkpoints.headers import split_adapter
from hf_cbft.checkpoints.loading import (
    LoadOptions,
    check_no_nan,
    load_model,
    source_name,
    stored_weights,
)
from hf_cbft.checkpoints.sources import split_revision
from hf_cbft.checkpoints.tensors import is_head
from hf_cbft.curve_files import CURVE_FILE, load_curve
from hf_cbft.fingerprint import fingerprint
from hf_cbft.interpolation import at_point, check_same_weights, local, named_weights, sharded_like
from hf_cbft.paths import LinearPath, PolylinePath, QuadraticPath, Weights

Source = str | Path | nn.Module


class Ends(Protocol):
    """Both ends of a path."""

    model: nn.Module

    def along(self, path: Any) -> "Ends":
        """The same ends joined by another path: `"linear"`, a curve, or checkpoints that a polyline goes through."""
        ...

    def at(self, alpha: float) -> AbstractContextManager[Any]:
        """The model at a point, for a block; 0 is the start."""
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
        ends = copy.copy(self)
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

    def at(self, alpha: float) -> AbstractContextManager[Any]:
        return at_point(self.model, self._path, alpha)

    def fingerprints(self) -> dict[str, str]:
        live = named_weights(self.model)
        anchors = [live if anchor is None else anchor for anchor in self._path.anchors]
        # By the names of the live model, so that a weight that is tied in one of them does not count twice.
        return {
            str(index): fingerprint({name: local(anchor[name].detach()) for name in live})
            for index, anchor in enumerate(anchors)
        }

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
        other = [name for name, weight in live.items() if weight.dtype != weights[name].dtype]
        if other:
            place = "end" if what == "The end point" else what
            raise ValueError(
                f"{other[0]} is {live[other[0]].dtype} at the start and {weights[other[0]].dtype} at the {place}, so "
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
        reference ([`~hf_cbft.adapter_reference.AdapterReference`]): the other end.
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

    def at(self, alpha: float) -> AbstractContextManager[Any]:
        return self.reference.at(self.model, 1.0 - alpha if self.flipped else alpha)

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

    def at(self, alpha: float) -> AbstractContextManager[Any]:
        return self.ends.at(1.0 - alpha if self.flipped else alpha)

    def fingerprints(self) -> dict[str, str]:
        return self.ends.fingerprints()


class _Replaced(Mapping[str, torch.Tensor]):
    """Weights of which some are others."""

    def __init__(self, weights: Weights, others: Weights, names: Iterable[str]) -> None:
        self._weights, self._others, self._names = weights, others, list(names)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._others[name] if name in self._others else self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._others or name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_ends(start: Source, end: Source, options: LoadOptions, head_from: str | None = None) -> Ends:
    """Load what is not in memory, and find the cheapest path between the two.

    Args:
        start, end: as [`~hf_cbft.ConnectivityEvaluator`] takes them.
        options ([`LoadOptions`]): how to load them.
        head_from (`str`, *optional*): `"start"` or `"end"`, whose head is used all along.

    Raises:
        ValueError: ends that cannot be interpolated, NaN in the weights, an adapter on another base, classes in
        another order.
        NotImplementedError: weights that are not all on a device.
    """
    if head_from not in (None, "start", "end"):
        raise ValueError(f'head_from = {head_from!r}: say whose head is used, "start" or "end".')
    for source in (start, end):
        if isinstance(source, nn.Module):
            _check_in_memory(source)
    ends: Ends
    if head_from is not None:
        ends = _ends_with_one_head(start, end, head_from, options)
    elif any(isinstance(source, nn.Module) for source in (start, end)):
        ends = _ends_with_modules(start, end, options)
    else:
        ends = _stored_ends(str(start), str(end), options)
    _check_in_memory(ends.model)
    check_no_nan(named_weights(ends.model), source_name(start) if isinstance(ends, WeightEnds) else "The model")
    return ends


def _ends_with_one_head(start: Source, end: Source, head_from: str, options: LoadOptions) -> OneHeadEnds:
    if any(has_adapter(source) or _adapter_parts(source, options)[1] is not None for source in (start, end)):
        raise NotImplementedError("head_from does not go with adapters: merge them (merge_and_unload) first.")
    flipped = head_from == "end"
    source, other = (end, start) if flipped else (start, end)
    weights = named_weights(other) if isinstance(other, nn.Module) else stored_weights(other, options)
    model = load_model(source, options=options)
    live = named_weights(model)
    own = {name: tensor.detach().clone() for name, tensor in live.items() if is_head(name)}
    if not own:
        raise ValueError(f"{source_name(source)} has no head that is known by its name: give ends with equal heads.")
    body = [name for name in weights if not is_head(name)]
    return OneHeadEnds(WeightEnds(model, _Replaced(weights, own, [*body, *own]), options), flipped)


def _check_labels(model: nn.Module, config: Any) -> None:
    """A line between heads whose classes stand in another order mixes them."""
    ours, theirs = (
        {**(known.to_dict() if known is not None else {}), "architectures": [class_name(model)]}
        for known in (getattr(model, "config", None), config)
    )
    for finding in compare_labels(ours, theirs, head_apart=False):
        if finding.level == BLOCKING:
            raise ValueError(
                f"At the ends {finding.text} A line between the heads would mix classes: reorder the rows of one head "
                'and its id2label, or say whose head to use with head_from="start" or "end".'
            )


def _ends_with_modules(start: Source, end: Source, options: LoadOptions) -> Ends:
    loaded = [_adapter_parts(source, options) for source in (start, end)]
    first, second = (
        source if isinstance(source, nn.Module) else _load_with_adapter(*parts, options) if parts[1] else source
        for source, parts in zip((start, end), loaded, strict=True)
    )
    if not has_adapter(first) and not has_adapter(second):
        model = load_model(first, options=options)
        weights = named_weights(second) if isinstance(second, nn.Module) else stored_weights(second, options)
        if isinstance(second, nn.Module):
            check_no_nan(weights, source_name(second))
        ends = WeightEnds(model, weights, options)
        other = second if isinstance(second, nn.Module) else weights
        _check_labels(model, getattr(other, "config", None))
        return ends
    from hf_cbft.adapter_reference import path_reference
    from hf_cbft.lora import check_adapter, merged

    models: list[Any] = [load_model(source, options=options) for source in (first, second)]
    try:
        for model in filter(has_adapter, models):
            check_adapter(model)
    except NotImplementedError:  # the line is the same, between the merged weights
        models = [merged(copy.deepcopy(model)) if has_adapter(model) else model for model in models]
        return WeightEnds(models[0], named_weights(models[1]), options)
    flipped = not has_adapter(models[1])
    scaled, other = models if flipped else reversed(models)
    return AdapterEnds(scaled, path_reference(scaled, other), flipped)


def _stored_ends(start: str, end: str, options: LoadOptions) -> Ends:
    (start_base, start_adapter), (end_base, end_adapter) = (_adapter_parts(s, options) for s in (start, end))
    if start_adapter is None and end_adapter is None:
        # The end first: it is dropped before the start is loaded.
        weights = stored_weights(end, options)
        model: Any = load_model(start, options=options)
        ends = WeightEnds(model, weights, options)
        _check_labels(model, weights.config)
        return ends
    from hf_cbft.adapter_reference import path_reference
    from hf_cbft.lora import check_adapter, merged

    if not _same_place(start_base, end_base):
        raise ValueError(
            f"{start} is on the base {start_base}, and {end} on {end_base}: adapters share a path on one base only. "
            "To measure between what each makes of its base, merge_and_unload both, save them, and give these folders."
        )
    first, second = (start_base, start_adapter), (end_base, end_adapter)
    flipped = end_adapter is None
    scaled, other = (first, second) if flipped else (second, first)
    model = _load_with_adapter(*scaled, options)
    try:
        check_adapter(model)
        reference = path_reference(model, stored_weights(other[0], options) if other[1] is None else other[1])
        return AdapterEnds(model, reference, flipped)
    except NotImplementedError:  # the line is the same, between the merged weights
        del model
    models = [
        load_model(base, options=options) if adapter is None else merged(_load_with_adapter(base, adapter, options))
        for base, adapter in (first, second)
    ]
    return WeightEnds(models[0], named_weights(models[1]), options)


def _adapter_parts(source: Source, options: LoadOptions) -> tuple[Any, str | None]:
    """The base and the adapter of `base+adapter` or of an adapter's folder; `None` for the second of any other."""
    if isinstance(source, nn.Module):
        return source, None
    base, adapter = split_adapter(str(source))
    if adapter is not None or not _holds_only_an_adapter(base, options):
        return base, adapter
    from hf_cbft.lora import adapter_config

    own = adapter_config(base, options.token).base_model_name_or_path
    if not own:
        raise ValueError(f"The adapter {base} does not say what its base is: give base+adapter.")
    return own, base


def names_adapter(source: str, options: LoadOptions) -> bool:
    """Whether a name stands for an adapter on a base (`base+adapter`, or an adapter's folder or repository)."""
    return split_adapter(source)[1] is not None or _holds_only_an_adapter(source, options)


def _holds_only_an_adapter(source: str, options: LoadOptions) -> bool:
    folder = Path(source)
    if folder.is_dir():
        return (folder / "adapter_config.json").exists() and not (folder / "config.json").exists()
    name, revision = split_revision(source)
    found = {}
    for file in ("config.json", "adapter_config.json"):
        found[file] = cached_file(
            name,
            file,
            revision=revision,
            token=options.token,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found[file] is not None:
            return file == "adapter_config.json"
    return False


def _load_with_adapter(base: str, adapter: Any, options: LoadOptions) -> Any:
    from hf_cbft.lora import load_adapter

    return load_adapter(load_model(base, options=options), base, adapter, options.token)


def _same_place(first: str, second: str) -> bool:
    if Path(first).exists() and Path(second).exists():
        return Path(first).resolve() == Path(second).resolve()
    return first == second


def _check_in_memory(model: nn.Module) -> None:
    away = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if away is not None:
        raise NotImplementedError(
            f"{source_name(model)} has {away} offloaded or without values (device meta), and a point of a path needs "
            "all weights at once: load it without offloading, or with a smaller dtype."
        )


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
        from hf_cbft.lora import merged

        model = merged(copy.deepcopy(model))
    if not hasattr(model, "save_pretrained"):
        raise NotImplementedError(f"A {type(model).__name__} has no save_pretrained: give a Transformers model.")
    model.save_pretrained(folder)
