"""Queue estimates and task counts, cached so that many clients share one database query."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial

from darkroom.errors import NotReady
from proxy.gate import Gate
from proxy.tasks.models import LaneLoad, QueueEstimate, QueueEstimates
from proxy.tasks.store import Store

_ESTIMATE_SECONDS = 0.25
"""Seconds for which clients that follow a task get the same estimate."""
_COUNTS_SECONDS = 2.0
"""Seconds for which counts are reused while nothing changes in this process."""


class Overview:
    """Estimates and counts.

    :param gates: the gates by the names of their lanes.
    :param alone: whether no other process changes the database.
    """

    def __init__(self, gates: Mapping[str, Gate], store: Store, *, alone: bool) -> None:
        self._gates = gates
        self._store = store
        self._alone = alone
        self._look: asyncio.Future[QueueEstimates] | None = None
        self._look_until = 0.0
        self._changes = 0
        self._counts: dict[str, int] = {}
        self._counted: object = None
        self._counted_until = 0.0

    def changed(self) -> None:
        """Drop the cached counts, because a task was accepted or cancelled in this process."""
        self._changes += 1

    async def queue_estimates(self, *, arriving: bool = False) -> QueueEstimates:
        """The current queue estimates; see `Store.queue_estimates`."""
        loads = {
            lane: LaneLoad(slots=gate.capacity, had=gate.load.had(), direct=gate.load.direct(gate.queued))
            for lane, gate in self._gates.items()
        }
        return await self._store.call(partial(self._store.queue_estimates, loads, arriving=arriving))

    async def recent_estimates(self) -> QueueEstimates:
        """Return `queue_estimates`, up to a quarter of a second old, so that all followers share one query."""
        now = time.monotonic()
        if self._look is None or now > self._look_until:
            self._look, self._look_until = asyncio.ensure_future(self.queue_estimates()), now + _ESTIMATE_SECONDS
        return await asyncio.shield(self._look)

    async def estimates_of_accepted(self) -> QueueEstimates:
        """As `queue_estimates`, for a task that was just accepted and may be part of a burst: the first tasks of a
        burst share the slots with those right behind them. While the database is unavailable the estimates are empty,
        because the answer for an accepted task must not be 503."""
        try:
            return await self.queue_estimates(arriving=True)
        except NotReady:
            return {
                lane: QueueEstimate(running=[], queue=[], slots=gate.capacity) for lane, gate in self._gates.items()
            }

    async def counts(self) -> dict[str, int]:
        """The number of tasks in each state, without deleted tasks. While nothing changes here, the ended tasks, which
        may be very many, are counted only every few seconds. If no other process uses the database, this holds for the
        other states as well."""
        now = time.monotonic()
        known: object = (*((gate.durable, gate.active) for gate in self._gates.values()), self._changes)
        if not self._alone:
            known = (known, await self._store.call(self._store.counts, live=True))
        if known != self._counted or now > self._counted_until:
            self._counts = await self._store.call(self._store.counts)
            self._counted, self._counted_until = known, now + _COUNTS_SECONDS
        return self._counts
