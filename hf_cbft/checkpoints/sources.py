# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint's files are: a folder, or a repository on the Hub.

Both answer the same questions (`names`, `read`, `header`), so that whoever compares two checkpoints need not know
which is which. No weights are read.
"""

import hashlib
import json
import math
import struct
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"

# A request that fails for a reason that may pass is made again this often, after a wait that doubles each time.
RETRIES = 3
FIRST_WAIT = 0.5  # seconds
_PASSING = (408, 429, 500, 502, 503, 504)
_TIMEOUT = 10.0  # seconds without an answer
CONNECTIONS = 8
# What the safetensors library itself allows.
_LONGEST_HEADER = 100_000_000


class TensorHeader(NamedTuple):
    """One tensor as its file's header gives it: `dtype` in safetensors' words ("F32", "BF16") and `shape`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class _DamagedError(Exception):
    """An answer that is not what was asked for; the next one may be."""


def split_revision(source: str) -> tuple[str, str | None]:
    """`org/name@revision` in two. A folder keeps its name, whatever is in it."""
    if "@" not in source or Path(source).exists():
        return source, None
    name, _, revision = source.rpartition("@")
    return name, revision


def is_folder(source: str) -> bool:
    """Return `True` for a folder on this machine, `False` for the id of a Hub repository (without its revision).

    Raises:
        ValueError: it is neither.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    path = Path(source)
    if path.is_dir():
        return True
    if path.exists():
        raise ValueError(f"{source} is a file: name the folder that it is in.")
    try:
        validate_repo_id(source)
    except HFValidationError:
        raise ValueError(f"{source} is neither a folder here nor the id of a Hub repository: give one.") from None
    return False


def open_source(source: str, token: str | bool | None) -> "Folder | Repository":
    """The folder or Hub repository that `source` names; the cache's folder where the Hub cannot be asked.

    Raises:
        ValueError: it is neither, or there is no such repository or revision.
        OSError: the Hub cannot be asked, and the cache has nothing of it.
    """
    from huggingface_hub import is_offline_mode

    name, revision = split_revision(source)
    if is_folder(name):
        return Folder(Path(name))
    if is_offline_mode():
        cached = _cached(name, revision)
        if cached is None:
            raise OSError(
                f"{source} is no folder here and not in the cache, and HF_HUB_OFFLINE is set: unset it, or fetch the "
                f"checkpoint first (hf download {name})."
            )
        return Folder(cached, source, f"{source} was read from the cache, since HF_HUB_OFFLINE is set.")
    try:
        return Repository(name, revision, token)
    except ConnectionError as error:
        cached = _cached(name, revision)
        if cached is None:
            raise ConnectionError(f"{error} Nothing of it is in the cache.") from None
        return Folder(cached, source, f"{source} was read from the cache, since the Hub cannot be reached.")


def read_json(source: "Folder | Repository", name: str) -> Any:
    """A JSON file of a checkpoint.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(source.read(name))
    except ValueError:
        raise ValueError(f"{source.name}: {name} is not valid JSON; fetch or save the checkpoint again.") from None


class Folder:
    """A checkpoint in a local folder.

    Args:
        path (`Path`): the folder.
        name (`str`, *optional*): what messages call it; `None` is its path.
        note (`str`, *optional*): what whoever reads the report should know of where this comes from.
    """

    def __init__(self, path: Path, name: str | None = None, note: str | None = None) -> None:
        self.path, self.name, self.note = path, name or str(path), note
        inside = list(path.iterdir())
        self.names = {item.name for item in inside if item.is_file()}
        self.subfolders = {item.name for item in inside if item.is_dir()}

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def header(self, name: str) -> dict[str, TensorHeader]:
        """The tensors in a safetensors file, after its header was checked against the file's length.

        Raises:
            ValueError: a header or data that are cut short, too long or no header at all.
        """
        file = self.path / name
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            # Before anything is allocated.
            if length > _LONGEST_HEADER:
                raise ValueError(f"{self._damaged(name)} its header claims {length:,} bytes.")
            if len(start) < 8 or 8 + length > size:
                raise ValueError(f"{self._damaged(name)} its header is cut short.")
            raw = opened.read(length)
        try:
            tensors, end = _parse_header(json.loads(raw))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{self._damaged(name)} its header cannot be read.") from None
        if 8 + length + end > size:
            raise ValueError(
                f"{self._damaged(name)} its header speaks of {8 + length + end:,} bytes, and the file has {size:,}."
            )
        return tensors

    def _damaged(self, name: str) -> str:
        return f"{self.name}: {name} is damaged, fetch or save the checkpoint again:"

    def digest(self, name: str, etag: str) -> str | None:
        """The file's hash of the kind that an ETag of the Hub is: a git blob's SHA-1, or SHA-256 for LFS files."""
        content = self.read(name)
        if len(etag) == 64:
            return hashlib.sha256(content).hexdigest()
        if len(etag) == 40:
            return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return None


