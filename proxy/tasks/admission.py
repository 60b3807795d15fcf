"""Accepting work as tasks: all of a request or none, once for each Idempotency-Key, only while there is room."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from darkroom.errors import InvalidInput, NotReady, QueueFull, StorageFull
from proxy.operations import OPERATIONS
from proxy.retry import Appointments
from proxy.services import Services
from proxy.sources import SOURCE
from proxy.tasks.files import Files
from proxy.tasks.models import Draft, QueueEstimate, Task, Work
from proxy.tasks.overview import Overview
from proxy.tasks.queue import Queue
from proxy.tasks.store import Store
from proxy.waiting import at_most

log = logging.getLogger(__name__)

_FULL_SECONDS = 0.25
"""How long a refusal because of a full queue is repeated without asking the database. Refusing must stay cheap, or an
overload would slow down the tasks that were accepted."""
QUEUE_SECONDS = 5.0
"""How long a client waits for DBOS, which asks an unavailable database again and again."""


class Admission:
    """What `POST /tasks` and its like do. For the errors see `submit`."""

    def __init__(self, services: Services, store: Store, files: Files, queue: Queue, overview: Overview) -> None:
        self._services = services
        self._store = store
        self._files = files
        self._queue = queue
        self._overview = overview
        self._full: QueueFull | None = None
        self._full_until = 0.0
        self._room: QueueEstimate | None = None
        self._appointments = Appointments()

    def check(self, count: int, key: str | None) -> None:
        """Refuse what is known to be refused before anything of the request is read; for the errors see `submit`."""
        gate, most = self._services.gate, sum(self._bounds().values())
        if gate.draining:
            raise NotReady("The service is shutting down and takes no new work.", retry_after=gate.retry_after())
        if count > most:
            raise InvalidInput(
                f"requests must be at most {most}, which is what runs and waits at a time "
                f"(MAX_CONCURRENT_TASKS + TASK_QUEUE_SIZE); got {count}.",
                param="requests",
            )
        if key is None and self._full is not None and time.monotonic() < self._full_until:
            raise QueueFull(self._full.message, retry_after=self._retry_after(count))

    async def submit(
        self, operation: str, works: Sequence[Work], *, client: str, priority: str, key: str | None, digest: str
    ) -> list[tuple[Task, bool]]:
        """Accept all of the works or none.

        :param key: the client's Idempotency-Key; with it, what was accepted before is given once more.
        :param digest: of what the client sent.
        :returns: each task, and whether it is new.
        :raises NotReady: the service drains, or its database is unavailable.
        :raises QueueFull: there is no room in the queue.
        :raises StorageFull: there is no room on the disk.
        :raises Conflict: another request came under that key.
        :raises Gone: what came under that key is deleted.
        :raises InvalidInput: there would never be room for so many.
        """
        self.check(len(works), key)
        drafts = [
            Draft(
                id=str(uuid.uuid4()),
                operation=operation,
                client=client,
                priority=priority,
                key=f"{key}\x1f{index}" if key and index else key,
                digest=digest,
                work=work,
                source=SOURCE.get() or None,
            )
            for index, work in enumerate(works)
        ]
        try:
            accepted = await self._accept(drafts, fallback=OPERATIONS[operation].fallback_seconds)
        except QueueFull as full:
            if type(full) is QueueFull:
                self._room = await self._overview.recent_estimate()
                if len(works) == 1:
                    self._full, self._full_until = full, time.monotonic() + _FULL_SECONDS
                full.retry_after = self._retry_after(len(works))
            raise
        self._overview.changed()
        queue_answers = True
        for task, new in accepted:
            if new and queue_answers:
                queue_answers = await self.put(task)
        return accepted

    def forget_refusal(self) -> None:
        """A task was cancelled: there may be room again."""
        self._full = None

    async def put(self, task: Task) -> bool:
        """Queue an accepted task; where that fails, the upkeep finds what is missing and queues it."""
        try:
            await at_most(QUEUE_SECONDS, self._queue.put(task.id, task.order, newcomer=bool(task.newcomer)))
        except Exception:
            log.exception("task %s is not in the queue yet", task.id)
            return False
        return True

    async def _accept(self, drafts: Sequence[Draft], *, fallback: float) -> list[tuple[Task, bool]]:
        """`Store.add`; where there are inputs to be written, only after a look whether there is room."""
        bounds = self._bounds()
        if any(draft.work.files for draft in drafts):
            repeated = await self._store.call(self._store.check_room, drafts, **bounds)
            if repeated is not None:
                return [(task, False) for task in repeated]
        return await self._add(drafts, fallback=fallback, **bounds)

    async def _add(self, drafts: Sequence[Draft], **how: Any) -> list[tuple[Task, bool]]:
        """`Store.add`, with the inputs on the disk before it; those of drafts that become no task are removed."""
        ids = {draft.id for draft in drafts}
        kept: set[str] = set()
        try:
            for draft in drafts:
                await asyncio.to_thread(self._files.write_inputs, draft.id, draft.work.files)
            accepted = await self._store.call(self._store.add, drafts, **how)
            kept = {task.id for task, new in accepted if new}
            return accepted
        except asyncio.CancelledError:
            kept = ids  # a thread may be accepting them; if not, `Retention` removes them
            raise
        except NotReady as error:
            has_files = any(draft.work.files for draft in drafts)
            if has_files and not isinstance(error, StorageFull):  # accepted, perhaps, and only the answer was lost
                kept = await self._accepted_all_the_same(ids)
            raise
        finally:
            for draft in drafts:
                if draft.work.files and draft.id not in kept:
                    await asyncio.to_thread(self._files.remove, draft.id)

    async def _accepted_all_the_same(self, ids: set[str]) -> set[str]:
        """Which of them may be tasks now, after a failure of the database."""
        try:
            return await self._store.call(self._store.accepted, sorted(ids))
        except NotReady:
            return ids

    def _bounds(self) -> dict[str, int]:
        return {"slots": self._services.gate.capacity, "queue_size": self._services.settings.task_queue_size}

    def _retry_after(self, count: int) -> int:
        """Whole seconds until there is likely room for so many, later for each who is refused."""
        seconds = self._room.seconds_until_room if self._room else float
        return self._appointments.next(seconds, count=count, most=sum(self._bounds().values()))
