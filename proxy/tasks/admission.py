"""Accepts work as tasks: all of a request or nothing, once for each Idempotency-Key, and only while there is room."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darkroom import tracing
from darkroom.errors import InvalidInput, NotReady, QueueFull, StorageFull
from proxy.audit.notes import NOTES
from proxy.gate import Gate
from proxy.keys.ledger import priority_of
from proxy.metrics.current import note_task
from proxy.operations import OPERATIONS, operation_named
from proxy.retry import Appointments
from proxy.services import Services
from proxy.sources import SOURCE
from proxy.tasks.files import Files
from proxy.tasks.lanes import LANES
from proxy.tasks.models import Draft, QueueEstimate, Task, Work
from proxy.tasks.overview import Overview
from proxy.tasks.queue import Queue
from proxy.tasks.store import Store
from proxy.waiting import at_most

log = logging.getLogger(__name__)

_FULL_SECONDS = 0.25
"""Seconds for which a refusal because of a full queue is repeated without asking the database. Refusing must stay
cheap, or an overload would slow down the accepted tasks."""
QUEUE_SECONDS = 5.0
"""Seconds that a client waits for DBOS, which retries while the database is unavailable."""


@dataclass(kw_only=True)
class _Refusals:
    """The refusals of one lane.

    :ivar full: the last refusal because of a full queue, repeated until `full_until`.
    :ivar room: the queue estimate at that time, which says when there will be room.
    """

    full: QueueFull | None = None
    full_until: float = 0.0
    room: QueueEstimate | None = None
    appointments: Appointments = field(default_factory=Appointments)

    @property
    def is_full(self) -> bool:
        return self.full is not None and time.monotonic() < self.full_until


class Admission:
    """Accepts tasks for the routes that create them. For the errors see `submit`.

    :param gates: the gates by the names of their lanes.
    """

    def __init__(
        self,
        services: Services,
        gates: Mapping[str, Gate],
        store: Store,
        files: Files,
        queue: Queue,
        overview: Overview,
    ) -> None:
        self._services = services
        self._gates = gates
        self._store = store
        self._files = files
        self._queue = queue
        self._overview = overview
        self._refusals = {lane: _Refusals() for lane in gates}

    def check(self, count: int, key: str | None, lane: str | None = None) -> None:
        """Refuse a request before its body is read, if it would be refused later. For the errors see `submit`.

        :param lane: the lane of the request. None if it is not known yet; then only a request that every lane would
            refuse is refused.
        """
        gate = self._services.gate
        if gate.draining:
            raise NotReady("The service is shutting down and takes no new work.", retry_after=gate.retry_after())
        lanes = sorted({one.lane for one in OPERATIONS.values()} if lane is None else {lane}, key=self._most)
        if count > self._most(lanes[-1]):
            raise InvalidInput(
                f"requests must be at most {self._most(lanes[-1])}, the number that can run and wait at a time "
                f"({LANES[lanes[-1]].setting.upper()} + TASK_QUEUE_SIZE); got {count}.",
                param="requests",
            )
        if key is None and all(self._refusals[one].is_full for one in lanes):
            raise min((self._full(one, count) for one in lanes), key=lambda full: full.retry_after)

    async def submit(
        self,
        operation: str,
        works: Sequence[Work],
        *,
        client: str,
        priority: str | None = None,
        key: str | None,
        digest: str,
        requested_operation: str | None = None,
    ) -> list[tuple[Task, bool]]:
        """Accept all of the works or none.

        :param priority: None for the usual one; never higher than the caller's key may ask for.
        :param requested_operation: the operation name that the client sent; None if it is `operation`.
        :param key: the client's Idempotency-Key; for a repeated request the tasks accepted before are returned.
        :param digest: a hash of the request.
        :returns: each task, and whether it is new.
        :raises NotReady: the service is draining, or its database is unavailable.
        :raises QueueFull: the queue has no room, or (RateLimited) the caller's key may not have so many.
        :raises StorageFull: the disk has no room.
        :raises Conflict: the key was used for another request, or an existing task excludes a new one.
        :raises Gone: the results of the request with that key have been deleted.
        :raises InvalidInput: there are more works than the queue can ever hold.
        """
        note_task(operation)
        lane, priority = operation_named(operation).lane, priority_of(priority)
        self.check(len(works), key, lane)
        drafts = [
            Draft(
                id=str(uuid.uuid4()),
                operation=operation,
                requested_operation=requested_operation,
                client=client,
                priority=priority,
                key=f"{key}\x1f{index}" if key and index else key,
                digest=digest,
                work=work,
                source=SOURCE.get() or None,
                lane=lane,
                traceparent=tracing.traceparent(),
            )
            for index, work in enumerate(works)
        ]
        try:
            accepted = await self._accept(drafts, lane, fallback=operation_named(operation).fallback_seconds)
        except QueueFull as full:
            if type(full) is QueueFull:
                refusals = self._refusals[lane]
                refusals.room = (await self._overview.recent_estimates())[lane]
                if len(works) == 1:
                    refusals.full, refusals.full_until = full, time.monotonic() + _FULL_SECONDS
                full.retry_after = self._retry_after(lane, len(works))
            raise
        if (notes := NOTES.get()) is not None:
            notes.tasks = [task.id for task, _ in accepted]
            notes.accepted = all(new for _, new in accepted)
        self._overview.changed()
        queue_answers = True
        for task, new in accepted:
            if new and not task.held and queue_answers:
                queue_answers = await self.put(task)
        return accepted

    def forget_refusal(self) -> None:
        """Forget the last refusal, because a cancelled task may have made room."""
        for refusals in self._refusals.values():
            refusals.full = None

    async def put(self, task: Task) -> bool:
        """Queue an accepted task. If this fails, the upkeep queues it later."""
        try:
            await at_most(QUEUE_SECONDS, self._queue.put(task))
        except Exception:
            log.exception("task %s is not in the queue yet", task.id)
            return False
        return True

    async def release(self) -> None:
        """Queue the tasks whose key has become free. If this fails, the upkeep queues them later.

        :raises NotReady: the database is unavailable.
        """
        for task in await self._store.call(self._store.release):
            await self.put(task)

    async def _accept(self, drafts: Sequence[Draft], lane: str, *, fallback: float) -> list[tuple[Task, bool]]:
        """`Store.add`. If there are inputs to write, the room in the queue is checked first."""
        bounds = self._bounds(lane)
        if any(draft.work.files for draft in drafts):
            repeated = await self._store.call(self._store.check_room, drafts, **bounds)
            if repeated is not None:
                return [(task, False) for task in repeated]
        return await self._add(drafts, fallback=fallback, **bounds)

    async def _add(self, drafts: Sequence[Draft], **how: Any) -> list[tuple[Task, bool]]:
        """Write the inputs to disk, then call `Store.add`. The inputs of drafts that become no task are removed."""
        ids = {draft.id for draft in drafts}
        kept: set[str] = set()
        try:
            for draft in drafts:
                await asyncio.to_thread(self._files.write_inputs, draft.id, draft.work.files)
            accepted = await self._store.call(self._store.add, drafts, **how)
            kept = {task.id for task, new in accepted if new}
            return accepted
        except asyncio.CancelledError:
            kept = ids  # a thread may still be accepting them; otherwise `Retention` removes them
            raise
        except NotReady as error:
            has_files = any(draft.work.files for draft in drafts)
            if has_files and not isinstance(error, StorageFull):  # they may be accepted, with only the answer lost
                kept = await self._accepted_all_the_same(ids)
            raise
        finally:
            for draft in drafts:
                if draft.work.files and draft.id not in kept:
                    await asyncio.to_thread(self._files.remove, draft.id)

    async def _accepted_all_the_same(self, ids: set[str]) -> set[str]:
        """The ids that may have become tasks in spite of a failure of the database."""
        try:
            return await self._store.call(self._store.accepted, sorted(ids))
        except NotReady:
            return ids

    def _bounds(self, lane: str) -> dict[str, int]:
        return {"slots": self._gates[lane].capacity, "queue_size": self._services.settings.task_queue_size}

    def _most(self, lane: str) -> int:
        """The number of tasks that can run and wait at a time."""
        return sum(self._bounds(lane).values())

    def _full(self, lane: str, count: int) -> QueueFull:
        """A copy of the last refusal. It is a new error, because an error raised again collects tracebacks."""
        last = self._refusals[lane].full
        return QueueFull(last.message if last else "The queue is full.", retry_after=self._retry_after(lane, count))

    def _retry_after(self, lane: str, count: int) -> int:
        """Whole seconds until there is likely room for `count` tasks. The time grows with each refused client."""
        refusals = self._refusals[lane]
        seconds = refusals.room.seconds_until_room if refusals.room else float
        return refusals.appointments.next(seconds, count=count, most=self._most(lane))
