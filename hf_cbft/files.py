# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are there whole or not at all: written beside, then renamed into place."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends, and vanishes if it fails.

    Raises:
        FileExistsError: `folder` exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: name another folder, or remove it first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield written
        written.chmod(0o777 & ~_umask())
        os.replace(written, folder)
    finally:
        shutil.rmtree(written, ignore_errors=True)


@contextmanager
def whole_file(file: str | Path) -> Iterator[Path]:
    """A temporary file beside `file`, of the same suffix, that takes its place when the block ends."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f".{file.stem}-{os.getpid()}{file.suffix}")
    try:
        yield written
        os.replace(written, file)
    finally:
        written.unlink(missing_ok=True)


def write_text(file: str | Path, text: str) -> None:
    with whole_file(file) as written:
        written.write_text(text, encoding="utf-8")


def write_json(file: str | Path, data: Any) -> None:
    write_text(file, json.dumps(data, indent=2, allow_nan=False) + "\n")


def nan_as_null(values: Any) -> Any:
    """Numbers, arrays of them, mappings of either, with `None` for what is not finite: JSON has no NaN."""
    if isinstance(values, Mapping):
        return {name: nan_as_null(value) for name, value in values.items()}
    plain = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(plain, list):
        return [nan_as_null(value) for value in plain]
    return plain if math.isfinite(plain) else None


def read_measured(file: Path, what: str, versions: Sequence[int]) -> dict[str, Any]:
    """JSON of something measured, in a version that is known here.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another version.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version = data.get("schema_version")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{file.parent} holds no {what} ({file.name}): give a folder that has one.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise ValueError(f"{file} is damaged: measure again.") from None
    if version not in versions:
        raise ValueError(
            f"{file.parent} holds a {what} of schema version {version}, this version reads "
            f"{' and '.join(map(str, versions))}: measure again, or use the version of hf_cbft that wrote it."
        )
    return data


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
