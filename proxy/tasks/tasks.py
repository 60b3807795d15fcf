"""Durable tasks as the routes see them: submit, look, cancel."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import sqlalchemy as sa
from fastapi import Depends, Request

from darkroom.errors import Conflict, Gone, NotFound, NotReady
from proxy.audit.entries import Entries
from proxy.audit.tasks import TaskRows
from proxy.audit.trail import Trail
from proxy.keys.owners import Owner, require_change, require_use
from proxy.operations import model_of, operation_named
from proxy.services import Services
from proxy.tasks import keys, lock_file, pausing
from proxy.tasks.admission import QUEUE_SECONDS, Admission
from proxy.tasks.database import connect
from proxy.tasks.files import Files
from proxy.tasks.lanes import LANES, gates_of
from proxy.tasks.live import Live
from proxy.tasks.models import QueueEstimates, State, Task, Work
from proxy.tasks.overview import Overview
from proxy.tasks.queue import Queue
from proxy.tasks.retention import Retention
from proxy.tasks.runner import TaskRunner
from proxy.tasks.store import Store
from proxy.tasks.upkeep import Upkeep
from proxy.waiting import at_most

Result = TypeVar("Result")

_STOP_SECONDS = 60.0
"""How long a cancelled run may take to stop."""
_POLL_SECONDS = 0.1
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Tasks:
    """All that there is of durable tasks in this process.

    :param audit: makes the rows of the audit trail; None where nothing is audited.
    :ivar trail: writes them, in the database of the tasks.
    """

    def __init__(self, services: Services, audit: Entries | None = None) -> None:
        self._services, settings = services, services.settings
        self._url = settings.database
        self.store = self._store = Store(connect(self._url), TaskRows(audit) if audit else None)
        days = settings.audit_retention_days
        self.trail = Trail(self._store, retention_days=days) if audit else None
        self.files = Files(settings.data_dir)
        self.gates = gates = gates_of(settings, services.gate)
        self._queue = Queue(
            self._url,
            slots={name: getattr(settings, lane.setting) for name, lane in LANES.items()},
            guests={name: getattr(settings, lane.setting) for name, lane in LANES.items() if gates[name].guests},
            run=self._execute,
        )
        self._overview = Overview(gates, self._store, alone=self._queue.alone)
        self._admission = Admission(services, gates, self._store, self.files, self._queue, self._overview)
        self._runner = TaskRunner(
            services,
            gates,
            self._store,
            self.files,
            worker=self._queue.executor,
            release=self._admission.release,
        )
        self._retention = retention = Retention(
            self._store, self.files, hours=settings.task_retention_hours, gigabytes=settings.task_retention_gb
        )
        self._upkeep = Upkeep(services, gates, self._store, self._queue, self._runner, self._admission, retention)
        self._lock: int | None = None

    async def _execute(self, id: str) -> None:
        await self._runner.execute(id)

    async def start(self) -> None:
        """Open the database and begin to work.

        :raises RuntimeError: another process works with this SQLite file.
        """
        if self._queue.alone:
            self._lock = await lock_file.hold(Path(f"{sa.make_url(self._url).database}.lock"))
        await self._store.call(self._store.create)
        if self.trail is not None:
            self.trail.start()
        for lane, gate in self.gates.items():
            gate.load.gain = await self._store.call(self._store.gain, lane)
        await self._upkeep.announce()
        await self._queue.start()
        self._upkeep.start()

    async def stop(self) -> None:
        """End. What runs is handed back, for the next start or for another proxy."""
        await self._upkeep.stop()
        self._queue.stop_taking()
        await self._runner.stop()
        with suppress(NotReady):
            await self._upkeep.leave()
        await asyncio.to_thread(self._queue.stop)
        if self.trail is not None:
            await self.trail.stop()
        self._store.close()
        if self._lock is not None:
            os.close(self._lock)

    async def transact(self, work: Callable[[sa.Connection], Result], *, locked: bool = False) -> Result:
        """Do something with other tables of this database, in one transaction and in a thread.

        :param locked: see `Store.transaction`.
        :raises NotReady: the database is unavailable or cannot write.
        """

        def run() -> Result:
            with self._store.transaction(locked=locked) as connection:
                return work(connection)

        return await self._store.call(run)

    def check(self, count: int, key: str | None, lane: str | None = None) -> None:
        """See `Admission.check`."""
        self._admission.check(count, key, lane)

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
        """See `Admission.submit`."""
        return await self._admission.submit(
            operation,
            works,
            client=client,
            priority=priority,
            key=key,
            digest=digest,
            requested_operation=requested_operation,
        )

    async def get(self, id: str) -> Task:
        """The task of an id.

        :raises NotFound, Gone: there is none of that id; it was kept long enough.
        :raises Forbidden: it belongs to another key.
        """
        task = await self._get(id)
        require_use([_owner_of(task)], "The task")
        return task

    async def _get_to_change(self, id: str) -> Task:
        """:raises NotFound, Gone, Forbidden: as `get`, or the caller may not stop it."""
        task = await self.get(id)
        require_change([_owner_of(task)], "The task")
        return task

    async def _get(self, id: str) -> Task:
        """:raises NotFound, Gone: as `get`."""
        task = await self._store.call(self._store.get, id) if _ID.fullmatch(id) else None
        if task is None:
            raise NotFound(f"There is no task {id[:80]!r}.", param="task_id")
        if task.expired_at is not None:
            raise Gone("The task was kept for its time, and its results are deleted.", param="task_id")
        return task

    async def page(self, *, client: str | None, state: State | None, limit: int) -> list[Task]:
        """A client's tasks, or all, the newest first."""
        return await self._store.call(self._store.page, client=client, state=state, limit=limit)

    async def queue_estimates(self) -> QueueEstimates:
        """See `Overview.queue_estimates`."""
        return await self._overview.queue_estimates()

    async def recent_estimates(self) -> QueueEstimates:
        """See `Overview.recent_estimates`."""
        return await self._overview.recent_estimates()

    async def estimates_of_accepted(self) -> QueueEstimates:
        """See `Overview.estimates_of_accepted`."""
        return await self._overview.estimates_of_accepted()

    async def counts(self) -> dict[str, int]:
        """See `Overview.counts`."""
        return await self._overview.counts()

    def loading(self, task: Task) -> str | None:
        """The model that a task of this proxy waits for until it is loaded; None if it waits for none."""
        return None if task.ended else self._services.waits_for(task.id)

    def seconds_until_loaded(self, task: Task) -> float:
        """Expected seconds until the models of a task are loaded."""
        model = None if task.ended else model_of(task.operation)
        return self._services.seconds_until_loaded(model)

    def live(self, id: str) -> Live | None:
        """What a task that runs in this process emits."""
        return self._runner.live(id)

    async def cancel(self, id: str) -> Task:
        """Cancel a task; one that runs stops within a step. A second time changes nothing.

        :raises NotFound, Gone: there is none of that id.
        :raises Forbidden: it was made by somebody else.
        :raises Conflict: it has completed or failed.
        """
        return await self._cancel(await self._get_to_change(id))

    async def _cancel(self, before: Task) -> Task:
        id = before.id
        ours = await self._store.call(self._store.end, id, None, "cancelled")
        self._admission.forget_refusal()
        self._overview.changed()
        # What runs here is stopped, what runs at another proxy finds out at its next step, and what waits is taken out.
        if ours and not self._runner.cancel(id) and before.state in ("queued", "paused"):
            if before.state == "queued":
                with suppress(asyncio.TimeoutError):  # then it is taken out later, or begins and ends at once
                    await at_most(QUEUE_SECONDS, self._queue.take_out(id))
            await asyncio.to_thread(self.files.remove_workspace, id)  # of a run that was stopped and handed back
        if ours and before.exclusive is not None:
            with suppress(NotReady):  # then the upkeep does it
                await self._admission.release()
        task = await self._get(id)
        if task.state != "cancelled":
            raise Conflict(f"The task has {task.state} already.", param="task_id")
        return task

    async def pause(self, id: str) -> Task:
        """Pause a task: its run stops within a step, and what it has done is kept until `resume`. A second time changes
        nothing.

        :raises NotFound, Gone: there is none of that id.
        :raises Forbidden: it was made by somebody else.
        :raises Conflict: it has ended, or its operation cannot go on with what it has done.
        """
        before = await self._get_to_change(id)
        if not operation_named(before.operation).resumable:
            raise Conflict(f"Tasks of the operation {before.operation} cannot be paused.", param="task_id")
        if await self._store.call(pausing.pause, self._store, id):
            self._admission.forget_refusal()
            self._overview.changed()
            if not self._runner.pause(id) and before.state == "queued":
                with suppress(asyncio.TimeoutError):  # then it ends at once when it begins
                    await at_most(QUEUE_SECONDS, self._queue.forget([id]))
        task = await self.get(id)
        if task.ended:
            raise Conflict(f"The task has {task.state} already.", param="task_id")
        return task

    async def resume(self, id: str) -> Task:
        """Let a paused task go on, as soon as its last run has stopped. A task that is not paused goes on anyway.

        :raises NotFound, Gone: there is none of that id.
        :raises Forbidden: it was made by somebody else.
        :raises Conflict: it has ended.
        :raises NotReady: the database is unavailable.
        """
        task = await self._get_to_change(id)
        if task.state == "paused":
            # First, while the upkeep leaves the task alone: its workflow has ended, and a new one gets the same id.
            try:
                await at_most(QUEUE_SECONDS, self._queue.forget([id]))
            except asyncio.TimeoutError:
                raise NotReady("The database of tasks does not answer; try again in a moment.", retry_after=5) from None
            if await self._store.call(pausing.resume, self._store, id):
                self._overview.changed()
                await self._admission.release()
            task = await self.get(id)
        if task.ended:
            raise Conflict(f"The task has {task.state} already.", param="task_id")
        return task

    async def newest(self, of: Sequence[str]) -> dict[str, Task]:
        """The newest task of each of these keys that has any; see `Work.exclusive`.

        :raises NotReady: the database is unavailable.
        """
        return await self._store.call(keys.newest, self._store, of)

    async def remove_all(self, key: str) -> None:
        """Cancel the tasks with a key, wait until their runs have stopped, and remove their files.

        :raises NotReady: the database is unavailable.
        :raises Conflict: a run does not stop.
        """
        deadline = time.monotonic() + _STOP_SECONDS
        while running := await self._store.call(keys.unfinished, self._store, key):
            for id in running:
                with suppress(Conflict, Gone, NotFound):  # it has ended meanwhile
                    await self._cancel(await self._get(id))
            if time.monotonic() > deadline:
                raise Conflict(f"Task {running[0]} does not stop; try again in a moment.")
            await asyncio.sleep(_POLL_SECONDS)
        for id in await self._store.call(keys.kept, self._store, key):
            await self._store.call(self._retention.expire, id)


def _owner_of(task: Task) -> Owner:
    return Owner(client=task.client, source=task.source)


def of(request: Request) -> Tasks:
    """The app's tasks, for `Depends`."""
    tasks: Tasks = request.app.state.tasks
    return tasks


UseTasks = Annotated[Tasks, Depends(of)]
