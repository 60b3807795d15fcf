"""The methods of both clients for durable tasks."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

from . import answers, calls
from .answers import Result
from .answers_tasks import TaskEvents, read_task, read_tasks
from .calls_tasks import PATIENCE, RECONNECT_SECONDS, download_call, pause_call, resume_call, submit_call, task_path
from .errors import DarkroomError, TimedOut, Unavailable
from .models import Preview, Progress
from .models_tasks import Priority, TaskInfo, TaskState

T = TypeVar("T")


class TaskMethods(ABC):
    """Durable tasks: the service keeps them until they are done, whatever dies meanwhile."""

    @abstractmethod
    def _send(self, call: calls.Call) -> httpx.Response: ...

    @abstractmethod
    def _follow(self, call: calls.Call, events: answers.Events[Result]) -> Result: ...

    def submit(
        self,
        /,
        operation: str,
        *,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> TaskInfo:
        """Hand a task to the service.

            task = darkroom.submit("generate", prompt="a cat on a blue background", num_images=4)
            task = darkroom.watch(task.id)
            for index, image in enumerate(task.images):
                Path(image.name).write_bytes(darkroom.download(task.id, index))

        :param operation: "generate" (the options of `generate`, and `enlarge`), "edit" (`images`, and the options of
            `edit`), "upscale" (`image`, and the options of `upscale`), or the name of a model.
        :param idempotency_key: the same request with the same key gets the same task. Chosen at random if not
            given, so that a request that is tried again does not make a second task.
        :param fields: of the operation; what is None is left to the service. Images as bytes, a path object
            (`pathlib.Path`) or a file opened for reading bytes; several in a list.
        :raises DarkroomError: as for `upscale`.
        :raises OSError: a path cannot be read.
        """
        return read_task(answers.checked(self._send(submit_call(operation, priority, idempotency_key, fields))))

    def task(self, task_id: str) -> TaskInfo:
        """How a task is.

        :raises InvalidRequest: there is none of that id, or its results are deleted.
        :raises DarkroomError: as for `upscale`.
        """
        return read_task(answers.checked(self._send(calls.Call(method="GET", path=task_path(task_id)))))

    def tasks(self, state: TaskState | None = None, *, limit: int = 50) -> list[TaskInfo]:
        """The tasks that came with this client's key, or without one from its address; the newest first."""
        arguments = {"params": {"limit": limit} | ({} if state is None else {"state": state})}
        return read_tasks(answers.checked(self._send(calls.Call(method="GET", path="/tasks", arguments=arguments))))

    def cancel(self, task_id: str) -> TaskInfo:
        """Cancel a task; one that runs stops within one step.

        :raises InvalidRequest: it has completed or failed, or there is none of that id.
        """
        return read_task(answers.checked(self._send(calls.Call(method="DELETE", path=task_path(task_id)))))

    def pause(self, task_id: str) -> TaskInfo:
        """Pause a training: it stops within a step, and keeps what it has done.

        :raises InvalidRequest: it has ended, is no training, or there is none of that id.
        """
        return read_task(answers.checked(self._send(pause_call(task_id))))

    def resume(self, task_id: str) -> TaskInfo:
        """Let a paused training go on.

        :raises InvalidRequest: it has ended, or there is none of that id.
        """
        return read_task(answers.checked(self._send(resume_call(task_id))))

    def download(self, task_id: str, index: int = 0) -> bytes:
        """An image of a completed task, as it should be written to disk. It waits for the service as `watch` does.

        :raises InvalidRequest: the task has not completed, has no such image, or is unknown or deleted.
        """
        call = download_call(task_id, index)
        return patiently(Patience(), lambda: answers.checked(self._send(call)).content)

    def watch(
        self,
        task_id: str,
        *,
        on_state: Callable[[TaskInfo], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
    ) -> TaskInfo:
        """Wait until a task has ended. A service that goes away and comes back within two minutes does not matter.

        :param on_state: called when the task's state or its place in the queue changes.
        :param on_progress: called after a step.
        :param on_preview: called with a small image of the state, if the task was submitted with `preview_every`.
        :returns: the task as it ended; look at its `state` and `error`.
        :raises Unavailable: no service answers for too long.
        :raises DarkroomError: as for `task`.
        """
        call, lost = _events_call(task_id), Patience()
        heard = lost.ended_by(on_state)
        return patiently(lost, lambda: self._follow(call, TaskEvents(heard, on_progress, on_preview)))


class AsyncTaskMethods(ABC):
    """`TaskMethods` for asyncio: see there for all of them."""

    @abstractmethod
    async def _send(self, call: calls.Call) -> httpx.Response: ...

    @abstractmethod
    async def _follow(self, call: calls.Call, events: answers.Events[Result]) -> Result: ...

    async def submit(
        self,
        /,
        operation: str,
        *,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> TaskInfo:
        """See `Client.submit`."""
        call = await asyncio.to_thread(submit_call, operation, priority, idempotency_key, fields)
        return read_task(answers.checked(await self._send(call)))

    async def task(self, task_id: str) -> TaskInfo:
        """See `Client.task`."""
        return read_task(answers.checked(await self._send(calls.Call(method="GET", path=task_path(task_id)))))

    async def tasks(self, state: TaskState | None = None, *, limit: int = 50) -> list[TaskInfo]:
        """See `Client.tasks`."""
        arguments = {"params": {"limit": limit} | ({} if state is None else {"state": state})}
        call = calls.Call(method="GET", path="/tasks", arguments=arguments)
        return read_tasks(answers.checked(await self._send(call)))

    async def cancel(self, task_id: str) -> TaskInfo:
        """See `Client.cancel`."""
        return read_task(answers.checked(await self._send(calls.Call(method="DELETE", path=task_path(task_id)))))

    async def pause(self, task_id: str) -> TaskInfo:
        """See `Client.pause`."""
        return read_task(answers.checked(await self._send(pause_call(task_id))))

    async def resume(self, task_id: str) -> TaskInfo:
        """See `Client.resume`."""
        return read_task(answers.checked(await self._send(resume_call(task_id))))

    async def download(self, task_id: str, index: int = 0) -> bytes:
        """See `Client.download`."""
        call = download_call(task_id, index)

        async def fetch() -> bytes:
            return answers.checked(await self._send(call)).content

        return await patiently_async(Patience(), fetch)

    async def watch(
        self,
        task_id: str,
        *,
        on_state: Callable[[TaskInfo], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
    ) -> TaskInfo:
        """See `Client.watch`. Its callbacks are ordinary functions here too."""
        call, lost = _events_call(task_id), Patience()
        heard = lost.ended_by(on_state)
        return await patiently_async(lost, lambda: self._follow(call, TaskEvents(heard, on_progress, on_preview)))


def _events_call(task_id: str) -> calls.Call:
    arguments = {"headers": {"Accept": "text/event-stream"}}
    return calls.Call(method="GET", path=f"{task_path(task_id)}/events", arguments=arguments)


class Patience:
    """How long a service has been away."""

    def __init__(self) -> None:
        self._since: float | None = None

    def ended_by(self, then: Callable[[TaskInfo], None] | None) -> Callable[[TaskInfo], None]:
        """A callback that knows by its first call that the service is back."""

        def heard(task: TaskInfo) -> None:
            self._since = None
            if then is not None:
                then(task)

        return heard

    def or_raise(self, error: DarkroomError) -> None:
        """Note that the service is unavailable, still or again.

        :raises DarkroomError: the given one, if it says something else, or that for too long.
        """
        # While it restarts, a reverse proxy says 502 or 504; a machine without power says nothing.
        if not isinstance(error, (Unavailable, TimedOut)) and error.status != 502:
            raise error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > PATIENCE:
            raise error


def patiently(lost: Patience, attempt: Callable[[], T]) -> T:
    """Try until it succeeds or the service has been away for too long."""
    while True:
        try:
            return attempt()
        except DarkroomError as error:
            lost.or_raise(error)
        time.sleep(RECONNECT_SECONDS)


async def patiently_async(lost: Patience, attempt: Callable[[], Awaitable[T]]) -> T:
    """See `patiently`."""
    while True:
        try:
            return await attempt()
        except DarkroomError as error:
            lost.or_raise(error)
        await asyncio.sleep(RECONNECT_SECONDS)
