"""What keys have used, and whether they may use more. Exact for any number of proxies.

Each decision is made in a transaction that holds the row of its key (on SQLite the whole database), and by the clock of
the database. The functions that take a connection are called within such a transaction; all of them wait for the
database.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from darkroom.errors import RateLimited
from proxy.callers import KEY_PREFIX
from proxy.keys.models import Key, Limits, Rate
from proxy.keys.schema import CHARGES, HITS, KEYS
from proxy.tasks.models import LIVE, Draft
from proxy.tasks.schema import TASKS

if TYPE_CHECKING:
    from proxy.tasks.store import Store

LEASE_SECONDS = 60.0
"""Seconds after which a direct request counts as lost if its proxy has not renewed it."""
DAY_SECONDS = 86_400
_BUSY_SECONDS = 5
"""Retry-After where it is not known when something ends."""
_COUNTED_LANE = "images"
"""Trainings make no images that are counted."""


def _hold(connection: sa.Connection, key: str) -> Any:
    """Lock the row of a key, where the database locks rows; returns its counter of requests and its limits of work."""
    columns = (KEYS.c.requests, KEYS.c.images_per_day, KEYS.c.concurrent)
    return connection.execute(sa.select(*columns).where(KEYS.c.id == key).with_for_update()).one_or_none()


def now_of(connection: sa.Connection) -> float:
    """Seconds since the epoch by the clock that all proxies share."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.scalar(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()))) or 0)


def hit(store: Store, key: str, rate: Rate) -> None:
    """Count a request.

    :raises RateLimited: there were as many as the rate allows, in the time before this one.
    :raises NotReady: the database is unavailable.
    """
    with store.transaction(locked=store.one_writer) as connection:
        row, now = _hold(connection, key), now_of(connection)
        if row is None:
            return
        mine = (HITS.c.key == key, HITS.c.place == row.requests % rate.count)
        oldest = connection.scalar(sa.select(HITS.c.at).where(*mine))
        if oldest is not None and oldest > now - rate.seconds:
            raise RateLimited(
                f"This key may send {rate.count} requests in {rate.seconds} s.",
                retry_after=_whole(oldest + rate.seconds - now),
            )
        if oldest is None:
            connection.execute(sa.insert(HITS).values(key=key, place=row.requests % rate.count, at=now))
        else:
            connection.execute(sa.update(HITS).where(*mine).values(at=now))
        connection.execute(sa.update(KEYS).where(KEYS.c.id == key).values(requests=KEYS.c.requests + 1))


def charge(store: Store, key: Key, id: str, images: int) -> None:
    """Charge a direct request before it runs; `settle` or `give_back` ends it.

    :param id: of the charge.
    :raises RateLimited: the key may not use that much.
    :raises NotReady: the database is unavailable.
    """
    with store.transaction(locked=store.one_writer) as connection:
        _hold(connection, key.id)
        now = now_of(connection)
        _require(connection, key.id, key.limits, images=images, places=1, now=now)
        _insert(connection, key.id, id, images, now, lease=now + LEASE_SECONDS)


def check(store: Store, key: Key, images: int) -> None:
    """As `charge`, without charging."""
    with store.transaction() as connection:
        _require(connection, key.id, key.limits, images=images, places=1, now=now_of(connection))


def settle(store: Store, id: str, images: int) -> None:
    """A direct request has ended and made these images."""
    with store.transaction() as connection:
        connection.execute(sa.update(CHARGES).where(CHARGES.c.id == id).values(images=images, lease=None))


def give_back(store: Store, id: str) -> None:
    """A direct request has failed."""
    with store.transaction() as connection:
        connection.execute(sa.delete(CHARGES).where(CHARGES.c.id == id))


def renew(store: Store, ids: Collection[str]) -> None:
    """These direct requests still run."""
    with store.transaction() as connection:
        lease = now_of(connection) + LEASE_SECONDS
        running = (CHARGES.c.id.in_(ids), CHARGES.c.lease.is_not(None))
        connection.execute(sa.update(CHARGES).where(*running).values(lease=lease))


