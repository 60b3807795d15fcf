"""Tasks with the same key run one at a time, on all proxies together. `Store` has the transactions.

Of the tasks with one key at most one is in the queue, runs, or is paused. The others are *held*: they have a row and
are in no queue, so that they take no slot and no other task waits behind them. When the one has ended and its run has
stopped, the first of the held ones is released. A task that was cancelled has ended before its run has stopped: the
column `worker` names the proxy whose run may still be at work.
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
    """Whether a new task has to wait for another one. In a locked transaction.

    :raises Conflict: it does not want to.
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
    return _exists(connection, work.exclusive, TASKS.c.state.in_(UNFINISHED))  # not past those that are held already


def release(connection: sa.Connection) -> list[Any]:
    """Let the first held task go of each key that is free; returns their rows. In a locked transaction."""
    released = []
    for key in connection.scalars(sa.select(TASKS.c.exclusive).where(*_HELD).distinct()).all():
        if not _exists(connection, key, sa.and_(*_IN_LINE)):
            held = sa.select(TASKS.c.id).where(TASKS.c.exclusive == key, *_HELD)
            first = connection.scalar(held.order_by(TASKS.c.order, TASKS.c.created_at).limit(1))
            freed = sa.update(TASKS).where(TASKS.c.id == first).values(held=False).returning(*TASKS.c)
            released.append(connection.execute(freed).one())
    return released


def is_any_held(connection: sa.Connection) -> bool:
    """Whether there is anything to release, now or later."""
    return connection.scalar(sa.select(TASKS.c.id).where(*_HELD).limit(1)) is not None


def _exists(connection: sa.Connection, key: str, which: sa.ColumnElement[bool]) -> bool:
    """Whether there is such a task with the key, or one whose run has not stopped."""
    found = sa.or_(which, TASKS.c.worker.is_not(None))
    return connection.scalar(sa.select(TASKS.c.id).where(TASKS.c.exclusive == key, found).limit(1)) is not None
