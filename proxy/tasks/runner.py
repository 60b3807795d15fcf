"""Runs one task until it has ended: through restarts of Triton, and again after a crash of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from darkroom import tracing
from darkroom.errors import Cancelled, DarkroomError, NetworkError, NotReady, StorageFull, TaskTimeout
from proxy.audit.notes import NOTES, Notes, note_files
from proxy.callers import CALLER, Caller
from proxy.errors import describe
from proxy.gate import Gate
from proxy.keys.ledger import LEDGER
from proxy.load import Running
from proxy.metrics.tasks import run_begins, run_ends
from proxy.observability import REQUEST_ID, TASK_ID
from proxy.operations import group_of, operation_named, pipelines_of, turn_of
from proxy.services import Services
from proxy.sources import SOURCE
from proxy.tasks.files import Files, is_full, storage_full
from proxy.tasks.live import Live
from proxy.tasks.models import Output, State, Task, TaskContext
from proxy.tasks.store import Store
from proxy.tasks.traces import queue_span, run_span
from proxy.waiting import at_most

log = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result")

_NOTE_SECONDS = 0.5
"""How often a task's progress is written to the database."""
_LOOK_SECONDS = 2.0
"""How often a run without new progress checks whether it still owns its task."""
_READY_POLL_SECONDS = 0.1
"""How often a waiting task checks whether Triton is ready."""
_PAUSE_SECONDS = 1.5
"""Pause after a failure of the server. The monitor looks every second, so it knows by then whether Triton is up."""
_STORE_PAUSES = (0.5, 1.0, 2.0, 5.0)
"""Pauses between tries to reach the database; the last one is repeated."""
_ANSWER_SECONDS = 5.0
"""How long a task slot is kept while the database is unresponsive."""
_FINISH_SECONDS = 10.0
"""How long a stopping process waits for a task whose work is done to be recorded as completed."""
_SUSPECT_ATTEMPTS = 2
"""Attempts after which a task is suspected of crashing the server, and runs with no other suspect beside it."""


class Superseded(Exception):
    """This run no longer owns the task: it was cancelled, or taken over by another proxy."""


@dataclass(kw_only=True)
class _Run:
    """A task in this process.

    :ivar name: the run's name in the task's row; only the run named there may write. Each attempt has a new one.
    :ivar begun: the row when the attempt began; None while the task waits for its slot.
    :ivar worked: whether the work is done and only the results are left to be written.
    :ivar ended: whether the task is known to have ended.
    :ivar exclusive: whether the task has a key, which other tasks may wait for.
    :ivar paused: whether it is stopped because the task was paused.
    """

    id: str
    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    begun: Task | None = None
    worked: bool = False
    ended: bool = False
    exclusive: bool = False
    paused: bool = False
    live: Live = field(default_factory=Live)


