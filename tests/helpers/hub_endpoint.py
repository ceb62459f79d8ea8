# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A small Hub on this machine: folders served as repositories, with counts, and with failures on request.

`ROOT/org/name` is the main branch of `org/name`, `ROOT/org/name@v1` its revision `v1`. In a test:

    with HubEndpoint(root, private={"org/name": "hf_secret"}) as hub:
        hub.fail("503", times=2, path="config.json")    # or "cut", "long", "short"; times=None: from now on
        run([...], env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": tmp, "HF_HUB_OFFLINE": "0"})
        hub.bytes_sent, hub.requests["GET /org/name/resolve/main/config.json"], hub.commit("org/name", "v1")

It takes pushes too, of any token that is not empty or, with `writer`, of that one: repositories are made under `ROOT`,
large files come by LFS (set HF_HUB_DISABLE_XET=1), and `hub.cards` are the model cards it was asked to validate.

As a program, `python tests/helpers/hub_endpoint.py ROOT --port 0 [--private org/name=TOKEN]
[--fail 503 --times 2 --path X]` prints its URL and serves until it is ended; `URL/_counts` gives the counts as JSON.
Files may be sparse.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# What the Hub keeps in LFS: served from another host, after a redirect.
LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".model", ".h5"}
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/.*)?)?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CDN = re.compile(r"/cdn/([^/]+/[^/]+)/(.+)")
_PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+")
_LFS_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_LFS_UPLOAD = re.compile(r"/cdn/_lfs/([0-9a-f]{64})")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")
_CHUNK = 1 << 16
# Longer files are told apart by their start and length: nobody hashes 13 GB for a test.
_HASHED_WHOLE = 1 << 26


