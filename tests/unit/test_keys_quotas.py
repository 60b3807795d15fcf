"""Limits of keys under many requests of two proxies at once, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from darkroom.errors import DarkroomError, RateLimited
from proxy.keys import quotas
from proxy.keys import store as table
from proxy.keys.keyring import FRESH_SECONDS, Keyring
from proxy.keys.ledger import LEDGER, Charges, Ledger, charged, check, note_images
from proxy.keys.models import Key, Limits, NewKey, Rate
from proxy.keys.schema import CHARGES, HITS
from proxy.tasks.database import connect
from proxy.tasks.models import Work
from proxy.tasks.store import Store
from tests.task_store import add, draft

REQUESTS = 100
TWO = Work(fields={"prompt": "a cat"}, steps=1, kind="k", units=1, pictures=2)


@pytest.fixture
def proxies(database: str | None, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """The stores of two proxies with one database."""
    url = database or f"sqlite:///{tmp_path / 'keys.db'}"
    stores = Store(connect(url)), Store(connect(url))
    for one in stores:
        one.create()
    yield stores
    for one in stores:
        one.close()


_NAMES = iter(range(10**6))


def new_key(store: Store, **limits: Any) -> Key:
    return table.create(store, NewKey(name=f"key {next(_NAMES)}", limits=Limits(**limits)))[0]


def at_once(proxies: tuple[Store, Store], work: Callable[[Store, int], object]) -> int:
    """How many of a hundred calls are let through."""

    def one(number: int) -> int:
        try:
            work(proxies[number % 2], number)
        except RateLimited:
            return 0
        return 1

    with ThreadPoolExecutor(32) as pool:
        return sum(pool.map(one, range(REQUESTS)))


def test_rate_is_never_exceeded(proxies: tuple[Store, Store]) -> None:
    key = new_key(proxies[0], rate=Rate(count=30, seconds=86_400))
    assert key.limits.rate is not None
    assert at_once(proxies, lambda store, _: quotas.hit(store, key.id, Rate(count=30, seconds=86_400))) == 30


def test_rate_lets_through_again_when_the_oldest_request_is_over(store: Store) -> None:
    rate = Rate(count=2, seconds=60)
    key = new_key(store, rate=rate)
    for _ in range(2):
        quotas.hit(store, key.id, rate)
    with pytest.raises(RateLimited) as caught:
        quotas.hit(store, key.id, rate)
    assert 59 <= caught.value.retry_after <= 60
    with store.transaction() as connection:  # the first one was a minute ago
        connection.execute(sa.update(HITS).where(HITS.c.place == 0).values(at=HITS.c.at - 60))
    quotas.hit(store, key.id, rate)
    with pytest.raises(RateLimited):
        quotas.hit(store, key.id, rate)


def test_images_and_places_of_direct_requests_are_never_exceeded(proxies: tuple[Store, Store]) -> None:
    key = new_key(proxies[0], images_per_day=25)
    assert at_once(proxies, lambda store, n: quotas.charge(store, key, f"{key.id}-{n}", 2)) == 12
    narrow = new_key(proxies[0], concurrent=7)
    assert at_once(proxies, lambda store, n: quotas.charge(store, narrow, f"{narrow.id}-{n}", 1)) == 7


def test_images_and_places_of_tasks_are_never_exceeded(proxies: tuple[Store, Store]) -> None:
    key = new_key(proxies[0], images_per_day=25)
    assert at_once(proxies, lambda store, _: add(store, draft(key.client, work=TWO))) == 12
    narrow = new_key(proxies[0], concurrent=7)
    assert at_once(proxies, lambda store, _: add(store, draft(narrow.client))) == 7


def test_tasks_and_direct_requests_share_the_limits(proxies: tuple[Store, Store]) -> None:
    key = new_key(proxies[0], images_per_day=21, concurrent=15)

    def work(store: Store, number: int) -> None:
        if number % 3:
            quotas.charge(store, key, f"{key.id}-{number}", 2)
        else:
            add(store, draft(key.client, work=TWO))

    assert at_once(proxies, work) == 10
    assert table.usage(proxies[0])[key.id] == table.Usage(images=20, places=10)


def test_a_batch_of_tasks_is_accepted_whole_or_not_at_all(store: Store) -> None:
    key = new_key(store, images_per_day=5)
    add(store, draft(key.client, work=TWO))
    with pytest.raises(RateLimited, match="used 2, and this asks for 4 more"):
        add(store, draft(key.client, work=TWO), draft(key.client, work=TWO))
    assert table.usage(store)[key.id].images == 2


def test_a_repeated_request_costs_nothing(store: Store) -> None:
    key = new_key(store, images_per_day=2)
    (first,) = add(store, draft(key.client, key="k", work=TWO))
    (again,) = add(store, draft(key.client, key="k", work=TWO))
    assert again.id == first.id


@pytest.mark.parametrize(
    ("ends", "begun", "used"),
    [("failed", True, 0), ("cancelled", False, 0), ("cancelled", True, 2), ("completed", True, 2)],
)
def test_images_of_a_task_are_given_back_when_it_fails(store: Store, ends: Any, begun: bool, used: int) -> None:
    key = new_key(store, images_per_day=2)
    (task,) = add(store, draft(key.client, work=TWO))
    if begun:
        assert store.begin(task.id, "run")
    assert store.end(task.id, None, ends)
    assert table.usage(store)[key.id] == table.Usage(images=used, places=0)


def test_trainings_are_no_images(store: Store) -> None:
    key = new_key(store, images_per_day=1)
    training = replace(draft(key.client, work=TWO), operation="train", lane="trainings")
    store.add([training], slots=1, queue_size=9, fallback=0.5)
    assert table.usage(store)[key.id] == table.Usage(images=0, places=1)


async def _direct(store: Store, key: Key, images: int, work: Callable[[], object], *, began: bool = True) -> None:
    """A direct request as `Services.admitted` runs it."""
    LEDGER.set(Ledger(key=key, charges=Charges(store), ring=Keyring(store)))
    note_images(images)
    async with charged() as charge:
        charge.began = began
        work()


def _fail(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "began", "used"),
    [
        (DarkroomError("the model failed"), True, 0),
        (asyncio.CancelledError(), False, 0),
        (asyncio.CancelledError(), True, 3),
    ],
)
def test_images_of_a_direct_request_are_given_back_when_it_fails(
    store: Store, error: BaseException, began: bool, used: int
) -> None:
    key = new_key(store, images_per_day=3)
    with pytest.raises(type(error)):
        asyncio.run(_direct(store, key, 3, _fail(error), began=began))
    assert table.usage(store)[key.id] == table.Usage(images=used, places=0)


def test_a_direct_request_holds_its_place_while_it_runs(store: Store) -> None:
    key = new_key(store, images_per_day=3, concurrent=1)
    inside: list[table.Usage] = []
    asyncio.run(_direct(store, key, 3, lambda: inside.append(table.usage(store)[key.id])))
    assert inside == [table.Usage(images=3, places=1)]
    assert table.usage(store)[key.id] == table.Usage(images=3, places=0)
    with pytest.raises(RateLimited, match="3 images a day"):
        asyncio.run(_direct(store, key, 1, lambda: None))
    asyncio.run(_direct(store, key, 0, lambda: None))

    async def look() -> None:
        LEDGER.set(Ledger(key=key, charges=Charges(store), ring=Keyring(store), images=1))
        await check()

    with pytest.raises(RateLimited):
        asyncio.run(look())


def test_a_direct_request_of_a_dead_proxy_is_given_back(store: Store) -> None:
    key = new_key(store, images_per_day=3, concurrent=1)
    quotas.charge(store, key, "lost", 3)
    quotas.renew(store, ["lost"])
    with pytest.raises(RateLimited):
        quotas.charge(store, key, "next", 1)
    with store.transaction() as connection:  # its lease has run out
        connection.execute(sa.update(CHARGES).values(lease=CHARGES.c.lease - 2 * quotas.LEASE_SECONDS))
    quotas.charge(store, key, "next", 3)


def test_images_of_another_day_do_not_count(store: Store) -> None:
    key = new_key(store, images_per_day=3)
    quotas.charge(store, key, "yesterday", 3)
    quotas.settle(store, "yesterday", 3)
    with store.transaction() as connection:
        connection.execute(sa.update(CHARGES).values(day=CHARGES.c.day - 1))
    quotas.charge(store, key, "today", 3)
    assert table.usage(store)[key.id].images == 3


def test_a_revoked_key_stops_at_the_other_proxy_with_its_next_look(proxies: tuple[Store, Store]) -> None:
    key, secret = table.create(proxies[0], NewKey(name=f"revoked {next(_NAMES)}"))
    ring = Keyring(proxies[1])

    async def look() -> None:
        await ring.load()
        assert ring.find(secret) is not None
        assert ring.find(secret[:-1] + "!") is None
        await asyncio.to_thread(table.revoke, proxies[0], key.id)
        await asyncio.sleep(FRESH_SECONDS)
        await ring.fresh()
        assert ring.find(secret) is None
        assert ring.closed

    asyncio.run(look())
    assert FRESH_SECONDS <= 0.5, "a revoked key has to stop within a second"
