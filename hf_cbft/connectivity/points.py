# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The points of a sweep as they are measured, kept so that an interrupted one goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hf_cbft.files import whole_file, write_json
from hf_cbft.tables import shorten
from hf_cbft.tasks.task import Scores

_SCHEMA_VERSION = 1
_IDENTITY = "sweep.json"
_FIELDS = tuple(Scores.__dataclass_fields__)


@dataclass(frozen=True)
class Point:
    """One point of a path, measured.

    Attributes:
        scores (`dict[str, Scores]`): by set.
        digests (`dict[str, str]`): by set, of the batches that the model saw.
        batch_size (`int`): that they were made with; batches of another size have other digests.
    """

    scores: dict[str, Scores]
    digests: dict[str, str]
    batch_size: int


class PointStore:
    """A folder with a file for each point of one sweep.

    Args:
        folder (`Path`): made where it is not there.
        identity (`Mapping[str, Any]`): JSON of all that decides the figures; a folder of another sweep is refused.

    Raises:
        ValueError: the folder holds points of another sweep (what differs is listed), or something else.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        identity = json.loads(json.dumps({"schema_version": _SCHEMA_VERSION, **identity}))
        file = folder / _IDENTITY
        if not file.exists():
            if folder.exists() and any(folder.iterdir()):
                raise ValueError(f"{folder} holds no sweep to go on with, and is not empty: name another folder.")
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, identity)
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ValueError(f"{file} is damaged: remove {folder} and measure again.") from None
        changed = sorted(key for key in identity.keys() | before.keys() if identity.get(key) != before.get(key))
        if changed:
            was, now = ({key: shorten(json.dumps(of.get(key))) for key in changed} for of in (before, identity))
            shown = "; ".join(f"{key} was {was[key]}, now {now[key]}" for key in changed)
            raise ValueError(f"{folder} holds the points of another sweep ({shown}): name another folder.")

    def save(self, name: str, point: Point) -> None:
        arrays = {
            f"{field}/{part}": values
            for part, scores in point.scores.items()
            for field in _FIELDS
            if (values := getattr(scores, field)) is not None
        }
        about = {"digests": json.dumps(point.digests), "batch_size": str(point.batch_size)}
        with whole_file(self.folder / f"{name}.safetensors") as written:
            save_file(arrays, written, metadata=about)

    def load(self, name: str) -> Point | None:
        """A point that was measured before; `None` where it was not, or its file is damaged."""
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="np") as stored:
                about, arrays = stored.metadata(), {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
        digests = json.loads(about["digests"])
        columns: dict[str, dict[str, Any]] = {
            part: {field: arrays.get(f"{field}/{part}") for field in _FIELDS} for part in digests
        }
        scores = {part: Scores(**values) for part, values in columns.items()}
        return Point(scores, digests, int(about["batch_size"]))
