"""One task, from its turn to its end: through restarts of Triton, and anew after the death of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from darkroom.errors import Cancelled, DarkroomError, NetworkError, NotReady, StorageFull, TaskTimeout
from proxy.errors import describe
from proxy.load import CURRENT
from proxy.observability import REQUEST_ID
from proxy.operations import group_of, operation_named, pipelines_of, turn_of
from proxy.services import Services
from proxy.sources import SOURCE
from proxy.tasks.files import Files
from proxy.tasks.live import Live
from proxy.tasks.models import Output, State, Task
from proxy.tasks.store import Store
from proxy.waiting import at_most

log = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result")

_NOTE_SECONDS = 0.5
"""Between two notes of a task's progress in the database."""
_LOOK_SECONDS = 2.0
"""Between two looks whether another proxy has cancelled a task, or taken it over, that takes no step meanwhile."""
_READY_POLL_SECONDS = 0.1
_PAUSE_SECONDS = 1.5
"""After a failure of the server's; the monitor looks every second, and will know by then whether Triton is there."""
_STORE_PAUSES = (0.5, 1.0, 2.0, 5.0)
_ANSWER_SECONDS = 5.0
"""So long a place is held for a database that does not answer."""
_FINISH_SECONDS = 10.0
"""For a task whose work is done when this process stops, to be noted as completed and not to be done once more."""
_SUSPECT_ATTEMPTS = 2


class Superseded(Exception):
    """The task is not this run's any more: its client cancelled it, or another proxy took it over."""


@dataclass(kw_only=True)
class _Run:
    """A task in this process.

    :ivar name: under which it may write to the task's row; another one for each attempt.
    :ivar begun: the row at the attempt's beginning; None while the task waits for its turn.
    :ivar worked: whether only the results are left to be kept.
    """

    id: str
    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    begun: Task | None = None
    worked: bool = False
    live: Live = field(default_factory=Live)


