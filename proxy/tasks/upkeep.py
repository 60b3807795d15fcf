"""Periodic maintenance of tasks: finds lost tasks, takes over those of dead proxies, and deletes old results."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from darkroom.errors import NotReady
from proxy.gate import Gate
from proxy.services import Services
from proxy.tasks.admission import Admission
from proxy.tasks.heartbeat import Heartbeats
from proxy.tasks.queue import Queue
from proxy.tasks.retention import Retention
from proxy.tasks.runner import TaskRunner
from proxy.tasks.store import IDS_AT_A_TIME, Store

log = logging.getLogger(__name__)

_DRAIN_LOOK_SECONDS = 0.2
_HEARTBEAT_SECONDS = 2.0
_RECONCILE_SECONDS = 10.0
_RETENTION_SECONDS = 60.0
_SETTLED_SECONDS = 5.0
"""Age in seconds from which a task that is not in the queue counts as lost. It is queued right after its row is
written."""
_ALIVE = ("ENQUEUED", "PENDING", "DELAYED")
"""States of a DBOS workflow that can still run its task."""


class Upkeep:
    """Runs the periodic jobs between `start` and `stop`."""

    def __init__(
        self,
        services: Services,
        gates: Mapping[str, Gate],
        store: Store,
        queue: Queue,
        runner: TaskRunner,
        admission: Admission,
        retention: Retention,
    ) -> None:
        self._services = services
        self._gates = gates
        self._store = store
        self._queue = queue
        self._runner = runner
        self._admission = admission
        self._retention = retention
        self._heartbeats = Heartbeats(store, queue.executor)
        self._rounds: list[asyncio.Task[None]] = []
        self._dropped: set[str] = set()

    async def announce(self) -> None:
        """Write the first heartbeat of this proxy before it takes tasks, or they would count as abandoned."""
        if self._queue.alone:
            # These are the entries of the previous process.
            await self._store.call(self._store.forget_workers, {self._queue.executor})
        else:
            await self._store.call(self._heartbeats.beat)

    def start(self) -> None:
        """Start the periodic jobs."""
        rounds = [
            (_DRAIN_LOOK_SECONDS, self._look_for_draining),
            (_RECONCILE_SECONDS, self._reconcile),
            (_RETENTION_SECONDS, self._sweep),
        ]
        if not self._queue.alone:
            rounds += [(_HEARTBEAT_SECONDS, self._beat), (_HEARTBEAT_SECONDS, self._take_over)]
        self._rounds = [asyncio.create_task(_every(seconds, work)) for seconds, work in rounds]

    async def stop(self) -> None:
        """Stop the periodic jobs."""
        for task in self._rounds:
            task.cancel()
        await asyncio.gather(*self._rounds, return_exceptions=True)

    async def leave(self) -> None:
        """Hand the unfinished tasks of this proxy to the others at once.

        :raises NotReady: the database is unavailable.
        """
        if not self._queue.alone:
            await self._beat()  # DBOS would wait without end for an unavailable database
            await asyncio.to_thread(self._queue.recover, [self._queue.executor])
            await self._store.call(self._store.forget_workers, {self._queue.executor})
            await self._store.call(self._heartbeats.forget, {self._queue.executor})

    async def _look_for_draining(self) -> None:
        if self._services.gate.draining:
            for gate in self._gates.values():
                gate.draining = True
            self._queue.stop_taking()

    async def _reconcile(self) -> None:
        """Make rows, queue and runner consistent again after a crash or a failure of the database."""
        tasks = await self._store.call(self._store.living, before=time.time() - _SETTLED_SECONDS)
        states = await self._queue.states([task.id for task in tasks]) if tasks else {}
        ours = [task for task in tasks if states.get(task.id) == ("PENDING", self._queue.executor)]
        dropped = {task.id: task for task in ours if not self._runner.has(task.id)}
        for id in dropped.keys() & self._dropped:  # in two rounds, so it is not merely being assigned
            log.warning("task %s was removed from the queue but not started; queueing it again", id)
            await self._queue.put_again(dropped[id])
        self._dropped = set(dropped)
        for task in tasks:
            state, _ = states.get(task.id, (None, None))
            if state is None and task.held:
                continue
            if state is None:
                log.warning("task %s was accepted but not queued; queueing it", task.id)
                await self._admission.put(task)
            elif state not in _ALIVE:
                error = {"code": "internal_error", "message": "The task was lost; send it again.", "param": None}
                if await self._store.call(self._store.end, task.id, None, "failed", {"error": error}):
                    log.error("the workflow of task %s is %s, but the task has not ended", task.id, state)
        await self._admission.release()

    async def _sweep(self) -> None:
        forgotten = await self._store.call(self._retention.sweep)
        for at in range(0, len(forgotten), IDS_AT_A_TIME):
            ids = forgotten[at : at + IDS_AT_A_TIME]
            await self._queue.forget(ids)  # first, because afterwards their ids are not stored anywhere else
            await self._store.call(self._retention.forget, ids)

    async def _beat(self) -> None:
        """Write a heartbeat. It uses its own thread, so that it does not wait for the threads of the store."""
        await asyncio.to_thread(self._heartbeats.beat)

    async def _take_over(self) -> None:
        """Queue the tasks of dead proxies again."""
        await self._store.call(self._store.database)  # DBOS would wait without end for an unavailable database
        others = await self._queue.executors() | await self._store.call(self._store.workers)
        lost = await self._store.call(self._heartbeats.lost, others)
        if lost:
            count = await asyncio.to_thread(self._queue.recover, lost)
            log.warning("took over %d tasks of %s", count, ", ".join(sorted(lost)))
            await self._store.call(self._store.forget_workers, lost)
            await self._store.call(self._heartbeats.forget, lost)


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Call `work` now, and again `seconds` after the end of each call."""
    while True:
        try:
            await work()
        except NotReady:
            log.debug("the database is unavailable", exc_info=True)
        except Exception:
            log.exception("the upkeep of tasks failed")
        await asyncio.sleep(seconds)
