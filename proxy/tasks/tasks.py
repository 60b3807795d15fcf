"""Durable tasks as the routes see them: submit, look, cancel."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, Request

from darkroom.errors import Conflict, Gone, InvalidInput, NotFound, NotReady, QueueFull, StorageFull
from proxy.operations import OPERATIONS
from proxy.retry import Appointments
from proxy.services import Services
from proxy.sources import SOURCE
from proxy.tasks.files import Files
from proxy.tasks.heartbeat import Heartbeats
from proxy.tasks.live import Live
from proxy.tasks.models import Draft, Outlook, State, Task, Work
from proxy.tasks.queue import Queue
from proxy.tasks.retention import Retention
from proxy.tasks.runner import Runner
from proxy.tasks.store import IDS_AT_A_TIME, Store, connect
from proxy.waiting import at_most

log = logging.getLogger(__name__)

_DRAIN_LOOK_SECONDS = 0.2
_HEARTBEAT_SECONDS = 2.0
_RECONCILE_SECONDS = 10.0
_RETENTION_SECONDS = 60.0
_SETTLED_SECONDS = 5.0
"""Between a task's row and its place in the queue there is a moment; after so long it is a loss."""
_LOCK_SECONDS = 10.0
_FULL_SECONDS = 0.25
"""So long a full queue stays full, without a look: to refuse must cost little, or an overload slows down what was
accepted."""
_OUTLOOK_SECONDS = 0.25
_COUNTS_SECONDS = 2.0
_QUEUE_SECONDS = 5.0
"""So long a client waits for DBOS, which asks a database that is away again and again."""
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ALIVE = ("ENQUEUED", "PENDING", "DELAYED")
"""States of a DBOS workflow that may still come to its task."""


