"""Deletes old tasks: first their files, by age and total size, and later their rows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import sqlalchemy as sa

from proxy.tasks.files import Files
from proxy.tasks.models import UNFINISHED
from proxy.tasks.schema import TASKS
from proxy.tasks.store import Store

log = logging.getLogger(__name__)

_ORPHAN_ROUND_SECONDS = 3600.0
"""Seconds between two searches for folders without a task, which list all folders."""


class Retention:
    """Deletes the files and rows of old tasks.

    :param hours: time from the end of a task until its files are deleted, and from then until its row is deleted.
    :param gigabytes: maximum size of all files, including workspaces; above it the tasks that ended first are deleted.
    """

    def __init__(self, store: Store, files: Files, *, hours: float, gigabytes: float) -> None:
        self._store = store
        self._files = files
        self._seconds = hours * 3600
        self._bytes = int(gigabytes * (1 << 30))
        self._looked = -math.inf

    def sweep(self) -> list[str]:
        """Delete old files. Waits for database and disk. Returns the tasks whose rows are to be deleted (`forget`).

        :raises NotReady: the database is unavailable.
        """
        for id in self._outlived():
            self.expire(id)
        if time.monotonic() - self._looked > _ORPHAN_ROUND_SECONDS:
            self._looked = time.monotonic()
            self._remove_orphans()
        return self._forgettable()

    def expire(self, id: str) -> None:
        """Remove the files of a task that has ended.

        :raises NotReady: the database is unavailable.
        """
        self._files.remove(id)  # before the mark, because marked tasks are never looked at again
        mark = sa.update(TASKS).where(TASKS.c.id == id).values(expired_at=time.time(), bytes=0)
        with self._store.transaction() as connection:
            connection.execute(mark)

    def forget(self, ids: Sequence[str]) -> None:
        """Delete the rows of tasks."""
        with self._store.transaction() as connection:
            connection.execute(sa.delete(TASKS).where(TASKS.c.id.in_(ids)))

    def _remove_orphans(self) -> None:
        """Remove the folders without a task, left by a crash between writing the inputs and accepting the task."""
        if not self._files.belong_to(self._store.database()):
            log.warning("the folder of tasks belongs to another database; the files in it are left alone")
            return
        there = list(self._files.folders())
        for id in set(there) - self._store.known(there):
            self._files.remove(id)

    def _outlived(self) -> list[str]:
        """Return the tasks that are too old, and, if the rest is too large, those that ended first."""
        oldest, total = time.time() - self._seconds, self._total_bytes()
        there = (TASKS.c.expired_at.is_(None), TASKS.c.state.not_in(UNFINISHED))
        ended = sa.select(TASKS.c.id, TASKS.c.completed_at, TASKS.c.bytes).where(*there).order_by(TASKS.c.completed_at)
        with self._store.transaction() as connection:
            fits = total <= self._bytes
            rows = connection.execute(ended.where(TASKS.c.completed_at < oldest) if fits else ended).all()
        outlived = []
        for id, completed_at, size in rows:
            if completed_at >= oldest and total <= self._bytes:
                break
            outlived.append(str(id))
            total -= size
        return outlived

    def _total_bytes(self) -> int:
        """The size of inputs and results, and of the workspaces of tasks that have started and not ended."""
        started = sa.select(TASKS.c.id).where(TASKS.c.state.in_(UNFINISHED), TASKS.c.started_at.is_not(None))
        size = sa.select(sa.func.sum(TASKS.c.bytes)).where(TASKS.c.expired_at.is_(None))
        with self._store.transaction() as connection:
            total = int(connection.scalar(size) or 0)
            ids = list(connection.scalars(started))
        return total + sum(self._files.workspace_bytes(str(id)) for id in ids)

    def _forgettable(self) -> list[str]:
        gone = sa.select(TASKS.c.id).where(TASKS.c.expired_at < time.time() - self._seconds)
        with self._store.transaction() as connection:
            return [str(id) for id in connection.scalars(gone)]
