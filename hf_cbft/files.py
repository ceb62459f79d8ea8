# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are there whole or not at all: written beside, then renamed into place."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
