"""Who runs which task, and when: DBOS's durable queue (https://docs.dbos.dev, 3.4).

A task is a DBOS workflow of the same id. DBOS holds the queue in the database, gives every workflow to one process,
and gives it out again when that process is gone. It keeps no steps: `Runner` restarts a task and knows by the
task's row whether there is anything left to do. Each lane has a queue.
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
"""Of what a workflow is, which is no more than a task's id: a new release takes over the queue of the one before."""


class Queue:
    """DBOS in this process; there can be one.

    :param url: of the database.
    :param slots: by the name of a lane, how many of its workflows run in each process at a time. Never a bound on all
        proxies together: the slots of one that died would stay taken. DBOS keeps the number with the queue, so that
        proxies of one database share it.
    :param guests: by the name of a lane, how many newcomers run besides, to wait for slots at the gate or to be its
        guests; 0 = they are queued with the others.
    :param run: runs the task of that id. It never raises; when it is cancelled, the task is given out again later.
    """

    def __init__(
        self, url: str, *, slots: Mapping[str, int], guests: Mapping[str, int], run: Callable[[str], Awaitable[None]]
    ) -> None:
        self._url = url
        self._slots = slots
        self._guests = guests
        self._run = run
        # Alone, a process takes over what it left when it is started again. Among others it is one of many: they take
        # over what it leaves, and it may not take what runs elsewhere for its own.
        self.alone = sa.make_url(url).get_backend_name() == "sqlite"
        self.executor = "local" if self.alone else f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        self._dbos: DBOS | None = None
        self._pace = Pace()

    async def start(self) -> None:
        """Begin to hand out tasks, on the event loop that calls this."""
        logging.getLogger("dbos").addHandler(logging.NullHandler())  # it would bring a handler of its own
        self._dbos = DBOS(
            config={
                "name": _NAME,
                "system_database_url": self._url,
                "application_version": _VERSION,
                "executor_id": self.executor,
                "log_level": "WARNING",
            }
        )

        # No limit to how often DBOS gives it out: `Runner` counts those that ended in a crash.
        @DBOS.workflow(name="task", max_recovery_attempts=None)
        async def task(id: str) -> None:
            with self._pace.running():
                await self._run(id)

        self._workflow = task
        DBOS.launch()
        for lane in LANES.values():
            await self._register(lane)
        if self.alone:  # others would put tasks into the queue without a word to us
            # The second is not public; where a later DBOS has none, its jobs go on as often as before.
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
        if lane.newcomers is not None:  # without guests, too: where there were some before, newcomers may be queued
            queues[lane.newcomers] = guests or slots
        for name, most in queues.items():
            await DBOS.register_queue_async(
                name, worker_concurrency=most, polling_interval_sec=lane.polling_seconds, on_conflict="always_update"
            )

    def stop_taking(self) -> None:
        """Take no further task out of the queue; those that were taken go on."""
        for event in self._dbos.background_thread_stop_events if self._dbos else ():
            event.set()

    def stop(self) -> None:
        """End, in a thread. Nothing may be running any more."""
        DBOS.destroy(destroy_registry=True)
        self._dbos = None

    async def put(self, task: Task) -> None:
        """Queue a task; a second time does nothing."""
        lane = LANES[task.lane]
        queue = lane.newcomers if task.newcomer and self._guests.get(task.lane) else None
        with SetWorkflowID(task.id), SetEnqueueOptions(priority=task.order):
            await DBOS.enqueue_workflow_async(queue or lane.queue, self._workflow, task.id)
        self._pace.wake()

    async def take_out(self, id: str) -> None:
        """Take a task that waits out of the queue."""
        await DBOS.cancel_workflow_async(id)

    async def put_again(self, task: Task) -> None:
        """Queue a task that was taken out and never begun."""
        await DBOS.resume_workflows_async([task.id], queue_name=LANES[task.lane].queue)
        self._pace.wake()

    async def states(self, ids: Sequence[str]) -> dict[str, tuple[str, str | None]]:
        """What DBOS says of tasks: the state of the workflow, and the process that has it. Those that it does not know
        are left out."""
        found = await DBOS.list_workflows_async(workflow_ids=list(ids), load_input=False, load_output=False)
        return {workflow.workflow_id: (workflow.status, workflow.executor_id) for workflow in found}

    async def executors(self) -> set[str]:
        """The processes that tasks were given to and that have not ended them."""
        found = await DBOS.list_workflows_async(status="PENDING", load_input=False, load_output=False)
        return {workflow.executor_id for workflow in found if workflow.executor_id}

    def recover(self, executors: Collection[str]) -> int:
        """Queue again what was given to processes that are gone, in a thread. Several proxies may do it at once: each
        task is queued by one of them."""
        # Not public, but what DBOS's own recovery at a start calls; `resume_workflows`, which is public, would also
        # queue again what somebody else has just begun.
        return len(DBOS._recover_pending_workflows(list(executors)))

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete what DBOS has of tasks that are gone."""
        if ids:
            await DBOS.delete_workflows_async(list(ids))
