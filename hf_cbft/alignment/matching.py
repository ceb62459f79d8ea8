# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Bring the units of one network into the order of another's, and prove that it stays the same function."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from hf_cbft.alignment.activations import ActivationMatching
from hf_cbft.alignment.alignments import Alignment, check_permutations
from hf_cbft.alignment.binding import bind
from hf_cbft.alignment.gate import Gate
from hf_cbft.alignment.known import find_family, unknown_family
from hf_cbft.alignment.partial import confirmed, guess_family
from hf_cbft.alignment.symmetries import Family, Specification
from hf_cbft.alignment.weights import match_weights
from hf_cbft.architectures import has_adapter
from hf_cbft.checkpoints.loading import LoadOptions, check_no_nan, load_model, names_adapter, source_name
from hf_cbft.data.columns import check_not_empty
from hf_cbft.data.inputs import InputCollator, drop_unused_columns
from hf_cbft.paths.interpolation import check_same_weights, evaluation_mode, named_weights

METHODS = ("weights", "activations", "given")
_GATE_ROWS = 4


def align(
    start: str | Path | nn.Module,
    end: str | Path | nn.Module,
    method: str = "weights",
    data: Any = None,
    *,
    permutations: Mapping[str, Any] | None = None,
    processing_class: Any = None,
    data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
    batch_size: int = 32,
    num_starts: int = 3,
    seed: int = 0,
    partial: bool = False,
    specification: Family | None = None,
    trust_remote_code: bool = False,
    dtype: Any = None,
    device_map: Any = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> Alignment:
    """Find the order of `end`'s units in which it is most like `start`, among those that compute the same function.

    What may be moved is told by the architecture's specification (`hf_cbft.alignment.families`): units of MLPs,
    attention heads and the units in them, channels, the residual stream. The specification is tried with all units at
    random before the search, and the order that was found after it: the logits must stay, in float64, up to rounding.
    Neither model is changed; [`Alignment.apply`] moves the units of one.

    Args:
        start (`str`, `Path` or `PreTrainedModel`): a folder, a Hub id, `org/name@revision` or a model: it stays.
        end (`str`, `Path` or `PreTrainedModel`): the same: its units are to be moved.
        method (`str`, *optional*, defaults to `"weights"`):
            `"weights"` makes the distance of the weights small; `"activations"` the correlation of the units on `data`
            large; `"given"` takes `permutations`.
        data (data set, *optional*): rows for `"activations"`, at best two observations or more for each unit.
        permutations (`dict[str, array]`, *optional*): for `"given"`, by space; a space that is left out stays.
        processing_class, data_collator, batch_size (*optional*): as [`ConnectivityEvaluator`] takes them, for `data`.
        num_starts (`int`, *optional*, defaults to 3):
            Descents of weight matching: one from what the fixed axes pin down, the others from anywhere.
        seed (`int`, *optional*, defaults to 0): of the descents.
        partial (`bool`, *optional*, defaults to `False`):
            Align only what can be confirmed by trying, in a model whose symmetries are not wholly known.
        specification ([`~hf_cbft.alignment.symmetries.Family`], *optional*): of a model that is not known here.
        trust_remote_code, dtype, device_map, token, allow_pickle (*optional*):
            see [`~hf_cbft.checkpoints.loading.LoadOptions`].

    Returns:
        [`Alignment`]

    Raises:
        ValueError: models of other architectures or sizes, an architecture that is not known, NaN in the weights, no
        data for `"activations"`, what is no permutation; and [`~hf_cbft.alignment.gate.AlignmentError`], a
        specification that changes the function.
        NotImplementedError: adapters, or quantised or sharded weights.

    Example:

    ```python
    >>> from hf_cbft import align
    >>> import torch
    >>> from transformers import ViTConfig, ViTForImageClassification
    >>> sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
    >>> _ = torch.manual_seed(0)
    >>> first, second = (ViTForImageClassification(ViTConfig(image_size=24, patch_size=4, **sizes)) for _ in range(2))
    >>> alignment = align(first, second, num_starts=1)
    >>> print(alignment.specification.name, alignment.info["after"] < alignment.info["before"])
    ViT True
    >>> aligned = alignment.apply(second)

    ```
    """
    _check_arguments(method, data, permutations, batch_size, num_starts)
    options = LoadOptions(dtype, device_map, token, allow_pickle, trust_remote_code)
    for source in (start, end):
        check_source(source, options)
    names = {"start": source_name(start), "end": source_name(end)}
    first, second = (load_model(source, options=options) for source in (start, end))
    _check_models(first, second, names)
    known = specification or find_family(second)
    if known is None and not partial:
        raise ValueError(unknown_family(second))
    rows = None if data is None else _Batches(data, first, processing_class, data_collator, batch_size)
    few = rows.few() if rows is not None else []
    bound = _specification(known, first, second, partial, few)
    info: dict[str, Any] = {**names, "family": bound.name, "method": method}
    ours, theirs = _parameters(first), _parameters(second)
    if method == "weights":
        with tqdm(desc="Align: steps", unit=" spaces", disable=None) as progress:
            found, before, after = match_weights(
                bound, ours, theirs, num_starts=num_starts, seed=seed, step=progress.update
            )
        info |= {"objective": "squared distance of the weights", "before": before, "after": after}
        info |= {"num_starts": num_starts, "seed": seed}
    elif rows is not None and method == "activations":
        matching = ActivationMatching(bound)
        with evaluation_mode(first), evaluation_mode(second):
            matching.observe(first, second, rows)
        found, before, after, dead = matching.permutations(ours, theirs)
        info |= {"objective": "mean correlation of the units", "before": before, "after": after}
        info |= {"rows": len(data), "dead": dead}
        del matching
    else:
        found = check_permutations(bound, permutations or {}, "The argument permutations")
    info["gate"] = Gate(second, few).check(bound, found)
    return Alignment(found, bound, info)


def resolve_alignment(
    how: Any, start: nn.Module, end: str | Path | nn.Module, calibration_dataset: Any, **options: Any
) -> Alignment:
    """The alignment that `align=` of [`ConnectivityEvaluator`] names: found, read, or as it is.

    Raises:
        ValueError: none of these, or no data to compare activations on.
    """
    if isinstance(how, Alignment):
        return how
    if how == "weights":
        return align(start, end, **options)
    if how == "activations":
        if calibration_dataset is None:
            raise ValueError(
                'align="activations" compares units on calibration_dataset, and none was given: give one, or take '
                'align="weights".'
            )
        return align(start, end, "activations", calibration_dataset, **options)
    if isinstance(how, str | Path):
        return Alignment.load(how)
    raise ValueError(f'align = {how!r}: give "weights", "activations", an Alignment, or the file or folder of one.')


class _Batches:
    """Batches of a data set for the models, with a bar."""

    def __init__(
        self, data: Any, model: nn.Module, processing_class: Any, data_collator: Any, batch_size: int
    ) -> None:
        self._data = drop_unused_columns(data, model)
        self._collator = InputCollator(model, processing_class, data_collator)
        self._batch_size = batch_size

    def _batch(self, rows: range) -> Any:
        return self._collator([self._data[row] for row in rows])

    def __iter__(self) -> Iterator[Any]:
        number = len(self._data)
        for first in tqdm(range(0, number, self._batch_size), desc="Align: batches", disable=None):
            yield self._batch(range(first, min(first + self._batch_size, number)))

    def few(self) -> list[Any]:
        return [self._batch(range(min(_GATE_ROWS, len(self._data))))]


def _parameters(model: nn.Module) -> dict[str, Any]:
    """The weights that matching compares: parameters, but no running statistics, whose size is that of the data."""
    learned = {id(parameter) for parameter in model.parameters()}
    return {name: weight for name, weight in named_weights(model).items() if id(weight) in learned}


def _specification(known: Family | None, first: Any, second: Any, partial: bool, batches: list[Any]) -> Specification:
    """The symmetries of both models, tried with all units of the end moved at random."""
    family = known or guess_family(second)
    bound = bind(family, second, strict=not partial)
    if bound.sizes != bind(family, first, strict=not partial).sizes:
        raise ValueError(
            f"Both are {family.name}, but their configurations divide the tensors in other ways (numbers of heads): "
            "they are different architectures, and no order of units makes one of the other."
        )
    gate = Gate(second, batches)
    if partial:
        return confirmed(gate, bound)
    gate.check(bound, bound.random(seed=0))
    return bound


def _check_arguments(method: str, data: Any, permutations: Any, batch_size: int, num_starts: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: there is {', '.join(METHODS)}.")
    if method == "activations" and data is None:
        raise ValueError("method='activations' compares units on data, and none was given: give data=.")
    if (method == "given") != (permutations is not None):
        raise ValueError("permutations go with method='given', and that one with permutations: give both or neither.")
    if data is not None:
        check_not_empty(data, "data")
    for name, value in (("batch_size", batch_size), ("num_starts", num_starts)):
        if value < 1:
            raise ValueError(f"{name} = {value}: give at least 1.")


def check_source(source: str | Path | nn.Module, options: LoadOptions) -> None:
    """Raise a `NotImplementedError` for an adapter: its base holds the units, and others may stand on that."""
    is_adapter = has_adapter(source) if isinstance(source, nn.Module) else names_adapter(str(source), options)
    if is_adapter:
        raise NotImplementedError(
            f"{source_name(source)} is an adapter, and moving units would need another base below it: "
            "merge_and_unload it, save the model, and align that."
        )


def _check_models(first: Any, second: Any, names: Mapping[str, str]) -> None:
    for model, name in ((first, names["start"]), (second, names["end"])):
        if getattr(model, "is_quantized", False) or getattr(
            getattr(model, "config", None), "quantization_config", None
        ):
            raise NotImplementedError(
                f"{name} is quantised, and units cannot be moved across its blocks: load it without "
                "quantization_config."
            )
        if any(hasattr(parameter, "to_local") or parameter.is_meta for parameter in model.parameters()):
            raise NotImplementedError(
                f"{name} has weights elsewhere (sharded or offloaded): load it whole, on one device."
            )
        check_no_nan(named_weights(model), name)
    check_same_weights(named_weights(first), named_weights(second), names["end"])
