"""The table of keys: create, list, revoke."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from darkroom.errors import Conflict, NotFound
from darkroom.request.fields import shown
from proxy.callers import Role
from proxy.keys import quotas
from proxy.keys.hashing import digest_of, new_secret
from proxy.keys.models import Key, Limits, NewKey, Rate
from proxy.keys.schema import CHARGES, HITS, KEYS
from proxy.tasks.store import Store

_ID_BYTES = 6


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a key uses now.

    :param images: those of today; of a key without a limit of images only those of direct requests.
    :param places: tasks and direct requests that run and wait.
    """

    images: int
    places: int


def create(store: Store, wanted: NewKey) -> tuple[Key, str]:
    """Make a key; returns it with its secret, which is kept nowhere.

    :raises Conflict: a key that is not revoked has the name.
    :raises NotReady: the database is unavailable.
    """
    secret = new_secret()
    limits = wanted.limits.to_json()
    with store.transaction(locked=True) as connection:
        same = (KEYS.c.name == wanted.name, KEYS.c.revoked_at.is_(None))
        if connection.scalar(sa.select(KEYS.c.id).where(*same)) is not None:
            raise Conflict(f"There is a key named {shown(wanted.name)}; revoke it first.", param="name")
        values: dict[str, Any] = {"id": secrets.token_hex(_ID_BYTES), "name": wanted.name, "digest": digest_of(secret)}
        values |= {"role": wanted.role, **limits, "created_at": time.time()}
        row = connection.execute(sa.insert(KEYS).values(**values).returning(*KEYS.c)).one()
    return key_of(row), secret


def keys(store: Store) -> list[Key]:
    """All keys, the revoked ones included, oldest first."""
    with store.transaction() as connection:
        return [key_of(row) for row in connection.execute(sa.select(KEYS).order_by(KEYS.c.created_at, KEYS.c.id))]


def usage(store: Store) -> dict[str, Usage]:
    """What the keys use, by their ids."""
    with store.transaction() as connection:
        now = quotas.now_of(connection)
        return {
            id: Usage(images=quotas.images_used(connection, id, now), places=quotas.places_used(connection, id, now))
            for id in connection.scalars(sa.select(KEYS.c.id)).all()
        }


def revoke(store: Store, name: str) -> Key:
    """Revoke a key, by its id or its name; a second time changes nothing.

    :raises NotFound: there is none.
    :raises NotReady: the database is unavailable.
    """
    with store.transaction(locked=True) as connection:
        found = sa.or_(KEYS.c.id == name, KEYS.c.name == name)
        # The one that is in use comes first: names may be given again.
        query = sa.select(KEYS.c.id).where(found).order_by(KEYS.c.revoked_at.is_(None).desc(), KEYS.c.created_at.desc())
        id = connection.scalar(query.limit(1))
        if id is None:
            raise NotFound(f"There is no key {shown(name)}.", param="key")
        when = sa.func.coalesce(KEYS.c.revoked_at, time.time())
        row = connection.execute(
            sa.update(KEYS).where(KEYS.c.id == id).values(revoked_at=when).returning(*KEYS.c)
        ).one()
        connection.execute(sa.delete(HITS).where(HITS.c.key == id))
    return key_of(row)


def open_again(store: Store) -> None:
    """Forget all keys, so that the service is open again.

    :raises Conflict: a key is not revoked.
    """
    with store.transaction(locked=True) as connection:
        used = connection.scalar(sa.select(sa.func.count()).select_from(KEYS).where(KEYS.c.revoked_at.is_(None)))
        if used:
            raise Conflict(f"{used} keys are in use; revoke them first.")
        for table in (CHARGES, HITS, KEYS):
            connection.execute(sa.delete(table))


def state(store: Store) -> tuple[Any, ...]:
    """A value that changes with every change of the keys. Cheap, however many there are."""
    columns = (sa.func.count(), sa.func.count(KEYS.c.revoked_at), sa.func.max(KEYS.c.created_at))
    with store.transaction() as connection:
        return tuple(connection.execute(sa.select(*columns).select_from(KEYS)).one())


def key_of(row: Any) -> Key:
    """Convert a row of the table to a key."""
    limits = Limits(
        rate=None if row.rate is None else Rate.parse(row.rate),
        images_per_day=row.images_per_day,
        concurrent=row.concurrent,
        priority=row.priority,
    )
    return Key(
        id=row.id,
        name=row.name,
        digest=row.digest,
        role=cast(Role, row.role),
        limits=limits,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
