"""Durable tasks without Triton: database, queue, runner and files are the real ones, the operation is a test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from darkroom.settings import Settings
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.services import Services
from proxy.tasks.models import Output, Task, TaskContext, Work
from proxy.tasks.tasks import Tasks
from tests.monitors import Ready
from tests.runner_bench import PICTURE, Scripted


class Noted(Scripted):
    """Notes the names of the works that run; each waits until it may go on."""

    name = "noted"

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.go_on = asyncio.Event()

    async def _wait(self, context: TaskContext) -> list[Output]:
        await self.go_on.wait()
        return [PICTURE]


class Part:
    """Tasks in this process and their operation."""

    def __init__(self, made: Tasks, gate: Gate, monitor: Ready, operation: Scripted) -> None:
        self.tasks = made
        self.gate = gate
        self.monitor = monitor
        self.operation = operation

    async def submit(
        self, name: str, client: str = "c", key: str | None = None, units: float = 1, **files: bytes
    ) -> Task:
        work = Work(fields={"name": name}, files=files, steps=1, kind="k", units=units)
        return await self.submit_work(work, client, key)

    async def submit_work(
        self, work: Work, client: str = "c", key: str | None = None, operation: str | None = None
    ) -> Task:
        ((task, _),) = await self.tasks.submit(
            operation or self.operation.name,
            [work],
            client=client,
            priority="normal",
            key=key,
            digest=work.fields["name"],
        )
        return task

    async def ended(self, task: Task) -> Task:
        now = await self.tasks.get(task.id)
        while not now.ended:  # the database has to be polled, it sends no notices
            await asyncio.sleep(0.02)
            now = await self.tasks.get(task.id)
        return now


@asynccontextmanager
async def part(
    folder: Path, database: str | None, operation: Scripted, *, slots: int = 1, **more: Any
) -> AsyncIterator[Part]:
    gateway = Gateway("127.0.0.1:1")
    monitor = Ready(gateway, {}, metrics_url="", interval=1, timeout=1)
    settings = Settings(_env_file=None, data_dir=folder, database_url=database, max_concurrent_tasks=slots, **more)
    gate = Gate(capacity=slots, queue_size=1)
    made = Tasks(Services(settings=settings, gateway=gateway, monitor=monitor, gate=gate))
    await made.start()
    try:
        yield Part(made, gate, monitor, operation)
    finally:
        await made.stop()
        await gateway.close()
