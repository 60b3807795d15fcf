"""Tasks with the same key run one at a time on all proxies together, and delay no other tasks."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.errors import Conflict, InvalidInput
from proxy import operations
from proxy.tasks.database import connect
from proxy.tasks.estimates import QueuedJob, forecast
from proxy.tasks.models import Draft, LaneLoad, Output, Task, TaskContext, Work
from proxy.tasks.store import Store
from tests.runner_bench import PICTURE, Bench, Scripted, bench
from tests.tasks_part import part


class Sessions(Scripted):
    """Notes which works run at once; each waits until its name may go on, and may need a moment to stop.

    :ivar most: by key, how many have run at once.
    """

    name = "sessions"

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.running: list[str] = []
        self.most: dict[str, int] = {}
        self.order: list[str] = []
        self.may_end: dict[str, asyncio.Event] = {}
        self.may_stop = asyncio.Event()
        self.may_stop.set()

    def go(self, *names: str) -> None:
        for name in names:
            self.may_end.setdefault(name, asyncio.Event()).set()

    async def _wait(self, context: TaskContext) -> list[Output]:
        name, key = context.fields["name"], context.fields["key"]
        self.running.append(key)
        self.order.append(name)
        self.most[key] = max(self.most.get(key, 0), self.running.count(key))
        try:
            await self.may_end.setdefault(name, asyncio.Event()).wait()
        finally:
            await self.may_stop.wait()
            self.running.remove(key)
        return [PICTURE]


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    made = Sessions()
    monkeypatch.setitem(operations.OPERATIONS, made.name, made)
    return made


@pytest.fixture
def key() -> str:
    """Of this test alone: all tests of PostgreSQL share one database."""
    return f"session:{uuid.uuid4()}"


def work(name: str, key: str | None, *, refuse: bool = False) -> Work:
    fields = {"name": name, "key": key or name}
    return Work(fields=fields, steps=1, kind="k", units=1, exclusive=key, exclusive_or_refuse=refuse)


async def until_begun(made: Sessions, *names: str) -> None:
    while not set(names) <= set(made.order):
        await made.begun.acquire()


def test_exclusive_tasks_run_one_at_a_time_and_delay_no_others(
    tmp_path: Path, database: str | None, operation: Sessions, key: str
) -> None:
    async def scenario() -> None:
        async with part(tmp_path, database, operation, slots=2) as made:
            first = await made.submit_work(work("first", key))
            await until_begun(operation, "first")
            others = [await made.submit_work(work(name, key)) for name in ("second", "third")]
            behind = await made.submit_work(work("behind", None))
            operation.go("behind")
            assert (await made.ended(behind)).state == "completed"  # in the second slot, while two wait before it
            assert [(await made.tasks.get(task.id)).held for task in others] == [True, True]
            operation.go("first", "second", "third")
            for task in (first, *others):
                assert (await made.ended(task)).state == "completed"
            assert operation.order == ["first", "behind", "second", "third"]
            assert operation.most[key] == 1

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_exclusive_tasks_after_a_restart(tmp_path: Path, database: str | None, operation: Sessions, key: str) -> None:
    async def scenario() -> None:
        async with part(tmp_path, database, operation, slots=2) as made:
            tasks = [await made.submit_work(work(name, key)) for name in ("first", "second")]
            await until_begun(operation, "first")
        operation.go("first", "second")
        async with part(tmp_path, database, operation, slots=2) as made:
            assert [(await made.ended(task)).state for task in tasks] == ["completed"] * 2
            assert operation.order == ["first", "first", "second"]
            assert operation.most[key] == 1

    asyncio.run(asyncio.wait_for(scenario(), 120))


@pytest.mark.parametrize("which", ["running", "waiting", "held"])
def test_exclusive_task_that_is_cancelled_frees_its_key_when_its_run_has_stopped(
    tmp_path: Path, database: str | None, operation: Sessions, key: str, which: str
) -> None:
    async def scenario() -> None:
        async with part(tmp_path, database, operation) as made:
            other = await made.submit_work(work("other", None))
            await until_begun(operation, "other")
            first, second, third = [await made.submit_work(work(name, key)) for name in ("first", "second", "third")]
            if which == "running":
                operation.go("other")
                await until_begun(operation, "first")
                operation.may_stop.clear()
            await made.tasks.cancel((second if which == "held" else first).id)
            if which == "running":
                still = await made.submit_work(work("still", None))
                operation.go("still", "second", "third")
                assert (await made.tasks.get(second.id)).held  # it is cancelled, and works until it has stopped
                assert operation.order == ["other", "first"]
                operation.may_stop.set()
                await made.ended(still)
            operation.go("other", "first", "second", "third")
            for task in (other, first, second, third):
                await made.ended(task)
            assert operation.most[key] == 1
            assert "third" in operation.order
            assert ("second" in operation.order) is (which != "held")

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_exclusive_task_may_be_refused_with_the_others_id(
    tmp_path: Path, database: str | None, operation: Sessions, key: str
) -> None:
    async def scenario() -> None:
        async with part(tmp_path, database, operation) as made:
            first = await made.submit_work(work("first", key, refuse=True), key=key)
            with pytest.raises(Conflict, match=first.id):
                await made.submit_work(work("second", key, refuse=True))
            again = await made.submit_work(work("first", key, refuse=True), key=key)  # with its Idempotency-Key
            assert again.id == first.id
            other = await made.submit_work(work("other", f"{key}-other", refuse=True))
            operation.go("first", "second", "other")
            await made.ended(first)
            second = await made.submit_work(work("second", key, refuse=True))
            assert [(await made.ended(task)).state for task in (second, other)] == ["completed"] * 2

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_exclusive_task_of_a_run_that_lost_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Another proxy has taken it over: that this run has stopped frees nothing."""

    here: list[Bench] = []

    async def body(context: TaskContext) -> list[Output]:
        here[0].store.begin(context.workspace.parent.name, "another run", "another proxy")
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            here.append(made)
            id = made.add(exclusive=key)
            waiting = made.add(exclusive=key)
            await made.runner.execute(id)
            assert made.store.workers() == {"another proxy"}
            assert made.store.release() == []
            assert made.store.end(id, None, "cancelled")
            assert made.store.release() == []
            made.store.forget_workers({"another proxy"})
            assert [task.id for task in made.store.release()] == [waiting]
            assert made.store.release() == []

    asyncio.run(scenario())


