"""Paused tasks in the database: they are in no queue, keep their key, and wait for their client."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from proxy.tasks.models import LIVE, State
from proxy.tasks.schema import TASKS
from proxy.tasks.store import Store


def pause(store: Store, id: str) -> bool:
    """The task waits for `resume`, and its attempt does not count; False if it has ended or is paused.

    :raises NotReady: the database is unavailable.
    """
    attempts = TASKS.c.attempts - sa.case((TASKS.c.state == "processing", 1), else_=0)
    return _change(store, id, LIVE, {"state": "paused", "held": False, "attempts": attempts})


def resume(store: Store, id: str) -> bool:
    """A paused task waits, held until `Store.release` finds that its last run has stopped; False if it is not paused.

    :raises NotReady: the database is unavailable.
    """
    return _change(store, id, ("paused",), {"state": "queued", "held": True})


def _change(store: Store, id: str, of: tuple[State, ...], values: dict[str, Any]) -> bool:
    """Change a task that is in one of these states."""
    query = sa.update(TASKS).where(TASKS.c.id == id, TASKS.c.state.in_(of)).values(**values).returning(TASKS.c.id)
    with store.transaction() as connection:
        return connection.scalar(query) is not None
