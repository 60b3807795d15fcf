"""Files of web pages over HTTP: compression, caching, and the headers that isolate pages."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from proxy import docs_page, errors
from proxy.surfaces import root
from proxy.web_files import WebFile, files_of
from tests.service import ROOT

HTML = {"Accept": "text/html"}
MOST_BYTES = 400_000
"""That the studio may take at its first load."""
MOST_RUNTIME_BYTES = 5_000_000
"""That a browser fetches to upscale, without the network."""


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI(docs_url=None, redoc_url=None)
    errors.install(app)
    docs_page.install(app)
    app.include_router(root.router)
    app.state.services = None  # the pages need none
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def _linked(page: str) -> list[str]:
    return [url.removeprefix("./") for url in re.findall(r'(?:src|href)="([^"]+)"', page) if "assets/" in url]


def test_the_studio_is_built_from_the_sources_that_are_here() -> None:
    built: dict[str, str] = json.loads((root.BUILT / "sources.json").read_text())
    web = ROOT / "web"
    there = {path.relative_to(web).as_posix() for path in (web / "src").rglob("*") if path.is_file()}
    assert {name for name in built if name.startswith("src/")} == there, "run web/build.sh"
    changed = [name for name, digest in built.items() if _digest(web / name) != digest]
    assert changed == [], "run web/build.sh"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_load_is_small_and_every_file_is_there(client: TestClient) -> None:
    page = client.get("/", headers=HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = _linked(page.text)
    assert {name.rpartition(".")[2] for name in names} == {"js", "css", "svg"}
    answers = [client.get(f"/{name}") for name in names]
    assert [answer.status_code for answer in answers] == [200] * len(names)
    assert sum(len(answer.content) for answer in answers) < MOST_BYTES
    kinds = {answer.headers["content-type"].partition(";")[0] for answer in answers}
    assert kinds == {"text/javascript", "text/css", "image/svg+xml"}


def test_pages_have_no_inline_script_and_load_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/docs"):
        page = client.get(path, headers=HTML)
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", page.text, re.S)
        assert scripts
        assert not any(script.strip() for script in scripts)
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', page.text)
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


def test_pages_are_isolated_so_that_webassembly_has_threads(client: TestClient) -> None:
    for path in ("/", f"/{_linked(client.get('/', headers=HTML).text)[0]}", "/docs"):
        headers = client.get(path, headers=HTML).headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["x-content-type-options"] == "nosniff"


def test_hashed_files_are_kept_and_pages_are_asked_for_again(client: TestClient) -> None:
    page = client.get("/", headers=HTML)
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["vary"] == "Accept-Encoding, Accept"
    again = client.get("/", headers={**HTML, "If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    asset = client.get(f"/{_linked(page.text)[0]}")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("br", False), ("gzip;q=x", False)],
)
def test_texts_are_compressed_for_clients_that_take_gzip(client: TestClient, accepted: str, packed: bool) -> None:
    name = next(name for name in _linked(client.get("/", headers=HTML).text) if name.endswith(".js"))
    answer = client.get(f"/{name}", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
    assert answer.content == (root.BUILT / name).read_bytes()
    assert answer.headers["vary"] == "Accept-Encoding"
    if packed:
        assert int(answer.headers["content-length"]) < len(answer.content) / 2


def test_small_files_and_images_are_not_compressed(tmp_path: Path) -> None:
    (tmp_path / "small.css").write_text("a{}")
    (tmp_path / "large.png").write_bytes(b"\x89PNG" * 1000)
    (tmp_path / "large.css").write_text("a{}" * 1000)
    files = files_of(tmp_path)
    assert (files["small.css"].compressed, files["large.png"].compressed) == (None, None)
    packed = files["large.css"].compressed
    assert packed is not None
    assert gzip.decompress(packed) == files["large.css"].content


def test_a_compressed_file_is_served_as_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "runtime.wasm.gz").write_bytes(gzip.compress(b"\0asm" * 1000))
    (file,) = files_of(tmp_path).items()
    assert file[0] == "runtime.wasm"
    assert (file[1].media_type, file[1].content) == ("application/wasm", b"\0asm" * 1000)
    assert file[1].compressed == (tmp_path / "runtime.wasm.gz").read_bytes()


def test_the_runtime_of_the_upscaler_is_sent_compressed(client: TestClient) -> None:
    files = sorted(path.name.removesuffix(".gz") for path in (root.BUILT / "assets").glob("*.wasm.gz"))
    assert len(files) == 2  # with WebGPU, and without
    for name in files:
        answer = client.get(f"/assets/{name}")
        assert answer.headers["content-type"] == "application/wasm"
        assert answer.headers["content-encoding"] == "gzip"
        assert int(answer.headers["content-length"]) < MOST_RUNTIME_BYTES
        plain = client.get(f"/assets/{name}", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content[:4] == b"\0asm"


def test_the_service_worker_knows_every_file_and_is_asked_for_again(client: TestClient) -> None:
    answer = client.get("/sw.js")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    files = json.loads(answer.text.partition("FILES = ")[2].partition(";")[0])
    there = {f"assets/{path.name.removesuffix('.gz')}" for path in (root.BUILT / "assets").iterdir()}
    assert set(files["all"]) == there
    assert sorted(files["first"]) == sorted(set(_linked(client.get("/", headers=HTML).text)))


def test_scripts_have_the_type_that_browsers_run_whatever_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    assert WebFile.read(tmp_path / "a.js").media_type == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["/assets/nothing.js", "/assets/..%2Findex.html", "/docs/nothing.js"])
def test_files_that_are_not_there_are_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_docs_bring_swagger_from_here(client: TestClient) -> None:
    page = client.get("/docs")
    for name in re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text):
        answer = client.get(f"/{name}")
        assert (answer.status_code, len(answer.content) > 50) == (200, True), name
    assert '"url": "openapi.json"' in client.get("/docs/start.js").text
