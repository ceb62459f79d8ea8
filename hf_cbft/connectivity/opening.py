# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Both ends of a path, opened in the cheapest way that joins them.

Ends that are folders or Hub ids cost one model and the copy that an open point keeps; the other end is read from its
files at each point. Adapters on one base cost the base alone: their path is the adapter's scale.
"""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from hf_cbft.architectures import class_name, has_adapter
from hf_cbft.checkpoints.configs import BLOCKING, compare_labels
from hf_cbft.checkpoints.headers import split_adapter
from hf_cbft.checkpoints.loading import (
    LoadOptions,
    check_no_nan,
    holds_only_an_adapter,
    load_model,
    source_name,
    stored_weights,
)
from hf_cbft.checkpoints.tensors import is_head
from hf_cbft.connectivity.ends import AdapterEnds, Ends, OneHeadEnds, Source, WeightEnds
from hf_cbft.paths.geometry import LazyWeights
from hf_cbft.paths.interpolation import named_weights


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


def open_model(source: Source, options: LoadOptions) -> nn.Module:
    """One model, loaded where it is not in memory, with its adapter if it has one.

    Raises:
        ValueError: NaN in the weights, or an adapter on another base.
        NotImplementedError: weights that are not all on a device.
    """
    base, adapter = _adapter_parts(source, options)
    model = load_model(base, options=options) if adapter is None else _load_with_adapter(base, adapter, options)
    _check_in_memory(model)
    check_no_nan(named_weights(model), source_name(source))
    return model


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
    one_head = LazyWeights([*body, *own], lambda name: own[name] if name in own else weights[name])
    return OneHeadEnds(WeightEnds(model, one_head, options), flipped)


def check_labels(model: nn.Module, config: Any, where: str = "At the ends") -> None:
    """A line between heads whose classes stand in another order mixes them: a `ValueError`."""
    ours, theirs = (
        {**(known.to_dict() if known is not None else {}), "architectures": [class_name(model)]}
        for known in (getattr(model, "config", None), config)
    )
    for finding in compare_labels(ours, theirs, head_apart=False):
        if finding.level == BLOCKING:
            raise ValueError(
                f"{where}, {finding.text} A line between the heads would mix classes: reorder the rows of one head "
                'and its id2label, or, for two checkpoints, say whose head to use with head_from="start" or "end".'
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
        check_labels(model, getattr(other, "config", None))
        return ends
    from hf_cbft.references.adapter import path_reference
    from hf_cbft.references.lora import check_adapter, merged

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
        check_labels(model, weights.config)
        return ends
    from hf_cbft.references.adapter import path_reference
    from hf_cbft.references.lora import base_weights, check_adapter, merged

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
        if other[1] is not None:
            return AdapterEnds(model, path_reference(model, other[1]), flipped)
        # The model holds its base, but for biases that an adapter trained: those took the place of the base's.
        kept = all(config.bias == "none" for config in model.peft_config.values())
        reference = path_reference(model, base_weights(model) if kept else stored_weights(other[0], options))
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
    if adapter is not None or not holds_only_an_adapter(base, options):
        return base, adapter
    from hf_cbft.references.lora import adapter_config

    own = adapter_config(base, options.token).base_model_name_or_path
    if not own:
        raise ValueError(f"The adapter {base} does not say what its base is: give base+adapter.")
    return own, base


def _load_with_adapter(base: str, adapter: Any, options: LoadOptions) -> Any:
    from hf_cbft.references.lora import load_adapter

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
