"""Tasks in the hands of DBOS, on both databases: turns, restarts, and what fell between row and queue.

The operation notes who ran; database, queue, runner and files are the real ones. With Triton and SIGKILL this is in
tests/lifecycle/test_tasks_kill.py.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import Request

from darkroom.errors import NotReady, QueueFull, StorageFull
from darkroom.settings import Settings
from proxy import operations
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.readiness import Monitor
from proxy.services import Services
from proxy.streams import EventQueue
from proxy.surfaces.tasks import router, stream_events
from proxy.tasks import lock_file, upkeep
from proxy.tasks.database import connect
from proxy.tasks.models import Draft, Work
from proxy.tasks.runner import TaskRunner
from proxy.tasks.store import Store
from proxy.tasks.tasks import Tasks
from tests.postgres import running_postgres
from tests.tasks_part import Noted, part


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Noted], Awaitable[None]]], None]:
    def go(scenario: Callable[[Noted], Awaitable[None]]) -> None:
        async def whole() -> None:
            operation = Noted()
            monkeypatch.setitem(operations.OPERATIONS, "noted", operation)
            await asyncio.wait_for(scenario(operation), 120)

        asyncio.run(whole())

    return go


Run = Callable[[Callable[[Noted], Awaitable[None]]], None]


def test_queue_gives_clients_turns(tmp_path: Path, database: str | None, run: Run) -> None:
    async def scenario(operation: Noted) -> None:
        async with part(tmp_path, database, operation) as made:
            waiting = [await made.submit("a0", "a")]
            await operation.begun.acquire()
            waiting += [await made.submit(name, name[0]) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
            cancelled = await made.submit("never", "d")
            assert (await made.tasks.cancel(cancelled.id)).state == "cancelled"
            operation.go_on.set()
            assert {(await made.ended(task)).state for task in waiting} == {"completed"}
            assert operation.runs == ["a0", "b1", "c1", "a1", "b2", "a2", "a3"]

    run(scenario)


def test_queue_resumes_running_and_waiting_tasks_after_a_restart(
    tmp_path: Path, database: str | None, run: Run
) -> None:
    async def scenario(operation: Noted) -> None:
        async with part(tmp_path, database, operation) as made:
            sent = [await made.submit(name) for name in ("one", "two", "three")]
            await operation.begun.acquire()
        operation.go_on.set()
        async with part(tmp_path, database, operation) as made:
            ended = [await made.ended(task) for task in sent]
            assert [(task.state, task.attempts) for task in ended] == [("completed", 1)] * 3
            assert (operation.runs[0], sorted(operation.runs[1:])) == ("one", ["one", "three", "two"])
            again = await made.submit("one")
            assert (await made.ended(again)).state == "completed"

    run(scenario)


def test_queue_finds_tasks_that_were_accepted_but_not_queued(
    tmp_path: Path, database: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the row and the queue."""
    monkeypatch.setattr(upkeep, "_SETTLED_SECONDS", -1.0)

    async def scenario(operation: Noted) -> None:
        operation.go_on.set()
        async with part(tmp_path, database, operation) as made:
            work = Work(fields={"name": "found"}, files={}, steps=1, kind="k", units=1)
            id = str(uuid.uuid4())
            draft = Draft(id=id, operation="noted", client="c", priority="normal", key=None, digest="", work=work)
            store = made.tasks._store
            await store.call(store.add, [draft], slots=1, queue_size=9, fallback=1.0)
        async with part(tmp_path, database, operation) as made:
            assert (await made.ended(await made.tasks.get(id))).state == "completed"

    run(scenario)


