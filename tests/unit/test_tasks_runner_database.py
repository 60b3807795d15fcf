"""Tasks that run while their database is unavailable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import NotReady
from proxy.load import Running
from proxy.tasks import runner
from proxy.tasks.models import Output, Task, TaskContext
from tests.runner_bench import PICTURE, Bench, bench, run


class Away:
    """A database that does not answer while `on` is set."""

    def __init__(self, made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(runner, "_STORE_PAUSES", (0.01,))
        transaction = made.store.transaction

        def transact(**how: Any) -> AbstractContextManager[Any]:
            if self.on:
                self._loop.call_soon_threadsafe(self.asked.set)
                raise NotReady("The database of tasks does not answer.")
            return transaction(**how)

        monkeypatch.setattr(made.store, "transaction", transact)


def test_unavailable_database_frees_the_task_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct requests want it, and need no database."""

    async def scenario() -> None:
        go_on = asyncio.Event()

        async def body(context: TaskContext) -> list[Output]:
            context.emit(1, 4, None)
            await go_on.wait()
            return [PICTURE]

        async with bench(tmp_path, body, monkeypatch) as made:
            running, waiting = made.add("running"), made.add("waiting")
            away = Away(made, monkeypatch)
            jobs = [asyncio.ensure_future(made.runner.execute(running))]
            await made.operation.begun.acquire()
            slot, (take, give) = made.gate.slot, (asyncio.Event(), asyncio.Event())

            @asynccontextmanager
            async def late(source: str) -> AsyncIterator[Running]:
                async with slot(source) as job:
                    take.set()
                    await give.wait()
                    yield job

            monkeypatch.setattr(made.gate, "slot", late)
            jobs.append(asyncio.ensure_future(made.runner.execute(waiting)))
            await asyncio.wait_for(take.wait(), 10)  # it has a place, and has not begun
            away.on = True
            give.set()
            await asyncio.wait_for(away.asked.wait(), 10)  # one notes its progress, the other one begins
            go_on.set()
            for _ in range(3):
                await asyncio.wait_for(made.gate.wait_idle(), 10)
                await asyncio.sleep(0.02)
            assert made.operation.runs == ["running"]
            assert not any(job.done() for job in jobs)
            away.on = False
            await asyncio.wait_for(asyncio.gather(*jobs), 10)
            done = [(made.task(id).state, made.task(id).attempts) for id in (running, waiting)]
            assert done == [("completed", 1)] * 2
            assert made.operation.runs == ["running", "waiting"]

    run(scenario)


def test_lost_answer_to_a_start_counts_as_one_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(context: TaskContext) -> list[Output]:
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch, task_max_attempts=1) as made:
            begin, lost = made.store.begin, ["once", "twice"]

            def lose(id: str, run_name: str, worker: str | None) -> Task | None:
                begun = begin(id, run_name, worker)
                if lost:
                    lost.pop()
                    raise NotReady("The database of tasks does not answer.")
                return begun

            monkeypatch.setattr(made.store, "begin", lose)
            id = made.add()
            await made.runner.execute(id)
            assert not lost
            assert (made.task(id).state, made.task(id).attempts) == ("completed", 1)

    run(scenario)


def test_results_that_are_ready_when_the_service_stops_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(context: TaskContext) -> list[Output]:
        away[0].on = True
        return [PICTURE]

    away: list[Away] = []

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            away.append(Away(made, monkeypatch))
            id = made.add()
            job = asyncio.ensure_future(made.runner.execute(id))
            await asyncio.wait_for(away[0].asked.wait(), 10)
            stop = asyncio.ensure_future(made.runner.stop())
            await asyncio.sleep(0.05)
            away[0].on = False
            await stop
            assert job.cancelled()
            assert made.task(id).state == "completed"

    run(scenario)


def test_stop_after_a_lost_answer_to_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(context: TaskContext) -> list[Output]:
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            begin, begun = made.store.begin, asyncio.Event()
            loop = asyncio.get_running_loop()

            def lose(id: str, run_name: str, worker: str | None) -> Task | None:
                begin(id, run_name, worker)
                loop.call_soon_threadsafe(begun.set)
                raise NotReady("The database of tasks does not answer.")

            monkeypatch.setattr(made.store, "begin", lose)
            id = made.add()
            job = asyncio.ensure_future(made.runner.execute(id))
            await begun.wait()
            await made.runner.stop()
            assert job.cancelled()
            assert (made.task(id).state, made.task(id).attempts) == ("queued", 0)

    run(scenario)


def test_slow_database_frees_the_task_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_ANSWER_SECONDS", 0.05)

    async def body(context: TaskContext) -> list[Output]:
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            begin, waits = made.store.begin, [threading.Event()]
            asked = asyncio.Event()
            loop = asyncio.get_running_loop()

            def wait(id: str, run_name: str, worker: str | None) -> Task | None:
                loop.call_soon_threadsafe(asked.set)
                if waits:
                    waits.pop().wait(30)
                return begin(id, run_name, worker)

            first = waits[0]
            monkeypatch.setattr(made.store, "begin", wait)
            id = made.add()
            job = asyncio.ensure_future(made.runner.execute(id))
            await asked.wait()
            await asyncio.wait_for(made.gate.wait_idle(), 10)
            assert not first.is_set()
            first.set()
            await asyncio.wait_for(job, 10)
            assert (made.task(id).state, made.task(id).attempts) == ("completed", 1)

    run(scenario)