def require(connection: sa.Connection, drafts: Sequence[Draft]) -> None:
    """Check whether the key of these drafts may have so many more tasks.

    :raises RateLimited: it may not.
    """
    found = _limits_of(connection, drafts[0].client)
    if found is not None:
        key, limits = found
        images = sum(_images(draft) for draft in drafts)
        _require(connection, key, limits, images=images, places=len(drafts), now=now_of(connection))


def record(connection: sa.Connection, draft: Draft) -> None:
    """Charge the key of a draft that becomes a task in this transaction. What the task makes of the charge is in the
    row of the task: a task that has failed, or was cancelled before it began, costs nothing."""
    found = _limits_of(connection, draft.client)
    if found is not None and found[1].images_per_day is not None and _images(draft):
        _insert(connection, found[0], draft.id, _images(draft), now_of(connection))


def images_used(connection: sa.Connection, key: str, now: float) -> int:
    """The images of a key that were accepted today and have not failed."""
    failed = sa.or_(
        TASKS.c.state == "failed",
        sa.and_(TASKS.c.state == "cancelled", TASKS.c.started_at.is_(None)),
    )
    alive = sa.or_(CHARGES.c.lease.is_(None), CHARGES.c.lease > now)
    counted = (CHARGES.c.key == key, CHARGES.c.day == _day(now), alive, sa.not_(sa.func.coalesce(failed, sa.false())))
    query = sa.select(sa.func.sum(CHARGES.c.images)).where(*counted)
    return int(connection.scalar(query.select_from(CHARGES.outerjoin(TASKS, TASKS.c.id == CHARGES.c.id))) or 0)


def places_used(connection: sa.Connection, key: str, now: float) -> int:
    """The tasks and direct requests of a key that run and wait."""
    tasks = sa.select(sa.func.count()).select_from(TASKS)
    tasks = tasks.where(TASKS.c.client == f"{KEY_PREFIX}{key}", TASKS.c.state.in_(LIVE))
    direct = sa.select(sa.func.count()).select_from(CHARGES).where(CHARGES.c.key == key, CHARGES.c.lease > now)
    return int(connection.scalar(tasks) or 0) + int(connection.scalar(direct) or 0)


def _insert(connection: sa.Connection, key: str, id: str, images: int, now: float, lease: float | None = None) -> None:
    """Write a charge, and forget those of days that are over."""
    connection.execute(sa.delete(CHARGES).where(CHARGES.c.key == key, CHARGES.c.day < _day(now) - 1))
    connection.execute(sa.insert(CHARGES).values(id=id, key=key, day=_day(now), images=images, lease=lease))


def _require(connection: sa.Connection, key: str, limits: Limits, *, images: int, places: int, now: float) -> None:
    most = limits.concurrent
    if most is not None and (used := places_used(connection, key, now)) + places > most:
        raise RateLimited(
            f"This key may have {most} requests and tasks at a time; it has {used}, and this asks for {places} more.",
            retry_after=_BUSY_SECONDS,
        )
    most = limits.images_per_day
    if most is not None and images and (used := images_used(connection, key, now)) + images > most:
        raise RateLimited(
            f"This key may make {most} images a day; it has used {used}, and this asks for {images} more.",
            retry_after=_whole(DAY_SECONDS - now % DAY_SECONDS),
        )


def _limits_of(connection: sa.Connection, client: str) -> tuple[str, Limits] | None:
    """The key that a client is, with its limits of work; None if it is no key, or has none."""
    id = client.removeprefix(KEY_PREFIX)
    row = _hold(connection, id) if client.startswith(KEY_PREFIX) else None
    limits = None if row is None else Limits(images_per_day=row.images_per_day, concurrent=row.concurrent)
    return None if limits is None or not limits.count_work else (id, limits)


def _images(draft: Draft) -> int:
    return draft.work.pictures if draft.lane == _COUNTED_LANE else 0


def _day(now: float) -> int:
    return int(now // DAY_SECONDS)


def _whole(seconds: float) -> int:
    return max(1, int(-(-seconds // 1)))
