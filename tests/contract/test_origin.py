"""Web pages of others: they may not work through a visitor's browser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.service import Server, running_proxy

_JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("proxy")
    with running_proxy(folder, cors_origins="http://shop.example", trusted_hosts="127.0.0.1,*.ours.example") as running:
        yield running


@pytest.fixture
def http(proxy: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/octet-stream", "", None])
@pytest.mark.parametrize("path", ["/tasks", "/generate", "/submit", "/batch_submit", "/png-info"])
def test_json_needs_its_content_type(http: httpx.Client, path: str, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = http.post(path, content=b'{"operation": "generate", "prompt": "x"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/problem+json"])
def test_json_by_any_of_its_names(http: httpx.Client, kind: str) -> None:
    answer = http.post("/tasks", content=b'{"operation": "paint"}', headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "operation")


_FOREIGN = [
    "http://evil.example",
    "https://evil.example",
    "null",
    "http://127.0.0.1:1",
    "http://shop.example.evil",
    "x",
]


@pytest.mark.parametrize("origin", _FOREIGN)
@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/tasks", "application/json"),
        ("POST", "/tasks", "multipart/form-data; boundary=x"),
        ("POST", "/tasks", "application/x-www-form-urlencoded"),
        ("POST", "/tasks", "text/plain"),
        ("POST", "/submit", "application/json"),
        ("POST", "/api/upscale", "multipart/form-data; boundary=x"),
        ("DELETE", "/tasks/12345678-1234-1234-1234-123456789012", ""),
    ],
)
def test_pages_of_others_change_nothing(http: httpx.Client, method: str, path: str, kind: str, origin: str) -> None:
    answer = http.request(method, path, content=b"{}", headers={"content-type": kind, "origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in answer.headers


def test_two_origins_are_none(http: httpx.Client) -> None:
    headers = [
        ("content-type", "application/json"),
        ("origin", "http://shop.example"),
        ("origin", "http://evil.example"),
    ]
    assert http.post("/tasks", content=b"{}", headers=headers).status_code == 403


def test_our_page_configured_origins_and_programs_may(http: httpx.Client, proxy: Server) -> None:
    for headers in (
        {},
        {"origin": proxy.url},
        {"origin": "http://shop.example"},
        {"origin": "https://www.ours.example", "host": "www.ours.example"},
        {"origin": "https://public.example", "x-forwarded-host": "public.example"},
        {"origin": "https://public.example", "sec-fetch-site": "same-origin"},
    ):
        answer = http.post("/tasks", content=b'{"operation": "paint"}', headers=_JSON | headers)
        assert answer.status_code == 422, headers


def test_everybody_may_look(http: httpx.Client) -> None:
    assert http.get("/tasks", headers={"origin": "http://evil.example"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "ours.example.evil", "xours.example", "127.0.0.1.evil", "a b", "x/y", "@"]
)
def test_hosts_that_are_not_trusted_are_refused(http: httpx.Client, host: str) -> None:
    answer = http.get("/tasks", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Host")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "a.ours.example", "A.B.OURS.EXAMPLE:8000", "a.ours.example."]
)
def test_hosts_that_are_trusted_are_served(http: httpx.Client, host: str) -> None:
    assert http.get("/tasks", headers={"host": host}).status_code == 200