@pytest.fixture
def stores(tmp_path: Path, database: str | None) -> Iterator[list[Store]]:
    """Those of two proxies of one database."""
    url = database or f"sqlite:///{tmp_path / 'darkroom.db'}"
    made = [Store(connect(url)) for _ in range(2)]
    made[0].create()
    yield made
    for store in made:
        store.close()


def draft(key: str | None, *, priority: str = "normal", refuse: bool = False) -> Draft:
    id = str(uuid.uuid4())
    wanted = work(id, key, refuse=refuse)
    return Draft(id=id, operation="sessions", client=id, priority=priority, key=None, digest="", work=wanted)


def add(store: Store, *drafts: Draft) -> list[Task]:
    return [task for task, _ in store.add(drafts, slots=8, queue_size=10_000, fallback=1.0)]


def test_exclusive_tasks_that_come_to_two_proxies_at_once(stores: list[Store], key: str) -> None:
    accepted: list[Task] = []
    start = threading.Barrier(4)

    def submit(store: Store) -> None:
        start.wait(60)
        for _ in range(5):
            accepted.extend(add(store, draft(key)))

    threads = [threading.Thread(target=submit, args=(store,)) for store in stores * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(task.held for task in accepted) == [False] + [True] * 19


def test_exclusive_tasks_are_released_once_and_in_order(stores: list[Store], key: str) -> None:
    one, other = stores
    first, low, normal, high = add(one, draft(key), draft(key, priority="low"), draft(key), draft(key, priority="high"))
    assert one.release() == []
    one.begin(first.id, "run", "one")
    one.end(first.id, "run", "completed")
    assert other.release() == []
    assert add(other, draft(key))[0].held  # not past those that wait
    one.stopped(first.id, "run")
    for expected in (high, normal):
        released = [*one.release(), *other.release()]
        assert [task.id for task in released] == [expected.id]
        one.end(expected.id, None, "cancelled")
    assert low.held


def test_exclusive_batch_is_refused_as_a_whole(stores: list[Store], key: str) -> None:
    with pytest.raises(Conflict):
        add(stores[0], draft(key, refuse=True), draft(key, refuse=True))
    (task,) = add(stores[0], draft(key, refuse=True))
    assert not task.held


def test_exclusive_keys_have_a_length() -> None:
    for wrong in ("", "x" * 201):
        with pytest.raises(InvalidInput, match="1 to 200"):
            work("a", wrong)


def test_exclusive_tasks_in_the_estimate(stores: list[Store], key: str) -> None:
    def jobs() -> list[QueuedJob]:
        return [
            QueuedJob(id="a", left=5, exclusive="k"),
            QueuedJob(id="b", left=2),
            QueuedJob(id="c", left=1, exclusive="k"),
        ]

    ends = forecast([], jobs(), slots=2, gain=1.0).ends
    assert ends == pytest.approx({"b": 2, "a": 5, "c": 6})
    first, held, last = add(stores[0], draft(key), draft(key), draft(None))
    waiting = stores[1].queue_estimates({"images": LaneLoad(slots=1)})["images"].waiting
    assert waiting.index(first.id) < waiting.index(last.id) < waiting.index(held.id)
