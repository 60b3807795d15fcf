"""The queue of tasks: DBOS's durable queue (https://docs.dbos.dev, 3.4).

A task is a DBOS workflow with the same id. DBOS holds the queue in the database, assigns each workflow to one process,
and assigns it again when that process is gone. Our workflows have no DBOS steps: `TaskRunner` restarts a task, and the
task's row says whether anything is left to do. Each lane has a queue.
"""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import sqlalchemy as sa
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

from proxy.tasks.lanes import LANES, Lane
from proxy.tasks.models import Task
from proxy.tasks.pacing import Pace

log = logging.getLogger(__name__)

_NAME = "darkroom"
_VERSION = "1"
"""Version of the workflow for DBOS. A workflow is only a task's id, so a new release can take over an older queue."""


class Queue:
    """The DBOS instance of this process; there can be only one.

    :param url: the URL of the database.
    :param slots: for each lane by name, the number of its workflows that run at a time in each process. There is no
        limit over all proxies together, because the slots of a proxy that died would stay taken. DBOS stores the number
        with the queue, so the proxies of one database share it.
    :param guests: for each lane by name, the number of further newcomers that run, to wait for slots at the gate or to
        use its guest slots. 0 means that newcomers are queued with the others.
    :param run: runs the task with an id. It never raises. When it is cancelled, DBOS assigns the task again later.
    """

    def __init__(
        self, url: str, *, slots: Mapping[str, int], guests: Mapping[str, int], run: Callable[[str], Awaitable[None]]
    ) -> None:
        self._url = url
        self._slots = slots
        self._guests = guests
        self._run = run
        # A single process takes over its own unfinished tasks at its next start. With several proxies the others take
        # them over, and a process must not treat tasks that run elsewhere as its own.
        self.alone = sa.make_url(url).get_backend_name() == "sqlite"
        self.executor = "local" if self.alone else f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        self._dbos: DBOS | None = None
        self._pace = Pace()

    async def start(self) -> None:
        """Begin to run tasks on the event loop of the caller."""
        logging.getLogger("dbos").addHandler(logging.NullHandler())  # or DBOS adds its own handler
        self._dbos = DBOS(
            config={
                "name": _NAME,
                "system_database_url": self._url,
                "application_version": _VERSION,
                "executor_id": self.executor,
                "log_level": "WARNING",
            }
        )

        # DBOS must not limit its attempts: `TaskRunner` counts the attempts that ended in a crash.
        @DBOS.workflow(name="task", max_recovery_attempts=None)
        async def task(id: str) -> None:
            with self._pace.running():
                await self._run(id)

        self._workflow = task
        DBOS.launch()
        for lane in LANES.values():
            await self._register(lane)
        if self.alone:  # other proxies would put tasks into the queue without waking us
            # The second event is not public. If a later DBOS has none, its jobs run as often as before.
            jobs = getattr(self._dbos, "_background_jobs_stop_event", None)
            for event in [*self._dbos.background_thread_stop_events, *([jobs] if jobs else [])]:
                self._pace.govern(event)

    async def _register(self, lane: Lane) -> None:
        slots, guests = self._slots[lane.name], self._guests.get(lane.name, 0)
        before = None if self.alone else await DBOS.retrieve_queue_async(lane.queue)
        found = await before.get_worker_concurrency_async() if before else None
        if found not in (None, slots):
            log.warning(
                "%s is %d here and %s where this database was used last; from now on every proxy takes %d tasks at a "
                "time from the queue",
                lane.setting.upper(), slots, found, slots,
            )  # fmt: skip
        queues = {lane.queue: slots}
        if lane.newcomers is not None:  # even with 0 guests: newcomers may be queued from an earlier start
            queues[lane.newcomers] = guests or slots
        for name, most in queues.items():
            await DBOS.register_queue_async(
                name, worker_concurrency=most, polling_interval_sec=lane.polling_seconds, on_conflict="always_update"
            )

    def stop_taking(self) -> None:
        """Take no further tasks from the queue. Tasks already taken continue."""
        for event in self._dbos.background_thread_stop_events if self._dbos else ():
            event.set()

    def stop(self) -> None:
        """Shut DBOS down; call it in a thread. No task may be running any more."""
        DBOS.destroy(destroy_registry=True)
        self._dbos = None

    async def put(self, task: Task) -> None:
        """Queue a task. Queueing it again does nothing."""
        lane = LANES[task.lane]
        queue = lane.newcomers if task.newcomer and self._guests.get(task.lane) else None
        with SetWorkflowID(task.id), SetEnqueueOptions(priority=task.order):
            await DBOS.enqueue_workflow_async(queue or lane.queue, self._workflow, task.id)
        self._pace.wake()

    async def take_out(self, id: str) -> None:
        """Remove a waiting task from the queue."""
        await DBOS.cancel_workflow_async(id)

    async def put_again(self, task: Task) -> None:
        """Queue a task again that was removed and never begun."""
        await DBOS.resume_workflows_async([task.id], queue_name=LANES[task.lane].queue)
        self._pace.wake()

    async def states(self, ids: Sequence[str]) -> dict[str, tuple[str, str | None]]:
        """The state of each task's workflow in DBOS, and the process that has it. Unknown tasks are left out."""
        found = await DBOS.list_workflows_async(workflow_ids=list(ids), load_input=False, load_output=False)
        return {workflow.workflow_id: (workflow.status, workflow.executor_id) for workflow in found}

    async def executors(self) -> set[str]:
        """The processes with assigned tasks that have not ended."""
        found = await DBOS.list_workflows_async(status="PENDING", load_input=False, load_output=False)
        return {workflow.executor_id for workflow in found if workflow.executor_id}

    def recover(self, executors: Collection[str]) -> int:
        """Queue the tasks of processes that are gone again; call it in a thread. Several proxies may do this at once:
        each task is queued by one of them."""
        # This function is not public, but DBOS's own recovery at startup calls it. The public `resume_workflows` would
        # also queue tasks again that another proxy has just begun.
        return len(DBOS._recover_pending_workflows(list(executors)))

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete DBOS's records of deleted tasks."""
        if ids:
            await DBOS.delete_workflows_async(list(ids))
