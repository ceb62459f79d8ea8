# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a fitted curve: an ordinary checkpoint of its middle, and between which ends it runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hf_cbft.checkpoints.loading import load_model, source_name
from hf_cbft.files import whole_folder, write_json
from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.paths.geometry import LazyWeights, LinearPath, QuadraticPath, Weights
from hf_cbft.paths.interpolation import at_point, named_weights

CURVE_FILE = "curve.json"
_SCHEMA_VERSION = 1


def save_curve(
    folder: str | Path,
    path: QuadraticPath,
    model: Any,
    processing_class: Any = None,
    start: str | None = None,
    end: str | None = None,
) -> None:
    """Write a fitted curve: an ordinary checkpoint of its middle, and `curve.json`, which says between what it runs.

    Args:
        folder (`str` or `Path`): new or empty. It is there whole in the end, or not at all.
        path ([`QuadraticPath`]): with the weights of all three anchors.
        model (`PreTrainedModel`): of the architecture, for example the start; afterwards it is what it was.
        processing_class (*optional*): saved beside the middle.
        start (`str`, *optional*), end (`str`, *optional*): what the ends are called.

    Raises:
        ValueError: an anchor is the live model.
        FileExistsError: `folder` is not empty.
    """
    if any(anchor is None for anchor in path.anchors):
        raise ValueError("One anchor of the curve is None (the live model): give its weights to save the curve.")
    with whole_folder(folder) as written:
        with at_point(model, LinearPath(start=path.middle), 0.0):
            model.save_pretrained(written)
        if processing_class is not None:
            processing_class.save_pretrained(written)
        ends = {"start": (start, path.start), "end": (end, path.end)}
        facts = {what: {"name": name, "fingerprint": fingerprint(weights)} for what, (name, weights) in ends.items()}  # type: ignore[arg-type]
        write_json(written / CURVE_FILE, {"schema_version": _SCHEMA_VERSION, "kind": "quadratic", **facts})


def load_curve(
    folder: str | Path, start: str | Path | nn.Module | Weights, end: str | Path | nn.Module | Weights
) -> QuadraticPath:
    """Read the curve of [`save_curve`] between the ends that it was fitted between.

    Args:
        folder (`str` or `Path`): as [`save_curve`] left it.
        start (`str`, `Path`, `PreTrainedModel` or weights by name), end: the ends. Weights may be read lazily: each is
            read once here, and none is kept. Of a model the path holds the model's own tensors.

    Raises:
        OSError: the folder cannot be read.
        ValueError: it holds no curve, one of another version, or one between other ends.
    """
    facts = read_curve_file(folder)
    middle = {name: weight.detach() for name, weight in named_weights(load_model(folder)).items()}
    ends = []
    for what, source in (("start", start), ("end", end)):
        weights = source if isinstance(source, Mapping) else named_weights(load_model(source))
        complete = middle.keys() <= set(weights)  # `in` would read lazy weights
        if not complete or fingerprint(LazyWeights(middle, weights.__getitem__)) != facts[what]["fingerprint"]:
            given = "these weights" if isinstance(source, Mapping) else source_name(source)
            raise ValueError(
                f"{folder} holds a curve whose {what} is {facts[what]['name'] or 'another model'}, and {given} has "
                "other weights (names, shapes, dtypes and values count): give the two models that it was fitted "
                "between, in their order."
            )
        ends.append(weights)
    return QuadraticPath(ends[0], middle, ends[1])


def read_curve_file(folder: str | Path) -> dict[str, Any]:
    """Read `curve.json`: the names and fingerprints of the ends."""
    file = Path(folder) / CURVE_FILE
    if not file.is_file():
        raise ValueError(f"{folder} has no {CURVE_FILE}, so it is no fitted curve: make one with hf-cbft curve.")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        known = facts["schema_version"] == _SCHEMA_VERSION and facts["kind"] == "quadratic"
        known = known and all({"name", "fingerprint"} <= facts[what].keys() for what in ("start", "end"))
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise ValueError(f"{file} is damaged or of another version of hf_cbft: fit the curve again.")
    return facts
