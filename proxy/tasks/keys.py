"""Tasks by their key (`Work.exclusive`): the newest ones, and what is left of all that had a key."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from proxy.tasks.models import UNFINISHED, Task
from proxy.tasks.schema import TASKS
from proxy.tasks.store import IDS_AT_A_TIME, Store, task_of


def newest(store: Store, keys: Sequence[str]) -> dict[str, Task]:
    """The newest task of each key that has any, whatever has become of it.

    :raises NotReady: the database is unavailable.
    """
    found: dict[str, Task] = {}
    for at in range(0, len(keys), IDS_AT_A_TIME):
        mine = TASKS.c.exclusive.in_(keys[at : at + IDS_AT_A_TIME])
        last = sa.select(TASKS.c.exclusive, sa.func.max(TASKS.c.created_at).label("created_at")).where(mine)
        latest = last.group_by(TASKS.c.exclusive).subquery()
        same = sa.and_(TASKS.c.exclusive == latest.c.exclusive, TASKS.c.created_at == latest.c.created_at)
        with store.transaction() as connection:
            rows = connection.execute(sa.select(*TASKS.c).join(latest, same)).all()
        found |= {str(row.exclusive): task_of(row) for row in rows}
    return found


def unfinished(store: Store, key: str) -> list[str]:
    """The ids of the tasks with a key that have not ended, or whose run has not stopped.

    :raises NotReady: the database is unavailable.
    """
    at_work = sa.or_(TASKS.c.state.in_(UNFINISHED), TASKS.c.worker.is_not(None))
    return _ids(store, TASKS.c.exclusive == key, at_work)


def kept(store: Store, key: str) -> list[str]:
    """The ids of the tasks with a key that have ended and whose files are there.

    :raises NotReady: the database is unavailable.
    """
    return _ids(store, TASKS.c.exclusive == key, TASKS.c.state.not_in(UNFINISHED), TASKS.c.expired_at.is_(None))


def _ids(store: Store, *which: sa.ColumnElement[bool]) -> list[str]:
    with store.transaction() as connection:
        return [str(id) for id in connection.scalars(sa.select(TASKS.c.id).where(*which))]