class Runner:
    """Runs tasks.

    A failure of the request ends a task. A failure of the server's begins it anew, once Triton is ready, but at most
    TASK_MAX_ATTEMPTS times. Whoever was there twice when something died is a suspect, and suspects are run one at a
    time: so one that kills the server uses up its own attempts and not those of its neighbours.
    """

    def __init__(self, services: Services, store: Store, files: Files) -> None:
        self._services = services
        self._store = store
        self._files = files
        self._suspects = asyncio.Lock()
        self._stopping = False
        self._live: dict[str, Live] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._executions: set[asyncio.Task[Any]] = set()

    def live(self, id: str) -> Live | None:
        """What a task that runs here tells; None for others."""
        return self._live.get(id)

    def has(self, id: str) -> bool:
        """Whether a task runs here, or waits here for its place."""
        return id in self._jobs

    def cancel(self, id: str) -> bool:
        """Stop a task that runs here, or waits here for its place; False if there is none."""
        job = self._jobs.get(id)
        return job is not None and job.cancel()

    async def stop(self) -> None:
        """Stop everything that runs here, to be given out again."""
        self._stopping = True
        for execution in self._executions:
            execution.cancel()
        await asyncio.gather(*self._executions, return_exceptions=True)

    async def execute(self, id: str) -> None:
        """Run a task until it has ended. Returns without raising; cancelled, it hands the task back."""
        execution = asyncio.current_task()
        if execution is None or self._stopping:
            raise asyncio.CancelledError
        REQUEST_ID.set(id)
        run = _Run(id=id)
        job = asyncio.ensure_future(self._attempts(run))
        self._executions.add(execution)
        self._jobs[id], self._live[id] = job, run.live
        try:
            await asyncio.wait({job})
        except asyncio.CancelledError:
            if run.worked:
                await asyncio.wait({job}, timeout=_FINISH_SECONDS)
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
            await self._hand_back(run)
            raise
        finally:
            self._executions.discard(execution)
            if self._jobs.get(id) is job:
                del self._jobs[id], self._live[id]
        if not job.cancelled() and (error := job.exception()) is not None:
            log.error("a task ended in an unexpected error", exc_info=error)
            await self._end(run, "failed", error=_described(error))

    async def _attempts(self, run: _Run) -> None:
        most = self._services.settings.task_max_attempts
        while True:
            task = await self._stored(self._store.get, run.id)
            if task is None or task.ended:
                return
            if task.attempts >= most and run.name != task.run:  # ours may have begun, and only the answer was lost
                problem = f"The server or the service died each of the {most} times that this task was begun."
                await self._end(run, "failed", error={"code": NetworkError.code, "message": problem, "param": None})
                return
            try:
                await self._attempt(task, run)
                return
            except Superseded:
                return
            except DarkroomError as error:
                if not _of_the_server(error):
                    await self._end(run, "failed", error=_described(error))
                    return
                await self._again(run, error)

    async def _again(self, run: _Run, error: DarkroomError) -> None:
        """After a failure of the server's: wait for the next attempt, or give up."""
        run.worked = False
        if self._services.gate.draining:
            await asyncio.Event().wait()  # until we are stopped: what is not done by now is done after the next start
        if run.begun is not None:
            most, attempts = self._services.settings.task_max_attempts, run.begun.attempts
            log.warning("attempt %d of %d failed: %s", attempts, most, error.message)
            if attempts >= most:
                await self._end(run, "failed", error=_last_of(most, error))
                return
            await self._stored(self._store.wait_again, run.id, run.name)
            run.name, run.begun = str(uuid.uuid4()), None
        await asyncio.sleep(_PAUSE_SECONDS)

    async def _attempt(self, task: Task, run: _Run) -> None:
        """One attempt, in its turn.

        :raises Superseded, DarkroomError: it came to nothing.
        """
        SOURCE.set(task.source or task.client)
        async with self._turn(task):
            run.begun = begun = await self._soon(self._store.begin, task.id, run.name)
            if begun is None:
                raise Superseded
            run.live.reset()
            load, job, started = self._services.gate.load, CURRENT.get(), time.monotonic()
            assert job is not None  # whoever has a place is one
            turn = turn_of(begun.operation, begun.estimate, begun.steps)
            load.describe(job, id=begun.id, group=group_of(begun.operation), turn=turn)
            outputs = await self._work(begun, run)
            used, seconds = load.used(job), time.monotonic() - started
            run.worked = True
        await self._keep(begun, run, outputs)
        load.gain = await self._stored(self._store.measured, begun, used)
        log.info("%s done in %.1f s", task.operation, seconds)

    async def _keep(self, task: Task, run: _Run, outputs: list[Output]) -> None:
        """Write the results, and note that the task is completed.

        :raises Superseded: the task is not this run's any more.
        :raises StorageFull, DarkroomError: there is no room for them; they cannot be written.
        """
        if not await self._stored(self._is_ours, task, run):  # or another run's results would be written over
            raise Superseded
        results = await asyncio.to_thread(self._files.write_results, task.id, outputs)
        size = task.bytes + sum(result["bytes"] for result in results)
        steps = run.live.steps or task.steps
        await self._end(run, "completed", results=results, bytes=size, step=steps, steps=steps)

    @contextlib.asynccontextmanager
    async def _turn(self, task: Task) -> AsyncIterator[None]:
        """Wait until the models are ready and there is a place, which tasks share with the direct requests."""
        async with contextlib.AsyncExitStack() as held:
            if task.attempts >= _SUSPECT_ATTEMPTS:
                await held.enter_async_context(self._suspects)
            needed = pipelines_of(task.operation, task.fields)
            while not all(map(self._services.monitor.ready_of, needed)):  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(_READY_POLL_SECONDS)
            await held.enter_async_context(self._services.gate.place(SOURCE.get()))
            yield

    async def _work(self, task: Task, run: _Run) -> list[Output]:
        """Run the operation, and note now and then how far it is.

        :raises Superseded: the task is not this run's any more.
        :raises TaskTimeout: nothing happened for TASK_TIMEOUT.
        """
        operation, live, stall = operation_named(task.operation), run.live, self._services.settings.task_timeout
        inputs = await asyncio.to_thread(self._files.read_inputs, task.id, task.files)
        job = asyncio.ensure_future(operation.run(self._services, task.fields, inputs, live.tell))
        noted, moved = live.changes, time.monotonic()
        looked = moved
        try:
            while not (await asyncio.wait({job}, timeout=_NOTE_SECONDS))[0]:
                now = time.monotonic()
                if live.changes != noted:
                    noted, moved = live.changes, now
                elif now - moved > stall:
                    raise TaskTimeout(f"The task took no step for TASK_TIMEOUT = {stall:g} s and was stopped.")
                if moved == now or now - looked > _LOOK_SECONDS:
                    looked = now
                    with contextlib.suppress(NotReady):  # the work goes on without a database
                        if not await self._soon(self._is_ours, task, run):
                            raise Superseded
            if job.cancelled():  # by itself: gRPC cancels a call that breaks while it is being sent
                raise NetworkError("The call to the inference server was broken off.")
            return job.result()
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    def _is_ours(self, task: Task, run: _Run) -> bool:
        """In a thread: note how far it is; False if the task is not this run's any more."""
        step, steps = run.live.step, run.live.steps or task.steps  # nothing is told before the first step is done
        return self._store.progress(task.id, run.name, step, steps)

    async def _end(self, run: _Run, state: State, **values: Any) -> None:
        await self._stored(self._store.end, run.id, run.name if run.begun else None, state, values)
        run.live.touch()

    async def _hand_back(self, run: _Run) -> None:
        with contextlib.suppress(NotReady):  # then the attempt counts, if it has begun: perhaps without our knowledge
            await self._soon(self._store.hand_back, run.id, run.name)

    async def _soon(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        """Do something with the database, which has some seconds for it; afterwards it may do it all the same.

        :raises NotReady: it is away.
        """
        try:
            return await at_most(_ANSWER_SECONDS, self._store.call(work, *given, **named))
        except asyncio.TimeoutError:
            raise NotReady("The database of tasks does not answer.") from None

    async def _stored(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        """Do something with the database, again and again until it can: what a task has come to must not get lost
        because its disk is full or its server restarts."""
        tries = 0
        while True:
            try:
                return await self._store.call(work, *given, **named)
            except NotReady:
                await asyncio.sleep(_STORE_PAUSES[min(tries, len(_STORE_PAUSES) - 1)])
                tries += 1


def _of_the_server(error: DarkroomError) -> bool:
    """Whether another attempt may go better. One without a class of its own came from a model that does not know what
    happened to it."""
    kinds = (NotReady, NetworkError, TaskTimeout, Cancelled)
    return type(error) is DarkroomError or (isinstance(error, kinds) and not isinstance(error, StorageFull))


def _described(error: BaseException) -> dict[str, Any]:
    """What a task's `error` shows: what an answer would."""
    shown: dict[str, Any] = describe(error)[1]["error"]
    return shown


def _last_of(attempts: int, error: DarkroomError) -> dict[str, Any]:
    """What is shown after the last attempt."""
    if isinstance(error, NotReady | Cancelled):
        message = f"The inference server died each of the {attempts} times that it worked on this task."
        return {"code": NetworkError.code, "message": message, "param": None}
    shown = _described(error)
    return {**shown, "message": f"{shown['message']} (after {attempts} attempts)"}
