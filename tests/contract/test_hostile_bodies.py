"""Bodies that are made to cost time and memory: refused with 413 while they come."""

from __future__ import annotations

import base64
import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.hostile import png_with
from tests.hostile_bodies import BODIES, ENDPOINTS, Answer, post, raw
from tests.pictures import encoded, photo
from tests.service import Server, running_proxy

_MB = 1 << 20
_LARGE = 60 * _MB
_FORMS_ONLY = ("/api/upscale-batch",)
_JSON_ONLY = ("/submit", "/batch_submit")
_NOT_READABLE = ("json-in-utf-16", "multipart-preamble")
"""Not too large, but wrong from the first byte on."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_proxy(tmp_path_factory.mktemp("proxy")) as running:
        yield running


def expected(name: str, path: str, *, chunked: bool) -> set[int]:
    """A body without a length, of a kind that the endpoint does not take, is refused for its kind."""
    taken = not (path in _FORMS_ONLY if name.startswith("json") else path in _JSON_ONLY)
    if chunked and not taken:
        return {415}
    return {413, 422} if name in _NOT_READABLE else {413}


def check(name: str, path: str, answer: Answer, *, chunked: bool) -> None:
    assert answer.status in expected(name, path, chunked=chunked), (path, answer)
    assert answer.headers["content-type"] == "application/json"
    assert answer.code == {413: "too_large", 415: "unsupported_media_type", 422: "invalid_input"}[answer.status]
    assert len(answer.body) < 1000


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_and_leaves_nothing(proxy: Server, name: str, chunked: bool) -> None:
    size = 12 * _MB
    before = proxy.tree()[0].memory_info().rss
    for path in ENDPOINTS:
        check(name, path, post(proxy.url, path, BODIES[name], size, chunked=chunked), chunked=chunked)
    assert proxy.tree()[0].memory_info().rss - before < 64 * _MB
    assert "Traceback" not in proxy.log()


def test_tiny_chunks_are_refused(proxy: Server) -> None:
    head = b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(proxy.url, head, b"1\r\n \r\n" * 20_000)
    assert (answer.status, answer.code) == (413, "too_large")


def test_compressed_bodies_are_refused(proxy: Server) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = httpx.post(f"{proxy.url}/tasks", content=b"\x1f\x8b", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("way", ["file", "file without a name", "base64", "base64 in JSON", "escaped base64 in JSON"])
def test_a_large_image_is_read_whatever_way_it_comes(proxy: Server, way: str) -> None:
    png = png_with(encoded(photo(0, 0, 16, 16)), b"zzZz", bytes(range(256)) * (20 << 12))  # 20 MB, every byte in it
    text = base64.b64encode(png).decode()
    url = f"{proxy.url}/png-info"
    if way == "file":
        answer = httpx.post(url, files={"file": png}, timeout=60)
    elif way == "file without a name":
        answer = httpx.post(url, files={"file": (None, png)}, timeout=60)
    elif way == "base64":
        answer = httpx.post(url, files={"image": (None, "data:image/png;base64," + text)}, timeout=60)
    else:
        body = json.dumps({"image_base64": "\n".join(text[i : i + 76] for i in range(0, len(text), 76))})
        body = body.replace("/", "\\/") if way.startswith("escaped") else json.dumps({"image": text})
        answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["parameters"] is None


@pytest.mark.heavy
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", BODIES)
def test_health_answers_while_ten_hostile_bodies_of_60_mb_arrive(proxy: Server, name: str, chunked: bool) -> None:
    """Within 0.1 s, or on a machine where that is too much to ask, three times what it takes while others get them."""
    tries = []
    for _ in range(5):
        slowest, memory = _ten_at_once(proxy, proxy.url, name, chunked=chunked)
        assert memory < 1 << 30
        with _sink() as elsewhere:
            without, _ = _ten_at_once(proxy, elsewhere, name, chunked=chunked)
        tries.append((slowest, without))
        if slowest < max(0.1, 3 * without):
            return
    pytest.fail(f"seconds that /health took, and what it takes without the bodies: {tries}")


@contextlib.contextmanager
def _sink() -> Iterator[str]:
    """The URL of a server that takes everything and answers nothing."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            taken = 0
            while taken < _LARGE and (piece := self.request.recv(1 << 16)):
                taken += len(piece)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _ten_at_once(proxy: Server, url: str, name: str, *, chunked: bool) -> tuple[float, int]:
    """The longest that /health took meanwhile, in seconds, and the most memory of any process of the proxy.

    :param url: who gets the bodies.
    """
    waits, memory, over = [0.0], [0], threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=proxy.url, timeout=60) as http:
            http.get("/health")  # makes the connection
            while not over.is_set():
                started = time.monotonic()
                http.get("/health")
                waits.append(time.monotonic() - started)
                memory.append(max(process.memory_info().rss for process in proxy.tree()))
                over.wait(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    paths = [ENDPOINTS[i % len(ENDPOINTS)] for i in range(10)]
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = list(pool.map(lambda path: post(url, path, BODIES[name], _LARGE, chunked=chunked), paths))
    over.set()
    watcher.join()
    for path, answer in zip(paths, answers, strict=True):
        if url == proxy.url:
            check(name, path, answer, chunked=chunked)
    return max(waits), max(memory)