class Repository:
    """A checkpoint on the Hub, at one commit.

    Args:
        repo_id (`str`): its id.
        revision (`str`, *optional*): branch, tag or commit; `None` is the main branch.
        token (`str` or `bool`, *optional*): for private repositories; `None` is the usual one.
    """

    note: str | None = None
    subfolders: frozenset[str] = frozenset()

    def __init__(self, repo_id: str, revision: str | None, token: str | bool | None) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.token = repo_id, token
        self.name = repo_id if revision is None else f"{repo_id}@{revision}"
        self._api = HfApi()
        self._heads: dict[str, tuple[str | None, int | None]] = {}
        info = self._ask(
            "its list of files",
            lambda: self._api.model_info(
                repo_id, revision=revision, token=token, timeout=_TIMEOUT, expand=["sha", "siblings"]
            ),
        )
        self.names = {sibling.rfilename for sibling in info.siblings or ()}
        # One commit for all files, also when the branch moves on meanwhile.
        self.revision = info.sha or revision

    def read(self, name: str) -> bytes:
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        def get() -> bytes:
            response = get_session().get(
                self._url(name), headers=build_hf_headers(token=self.token), timeout=_TIMEOUT, follow_redirects=True
            )
            hf_raise_for_status(response)
            if name.endswith(".json"):
                json.loads(response.content)
            return response.content

        return self._ask(name, get)

    def header(self, name: str) -> dict[str, TensorHeader]:
        """The tensors in a safetensors file. The Hub's client refuses a header that claims too much."""

        def get() -> dict[str, TensorHeader]:
            found = self._api.parse_safetensors_file_metadata(
                self.repo_id, name, revision=self.revision, token=self.token, timeout=_TIMEOUT
            )
            _, size = self._head(name)
            if size is not None and _least_size(found) > size:
                raise _DamagedError(f"its header speaks of {_least_size(found):,} bytes, and the file has {size:,}")
            return {key: TensorHeader(tensor.dtype, tuple(tensor.shape)) for key, tensor in found.tensors.items()}

        return self._ask(name, get)

    def etag(self, name: str) -> str | None:
        """The hash of a file, without reading its content."""
        if name not in self._heads:
            self._heads[name] = self._ask(name, lambda: self._head(name))
        return self._heads[name][0]

    def fetch_etags(self, names: Iterable[str]) -> None:
        """Ask for several at once."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self.etag, [name for name in names if name in self.names]))

    def _head(self, name: str) -> tuple[str | None, int | None]:
        from huggingface_hub import get_hf_file_metadata

        if name not in self._heads:
            found = get_hf_file_metadata(self._url(name), token=self.token, timeout=_TIMEOUT)
            self._heads[name] = (found.etag, found.size)
        return self._heads[name]

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo_id, name, revision=self.revision, endpoint=self._api.endpoint)

    def _ask(self, what: str, request: Callable[[], T]) -> T:
        """Make a request, and make it again when the reason for a failure may pass.

        Raises:
            ValueError: there is no such repository, revision or file, or it may not be read.
            ConnectionError: no try gave an answer.
        """
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, SafetensorsParsingError

        for attempt in range(RETRIES + 1):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                return request()
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status not in _PASSING:
                    raise ValueError(self._refusal(what, error)) from None
                reason = f"the server answers {status}"
            except HTTPError as error:
                reason = f"{type(error).__name__}: {_one_line(error)}"
            except SafetensorsParsingError as error:
                reason = _one_line(error)
                if "too big" in reason:
                    raise ValueError(f"{self.name}: {what} is damaged: {reason}") from None
            except _DamagedError as error:
                reason = _one_line(error)
            except json.JSONDecodeError:
                reason = "what arrives is not valid JSON"
        raise ConnectionError(
            f"{self.name}: {what} cannot be had from {self._api.endpoint}, also when asked {RETRIES} times more: "
            f"{reason}."
        )

    def _refusal(self, what: str, error: Any) -> str:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if isinstance(error, GatedRepoError):
            return f"{self.name} is gated: ask for access on its page, and log in with hf auth login or set HF_TOKEN."
        if isinstance(error, RevisionNotFoundError):
            return f"{self.repo_id} has no revision {self.name.removeprefix(self.repo_id + '@')}: check its spelling."
        if isinstance(error, RepositoryNotFoundError) or error.response.status_code in (401, 403):
            return (
                f"{self.name} is no folder here, and {self._api.endpoint} has no such repository or does not show it "
                "to you: check its spelling; for a private one, log in with hf auth login or set HF_TOKEN."
            )
        return f"{self.name}: {what} cannot be had, the server answers {error.response.status_code}."


def same_file(first: Folder | Repository, second: Folder | Repository, name: str) -> bool | None:
    """Compare a small file that both have; `None` if their hashes are of different kinds."""
    if isinstance(first, Folder) and isinstance(second, Folder):
        return first.read(name) == second.read(name)
    if isinstance(first, Repository) and isinstance(second, Repository):
        ours, theirs = first.etag(name), second.etag(name)
    else:
        folder, repository = (first, second) if isinstance(first, Folder) else (second, first)
        assert isinstance(folder, Folder)
        assert isinstance(repository, Repository)
        ours = repository.etag(name)
        theirs = folder.digest(name, ours) if ours else None
    if not ours or not theirs:
        return None
    return ours == theirs or (None if len(ours) != len(theirs) else False)


def _cached(repo_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in (CONFIG, ADAPTER_CONFIG):
        found = try_to_load_from_cache(repo_id, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _parse_header(header: dict[str, Any]) -> tuple[dict[str, TensorHeader], int]:
    """Tensors and the end of the last one's data."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    tensors = {
        name: TensorHeader(str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in entries.items()
    }
    return tensors, max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)


def _least_size(found: Any) -> int:
    """How long a safetensors file is at least, from what the Hub's client says of its header."""
    header = {
        name: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": tensor.data_offsets}
        for name, tensor in found.tensors.items()
    }
    # The client does not say how long the header is: no shorter than its entries without a space.
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + length + max((tensor.data_offsets[1] for tensor in found.tensors.values()), default=0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
