"""Who takes turns: the address that a request comes from, and nothing that it says of itself."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from darkroom.settings import Settings
from proxy.__main__ import DrainingServer
from proxy.sources import source_of
from proxy.surfaces.tasks import client_of


def request(host: str | None, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "client": None if host is None else (host, 1), "headers": raw})


def test_source_is_the_address_and_not_a_key() -> None:
    keyed = request("203.0.113.7", authorization="Bearer invented", x_forwarded_for="198.51.100.1")
    assert source_of(keyed) == source_of(request("203.0.113.7", x_api_key="other")) == "203.0.113.7"
    assert client_of(keyed).startswith("key:"), "who owns a task is another matter"


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::2", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("testclient", "testclient"),
        (None, "unknown"),
    ],
)
def test_source_of_an_address(host: str | None, source: str) -> None:
    assert source_of(request(host)) == source


def test_source_that_a_proxy_names_is_believed_only_where_the_proxy_is_named() -> None:
    app = FastAPI()

    @app.get("/")
    async def source(request: Request) -> str:
        return source_of(request)

    for trusted, peer, believed in (
        ("", "127.0.0.1", False),  # whom uvicorn by itself would believe
        ("192.0.2.1,198.51.100.0/24", "192.0.2.1", True),
        ("192.0.2.1,198.51.100.0/24", "198.51.100.9", True),
        ("192.0.2.1,198.51.100.0/24", "127.0.0.1", False),
        ("*", "203.0.113.8", True),
    ):
        config = DrainingServer(app, Settings(_env_file=None, forwarded_allow_ips=trusted)).config
        config.load()
        assert asyncio.run(_source_seen_by(config.loaded_app, peer)) == ("203.0.113.7" if believed else peer)


async def _source_seen_by(app: Any, peer: str) -> str:
    transport = httpx.ASGITransport(app=app, client=(peer, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/", headers={"X-Forwarded-For": "203.0.113.7"})
    return str(answer.json())
