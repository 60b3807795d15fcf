"""Which proxies are alive, where several share a database."""

from __future__ import annotations

import time

import sqlalchemy as sa

from proxy.tasks.schema import PROXIES
from proxy.tasks.store import Store

LOST_SECONDS = 10.0
"""Seconds without a heartbeat after which a proxy counts as dead."""
_BLIND_SECONDS = LOST_SECONDS / 2
"""If this proxy has not looked for longer, it may have missed the heartbeats of others."""


class Heartbeats:
    """Each proxy increments its own counter, and watches the counters of the others.

    The observer measures with its own clock whether a counter has stopped, so the clocks of several machines need not
    agree. The methods wait for the database; `Store.call` runs them in a thread.
    """

    def __init__(self, store: Store, own: str) -> None:
        self._store = store
        self._own = own
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = 0.0

    def beat(self) -> None:
        """Write a heartbeat, which is valid for `LOST_SECONDS`."""
        with self._store.transaction() as connection:
            mine = sa.update(PROXIES).where(PROXIES.c.id == self._own).values(beat=PROXIES.c.beat + 1)
            if not connection.execute(mine).rowcount:
                connection.execute(sa.insert(PROXIES).values(id=self._own, beat=0))

    def lost(self, others: set[str]) -> set[str]:
        """Return the proxies without a heartbeat for `LOST_SECONDS`, and those of `others` that have ended.

        If this proxy could not look for a while, for example because the database was unavailable, the time starts
        again for all others, because they could not write heartbeats either.
        """
        with self._store.transaction() as connection:
            beats = {str(id): int(beat) for id, beat in connection.execute(sa.select(PROXIES.c.id, PROXIES.c.beat))}
        now = time.monotonic()
        if now - self._looked > _BLIND_SECONDS:
            self._seen.clear()
        self._looked = now
        for id, beat in beats.items():
            if id not in self._seen or self._seen[id][0] != beat:
                self._seen[id] = (beat, now)
        silent = {id for id in beats if now - self._seen[id][1] > LOST_SECONDS}
        return (silent | (others - beats.keys())) - {self._own}

    def forget(self, ids: set[str]) -> None:
        """Delete the entries of proxies that have ended and have no tasks left."""
        with self._store.transaction() as connection:
            connection.execute(sa.delete(PROXIES).where(PROXIES.c.id.in_(ids)))
