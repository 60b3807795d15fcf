"""HTTP itself: methods, broken requests, slow clients, the log. In front of a Triton that is not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.hostile_bodies import Answer, raw
from tests.pictures import encoded, photo
from tests.service import Server, running_proxy
from tests.waiting import until

_TIMEOUT = 1.0
_POST = b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), request_timeout=_TIMEOUT) as running:
        yield running


@pytest.fixture
def http(proxy: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/", "/health", "/api/health", "/api/info", "/status", "/tasks", "/openapi.json", "/nope"]
)
def test_head_is_get_without_the_content(http: httpx.Client, path: str) -> None:
    get, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    same = {"content-type", "retry-after", "vary"}
    assert {n: v for n, v in head.headers.items() if n in same} == {n: v for n, v in get.headers.items() if n in same}
    assert "content-length" in head.headers
    assert http.get("/health").status_code == 503, "the connection goes on"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/tasks", "GET, HEAD, POST, OPTIONS"),
        ("/tasks/x", "GET, HEAD, DELETE, OPTIONS"),
        ("/generate", "POST, OPTIONS"),
        ("/api/upscale", "POST, OPTIONS"),
        ("/images/x.png", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_allow_names_every_method_of_the_path(http: httpx.Client, path: str, allowed: str) -> None:
    for method in ("PUT", "PATCH", "BREW", *({"GET", "HEAD", "POST", "DELETE"} - set(allowed.split(", ")))):
        answer = http.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert method == "HEAD" or answer.json()["error"]["code"] == "method_not_allowed"
    options = http.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")


def test_options_of_what_is_not_there(http: httpx.Client) -> None:
    assert http.options("/nope").status_code == 404


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET /health HTTP/9.9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
        (_POST + b"Content-Length: -1\r\n\r\n", 400),
        (_POST + b"Content-Length: +3\r\n\r\nabc", 400),
        (_POST + b"Content-Length: many\r\n\r\n", 400),
        (_POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (_POST + b"Content-Length: 3, 4\r\n\r\nabcd", 400),
        (_POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 400),
        (_POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (_POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (_POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 40_000 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_in_our_shape(proxy: Server, request_: bytes, status: int) -> None:
    answer = raw(proxy.url, request_)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == "close"
    assert answer.code in {"bad_request", "uri_too_long", "headers_too_large", "not_implemented"}


def _until_closed(url: str, sent: bytes) -> Answer | None:
    """What came until the connection was closed, by the other side."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), 60) as connection:
        connection.sendall(sent)
        came = b""
        while piece := connection.recv(1 << 16):
            came += piece
    if not came:
        return None
    head, _, body = came.partition(b"\r\n\r\n")
    return Answer(int(head.split(b" ")[1]), {}, body)


@pytest.mark.parametrize(
    "sent",
    [
        b"G",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        _POST + b"Content-Length: 30\r\n\r\n",
        _POST + b'Content-Length: 30\r\n\r\n{"op',
        _POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"POST /api/upscale HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 300\r\n\r\n--x\r\n",
    ],
)
def test_half_sent_requests_are_closed_after_request_timeout(proxy: Server, sent: bytes) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: _until_closed(proxy.url, sent), range(20)))
    assert all(answer and (answer.status, answer.code) == (408, "request_timeout") for answer in answers), answers


def test_a_connection_without_a_request_is_closed(proxy: Server) -> None:
    assert _until_closed(proxy.url, b"") is None


def test_headers_that_dribble_in_are_not_waited_for(proxy: Server) -> None:
    where = urlsplit(proxy.url)
    with socket.create_connection((where.hostname or "", where.port or 0), 0.1) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            connection.sendall(b"a")
            try:
                came = connection.recv(1 << 16)
                break
            except TimeoutError:
                continue
    assert came.startswith(b"HTTP/1.1 408 ")


