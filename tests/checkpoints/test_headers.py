# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What a folder or a Hub repository says of a checkpoint, and what is said of one that is broken."""

import hashlib
import json
import socket
import struct
import tracemalloc
from pathlib import Path

import huggingface_hub.constants
import pytest
from helpers.hub_endpoint import HubEndpoint
from safetensors import safe_open

from hf_cbft.checkpoints import sources
from hf_cbft.checkpoints.headers import read_end_point, split_adapter
from hf_cbft.checkpoints.sources import Folder, Repository, TensorHeader, open_source, same_file, split_revision

TOKEN = "hf_secret"


def write_weights(file: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))


def make_checkpoint(folder: Path, shards: int = 1, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], **config}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {"bert.embeddings.weight": (50, 16), "bert.layer.weight": (16, 16), "classifier.weight": (2, 16)}
    if shards == 1:
        write_weights(folder / "model.safetensors", tensors)
        return folder
    files = [f"model-{i + 1}-of-3.safetensors" for i in range(3)]
    for file, name in zip(files, tensors, strict=True):
        write_weights(folder / file, {name: tensors[name]})
    index = {"metadata": {}, "weight_map": dict(zip(tensors, files, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def point_to(monkeypatch, url: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An endpoint with `org/name` (a file), `org/name@v2` (three shards) and `org/private`, asked without waiting."""
    root = tmp_path / "hub"
    make_checkpoint(root / "org" / "name", note="main")
    make_checkpoint(root / "org" / "name@v2", shards=3, note="v2")
    make_checkpoint(root / "org" / "private")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "FIRST_WAIT", 0.0)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubEndpoint(root, private={"org/private": TOKEN}) as endpoint:
        point_to(monkeypatch, endpoint.url)
        yield endpoint


def one_sentence(raised) -> str:
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("shard_size", ["1GB", "10KB"])
def test_a_folder_says_what_safetensors_reads(make_model, tmp_path, shard_size):
    # Shapes of another tensor, or of one shard only, would be compared.
    make_model("bert").save_pretrained(tmp_path, max_shard_size=shard_size)
    files = sorted(tmp_path.glob("*.safetensors"))
    expected = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                part = opened.get_slice(name)
                expected[name] = TensorHeader(part.get_dtype(), tuple(part.get_shape()))
    read = read_end_point(tmp_path).model
    assert read.tensors == expected
    assert read.config["model_type"] == "bert"
    assert (len(files) > 1) == (shard_size == "10KB")


def cut_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:40])


def claim_ten_gigabytes(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10_000_000_000) + b"{}")


def cut_data(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_json(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 8) + b"not json")


def no_offsets(folder):
    raw = json.dumps({"a": {"dtype": "F32", "shape": [1]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nothing(folder):
    (folder / "model.safetensors").unlink()


def bad_config(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def checkpoints_inside(folder):
    (folder / "config.json").unlink()
    (folder / "checkpoint-500").mkdir()


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (cut_header, r"model\.safetensors is damaged.*header is cut short"),
        (claim_ten_gigabytes, r"model\.safetensors is damaged.*claims 10,000,000,000 bytes"),
        (cut_data, r"model\.safetensors is damaged.*speaks of .* bytes, and the file has"),
        (no_json, r"model\.safetensors is damaged.*cannot be read"),
        (no_offsets, r"model\.safetensors is damaged.*cannot be read"),
        (pickle_only, r"pickle only \(pytorch_model\.bin\).*save_pretrained"),
        (nothing, r"holds config\.json and no safetensors weights"),
        (bad_config, r"config\.json is not valid JSON"),
        (checkpoints_inside, r"holds no config\.json.*such as checkpoint-500"),
    ],
)
def test_a_broken_folder_is_said_in_one_sentence(tmp_path, break_it, text):
    # A traceback, or a verdict on half a checkpoint.
    folder = make_checkpoint(tmp_path / "broken")
    break_it(folder)
    with pytest.raises(ValueError, match=text) as raised:
        read_end_point(folder)
    assert str(folder) in one_sentence(raised)


def test_a_header_that_claims_ten_gigabytes_is_refused_before_memory_is_taken(tmp_path):
    # The machine would swap, or the process be killed.
    folder = make_checkpoint(tmp_path / "huge")
    with (folder / "model.safetensors").open("wb") as opened:
        opened.write(struct.pack("<Q", 10_000_000_000))
        opened.truncate(20_000_000_000)  # sparse
    tracemalloc.start()
    with pytest.raises(ValueError, match="claims 10,000,000,000 bytes"):
        Folder(folder).header("model.safetensors")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_missing_shard_is_named(tmp_path):
    folder = make_checkpoint(tmp_path / "shards", shards=3)
    (folder / "model-2-of-3.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names model-2-of-3\.safetensors, which is missing \(1 of 3 files"):
        read_end_point(folder)


def test_a_tensor_that_the_index_names_and_no_shard_has_is_named(tmp_path):
    folder = make_checkpoint(tmp_path / "shards", shards=3)
    write_weights(folder / "model-2-of-3.safetensors", {"other": (1,)})
    with pytest.raises(ValueError, match=r"names bert\.layer\.weight in model-2-of-3\.safetensors, and it is not"):
        read_end_point(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {}}'])
def test_an_index_without_a_map_is_refused(tmp_path, index):
    folder = make_checkpoint(tmp_path / "shards", shards=3)
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(ValueError, match="has no weight_map"):
        read_end_point(folder)


def test_what_is_no_checkpoint_is_said(tmp_path):
    file = tmp_path / "a.txt"
    file.touch()
    with pytest.raises(ValueError, match="is a file: name the folder"):
        open_source(str(file), None)
    with pytest.raises(ValueError, match="neither a folder here nor the id"):
        open_source(str(tmp_path / "missing"), None)


def test_base_and_adapter_are_told_apart(tmp_path):
    # A folder with a plus sign in its name would be taken for two.
    assert split_adapter("org/base+org/adapter") == ("org/base", "org/adapter")
    assert split_adapter("org/base@v1+org/adapter@v2") == ("org/base@v1", "org/adapter@v2")
    assert split_adapter("org/base") == ("org/base", None)
    (tmp_path / "a+b").mkdir()
    assert split_adapter(str(tmp_path / "a+b")) == (str(tmp_path / "a+b"), None)
    assert split_adapter(f"{tmp_path / 'a+b'}+org/adapter") == (str(tmp_path / "a+b"), "org/adapter")
    assert split_adapter(f"org/base+{tmp_path / 'a+b'}") == ("org/base", str(tmp_path / "a+b"))
    assert split_revision("org/name@v1") == ("org/name", "v1")


def test_digests_are_those_of_git_and_lfs(tmp_path):
    # Every file of a folder would differ from the same one on the Hub.
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    folder = Folder(tmp_path)
    assert folder.digest("a.txt", "0" * 40) == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert folder.digest("a.txt", "0" * 64) == hashlib.sha256(b"hello\n").hexdigest()
    assert folder.digest("a.txt", "weak") is None


@pytest.mark.parametrize(("source", "note"), [("org/name", "main"), ("org/name@v2", "v2")])
def test_a_repository_says_what_its_folder_says(hub, source, note):
    # Another revision's configuration or weights would be compared.
    remote, local = read_end_point(source).model, read_end_point(hub.root / source).model
    assert remote.config["note"] == note
    assert (remote.config, remote.tensors, remote.files) == (local.config, local.tensors, local.files)
    assert isinstance(remote.source, Repository)
    for file in ("config.json", *remote.files):
        assert same_file(remote.source, local.source, file)
    assert not same_file(remote.source, open_source(str(hub.root / "org" / "private"), None), "config.json")


def test_one_commit_is_read(hub):
    # A push between two requests would mix two checkpoints.
    read_end_point("org/name@v2")
    asked = [request for request in hub.requests if "/resolve/" in request]
    assert asked
    assert all(hub.commit("org/name", "v2") in request for request in asked)


def test_a_private_repository_needs_its_token(hub, monkeypatch):
    with pytest.raises(ValueError, match=r"has no such repository or does not show it to you.*HF_TOKEN") as raised:
        read_end_point("org/private")
    assert "org/private" in one_sentence(raised)
    assert read_end_point("org/private", token=TOKEN).model.tensors
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_end_point("org/private").model.tensors
    # A token that follows a redirect is a token given away.
    assert hub.tokens_at_cdn == 0
    assert any("/cdn/" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("org/missing", "org/missing is no folder here, and .* has no such repository"),
        ("org/name@v9", "org/name has no revision v9"),
    ],
)
def test_what_the_hub_does_not_have_is_asked_for_once(hub, source, text):
    with pytest.raises(ValueError, match=text) as raised:
        read_end_point(source)
    one_sentence(raised)
    assert max(hub.requests.values()) == 1


@pytest.mark.parametrize("path", ["/api/models", r"config\.json", r"index\.json", "/cdn/.*2-of-3"])
@pytest.mark.parametrize("mode", ["503", "cut", "long", "short"])
def test_a_failure_that_passes_is_got_over(hub, mode, path):
    # A hiccup of the network would end the check.
    expected = read_end_point(hub.root / "org" / "name@v2").model.tensors
    hub.fail(mode, times=3, path=path)
    assert read_end_point("org/name@v2").model.tensors == expected


@pytest.mark.parametrize("path", ["/api/models", "config.json", "/cdn/"])
@pytest.mark.parametrize("mode", ["503", "cut", "long", "short"])
def test_a_failure_that_stays_is_one_sentence(hub, mode, path):
    hub.fail(mode, path=path)
    with pytest.raises(ConnectionError, match=r"cannot be had from .*, also when asked 3 times more: ") as raised:
        read_end_point("org/name")
    assert one_sentence(raised).startswith("org/name: ")
    asked = max(count for request, count in hub.requests.items() if path in request and "HEAD" not in request)
    # A header that seems to be longer than what came is asked for on its own, each time.
    assert asked == (8 if (mode, path) == ("short", "/cdn/") else 4)


def test_a_damaged_repository_is_said(hub):
    folder = hub.root / "org" / "name"
    claim_ten_gigabytes(folder)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*10000000000") as raised:
        read_end_point("org/name")
    one_sentence(raised)
    make_checkpoint(folder)
    cut_data(folder)
    with pytest.raises(OSError, match=r"speaks of .* and the file has"):
        read_end_point("org/name")
    make_checkpoint(folder)
    pickle_only(folder)
    with pytest.raises(ValueError, match="pickle only"):
        read_end_point("org/name")
    (hub.root / "org" / "name@v2" / "model-3-of-3.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names model-3-of-3\.safetensors, which is missing"):
        read_end_point("org/name@v2")


def test_without_the_hub_the_cache_is_read(hub, monkeypatch):
    # Whoever works offline could not compare what lies on the disk.
    cached = Path(huggingface_hub.snapshot_download("org/name"))
    expected = read_end_point(cached).model.tensors
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        read = read_end_point("org/name").model
        assert read.tensors == expected
        assert read.source.note == "org/name was read from the cache, since HF_HUB_OFFLINE is set."
        with pytest.raises(OSError, match="not in the cache, and HF_HUB_OFFLINE is set"):
            read_end_point("org/name@v2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_to(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
        read = read_end_point("org/name").model
        assert read.tensors == expected
        assert "the Hub cannot be reached" in read.source.note
        with pytest.raises(OSError, match=r"asked 3 times more: .*Nothing of it is in the cache") as raised:
            read_end_point("org/private")
        one_sentence(raised)