class TaskRunner:
    """Runs tasks.

    A failure of the request ends a task. After a failure of the server it is restarted once Triton is ready, at most
    TASK_MAX_ATTEMPTS times. A task that was running at two crashes is a suspect, and suspects run one at a time: one
    that kills the server uses up its own attempts and not those of its neighbours.

    :param gates: by the names of the lanes.
    :param worker: the name of this process among those that share the database.
    :param release: queues tasks that have waited for another one with the same key.
    """

    def __init__(
        self,
        services: Services,
        gates: Mapping[str, Gate],
        store: Store,
        files: Files,
        *,
        worker: str,
        release: Callable[[], Awaitable[None]],
    ) -> None:
        self._services = services
        self._gates = gates
        self._store = store
        self._files = files
        self._worker = worker
        self._release = release
        self._suspects = {lane: asyncio.Lock() for lane in gates}
        self._stopping = False
        self._runs: dict[str, _Run] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._executions: set[asyncio.Task[Any]] = set()
        self._cleaning: set[asyncio.Task[Any]] = set()

    def live(self, id: str) -> Live | None:
        """The progress of a task that runs in this process; None for other tasks."""
        run = self._runs.get(id)
        return run.live if run else None

    def has(self, id: str) -> bool:
        """Whether a task runs in this process, or waits here for its slot."""
        return id in self._jobs

    def cancel(self, id: str) -> bool:
        """Stop a task that runs in this process or waits here for its slot. False if there is no such task."""
        job = self._jobs.get(id)
        return job is not None and job.cancel()

    def pause(self, id: str) -> bool:
        """As `cancel`, and what the task has done is kept for its next run."""
        run = self._runs.get(id)
        if run is not None:
            run.paused = True
        return self.cancel(id)

    async def stop(self) -> None:
        """Stop all tasks of this process. They run again after the next start, or on another proxy."""
        self._stopping = True
        for execution in self._executions:
            execution.cancel()
        await asyncio.gather(*self._executions, return_exceptions=True)
        if self._cleaning:
            _, late = await asyncio.wait(self._cleaning, timeout=_FINISH_SECONDS)
            for execution in late:  # the database is unavailable; the next start cleans up
                execution.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def execute(self, id: str) -> None:
        """Run a task until it has ended. Does not raise. When it is cancelled, the task goes back to the queue."""
        execution = asyncio.current_task()
        if execution is None or self._stopping:
            raise asyncio.CancelledError
        REQUEST_ID.set(id)
        TASK_ID.set(id)
        CALLER.set(Caller())  # what was accepted runs as the service's own work
        LEDGER.set(None)
        NOTES.set(None if self._services.settings.audit == "off" else Notes())
        run = _Run(id=id)
        self._executions.add(execution)
        try:
            await self._run_to_end(run)
        finally:
            self._executions.discard(execution)
        self._cleaning.add(execution)
        try:
            await self._remove_workspace(run)
            if run.exclusive:
                await self._free_key(run)
        finally:
            self._cleaning.discard(execution)

    async def _run_to_end(self, run: _Run) -> None:
        """Run all attempts, and register the task so that `cancel` finds it. When this is cancelled, the task goes back
        to the queue."""
        job = asyncio.ensure_future(self._attempts(run))
        self._jobs[run.id], self._runs[run.id] = job, run
        try:
            await asyncio.wait({job})
        except asyncio.CancelledError:
            if run.worked:
                await asyncio.wait({job}, timeout=_FINISH_SECONDS)
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
            await (self._remove_workspace(run) if run.ended else self._hand_back(run))
            raise
        finally:
            if self._jobs.get(run.id) is job:
                del self._jobs[run.id], self._runs[run.id]
        if not job.cancelled() and (error := job.exception()) is not None:
            log.error("a task ended with an unexpected error", exc_info=error)
            await self._end(run, "failed", error=_described(error))

    async def _free_key(self, run: _Run) -> None:
        """Record that the run has stopped, so that the next task with the same key may run."""
        step = run.live.step if run.paused and run.live.steps else None
        await self._until_stored(self._store.stopped, run.id, run.name, step)
        with contextlib.suppress(NotReady):  # the upkeep does it later
            await self._release()

    async def _remove_workspace(self, run: _Run) -> None:
        """Remove the workspace if the task has ended. Another proxy that has taken the task over still needs it."""
        with contextlib.suppress(NotReady):  # it is removed with the results, after TASK_RETENTION_HOURS
            task = None if run.ended else await self._within_answer_time(self._store.get, run.id)
            if task is None or task.ended:
                await asyncio.to_thread(self._files.remove_workspace, run.id)

    async def _attempts(self, run: _Run) -> None:
        most = self._services.settings.task_max_attempts
        while True:
            task = await self._until_stored(self._store.get, run.id)
            if task is None or task.ended or task.state == "paused":
                return
            run.exclusive = task.exclusive is not None
            # With the same name, this run has already begun and only the database's answer was lost.
            if task.attempts >= most and run.name != task.run:
                problem = f"The server or the service died in each of the {most} attempts at this task."
                await self._end(run, "failed", error={"code": NetworkError.code, "message": problem, "param": None})
                return
            try:
                with run_span(task):
                    await self._attempt(task, run)
                return
            except Superseded:
                return
            except DarkroomError as error:
                if not _is_transient(error):
                    await self._end(run, "failed", error=_described(error))
                    return
                await self._retry_later(run, error)

    async def _retry_later(self, run: _Run, error: DarkroomError) -> None:
        """Wait for the next attempt after a failure of the server, or give up."""
        run.worked = False
        if self._services.gate.draining:
            await asyncio.Event().wait()  # until `stop` cancels this; the task runs again after the next start
        if run.begun is not None:
            most, attempts = self._services.settings.task_max_attempts, run.begun.attempts
            log.warning("attempt %d of %d failed: %s", attempts, most, error.message)
            if attempts >= most:
                await self._end(run, "failed", error=_error_of_last_attempt(most, error))
                return
            await self._until_stored(self._store.wait_again, run.id, run.name)
            run.name, run.begun = str(uuid.uuid4()), None
        await asyncio.sleep(_PAUSE_SECONDS)

    async def _attempt(self, task: Task, run: _Run) -> None:
        """Make one attempt: wait for a slot, run the operation, write the results.

        :raises Superseded, DarkroomError: the attempt failed.
        """
        SOURCE.set(task.source or task.client)
        worker = self._worker if run.exclusive else None
        async with self._slot(task) as job:
            run.begun = begun = await self._within_answer_time(self._store.begin, task.id, run.name, worker)
            if begun is None:
                raise Superseded
            run_begins(self._services.measures, begun)
            run.live.reset()
            load, started = self._gates[task.lane].load, time.monotonic()
            turn = turn_of(begun.operation, begun.estimate, begun.steps)
            load.describe(job, id=begun.id, group=group_of(begun.operation), turn=turn)
            outputs = await self._run_operation(begun, run)
            used, seconds = load.used(job), time.monotonic() - started
            run.worked = True
        await self._write_results(begun, run, outputs)
        load.gain = await self._until_stored(self._store.measured, begun, used)
        log.info("%s done in %.1f s", task.operation, seconds)

    async def _write_results(self, task: Task, run: _Run, outputs: list[Output]) -> None:
        """Write the results, and record the task as completed.

        :raises Superseded: this run no longer owns the task.
        :raises StorageFull, DarkroomError: the disk is full; the results cannot be written.
        """
        if not await self._until_stored(self._write_progress, task, run):
            raise Superseded  # do not overwrite the results of another run
        await note_files(output.data for output in outputs)
        with tracing.span("result", files=len(outputs)):
            results = await asyncio.to_thread(self._files.write_results, task.id, outputs)
        size, steps = task.bytes + sum(result["bytes"] for result in results), run.live.steps or task.steps
        await self._end(run, "completed", results=results, bytes=size, step=steps, steps=steps)

    @contextlib.asynccontextmanager
    async def _slot(self, task: Task) -> AsyncIterator[Running]:
        """Hold a slot of the task's lane, after the models that its operation calls are ready."""
        async with contextlib.AsyncExitStack() as held:
            with queue_span(task):
                if task.attempts >= _SUSPECT_ATTEMPTS:
                    await held.enter_async_context(self._suspects[task.lane])
                needed = pipelines_of(task.operation, task.fields)
                while not all(map(self._services.monitor.ready_of, needed)):  # noqa: ASYNC110  # it has no event
                    await asyncio.sleep(_READY_POLL_SECONDS)
                async with self._services.near(needed[0] if needed else None):
                    job = await held.enter_async_context(self._gates[task.lane].slot(SOURCE.get()))
            yield job

    async def _run_operation(self, task: Task, run: _Run) -> list[Output]:
        """Run the operation, and write its progress to the database at intervals.

        :raises Superseded: this run no longer owns the task.
        :raises TaskTimeout: the operation made no progress for TASK_TIMEOUT.
        :raises StorageFull: the disk has no room for its workspace.
        """
        operation, live, stall = operation_named(task.operation), run.live, self._services.settings.task_timeout
        inputs = await asyncio.to_thread(self._files.read_inputs, task.id, task.files)
        workspace = await asyncio.to_thread(self._files.workspace, task.id)
        context = TaskContext(
            services=self._services,
            fields=task.fields,
            files=inputs,
            workspace=workspace,
            emit=live.emit,
            goes_on=lambda: self._services.gate.draining or run.paused,
        )
        job = asyncio.ensure_future(operation.run(context))
        noted, moved = live.changes, time.monotonic()
        looked = moved
        try:
            while not (await asyncio.wait({job}, timeout=_NOTE_SECONDS))[0]:
                now = time.monotonic()
                if live.changes != noted or self._services.waits_for(run.id) is not None:
                    noted, moved = live.changes, now
                elif now - moved > stall:
                    raise TaskTimeout(f"The task made no progress for TASK_TIMEOUT = {stall:g} s and was stopped.")
                if moved == now or now - looked > _LOOK_SECONDS:
                    looked = now
                    with contextlib.suppress(NotReady):  # the work continues without the database
                        if not await self._within_answer_time(self._write_progress, task, run):
                            found = await self._within_answer_time(self._store.get, run.id)
                            run.paused = found is not None and found.state == "paused"
                            raise Superseded
            if job.cancelled():  # not by us: gRPC cancels a call that fails while it is being sent
                raise NetworkError("The call to the inference server was aborted.")
            return job.result()
        except OSError as error:
            raise (storage_full() if is_full(error) else error) from None
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    def _write_progress(self, task: Task, run: _Run) -> bool:
        """Write the progress to the database; call it in a thread. False if this run no longer owns the task."""
        step, steps = run.live.step, run.live.steps or task.steps  # `live` is empty before the first step is done
        return self._store.progress(task.id, run.name, step, steps)

    async def _end(self, run: _Run, state: State, **values: Any) -> None:
        owner = run.name if run.begun else None
        run.ended = await self._until_stored(self._store.end, run.id, owner, state, values)
        run_ends(self._services.measures, run.begun, state, values.get("error"))
        run.live.touch()

    async def _hand_back(self, run: _Run) -> None:
        with contextlib.suppress(NotReady):  # then an attempt that has begun counts, even if we do not know of it
            await self._within_answer_time(self._store.hand_back, run.id, run.name)

    async def _within_answer_time(
        self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
    ) -> Result:
        """Call the database with a time limit. After the limit the call may still take effect.

        :raises NotReady: the database is unavailable.
        """
        try:
            return await at_most(_ANSWER_SECONDS, self._store.call(work, *given, **named))
        except asyncio.TimeoutError:
            raise NotReady("The database of tasks does not answer.") from None

    async def _until_stored(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        """Call the database and retry until it works. The outcome of a task must not get lost because the database's
        disk is full or its server restarts."""
        tries = 0
        while True:
            try:
                return await self._store.call(work, *given, **named)
            except NotReady:
                await asyncio.sleep(_STORE_PAUSES[min(tries, len(_STORE_PAUSES) - 1)])
                tries += 1


def _is_transient(error: DarkroomError) -> bool:
    """Whether another attempt may succeed. A bare DarkroomError means that the model raised something unexpected."""
    kinds = (NotReady, NetworkError, TaskTimeout, Cancelled)
    return type(error) is DarkroomError or (isinstance(error, kinds) and not isinstance(error, StorageFull))


def _described(error: BaseException) -> dict[str, Any]:
    """The `error` of a task: the same object as in an HTTP response."""
    return describe(error)


def _error_of_last_attempt(attempts: int, error: DarkroomError) -> dict[str, Any]:
    """The `error` of a task whose last attempt has failed."""
    if isinstance(error, NotReady | Cancelled):
        message = f"The inference server died in each of the {attempts} attempts at this task."
        return {"code": NetworkError.code, "message": message, "param": None}
    shown = _described(error)
    return {**shown, "message": f"{shown['message']} (after {attempts} attempts)"}
