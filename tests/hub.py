"""A model hub on 127.0.0.1 that speaks what huggingface_hub asks of the real one, over a given set of files.

`GET /api/models/<repo>[/revision/<rev>]?blobs=true` lists a repository, `HEAD` and `GET /<repo>/resolve/<rev>/<file>`
give its files: with ETag, X-Linked-ETag, X-Linked-Size and X-Repo-Commit, and by range. Large files are elsewhere, as
they are with the real one: resolve redirects to a storage host of another origin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from exporters.checkpoints.hub import resolve
from exporters.errors import ExportError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/little-diffusion"
PATTERNS = ("model_index.json", "unet/*", "vae/*")
UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = bytes(range(256)) * 1000
TOKEN = "hf_verySecretTokenOfSomebody"
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "README.md": b"# not asked for",
    "v1-5-pruned.safetensors": b"not asked for either",
    "unet/config.json": b'{"in_channels": 4}',
    UNET: WEIGHTS,
    "unet/diffusion_pytorch_model.bin": b"a pickle",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"other",
    "unet/flax_model.msgpack": b"jax",
    "vae/config.json": b"",
    "vae/diffusion_pytorch_model.fp16.bin": b"only half, and a pickle",
}
WANTED = ("model_index.json", "unet/config.json", UNET, "vae/config.json", "vae/diffusion_pytorch_model.fp16.bin")


@dataclass(kw_only=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0
    """Bytes of the answer's body, up to where it was cut."""


@dataclass
class Hub:
    """What the hub holds, how it misbehaves, and what it was asked. Everything may be changed at any time.

    :param large: names of files that are stored as LFS objects, on the storage host.
    :param token: what a request needs; None lets everybody in.
    :param gated: the repository is listed for all, and its files need `token`.
    :param cuts: for a file's next transfers, after how many bytes each breaks off.
    :param stall: a cut transfer waits for it before the connection is closed.
    :param status: answered to everything, when set.
    :param ranges: whether Range is understood.
    :param announced: sizes that are told in place of the true ones.
    :param spoiled: names of files whose content is sent with one bit flipped.
    """

    repository: str
    files: dict[str, bytes]
    large: set[str] = field(default_factory=set)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    token: str | None = None
    gated: bool = False
    cuts: dict[str, list[int]] = field(default_factory=dict)
    status: int | None = None
    ranges: bool = True
    announced: dict[str, int] = field(default_factory=dict)
    spoiled: set[str] = field(default_factory=set)
    stall: threading.Event | None = None
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def transfers(self, name: str) -> list[Asked]:
        """The requests that moved bytes of a file."""
        digest = hashlib.sha256(self.files[name]).hexdigest()
        ends = (f"/{name}", f"/{digest}")
        return [asked for asked in self.asked if asked.method == "GET" and asked.path.endswith(ends) and asked.sent]

    def listing(self, commit: str) -> dict[str, Any]:
        """The answer of the API."""
        siblings = []
        for name, content in self.files.items():
            size = self.announced.get(name, len(content))
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git_hash(content)}
            if name in self.large:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
            siblings.append(entry)
        return {"id": self.repository, "modelId": self.repository, "sha": commit, "private": False,
                "gated": "auto" if self.gated else False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": siblings}  # fmt: skip


def git_hash(content: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = self.headers
        self.asked = Asked(
            method=self.command, path=url.path, range=headers["range"], authorization=headers["authorization"]
        )
        self.hub.asked.append(self.asked)
        try:
            self._answer(unquote(url.path), parse_qs(url.query))
        except ConnectionError:  # the client left
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, path: str, query: dict[str, list[str]]) -> None:
        hub, name = self.hub, re.escape(self.hub.repository)
        if hub.status is not None:
            return self._fail(hub.status, "", "out of order")
        listing = re.fullmatch(rf"/api/models/{name}(?:/revision/(.+))?", path)
        content = re.fullmatch(rf"/{name}/resolve/([^/]+)/(.+)", path)
        if not listing and not content:
            return self._fail(404 if self.headers["authorization"] else 401, "RepoNotFound", "Repository not found")
        if not self._may(listing is not None):
            return None
        commit = hub.revisions.get((listing or content or [])[1] or "main")
        if commit is None:
            return self._fail(404, "RevisionNotFound", "Invalid rev id")
        if listing:
            assert query.get("blobs") == ["True"] or query.get("blobs") == ["true"], query
            return self._send(200, json.dumps(hub.listing(commit)).encode(), {"Content-Type": "application/json"})
        assert content
        return self._file(content[2], commit)

    def _may(self, listing: bool) -> bool:
        hub, given = self.hub, self.headers["authorization"]
        if hub.token is None or given == f"Bearer {hub.token}" or (hub.gated and listing and given is None):
            return True
        if given is not None and not hub.gated:
            self._fail(401, "", "Invalid credentials in Authorization header")
        elif hub.gated:
            self._fail(403 if given else 401, "GatedRepo", "Access to this model is restricted")
        else:
            self._fail(401, "RepoNotFound", "Repository not found")
        return False

    def _file(self, name: str, commit: str) -> None:
        hub = self.hub
        content = hub.files.get(name)
        if content is None:
            return self._fail(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if name not in hub.large:
            return self._content(name, content, headers | {"ETag": f'"{git_hash(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return self._send(302, b"", headers | {"Location": f"{hub.storage_url}/lfs/{digest}"})

    def _content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        hub, wanted = self.hub, re.fullmatch(r"bytes=(\d+)-", self.headers["range"] or "")
        if name in hub.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if not wanted or not hub.ranges:
            return self._send(200, content, headers, hub.cuts.get(name))
        start = int(wanted[1])
        if start >= len(content):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206, content[start:], headers, hub.cuts.get(name))

    def _fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, headers | {"X-Error-Message": message, "Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], cuts: list[int] | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = cuts.pop(0) if cuts else len(body)
        self.asked.sent = len(body[:stop])
        self.wfile.write(body[:stop])
        self.wfile.flush()
        if stop < len(body):
            if self.hub.stall is not None:
                self.hub.stall.wait(60)
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Storage(_Handler):
    """The other host: it knows contents by their hash, and no token."""

    def _answer(self, path: str, query: dict[str, list[str]]) -> None:
        by_hash = {hashlib.sha256(content).hexdigest(): name for name, content in self.hub.files.items()}
        name = by_hash[path.removeprefix("/lfs/")]
        content = self.hub.files[name]
        self._content(name, content, {"ETag": f'"{path[-8:]}"', "Accept-Ranges": "bytes"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may leave at any time
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub`, and its large files from a second port, until the end of the block."""
    servers = []
    for base in (_Handler, _Storage):
        server = _Server(("127.0.0.1", 0), type("Bound", (base,), {"hub": hub}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        if hub.stall is not None:
            hub.stall.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def fetched(cache: Path, checkpoint: str = REPOSITORY, report: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a checkpoint that was downloaded to `cache`."""
    return resolve(checkpoint, patterns=PATTERNS, cache=cache, report=report)


def refusal(cache: Path, checkpoint: str = REPOSITORY) -> str:
    """The one sentence with which a checkpoint is refused."""
    with pytest.raises(ExportError) as refused:
        fetched(cache, checkpoint)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence
