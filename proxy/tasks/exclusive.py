"""Tasks with the same key run one at a time, on all proxies together. `Store` opens the transactions.

Of the tasks with one key at most one is in the queue, runs, or is paused. The others are *held*: they have a row but
are in no queue, so they take no slot, and no other task waits behind them. When the task with the key has ended and its
run has stopped, the first held task is released. A cancelled task ends before its run has stopped: the column `worker`
names the proxy whose run may still work.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from darkroom.errors import Conflict
from proxy.tasks.models import UNFINISHED, Draft
from proxy.tasks.schema import TASKS

_IN_LINE = (TASKS.c.state.in_(UNFINISHED), TASKS.c.held.is_(False))
_HELD = (TASKS.c.state == "queued", TASKS.c.held.is_(True))


def is_held(connection: sa.Connection, draft: Draft) -> bool:
    """Whether a new task has to wait for another one. Needs a locked transaction.

    :raises Conflict: it would have to wait, but has `exclusive_or_refuse`.
    """
    work = draft.work
    if work.exclusive is None:
        return False
    if work.exclusive_or_refuse:
        unfinished = (TASKS.c.exclusive == work.exclusive, TASKS.c.state.in_(UNFINISHED))
        same = sa.select(TASKS.c.id, TASKS.c.state).where(*unfinished)
        other = connection.execute(same.order_by(TASKS.c.held, TASKS.c.order, TASKS.c.created_at).limit(1)).first()
        if other is not None:
            raise Conflict(f"Task {other.id} is {other.state}; it has to end before another one like it is accepted.")
    return _exists(connection, work.exclusive, TASKS.c.state.in_(UNFINISHED))  # a new task does not overtake held ones


def release(connection: sa.Connection) -> list[Any]:
    """Release the first held task of each key that is free; returns their rows. Needs a locked transaction."""
    released = []
    for key in connection.scalars(sa.select(TASKS.c.exclusive).where(*_HELD).distinct()).all():
        if not _exists(connection, key, sa.and_(*_IN_LINE)):
            held = sa.select(TASKS.c.id).where(TASKS.c.exclusive == key, *_HELD)
            first = connection.scalar(held.order_by(TASKS.c.order, TASKS.c.created_at).limit(1))
            freed = sa.update(TASKS).where(TASKS.c.id == first).values(held=False).returning(*TASKS.c)
            released.append(connection.execute(freed).one())
    return released


def is_any_held(connection: sa.Connection) -> bool:
    """Whether any task is held."""
    return connection.scalar(sa.select(TASKS.c.id).where(*_HELD).limit(1)) is not None


def _exists(connection: sa.Connection, key: str, which: sa.ColumnElement[bool]) -> bool:
    """Whether there is a task with the key for which `which` holds, or whose run has not stopped."""
    found = sa.or_(which, TASKS.c.worker.is_not(None))
    return connection.scalar(sa.select(TASKS.c.id).where(TASKS.c.exclusive == key, found).limit(1)) is not None
