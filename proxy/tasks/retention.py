"""How long tasks are kept: their pictures for a time and up to a size, then for the same time that they were there."""

from __future__ import annotations

import time

import sqlalchemy as sa

from proxy.tasks.files import Files
from proxy.tasks.models import LIVE
from proxy.tasks.schema import TASKS
from proxy.tasks.store import Store


class Retention:
    """Takes away what was kept long enough.

    :param hours: after its end, until a task's files go; and again, until nobody remembers it.
    :param gigabytes: of all files; the tasks that ended first make room.
    """

    def __init__(self, store: Store, files: Files, *, hours: float, gigabytes: float) -> None:
        self._store = store
        self._files = files
        self._seconds = hours * 3600
        self._bytes = int(gigabytes * (1 << 30))

    def sweep(self) -> list[str]:
        """Do it; waits for database and disk. Returns the tasks that are forgotten altogether.

        :raises NotReady: the database is away.
        """
        for id in self._outlived():
            self._files.remove(id)  # first: what is marked is never looked at again
            mark = sa.update(TASKS).where(TASKS.c.id == id).values(expired_at=time.time(), bytes=0)
            with self._store.transaction() as connection:
                connection.execute(mark)
        forgotten = self._forget()
        for id in self._files.folders():
            if self._store.get(id) is None:
                self._files.remove(id)
        return forgotten

    def _outlived(self) -> list[str]:
        kept = sa.select(TASKS.c.id, TASKS.c.completed_at, TASKS.c.bytes).where(
            TASKS.c.state.not_in(LIVE), TASKS.c.expired_at.is_(None)
        )
        of_the_living = sa.select(sa.func.sum(TASKS.c.bytes)).where(TASKS.c.state.in_(LIVE))
        with self._store.transaction() as connection:
            total = int(connection.scalar(of_the_living) or 0)
            rows = connection.execute(kept.order_by(TASKS.c.completed_at.desc())).all()
        oldest, outlived = time.time() - self._seconds, []
        for id, completed_at, size in rows:
            total += size
            if completed_at < oldest or total > self._bytes:
                outlived.append(str(id))
                total -= size
        return outlived

    def _forget(self) -> list[str]:
        gone = sa.delete(TASKS).where(TASKS.c.expired_at < time.time() - self._seconds).returning(TASKS.c.id)
        with self._store.transaction() as connection:
            return [str(id) for (id,) in connection.execute(gone)]
