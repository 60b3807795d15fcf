"""Two real proxies with one PostgreSQL: a limit holds for both together, and a revoked key stops at both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proxy.keys import store as table
from proxy.keys.models import Limits, NewKey, Rate
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.postgres import running_postgres
from tests.service import Server, running_proxy

REQUESTS, ALLOWED = 100, 30


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_postgres() as server:
        made = Store(connect(server.url))
        made.create()
        yield made
        made.close()


@pytest.fixture(scope="module")
def proxies(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    shared: Path = tmp_path_factory.mktemp("data")
    url = store._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with (
        running_proxy(folders[0], database_url=url, data_dir=shared) as one,
        running_proxy(folders[1], database_url=url, data_dir=shared) as two,
    ):
        yield [one, two]


def test_two_proxies_let_through_what_the_rate_allows(store: Store, proxies: list[Server]) -> None:
    limits = Limits(rate=Rate(count=ALLOWED, seconds=86_400))
    key, secret = table.create(store, NewKey(name="anna", limits=limits))
    uncounted = {"x-api-key": table.create(store, NewKey(name="carl"))[1]}
    for proxy in proxies:  # a proxy that has the later key has anna's; one without keys would let everything through
        _until(f"{proxy.url}/tasks", uncounted, 200)
        _until(f"{proxy.url}/tasks", {}, 401)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(timeout=60, headers={"x-api-key": secret}) as http:
            answers = [http.get(f"{proxies[n % 2].url}/tasks") for n in range(REQUESTS)]
            return [one.status_code for one in await asyncio.gather(*answers)]

    statuses = asyncio.run(ask())
    assert {status: statuses.count(status) for status in set(statuses)} == {200: ALLOWED, 429: REQUESTS - ALLOWED}
    table.revoke(store, key.id)


def test_a_key_that_one_proxy_revokes_stops_at_the_other(store: Store, proxies: list[Server]) -> None:
    one, two = proxies
    admin = {"x-api-key": table.create(store, NewKey(name="boss", role="admin"))[1]}
    made = httpx.post(f"{one.url}/admin/keys", headers=admin, json={"name": "ben"}).json()
    mine = {"Authorization": f"Bearer {made['key']}"}
    _until(f"{two.url}/tasks", mine, 200)
    assert httpx.delete(f"{one.url}/admin/keys/{made['id']}", headers=admin).status_code == 200
    assert httpx.get(f"{one.url}/tasks", headers=mine).status_code == 401
    _until(f"{two.url}/tasks", mine, 401)


def _until(url: str, headers: dict[str, str], status: int) -> None:
    """Ask until an answer has the status; the test's own time limit ends it."""
    while httpx.get(url, headers=headers).status_code != status:
        pass
