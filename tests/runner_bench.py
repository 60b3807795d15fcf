"""A runner of tasks whose operation does what a test says; the database, the files and the gate are the real ones."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from proxy import operations
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.services import Services
from proxy.tasks import runner
from proxy.tasks.database import connect
from proxy.tasks.files import Files
from proxy.tasks.lanes import gates_of
from proxy.tasks.models import Draft, Output, Task, TaskContext, Work
from proxy.tasks.runner import TaskRunner
from proxy.tasks.store import Store
from tests.monitors import Ready

PICTURE = Output(data=memoryview(b"picture"), media_type="image/png", details={"seed": 1})
Body = Callable[[TaskContext], Awaitable[list[Output]]]


class Scripted:
    """An operation that does what a test says."""

    name = "scripted"
    lane: ClassVar[str] = "images"
    resumable: ClassVar[bool] = False
    pipeline: ClassVar[ModelSpec | None] = ModelSpec(name="scripted", backend="python", inputs=(), outputs=())
    longest_turn: ClassVar[float] = math.inf
    fallback_seconds = 1.0
    names: frozenset[str] = frozenset()

    def __init__(self, body: Body) -> None:
        self._body = body
        self.runs: list[str] = []
        self.begun = asyncio.Semaphore(0)

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        raise NotImplementedError

    async def run(self, context: TaskContext) -> list[Output]:
        self.runs.append(context.fields["name"])
        self.begun.release()
        return await self._body(context)


class Bench:
    """A runner with its parts, and eight slots at the gate."""

    def __init__(self, folder: Path, body: Body, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.operation = Scripted(body)
        monkeypatch.setitem(operations.OPERATIONS, "scripted", self.operation)
        monkeypatch.setattr(runner, "_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(runner, "_NOTE_SECONDS", 0.01)
        self.store = Store(connect(f"sqlite:///{folder / 'darkroom.db'}"))
        self.store.create()
        gateway = Gateway("127.0.0.1:1")
        monitor = Ready(gateway, {}, metrics_url="", interval=1, timeout=1)
        self.gate = Gate(capacity=8, queue_size=8)
        self.services = Services(
            settings=Settings(_env_file=None, **settings), gateway=gateway, monitor=monitor, gate=self.gate
        )
        self.gates = gates_of(self.services.settings, self.gate)
        self.runner = TaskRunner(
            self.services, self.gates, self.store, Files(folder), worker="local", release=self._release
        )

    async def _release(self) -> None:
        self.store.release()

    def add(self, name: str = "task", exclusive: str | None = None) -> str:
        work = Work(fields={"name": name}, files={}, steps=4, kind="k", units=1, exclusive=exclusive)
        id = str(uuid.uuid4())
        draft = Draft(id=id, operation="scripted", client="c", priority="normal", key=None, digest="", work=work)
        self.store.add([draft], slots=8, queue_size=100, fallback=1.0)
        return id

    def task(self, id: str) -> Task:
        task = self.store.get(id)
        assert task is not None
        return task


@asynccontextmanager
async def bench(folder: Path, body: Body, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Bench]:
    made = Bench(folder, body, monkeypatch, **settings)
    try:
        yield made
    finally:
        await made.services.gateway.close()
        made.store.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))  # type: ignore[arg-type]