@pytest.mark.parametrize("committed", [True, False])
def test_queue_accepts_once_when_the_answer_is_lost(
    tmp_path: Path, database: str | None, run: Run, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The database died at its COMMIT. Only if there is no task its inputs go."""

    async def scenario(operation: Noted) -> None:
        operation.go_on.set()
        async with part(tmp_path, database, operation) as here:
            store = here.tasks._store
            add, key = store.add, str(uuid.uuid4())

            def broken(*given: Any, **named: Any) -> Any:
                if committed:
                    add(*given, **named)
                raise NotReady("The database of tasks does not answer.")

            monkeypatch.setattr(store, "add", broken)
            with pytest.raises(NotReady):
                await here.submit("a", key=key, image=b"picture")
            monkeypatch.setattr(store, "add", add)
            kept = list(tmp_path.glob("tasks/*/*/inputs/image"))  # noqa: ASYNC240
            assert len(kept) == committed
            again = await here.submit("a", key=key, image=b"picture")
            if committed:  # `_reconcile` would do it within ten seconds
                await here.tasks._admission.put(again)
            assert (await here.ended(again)).state == "completed"
            assert operation.runs == ["a"]

    run(scenario)


def test_queue_remembers_no_refusal_but_a_full_queue(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One upload that finds no room on the disk says nothing about the next request."""

    async def scenario(operation: Noted) -> None:
        async with part(tmp_path, None, operation) as here:
            write = here.tasks.files.write_inputs
            monkeypatch.setattr(here.tasks.files, "write_inputs", full)
            with pytest.raises(StorageFull):
                await here.submit("a", image=b"picture")
            monkeypatch.setattr(here.tasks.files, "write_inputs", write)
            await here.submit("b")

    def full(id: str, files: Mapping[str, bytes]) -> int:
        raise StorageFull("There is no room.")

    run(scenario)


def test_queue_accepts_while_another_proxy_is_stopped(postgres: str) -> None:
    """It holds the lock in the middle of an acceptance, and its machine is gone."""
    one, other = Store(connect(postgres)), Store(connect(postgres))

    def stand_still(connection: sa.Connection) -> None:
        connection.execute(sa.text("SET idle_in_transaction_session_timeout = 1000"))  # ours would be long here
        assert other.accepted([]) == set()

    try:
        one.create()
        with other.transaction() as connection:
            assert connection.scalar(sa.text("SHOW idle_in_transaction_session_timeout")) == "15s"
        with pytest.raises(NotReady), one.transaction(locked=True) as connection:
            stand_still(connection)
    finally:
        one.close()
        other.close()


def test_queue_ends_while_its_database_is_unavailable(tmp_path: Path, run: Run) -> None:
    async def scenario(operation: Noted) -> None:
        with running_postgres() as server:
            made = part(tmp_path, server.url, operation)
            await made.__aenter__()
        await asyncio.wait_for(made.__aexit__(None, None, None), 60)

    run(scenario)


def test_queue_finds_tasks_that_were_dequeued_but_not_started(
    tmp_path: Path, database: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure between the queue and the runner."""
    monkeypatch.setattr(upkeep, "_SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(upkeep, "_RECONCILE_SECONDS", 0.2)
    real, failures = TaskRunner.execute, 1

    async def execute(self: TaskRunner, id: str) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise asyncio.CancelledError
        await real(self, id)

    monkeypatch.setattr(TaskRunner, "execute", execute)

    async def scenario(operation: Noted) -> None:
        operation.go_on.set()
        async with part(tmp_path, database, operation) as made:
            task = await made.ended(await made.submit("found"))
            assert (task.state, task.attempts, failures < 0) == ("completed", 1, True)

    run(scenario)


def test_queue_drains(tmp_path: Path, database: str | None, run: Run) -> None:
    """What runs is finished, what waits stays, and nothing new is taken."""

    async def scenario(operation: Noted) -> None:
        async with part(tmp_path, database, operation) as made:
            runs = await made.submit("runs")
            waits = await made.submit("waits")
            await operation.begun.acquire()
            made.gate.draining = True
            with pytest.raises(NotReady, match="shutting down"):
                await made.submit("late")
            operation.go_on.set()
            assert (await made.ended(runs)).state == "completed"
            await asyncio.wait_for(made.gate.wait_idle(), 5)
            await asyncio.sleep(0.5)
            assert (await made.tasks.get(waits.id)).state == "queued"
            assert operation.runs == ["runs"]
        async with part(tmp_path, database, operation) as made:
            assert (await made.ended(waits)).state == "completed"

    run(scenario)


def test_queue_allows_one_process_for_a_sqlite_file(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_file, "_LOCK_SECONDS", 0.3)

    async def scenario(operation: Noted) -> None:
        async with part(tmp_path, None, operation):
            with pytest.raises(RuntimeError, match="another proxy uses"):
                await lock_file.hold(tmp_path / "darkroom.db.lock")

    run(scenario)


@pytest.mark.parametrize("reads", [True, False])
def test_queue_skips_previews_for_a_client_that_does_not_read(tmp_path: Path, run: Run, reads: bool) -> None:
    """They are large, and wait in memory."""

    async def scenario(operation: Noted) -> None:
        async with part(tmp_path, None, operation) as made:
            task = await made.submit("watched")
            await operation.begun.acquire()
            live, told, events = made.tasks.live(task.id), EventQueue(), list[bytes | None]()
            assert live is not None
            request = Request({"type": "http", "path": "/", "headers": [], "server": ("host", 80), "router": router})
            following = asyncio.ensure_future(stream_events(made.tasks, task.id, request, told))
            for step in range(20):
                live.emit(step, 20, b"preview")
                await asyncio.sleep(0.15)
                while reads and told.behind:
                    events.append(told.queue.get_nowait())
            operation.go_on.set()
            await following
            while told.behind:
                events.append(told.queue.get_nowait())
            names = [event.split(b"\n")[0] for event in events if event]
            assert (names.count(b"event: preview") >= 10) is reads
            assert len(names) <= (45 if reads else 6)
            assert names[0] == b"event: state"
            assert names[-2:] == [b"event: state", b"event: done"]

    run(scenario)


def test_full_queue_gives_each_refused_client_another_retry_after(tmp_path: Path, run: Run) -> None:
    """Tasks of 60 s by the operation's guess, one at a time: there is room in one minute, in two, in three."""

    async def scenario(operation: Noted) -> None:
        async with part(tmp_path, None, operation, task_queue_size=2) as made:
            accepted = [await made.submit("running", units=60)]
            await operation.begun.acquire()
            accepted += [await made.submit("waiting", units=60) for _ in range(2)]
            said = []
            for _ in range(5):
                with pytest.raises(QueueFull, match="1 run and 2 wait") as caught:
                    await made.submit("refused", units=60)
                said.append(caught.value.retry_after)
            assert [round(seconds / 60) for seconds in said] == [1, 2, 3, 3, 3]
            operation.go_on.set()
            for task in accepted:
                await made.ended(task)

    run(scenario)


def test_full_queue_refuses_with_a_new_error_each_time(tmp_path: Path) -> None:
    """One that is raised again and again gathers tracebacks and contexts of every request that it refused."""
    settings = Settings(task_queue_size=0, max_concurrent_tasks=1, state_dir=tmp_path, data_dir=tmp_path)

    async def scenario() -> None:
        gateway, gate = Gateway("127.0.0.1:1"), Gate(capacity=1, queue_size=0)
        monitor = Monitor(gateway, {}, metrics_url="http://127.0.0.1:1", interval=1, timeout=1)
        made = Tasks(Services(settings=settings, gateway=gateway, monitor=monitor, gate=gate))
        for (
            refused_before
        ) in made._admission._refusals.values():  # of every lane, as it is not known which one is meant
            refused_before.full, refused_before.full_until = QueueFull("Full.", retry_after=3), float("inf")
        refusals = []
        for _ in range(2):
            with pytest.raises(QueueFull, match="Full") as refused:
                made.check(1, None)
            refusals.append(refused.value)
        assert refusals[0] is not refusals[1]
        await monitor._http.aclose()
        await gateway.close()

    asyncio.run(scenario())