class Tasks:
    """All that there is of durable tasks in this process."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._services = services
        self._url = settings.database_url or f"sqlite:///{settings.data_dir / 'darkroom.db'}"
        self._store = Store(connect(self._url))
        self.files = Files(settings.data_dir)
        self._runner = Runner(services, self._store, self.files)
        places = settings.max_concurrent_tasks
        newcomers = places if services.gate.guests else 0
        self._queue = Queue(self._url, places=places, newcomers=newcomers, run=self._runner.execute)
        self._heartbeats = Heartbeats(self._store, self._queue.executor)
        self._retention = Retention(
            self._store, self.files, hours=settings.task_retention_hours, gigabytes=settings.task_retention_gb
        )
        self._upkeep: list[asyncio.Task[None]] = []
        self._dropped: set[str] = set()
        self._lock: int | None = None
        self._full: QueueFull | None = None
        self._full_until = 0.0
        self._appointments = Appointments()
        self._room: Outlook | None = None
        self._look: asyncio.Future[Outlook] | None = None
        self._look_until = 0.0
        self._changes = 0  # tasks that were accepted or cancelled here
        self._counts: dict[str, int] = {}
        self._counted: object = None
        self._counted_until = 0.0

    async def start(self) -> None:
        """Open the database and begin to work.

        :raises RuntimeError: another process works with this SQLite file.
        """
        if self._queue.alone:
            self._lock = await _lock(Path(f"{sa.make_url(self._url).database}.lock"))
        await self._store.call(self._store.create)
        self._services.gate.load.gain = await self._store.call(self._store.gain)
        if not self._queue.alone:
            await self._store.call(self._heartbeats.beat)  # before anything is ours, or it would pass for left behind
        await self._queue.start()
        rounds = [
            (_DRAIN_LOOK_SECONDS, self._look_for_draining),
            (_RECONCILE_SECONDS, self._reconcile),
            (_RETENTION_SECONDS, self._sweep),
        ]
        if not self._queue.alone:
            rounds += [(_HEARTBEAT_SECONDS, self._beat), (_HEARTBEAT_SECONDS, self._take_over)]
        self._upkeep = [asyncio.create_task(_every(seconds, work)) for seconds, work in rounds]

    async def stop(self) -> None:
        """End. What runs is handed back, for the next start or for another proxy."""
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        self._queue.stop_taking()
        await self._runner.stop()
        if not self._queue.alone:
            with suppress(NotReady):
                await self._beat()  # DBOS would wait without end for a database that is away
                await asyncio.to_thread(self._queue.recover, [self._queue.executor])
                await self._store.call(self._heartbeats.forget, {self._queue.executor})
        await asyncio.to_thread(self._queue.stop)
        self._store.close()
        if self._lock is not None:
            os.close(self._lock)

    async def submit(
        self, operation: str, works: Sequence[Work], *, client: str, priority: str, key: str | None, digest: str
    ) -> list[tuple[Task, bool]]:
        """Accept all of the works or none.

        :param key: the client's Idempotency-Key; with it, what was accepted before is given once more.
        :param digest: of what the client sent.
        :returns: each task, and whether it is new.
        :raises NotReady: the service drains, or its database is away.
        :raises QueueFull: there is no room in the queue.
        :raises StorageFull: there is no room on the disk.
        :raises Conflict: another request came under that key.
        :raises Gone: what came under that key is deleted.
        :raises InvalidInput: there would never be room for so many.
        """
        self.check(len(works), key)
        bounds = self._bounds()
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
            if any(work.files for work in works):
                repeated = await self._store.call(self._store.foresee, drafts, **bounds)
                if repeated is not None:
                    return [(task, False) for task in repeated]
            accepted = await self._admit(drafts, fallback=OPERATIONS[operation].fallback_seconds, **bounds)
        except QueueFull as full:
            if type(full) is QueueFull:
                self._room = await self.recent_outlook()
                if len(works) == 1:
                    self._full, self._full_until = full, time.monotonic() + _FULL_SECONDS
                full.retry_after = self._retry_after(len(works))
            raise
        self._changes += 1
        queue_answers = True
        for task, new in accepted:
            if new and queue_answers:
                queue_answers = await self._put(task)
        return accepted

    async def _admit(self, drafts: Sequence[Draft], **how: Any) -> list[tuple[Task, bool]]:
        """`Store.add`, with the inputs on the disk before it; those of drafts that become no task are taken away."""
        ids = {draft.id for draft in drafts}
        kept: set[str] = set()
        try:
            for draft in drafts:
                await asyncio.to_thread(self.files.write_inputs, draft.id, draft.work.files)
            accepted = await self._store.call(self._store.add, drafts, **how)
            kept = {task.id for task, new in accepted if new}
            return accepted
        except asyncio.CancelledError:
            kept = ids  # a thread may be accepting them; if not, `Retention` takes them away
            raise
        except NotReady as error:
            has_files = any(draft.work.files for draft in drafts)
            if has_files and not isinstance(error, StorageFull):  # accepted, perhaps, and only the answer was lost
                kept = await self._accepted_all_the_same(ids)
            raise
        finally:
            for draft in drafts:
                if draft.work.files and draft.id not in kept:
                    await asyncio.to_thread(self.files.remove, draft.id)

    async def _accepted_all_the_same(self, ids: set[str]) -> set[str]:
        """What may be tasks now, after a failure of the database."""
        try:
            return await self._store.call(self._store.accepted, sorted(ids))
        except NotReady:
            return ids

    def _bounds(self) -> dict[str, int]:
        return {"places": self._services.gate.capacity, "queue_size": self._services.settings.task_queue_size}

    def check(self, count: int, key: str | None) -> None:
        """What is known of so many works before anything is looked at; for the errors see `submit`."""
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

    def _retry_after(self, count: int) -> int:
        """Whole seconds until there is likely room for so many, later for each who is told."""
        seconds = self._room.seconds_until_room if self._room else float
        return self._appointments.next(seconds, count=count, most=sum(self._bounds().values()))

    async def _put(self, task: Task) -> bool:
        """Queue an accepted task; where that fails `_reconcile` finds what is missing and makes it good."""
        try:
            await at_most(_QUEUE_SECONDS, self._queue.put(task.id, task.rank, newcomer=bool(task.newcomer)))
        except Exception:
            log.exception("task %s is not in the queue yet", task.id)
            return False
        return True

    async def get(self, id: str) -> Task:
        """:raises NotFound, Gone: there is none of that id; it was kept long enough."""
        task = await self._store.call(self._store.get, id) if _ID.fullmatch(id) else None
        if task is None:
            raise NotFound(f"There is no task {id[:80]!r}.", param="task_id")
        if task.expired_at is not None:
            raise Gone("The task was kept for its time, and its results are deleted.", param="task_id")
        return task

    async def page(self, *, client: str, state: State | None, limit: int) -> list[Task]:
        """A client's tasks, the newest first."""
        return await self._store.call(self._store.page, client=client, state=state, limit=limit)

    async def outlook(self, *, arriving: bool = False) -> Outlook:
        """What lies before the tasks that wait; see `Store.outlook`."""
        gate = self._services.gate
        how: dict[str, Any] = {"had": gate.load.had(), "direct": gate.load.direct(gate.queued), "arriving": arriving}
        return await self._store.call(partial(self._store.outlook, gate.capacity, **how))

    async def recent_outlook(self) -> Outlook:
        """As `outlook`, up to a quarter of a second old: all who watch share one look."""
        if self._look is None or time.monotonic() > self._look_until:
            self._look, self._look_until = asyncio.ensure_future(self.outlook()), time.monotonic() + _OUTLOOK_SECONDS
        return await asyncio.shield(self._look)

    async def outlook_of_accepted(self) -> Outlook:
        """As `outlook`, for a task that may be one of many: the first ones of a burst share the places with those that
        come right behind them. An empty one while the database is away: what is accepted is not to be answered 503."""
        try:
            return await self.outlook(arriving=True)
        except NotReady:
            return Outlook(running=[], queue=[], places=self._services.gate.capacity)

    async def counts(self) -> dict[str, int]:
        """How many tasks there are in each state; those that are forgotten are not counted. While nothing happens here
        the ended ones, of which there may be very many, are counted only every few seconds, and of a database that is
        ours alone the others as well."""
        gate, now = self._services.gate, time.monotonic()
        known: object = (gate.durable, gate.active, self._changes)
        if not self._queue.alone:
            known = (known, await self._store.call(self._store.counts, live=True))
        if known != self._counted or now > self._counted_until:
            self._counts = await self._store.call(self._store.counts)
            self._counted, self._counted_until = known, now + _COUNTS_SECONDS
        return self._counts

    def live(self, id: str) -> Live | None:
        """What a task that runs in this process tells."""
        return self._runner.live(id)

    async def cancel(self, id: str) -> Task:
        """Cancel a task; one that runs stops within a step. A second time changes nothing.

        :raises NotFound, Gone: there is none of that id.
        :raises Conflict: it has completed or failed.
        """
        before = await self.get(id)
        ours = await self._store.call(self._store.end, id, None, "cancelled")
        self._full = None
        self._changes += 1
        # What runs here is told, what runs at another proxy finds out at its next step, and what waits is taken out.
        if ours and not self._runner.cancel(id) and before.state == "queued":
            with suppress(asyncio.TimeoutError):  # then it is taken out later, or begins and ends at once
                await at_most(_QUEUE_SECONDS, self._queue.take_out(id))
        task = await self.get(id)
        if task.state != "cancelled":
            raise Conflict(f"The task has {task.state} already.", param="task_id")
        return task

    async def _look_for_draining(self) -> None:
        if self._services.gate.draining:
            self._queue.stop_taking()

    async def _reconcile(self) -> None:
        """Bring rows, queue and runner together again, after a crash or a failure of the database between them."""
        tasks = await self._store.call(self._store.living, before=time.time() - _SETTLED_SECONDS)
        states = await self._queue.states([task.id for task in tasks]) if tasks else {}
        ours = [task.id for task in tasks if states.get(task.id) == ("PENDING", self._queue.executor)]
        dropped = {id for id in ours if not self._runner.has(id)}
        for id in dropped & self._dropped:  # twice in a row: it is not just being handed over
            log.warning("task %s was taken out of the queue and not begun; queueing it again", id)
            await self._queue.put_again(id)
        self._dropped = dropped
        for task in tasks:
            state, _ = states.get(task.id, (None, None))
            if state is None:
                log.warning("task %s was accepted but not queued; queueing it", task.id)
                await self._put(task)
            elif state not in _ALIVE:
                error = {"code": "internal_error", "message": "The task got lost; send it again.", "param": None}
                if await self._store.call(self._store.end, task.id, None, "failed", {"error": error}):
                    log.error("the workflow of task %s is %s, and the task had not ended", task.id, state)

    async def _sweep(self) -> None:
        forgotten = await self._store.call(self._retention.sweep)
        for at in range(0, len(forgotten), IDS_AT_A_TIME):
            ids = forgotten[at : at + IDS_AT_A_TIME]
            await self._queue.forget(ids)  # first: nobody else knows what DBOS has of them
            await self._store.call(self._retention.forget, ids)

    async def _beat(self) -> None:
        """Tell that we live; not behind requests that wait for a thread of the store."""
        await asyncio.to_thread(self._heartbeats.beat)

    async def _take_over(self) -> None:
        """Queue again what was given to proxies that do not live."""
        await self._store.call(self._store.database)  # DBOS would wait without end for a database that is away
        lost = await self._store.call(self._heartbeats.lost, await self._queue.executors())
        if lost:
            count = await asyncio.to_thread(self._queue.recover, lost)
            log.warning("took over %d tasks of %s", count, ", ".join(sorted(lost)))
            await self._store.call(self._heartbeats.forget, lost)


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something now, and again so long after each time."""
    while True:
        try:
            await work()
        except NotReady:
            log.debug("the database is away", exc_info=True)
        except Exception:
            log.exception("the upkeep of tasks failed")
        await asyncio.sleep(seconds)


async def _lock(path: Path) -> int:
    """Hold a lock file until the process ends: DBOS would run what another process is running on the same SQLite."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise RuntimeError(
                    f"another proxy works with {path.with_suffix('')}: stop it, set DATA_DIR to another folder, "
                    "or DATABASE_URL to a PostgreSQL database, which several proxies may share"
                ) from None
            await asyncio.sleep(0.2)


def of(request: Request) -> Tasks:
    """The app's tasks, for `Depends`."""
    tasks: Tasks = request.app.state.tasks
    return tasks


UseTasks = Annotated[Tasks, Depends(of)]
