# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Rows whose prediction changes along a path, for the report page: which are shown, and how."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel
from PIL import Image

from hf_cbft.data.columns import class_labels, is_list, label_column

MOST, MOST_OF_A_SET = 24, 12
# Longest side of a picture in pixels, and of a text in characters.
_SIDE, _LENGTH = 112, 420
# More changes than these are counted instead of listed.
_MOST_RUNS = 8
# By (right at the start, right at the end), in the order in which they take turns.
KINDS = {
    (False, True): "wrong to right",
    (True, False): "right to wrong",
    (True, True): "right at both ends, wrong in between",
    (False, False): "wrong at both ends, changed along the path",
}
_TEXT_COLUMNS = (("text", "text_pair"), ("prompt", "completion"))


def examples(result: Any, datasets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each set with rows to show: how many predictions change, and a few of those rows.

    Of the rows whose prediction is not the same at every point, each of the four `KINDS` takes its turn; within a kind
    rows stand evenly spaced in the order of the set. Nothing is picked by how it looks. A set shows at most 12 rows,
    the page at most 24.

    Args:
        result ([`ConnectivityResult`]): (P, N) predictions of each set; a set without them, or with several a row, is
            left out.
        datasets (`Mapping[str, data set]`): the sets that were measured, with an `image`, a `text` or a `prompt`. A
            set without these is left out.

    Raises:
        ValueError: a set that was not measured, or other rows than those.
    """
    unknown = [name for name in datasets if name not in result.losses]
    if unknown:
        raise ValueError(f"The result has no set {unknown[0]!r}: it has {', '.join(result.losses)}.")
    shown = {name: rows for name, rows in datasets.items() if _is_shown(result, name, rows)}
    most = min(MOST_OF_A_SET, MOST // max(len(shown), 1))
    return [_of_set(result, name, rows, most) for name, rows in shown.items()]


def _is_shown(result: Any, name: str, rows: Any) -> bool:
    if name not in result.predictions:
        return False
    number = len(result.weights[name])
    if len(rows) != number:
        raise ValueError(
            f"The data set {name!r} has {len(rows)} rows and {number} were measured: give the report the sets that "
            "`evaluate` had."
        )
    if result.predictions[name].shape[1] != number or _raw_column(_raw_row(rows, 0)) is None:
        return False
    if not np.array_equal(class_labels(rows, f"The data set {name!r}"), result.references[name]):
        raise ValueError(
            f"The labels of the data set {name!r} are not those that were measured: give the report the sets that "
            "`evaluate` had, in the same order."
        )
    return True


def _of_set(result: Any, name: str, rows: Any, most: int) -> dict[str, Any]:
    predictions, labels = result.predictions[name], result.references[name]
    by_kind = changing(predictions, labels)
    names = _class_names(rows, f"The data set {name!r}")
    return {
        "name": name,
        "rows": len(labels),
        "changing": sum(map(len, by_kind.values())),
        "kinds": {KINDS[kind]: len(found) for kind, found in by_kind.items() if len(found)},
        "examples": [
            {
                "row": row,
                "label": _class_name(names, labels[row]),
                **_shown(_raw_row(rows, row)),
                **_strip(result.alphas, predictions[:, row], labels[row], names),
            }
            for row in in_turn(list(by_kind.values()), most)
        ],
    }


def changing(predictions: np.ndarray, labels: np.ndarray) -> dict[tuple[bool, bool], np.ndarray]:
    """The rows whose prediction is not the same at every point, by kind: (right at the start, right at the end).

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_cbft.reporting.page_examples import changing
    >>> {kind: rows.tolist() for kind, rows in changing(np.array([[1, 2], [0, 2]]), np.array([0, 2])).items()}
    {(False, True): [0], (True, False): [], (True, True): [], (False, False): []}

    ```
    """
    moved = (predictions != predictions[0]).any(axis=0)
    start, end = predictions[0] == labels, predictions[-1] == labels
    return {kind: np.flatnonzero(moved & (start == kind[0]) & (end == kind[1])) for kind in KINDS}


def in_turn(kinds: Sequence[np.ndarray], most: int) -> list[int]:
    """At most `most` rows, a kind's turn after another's; those of a kind evenly spaced, in their order.

    Example:

    ```python
    >>> from hf_cbft.reporting.page_examples import in_turn
    >>> in_turn([range(0, 100), [200]], 4)
    [0, 200, 33, 66]

    ```
    """
    shares = [0] * len(kinds)
    while sum(shares) < min(most, sum(map(len, kinds))):
        # The kind with the fewest so far, of those that have more.
        open_ones = [index for index, rows in enumerate(kinds) if shares[index] < len(rows)]
        shares[min(open_ones, key=lambda index: shares[index])] += 1
    picked = [
        [int(rows[turn * len(rows) // share]) for turn in range(share)]
        for rows, share in zip(kinds, shares, strict=True)
    ]
    return [rows[turn] for turn in range(max(shares, default=0)) for rows in picked if turn < len(rows)]


def _raw_row(rows: Any, index: int) -> Mapping[str, Any]:
    """A row as it is stored, before any transform."""
    row = (rows.with_format(None) if hasattr(rows, "with_format") else rows)[index]
    return row if isinstance(row, Mapping) else {}


def _raw_column(row: Mapping[str, Any]) -> str | None:
    if isinstance(row.get("image"), Image.Image):
        return "image"
    return next((first for first, _ in _TEXT_COLUMNS if isinstance(row.get(first), str)), None)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    column = _raw_column(row)
    if column == "image":
        return {"image": picture(row["image"])}
    pair = next(columns for columns in _TEXT_COLUMNS if columns[0] == column)
    texts = [row[name] for name in pair if isinstance(row.get(name), str)]
    return {"texts": [text if len(text) <= _LENGTH else text[:_LENGTH].rstrip() + " …" for text in texts]}


def picture(image: Image.Image) -> dict[str, Any]:
    """A small copy as a data URI, PNG or JPEG, whichever is smaller; nothing of the file's metadata goes along."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        image = Image.fromarray(np.uint8(255 * (values - values.min()) / max(np.ptp(values), 1e-12)))
    if image.mode not in ("L", "RGB"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    small = Image.frombytes(small.mode, small.size, small.tobytes())
    written = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 82})):
        buffer = io.BytesIO()
        small.save(buffer, kind, **options)
        written.append((kind, buffer.getvalue()))
    kind, data = written[0] if len(written[0][1]) <= max(2048, len(written[1][1])) else written[1]
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"uri": uri, "width": small.width, "height": small.height, "coarse": max(small.size) < 64}


def _strip(alphas: np.ndarray, predictions: np.ndarray, label: int, names: Sequence[str] | None) -> dict[str, Any]:
    """The prediction along the path: right or not at each point, and the stretches of one class."""
    starts = [0, *(np.flatnonzero(np.diff(predictions)) + 1).tolist()]
    runs = [
        {
            "name": _class_name(names, predictions[first]),
            "right": bool(predictions[first] == label),
            "from": f"{alphas[first]:.2g}",
            "to": f"{alphas[after - 1]:.2g}",
            "first": first,
            "points": after - first,
        }
        for first, after in zip(starts, [*starts[1:], len(predictions)], strict=True)
    ]
    return {"points": len(predictions), "runs": runs, "listed": runs[:_MOST_RUNS], "more": len(runs[_MOST_RUNS:])}


def _class_names(rows: Any, what: str) -> Sequence[str] | None:
    features = getattr(rows, "features", None)
    feature = features[label_column(rows, what)] if features else None
    return feature.names if isinstance(feature, ClassLabel) and not is_list(feature) else None


def _class_name(names: Sequence[str] | None, index: int) -> str:
    return f"class {index}" if names is None or not 0 <= index < len(names) else str(names[index])