def test_a_slow_upload_that_goes_on_is_taken(proxy: Server) -> None:
    """It takes several times REQUEST_TIMEOUT, in steps that are far below it."""
    png, where = encoded(photo(0, 0, 16, 16)), urlsplit(proxy.url)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + png + b"\r\n--x--\r\n"
    step = len(body) // 20
    with socket.create_connection((where.hostname or "", where.port or 0), 60) as connection:
        head = "POST /png-info HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), step):
            connection.sendall(body[at : at + step])
            time.sleep(_TIMEOUT / 8)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/tasks", "/submit", "/api/upscale"])
def test_an_upload_that_breaks_off_is_one_line_in_the_log(proxy: Server, path: str) -> None:
    kind = "multipart/form-data; boundary=x" if path == "/api/upscale" else "application/json"
    before, where = len(proxy.log()), urlsplit(proxy.url)
    with socket.create_connection((where.hostname or "", where.port or 0), 60) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: broken-{path[1:4]}\r\nContent-Type: {kind}\r\n"
        connection.sendall(f"{head}Content-Length: 5000\r\n\r\n--x\r\n".encode())
    proxy.wait_for_log(f"[broken-{path[1:4]}] POST {path} 499")
    lines = [line for line in proxy.log()[before:].splitlines() if "not ready" not in line]
    assert [line.split(" ")[2] for line in lines] == ["INFO"], lines


_ODD = ["\n", "\r", "\x1b[31m", "\x00", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066"]


@pytest.mark.parametrize("odd", _ODD)
def test_log_lines_cannot_be_forged(proxy: Server, odd: str) -> None:
    shown = odd.encode("unicode_escape").decode() + "FORGED"
    path = "/images/" + quote(odd + "FORGED")
    assert raw(proxy.url, f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: forger\r\n\r\n".encode()).status == 404
    proxy.wait_for_log(f"{shown} 404")
    file = proxy.folder / "logs" / "proxy.log"
    until(lambda: f"{shown} 404" in file.read_text())  # it is written after standard output
    for log in (proxy.log(), file.read_text()):
        (line,) = [line for line in log.split("\n") if shown in line]
        assert "[forger] GET /images/" in line
        assert odd + "FORGED" not in log


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream;q=0", "application/json"),
        ("text/event-stream; q=0.0, */*", "application/json"),
        ("application/json, text/event-stream;q=0.5", "application/json"),
        ("text/html", "text/html"),
        ("text/html;q=0", "application/json"),
        ("text/html;q=0.4, application/json;q=0.5", "application/json"),
        ("application/json;q=0.4, text/*;q=0.5", "text/html"),
        ("*/*", "application/json"),
    ],
)
def test_the_service_is_described_as_the_client_likes_it(http: httpx.Client, accept: str, kind: str) -> None:
    assert http.get("/", headers={"accept": accept}).headers["content-type"].startswith(kind)


@pytest.mark.parametrize("path", ["/api/upscale", "/png-info", "/tasks", "/generate"])
def test_raw_bytes_never_come_back_in_messages(http: httpx.Client, path: str) -> None:
    png = encoded(photo(0, 0, 16, 16))
    for name in ("prompt", "scale", "steps", "operation", "file"):
        answer = http.post(path, files={name: (None, png), "operation ": (None, b"generate")})
        assert answer.status_code < 500 or answer.status_code == 503
        assert answer.status_code == 200 or not any(odd in answer.text for odd in ("IHDR", "\\x", "\x89")), answer.text


def test_an_image_needs_no_file_name(http: httpx.Client) -> None:
    answer = http.post("/png-info", files={"image": (None, encoded(photo(0, 0, 16, 16)))})
    assert (answer.status_code, answer.json()["parameters"]) == (200, None)
    # Triton is unavailable: what is asked of it was found to be right before.
    answer = http.post("/api/upscale", files={"file": (None, encoded(photo(0, 0, 16, 16)))})
    assert answer.status_code == 503
    answer = http.post("/api/upscale", files={"file": (None, b"\xff\xd8 no image")})
    assert answer.status_code == 415
