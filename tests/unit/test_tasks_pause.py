"""Tasks that are paused and resumed: what they keep, what they free, and what becomes of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from darkroom.errors import Conflict
from proxy import operations
from proxy.tasks.models import Output, State, Task, TaskContext, Work
from tests.runner_bench import PICTURE, Scripted
from tests.tasks_part import Noted, Part, part

STEPS = 5


class Counting(Scripted):
    """Does a step whenever it may, and notes the steps in its workspace when it is to go on later.

    :ivar may_save: lets a run that is cancelled stop.
    """

    name = "counting"
    resumable: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(self._count)
        self.may_step = asyncio.Semaphore(0)
        self.may_save = asyncio.Event()
        self.may_save.set()
        self.began_at: list[int] = []

    async def _count(self, context: TaskContext) -> list[Output]:
        note = context.workspace / "step"
        step = int(note.read_text()) if note.is_file() else 0
        self.began_at.append(step)
        context.emit(step, STEPS, None)
        try:
            while step < STEPS:
                await self.may_step.acquire()
                step += 1
                context.emit(step, STEPS, None)
        except asyncio.CancelledError:
            await self.may_save.wait()
            if context.goes_on():
                note.write_text(str(step))
            raise
        return [PICTURE]

    async def reached(self, made: Part, task: Task, step: int) -> None:
        while (live := made.tasks.live(task.id)) is None or live.step < step:  # noqa: ASYNC110  # tells nobody
            await asyncio.sleep(0.02)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    made = Counting()
    monkeypatch.setitem(operations.OPERATIONS, made.name, made)
    return made


def work(key: str | None = None) -> Work:
    return Work(
        fields={"name": "one"},
        steps=STEPS,
        kind="k",
        units=1,
        exclusive=key or f"session:{uuid.uuid4()}",
        exclusive_or_refuse=True,
    )


async def until(made: Part, task: Task, state: State, worker_gone: bool = True) -> Task:
    """Wait for a state, and until no run of the task is at work."""
    while True:
        now = await made.tasks.get(task.id)
        if now.state == state and (not worker_gone or made.tasks.live(task.id) is None):
            return now
        await asyncio.sleep(0.02)


@asynccontextmanager
async def paused_at(
    folder: Path, database: str | None, counting: Counting, step: int
) -> AsyncIterator[tuple[Part, Task]]:
    """A task that was paused after a step."""
    async with part(folder, database, counting) as made:
        task = await made.submit_work(work())
        for _ in range(step):
            counting.may_step.release()
        await counting.reached(made, task, step)
        assert (await made.tasks.pause(task.id)).state == "paused"
        await until(made, task, "paused")
        yield made, task


def test_paused_task_keeps_its_step_and_goes_on(tmp_path: Path, database: str | None, counting: Counting) -> None:
    async def scenario() -> None:
        async with paused_at(tmp_path, database, counting, 2) as (made, task):
            while (found := await made.tasks.get(task.id)).step != 2:  # noqa: ASYNC110  # the database sends no notices
                await asyncio.sleep(0.02)
            assert (found.attempts, found.ended) == (0, False)
            assert (await made.tasks.pause(task.id)).state == "paused", "a second time changes nothing"
            assert (await made.tasks.resume(task.id)).state in ("queued", "processing")
            for _ in range(STEPS):
                counting.may_step.release()
            done = await made.ended(task)
            assert (done.state, done.attempts) == ("completed", 1)
            assert counting.began_at == [0, 2]
            with pytest.raises(Conflict):
                await made.tasks.pause(task.id)
            with pytest.raises(Conflict):
                await made.tasks.resume(task.id)

    asyncio.run(scenario())


def test_paused_task_frees_its_slot_and_keeps_its_key(tmp_path: Path, database: str | None, counting: Counting) -> None:
    async def scenario() -> None:
        async with paused_at(tmp_path, database, counting, 1) as (made, task):
            assert made.gate.active == 0
            other = await made.submit_work(work())
            for _ in range(STEPS):
                counting.may_step.release()
            assert (await made.ended(other)).state == "completed"
            with pytest.raises(Conflict, match="is paused"):
                await made.submit_work(work(task.exclusive))
            assert (await made.tasks.counts())["paused"] == 1

    asyncio.run(scenario())


def test_paused_task_survives_a_restart(tmp_path: Path, database: str | None, counting: Counting) -> None:
    async def scenario() -> None:
        async with paused_at(tmp_path, database, counting, 3) as (_, task):
            pass
        async with part(tmp_path, database, counting) as made:
            await asyncio.sleep(1.0)
            assert (await made.tasks.get(task.id)).state == "paused"
            assert counting.began_at == [0]
            await made.tasks.resume(task.id)
            for _ in range(STEPS):
                counting.may_step.release()
            assert (await made.ended(task)).state == "completed"
            assert counting.began_at == [0, 3]

    asyncio.run(scenario())


def test_task_that_is_resumed_before_its_run_has_stopped(
    tmp_path: Path, database: str | None, counting: Counting
) -> None:
    """The next run waits for it, and no two work in one workspace."""

    async def scenario() -> None:
        async with part(tmp_path, database, counting) as made:
            task = await made.submit_work(work())
            counting.may_step.release()
            await counting.reached(made, task, 1)
            counting.may_save.clear()
            await made.tasks.pause(task.id)
            assert (await made.tasks.resume(task.id)).state == "queued"
            await asyncio.sleep(1.0)
            assert counting.began_at == [0]
            counting.may_save.set()
            for _ in range(STEPS):
                counting.may_step.release()
            assert (await made.ended(task)).state == "completed"
            assert counting.began_at == [0, 1]

    asyncio.run(scenario())


def test_waiting_task_that_is_paused_does_not_begin(tmp_path: Path, database: str | None, counting: Counting) -> None:
    async def scenario() -> None:
        async with part(tmp_path, database, counting) as made:
            first = await made.submit_work(work())
            await counting.begun.acquire()
            second = await made.submit_work(work())
            assert (await made.tasks.pause(second.id)).state == "paused"
            for _ in range(STEPS):
                counting.may_step.release()
            await made.ended(first)
            await asyncio.sleep(1.0)
            assert (await made.tasks.get(second.id)).state == "paused"
            await made.tasks.resume(second.id)
            for _ in range(STEPS):
                counting.may_step.release()
            assert (await made.ended(second)).state == "completed"

    asyncio.run(scenario())


def test_paused_task_that_is_cancelled_leaves_nothing(tmp_path: Path, database: str | None, counting: Counting) -> None:
    async def scenario() -> None:
        async with paused_at(tmp_path, database, counting, 1) as (made, task):
            workspace = made.tasks.files.workspace(task.id)
            assert (workspace / "step").read_text() == "1"
            assert (await made.tasks.cancel(task.id)).state == "cancelled"
            assert not workspace.exists()
            assert task.exclusive is not None
            await made.tasks.remove_all(task.exclusive)
            assert await made.submit_work(work(task.exclusive))

    asyncio.run(scenario())


def test_task_that_cannot_be_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        images = Noted()
        monkeypatch.setitem(operations.OPERATIONS, images.name, images)
        async with part(tmp_path, None, images) as made:
            task = await made.submit("image")
            await images.begun.acquire()
            with pytest.raises(Conflict, match="cannot be paused"):
                await made.tasks.pause(task.id)
            images.go_on.set()
            assert (await made.ended(task)).state == "completed"

    asyncio.run(scenario())
