"""How full the queue is and when tasks will be done: looks at the database that many who ask share."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from darkroom.errors import NotReady
from proxy.services import Services
from proxy.tasks.models import QueueEstimate
from proxy.tasks.store import Store

_ESTIMATE_SECONDS = 0.25
"""How long everybody who watches a task is given the same estimate."""
_COUNTS_SECONDS = 2.0
"""How long counts are given again while nothing happens in this process."""


class Overview:
    """Estimates and counts.

    :param alone: whether no other process changes the database.
    """

    def __init__(self, services: Services, store: Store, *, alone: bool) -> None:
        self._services = services
        self._store = store
        self._alone = alone
        self._look: asyncio.Future[QueueEstimate] | None = None
        self._look_until = 0.0
        self._changes = 0
        self._counts: dict[str, int] = {}
        self._counted: object = None
        self._counted_until = 0.0

    def changed(self) -> None:
        """A task was accepted or cancelled in this process: what was counted is not true any more."""
        self._changes += 1

    async def queue_estimate(self, *, arriving: bool = False) -> QueueEstimate:
        """What runs and waits now; see `Store.queue_estimate`."""
        gate = self._services.gate
        how: dict[str, Any] = {"had": gate.load.had(), "direct": gate.load.direct(gate.queued), "arriving": arriving}
        return await self._store.call(partial(self._store.queue_estimate, gate.capacity, **how))

    async def recent_estimate(self) -> QueueEstimate:
        """As `queue_estimate`, up to a quarter of a second old: all who watch share one look."""
        now = time.monotonic()
        if self._look is None or now > self._look_until:
            self._look, self._look_until = asyncio.ensure_future(self.queue_estimate()), now + _ESTIMATE_SECONDS
        return await asyncio.shield(self._look)

    async def estimate_of_accepted(self) -> QueueEstimate:
        """As `queue_estimate`, for a task that may be one of many: the first ones of a burst share the slots with those
        that come right behind them. An empty one while the database is unavailable: what is accepted is not to be
        answered 503."""
        try:
            return await self.queue_estimate(arriving=True)
        except NotReady:
            return QueueEstimate(running=[], queue=[], slots=self._services.gate.capacity)

    async def counts(self) -> dict[str, int]:
        """How many tasks there are in each state; those that are forgotten are not counted. While nothing happens here
        the ended ones, of which there may be very many, are counted only every few seconds, and of a database that is
        ours alone the others as well."""
        gate, now = self._services.gate, time.monotonic()
        known: object = (gate.durable, gate.active, self._changes)
        if not self._alone:
            known = (known, await self._store.call(self._store.counts, live=True))
        if known != self._counted or now > self._counted_until:
            self._counts = await self._store.call(self._store.counts)
            self._counted, self._counted_until = known, now + _COUNTS_SECONDS
        return self._counts