class HubEndpoint(ThreadingHTTPServer):
    """Serves until the `with` block ends.

    Args:
        root (`Path`): holds the repositories.
        port (`int`, *optional*, defaults to 0): 0 takes one that is free.
        private (`dict[str, str]`, *optional*): the token that opens a repository, by id.
        writer (`str`, *optional*): the token that may write; `None`: any.
    """

    daemon_threads = True

    def __init__(self, root, port=0, private=None, writer=None):
        super().__init__(("127.0.0.1", port), _Handler)
        self.root, self.private, self.writer = Path(root), dict(private or {}), writer
        self.url = f"http://127.0.0.1:{self.server_port}"
        # Another host by name, as the Hub's storage is: a token must not follow there.
        self.cdn_url = f"http://localhost:{self.server_port}/cdn"
        self.requests, self.bytes_sent, self.tokens_at_cdn = Counter(), 0, 0
        # Large files that have come and are in no commit yet, by hash.
        self.cards, self.large_files = [], {}
        self._failures, self._lock, self._hashes = [], threading.Lock(), {}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def fail(self, mode, times=None, path=""):
        """Fail requests whose path matches the pattern `path`, `times` times.

        `mode`: "503"; "cut" closes the connection in the middle of the body; "long" and "short" announce a wrong
        length.
        """
        assert mode in ("503", "cut", "long", "short")
        self._failures.append([mode, times, path])

    def failure_for(self, path):
        with self._lock:
            for failure in self._failures:
                mode, times, wanted = failure
                if re.search(wanted, path) and times != 0:
                    failure[1] = None if times is None else times - 1
                    return mode
        return None

    def count(self, request=None, sent=0):
        with self._lock:
            self.bytes_sent += sent
            if request:
                self.requests[request] += 1

    def commit(self, repo_id, revision="main"):
        """The commit hash that a revision stands for."""
        return hashlib.sha1(f"{repo_id}@{revision}".encode()).hexdigest()

    def folder(self, repo_id, revision):
        """Where a revision's files are, and its commit; `None` where there is no such revision."""
        for folder in self.root.glob(f"{repo_id}*"):
            name, _, known = str(folder.relative_to(self.root)).partition("@")
            commit = self.commit(repo_id, known or "main")
            if name == repo_id and revision in (known or "main", commit):
                return folder, commit
        return None

    def etag(self, file):
        """As the Hub: SHA-256 for what is in LFS, else the SHA-1 of the git blob."""
        size, changed = file.stat().st_size, file.stat().st_mtime_ns
        key = (file, size, changed)
        if key not in self._hashes:
            with file.open("rb") as opened:
                content = opened.read(size if size <= _HASHED_WHOLE else _CHUNK)
            if file.suffix in LFS_SUFFIXES:
                extra = b"" if size <= _HASHED_WHOLE else str(size).encode()
                self._hashes[key] = hashlib.sha256(content + extra).hexdigest()
            else:
                self._hashes[key] = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
        return self._hashes[key]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubEndpoint

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.take()

    def do_PUT(self):
        self.take()

    def log_message(self, *_):
        pass

    def answer(self):
        parts = urlsplit(self.path)
        path = parts.path
        if path == "/_counts":
            counts = {"bytes_sent": self.server.bytes_sent, "requests": dict(self.server.requests)}
            return self.send_json(counts)
        self.server.count(f"{self.command} {path}")
        self.failure = self.server.failure_for(path)
        if self.failure == "503":
            return self.send_body(503, b"no", {})
        if match := _CDN.fullmatch(path):
            self.server.tokens_at_cdn += "Authorization" in self.headers
            return self.send_file(self.server.root / unquote(match[1]) / unquote(match[2]), {})
        if match := _API.fullmatch(path):
            return self.answer_api(match[1], match[2], unquote(match[3] or "main"), parse_qs(parts.query))
        if match := _RESOLVE.fullmatch(path):
            return self.answer_resolve(match[1], unquote(match[2]), unquote(match[3]))
        return self.send_error_code(404, None, "Not found")

    def take(self):
        """Answer a request that brings something."""
        path, body = urlsplit(self.path).path, self.read_body()
        self.server.count(f"{self.command} {path}")
        self.failure = self.server.failure_for(path)
        if self.failure == "503":
            return self.send_body(503, b"no", {})
        if match := _LFS_UPLOAD.fullmatch(path):
            self.server.tokens_at_cdn += "Authorization" in self.headers
            if hashlib.sha256(body).hexdigest() != match[1]:
                return self.send_body(400, b"another hash", {})
            self.server.large_files[match[1]] = body
            return self.send_body(200, b"", {})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token or self.server.writer not in (None, token):
            return self.send_error_code(403 if token else 401, None, "This token may not write")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo_id = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            known = (self.server.root / repo_id).exists()
            (self.server.root / repo_id).mkdir(parents=True, exist_ok=True)
            return self.send_json({"url": f"{self.server.url}/{repo_id}"}, 409 if known else 200)
        if path == "/api/validate-yaml":
            return self.answer_card(json.loads(body)["content"])
        if match := _PREUPLOAD.fullmatch(path):
            modes = {True: "lfs", False: "regular"}
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": modes[Path(n).suffix in LFS_SUFFIXES]} for n in names]
            return self.send_json({"files": [{**file, "shouldIgnore": False} for file in files]})
        if match := _LFS_BATCH.fullmatch(path):
            objects = json.loads(body)["objects"]
            hrefs = [f"{self.server.cdn_url}/_lfs/{entry['oid']}" for entry in objects]
            actions = [{"actions": {"upload": {"href": href}}} for href in hrefs]
            return self.send_json({"objects": [o | a for o, a in zip(objects, actions, strict=True)]})
        if match := _COMMIT.fullmatch(path):
            return self.answer_commit(match[1], unquote(match[2]), [json.loads(line) for line in body.splitlines()])
        return self.send_error_code(404, None, "Not found")

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer_card(self, content):
        """What the Hub refuses of the metadata that these cards hold."""
        self.server.cards.append(content)
        data = yaml.safe_load(content.split("---\n")[1])
        errors = [f"{key} is empty" for key, value in data.items() if value in (None, "", [])]
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.get("base_model", "none")):
            errors.append("base_model is no model id")
        if any(not isinstance(tag, str) for tag in data.get("tags", [])):
            errors.append("tags are strings")
        for model in data.get("model-index", []):
            for result in model["results"]:
                parts = [result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]]
                parts += [metric["type"] for metric in result["metrics"]]
                if not all(parts) or not all(isinstance(metric["value"], float) for metric in result["metrics"]):
                    errors.append("model-index is not complete")
        answer = {"errors": [{"message": error} for error in errors], "warnings": []}
        return self.send_json(answer, 400 if errors else 200)

    def answer_commit(self, repo_id, revision, operations):
        folder = self.server.root / (repo_id if revision == "main" else f"{repo_id}@{revision}")
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "header":
                continue
            content = (
                self.server.large_files[value["oid"]]
                if operation["key"] == "lfsFile"
                else base64.b64decode(value["content"])
            )
            (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / value["path"]).write_bytes(content)
        commit = self.server.commit(repo_id, revision)
        url = f"{self.server.url}/{repo_id}/commit/{commit}"
        return self.send_json({"commitUrl": url, "commitOid": commit, "success": True})

    def find(self, repo_id, revision):
        """The folder and commit, or `None` after an answer that says why not."""
        token = self.server.private.get(repo_id)
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            self.send_error_code(401, "RepoNotFound", "Repository not found")
        elif not self.server.folder(repo_id, "main"):
            self.send_error_code(404, "RepoNotFound", "Repository not found")
        elif not (found := self.server.folder(repo_id, revision)):
            self.send_error_code(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return found
        return None

    def answer_api(self, repo_id, route, revision, query):
        found = self.find(repo_id, revision)
        if not found:
            return None
        folder, commit = found
        files = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name, size, etag = file.relative_to(folder).as_posix(), file.stat().st_size, self.server.etag(file)
            lfs = {"lfs": {"oid": etag, "sha256": etag, "size": size, "pointerSize": 134}}
            files.append((name, size, etag, lfs if file.suffix in LFS_SUFFIXES else {}))
        if route == "tree":
            entries = [{"type": "file", "path": n, "size": s, "oid": etag[:40], **lfs} for n, s, etag, lfs in files]
            return self.send_json(entries)
        siblings = [{"rfilename": name} for name, *_ in files]
        if "blobs" in query:
            siblings = [{"rfilename": n, "size": s, "blobId": etag[:40], **lfs} for n, s, etag, lfs in files]
        private = repo_id in self.server.private
        about = {"_id": commit[:24], "id": repo_id, "modelId": repo_id, "sha": commit, "private": private}
        return self.send_json({**about, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def answer_resolve(self, repo_id, revision, name):
        found = self.find(repo_id, revision)
        if not found:
            return None
        folder, commit = found
        file = folder / name
        headers = {"X-Repo-Commit": commit}
        if ".." in Path(name).parts or not file.is_file():
            return self.send_error_code(404, "EntryNotFound", "Entry not found", headers)
        if file.suffix not in LFS_SUFFIXES:
            return self.send_file(file, headers)
        headers |= {"X-Linked-Etag": f'"{self.server.etag(file)}"', "X-Linked-Size": str(file.stat().st_size)}
        headers["Location"] = f"{self.server.cdn_url}/{file.relative_to(self.server.root).as_posix()}"
        return self.send_body(302, b"Found", headers)

    def send_file(self, file, headers):
        size = file.stat().st_size
        first, last, status = 0, size - 1, 200
        headers = {**headers, "ETag": f'"{self.server.etag(file)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last, status = int(wanted[1]), min(int(wanted[2] or last), last), 206
            if first >= size:
                return self.send_body(416, b"", {"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        with file.open("rb") as opened:
            opened.seek(first)
            return self.send_stream(status, opened, last + 1 - first, headers)

    def send_json(self, content, status=200):
        return self.send_body(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send_error_code(self, status, code, message, headers=()):
        named = {"X-Error-Code": code} if code else {}
        return self.send_body(status, message.encode(), {**dict(headers), **named, "X-Error-Message": message})

    def send_body(self, status, body, headers):
        return self.send_stream(status, io.BytesIO(body), len(body), headers)

    def send_stream(self, status, stream, length, headers):
        """`length` bytes of a stream, or what the failure that was asked for makes of them."""
        mode = getattr(self, "failure", None)
        announced = {"long": length + 100, "short": min(100, length // 2)}.get(mode, length)
        left = length // 2 if mode == "cut" else min(length, announced)
        lines = [f"HTTP/1.1 {status} -"]
        lines += [f"{name}: {value}" for name, value in {**headers, "Content-Length": announced}.items()]
        self.write("\r\n".join([*lines, "", ""]).encode())
        while left and self.command != "HEAD":
            chunk = stream.read(min(_CHUNK, left))
            left -= len(chunk)
            if not self.write(chunk):
                break
        if mode in ("cut", "long"):
            self.close_connection = True

    def write(self, content):
        try:
            self.wfile.write(content)
        except OSError:  # the client has had enough
            self.close_connection = True
            return False
        self.server.count(sent=len(content))
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--private", action="append", default=[], metavar="ID=TOKEN")
    parser.add_argument("--fail", choices=["503", "cut", "long", "short"])
    parser.add_argument("--times", type=int)
    parser.add_argument("--path", default="")
    options = parser.parse_args()
    hub = HubEndpoint(options.root, options.port, dict(pair.split("=", 1) for pair in options.private))
    if options.fail:
        hub.fail(options.fail, options.times, options.path)
    print(hub.url, flush=True)
    hub.serve_forever()


if __name__ == "__main__":
    main()
