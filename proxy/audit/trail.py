"""Writes the audit trail. Rows that arrive together are committed together."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from darkroom.errors import DarkroomError, NotReady
from proxy.audit import chain
from proxy.tasks.store import Store
from proxy.waiting import at_most

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
"""How long a request waits for its row to be written."""
_BROKEN_SECONDS = 1.0
"""How long requests are refused before they cost anything, after a row could not be written."""
_GATHER_SECONDS = 0.03
"""Least time between the beginnings of two commits. A request that comes alone does not wait; of a hundred a second,
three share a commit, which costs more than its rows."""
_AT_A_TIME = 200
_RETENTION_SECONDS = 3600.0
_DAY = 24 * 3600.0


@dataclass(kw_only=True)
class _Waiting:
    entry: chain.Entry
    written: asyncio.Future[None]


class Trail:
    """The writer of one process; several may write the same chain.

    While one batch is committed the next one collects.

    :param retention_days: after which rows are deleted; None keeps all.
    """

    def __init__(self, store: Store, *, retention_days: float | None = None) -> None:
        self._store = store
        self._retention_days = retention_days
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._rounds: asyncio.Task[None] | None = None
        self._broken_until = self._committed = 0.0

    def start(self) -> None:
        """Begin to delete old rows, if they are to be deleted."""
        if self._retention_days is not None:
            self._rounds = asyncio.create_task(self._delete_old(self._retention_days * _DAY))

    async def stop(self) -> None:
        """Write what waits, and end."""
        running = [task for task in (self._rounds, self._writer) if task is not None]
        if self._rounds is not None:
            self._rounds.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def check(self) -> None:
        """Refuse a request before it costs anything, if its row could not be written.

        :raises NotReady: the last row could not be written, less than a second ago.
        """
        if time.monotonic() < self._broken_until:
            raise _unavailable()

    async def write(self, entry: chain.Entry) -> None:
        """Write one row; returns when it is on the disk.

        :raises NotReady: the database does not answer. The row may be written all the same.
        """
        waiting = _Waiting(entry=entry, written=asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        try:
            await at_most(_ANSWER_SECONDS, waiting.written)
        except asyncio.TimeoutError:
            self._broken_until = time.monotonic() + _BROKEN_SECONDS
            raise _unavailable() from None

    async def _write_all(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._committed + _GATHER_SECONDS - time.monotonic())
            self._committed = time.monotonic()
            batch, self._waiting = self._waiting[:_AT_A_TIME], self._waiting[_AT_A_TIME:]
            batch = [one for one in batch if not one.written.done()]  # whose request does not wait any more
            if not batch:
                continue
            try:
                await self._store.call(self._append, [one.entry for one in batch])
            except Exception as error:
                if not isinstance(error, DarkroomError):
                    log.exception("the audit trail cannot be written")
                self._broken_until = time.monotonic() + _BROKEN_SECONDS
                _settle(batch, _unavailable())
            else:
                self._broken_until = 0.0
                _settle(batch, None)

    def _append(self, entries: list[chain.Entry]) -> None:
        with self._store.transaction() as connection:
            chain.append(connection, entries)

    async def _delete_old(self, seconds: float) -> None:
        while True:
            before = int((time.time() - seconds) * 1e6)
            try:
                deleted = await self._store.call(self._prune, before)
            except Exception as error:
                log.warning("old rows of the audit trail are not deleted: %s", error)
            else:
                if deleted:
                    log.info("%d rows of the audit trail are older than AUDIT_RETENTION_DAYS and deleted", deleted)
            await asyncio.sleep(_RETENTION_SECONDS)

    def _prune(self, before: int) -> int:
        with self._store.transaction() as connection:
            return chain.prune(connection, before=before)


def _settle(batch: list[_Waiting], error: NotReady | None) -> None:
    for one in batch:
        if not one.written.done() and error is None:
            one.written.set_result(None)
        elif not one.written.done() and error is not None:
            one.written.set_exception(NotReady(error.message, retry_after=error.retry_after))


def _unavailable() -> NotReady:
    return NotReady("The audit trail cannot be written, so this is refused; try again in a moment.", retry_after=5)
