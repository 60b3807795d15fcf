"""The table of tasks on a real SQLite file: acceptance, turns, ends, and what is kept how long."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from darkroom.errors import Conflict, Gone, NotReady, QueueFull
from proxy.migrations import VERSION_TABLE
from proxy.tasks.database import connect
from proxy.tasks.models import Task
from proxy.tasks.schema import TASKS
from proxy.tasks.store import Store
from tests.task_store import add, draft, estimate_of, measure


def order(store: Store) -> str:
    """The clients of the tasks that wait, in the order in which they will run."""
    names = {task.id: task.client for task in store.living(before=time.time() + 1)}
    return "".join(names[id] for id in estimate_of(store, 1).waiting)


def test_store_returns_what_was_accepted(store: Store) -> None:
    (task,) = add(store, draft())
    assert store.get(task.id) == task
    assert (task.state, task.attempts, task.fields, task.results) == ("queued", 0, {"prompt": "a cat"}, [])
    assert store.get("nothing") is None
    assert store.counts() == {"queued": 1}


def test_store_keeps_the_trace_of_a_task_apart_from_its_fields(store: Store) -> None:
    given = replace(draft(), traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    for task in (*add(store, given), store.begin(given.id, "run")):
        assert task is not None
        assert (task.traceparent, task.fields) == (given.traceparent, {"prompt": "a cat"})
    (other,) = add(store, draft())
    assert other.traceparent == ""


def test_store_orders_clients_in_turns(store: Store) -> None:
    add(store, *(draft("a") for _ in range(4)))
    add(store, *(draft("b") for _ in range(3)))
    add(store, draft("c"))
    assert order(store) == "abcababa"


def test_store_counts_keys_of_one_source_as_one_client(store: Store) -> None:
    add(store, *(draft(f"key {n}", source="greedy") for n in range(40)))
    tasks = add(store, draft("new", source="other"), draft("new", source="other"))
    waiting = [one.id for one in estimate_of(store, 1).queue]
    assert [waiting.index(task.id) for task in tasks] == [1, 3]


def test_store_marks_the_first_task_of_a_source_as_newcomer(store: Store) -> None:
    alone = add(store, draft("g", source="greedy"), draft("g", source="greedy"))
    assert [task.newcomer for task in alone] == [False, False], "there are slots for both"
    first, second = add(store, draft("x", source="s"), draft("y", source="s"))
    assert (first.newcomer, second.newcomer) == (True, False)
    (other,) = add(store, draft("z", source="t"))
    assert other.newcomer
    for task in (first, second):
        store.end(task.id, None, "completed")
    assert [task.newcomer for task in add(store, draft("x", source="s"))] == [True]
    add(store, draft("h", source="u", priority="high"))
    assert [task.newcomer for task in add(store, draft("l", source="v", priority="low"))] == [False]


def test_store_adds_missing_columns_to_an_older_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    old = Store(connect(url))
    old.create()
    (kept,) = add(old, draft("a"))
    with old.transaction() as connection:
        for name in ("source", "newcomer"):
            connection.execute(sa.text(f"ALTER TABLE {TASKS.name} DROP COLUMN {name}"))
        connection.execute(sa.text(f"DROP TABLE {VERSION_TABLE}"))  # it had none
    old.close()
    new = Store(connect(url))
    new.create()
    new.create()
    found = new.get(kept.id)
    assert found is not None
    assert (found.client, found.source, found.newcomer) == ("a", None, None)
    assert [task.newcomer for task in add(new, draft("a"), draft("b"))] == [False, True]
    assert [task.client for task in new.page(client="a", state=None, limit=9)] == ["a", "a"]
    new.close()


def test_store_orders_a_late_client_before_the_backlog_of_another(store: Store) -> None:
    tasks = add(store, *(draft("a") for _ in range(50)))
    for task in tasks[:30]:
        assert store.begin(task.id, "run")
        assert store.end(task.id, "run", "completed")
    assert store.begin(tasks[30].id, "run")
    add(store, draft("b"), draft("b"))
    assert order(store)[:4] == "baba"


def test_store_gives_no_credit_for_time_without_tasks(store: Store) -> None:
    for task in add(store, *(draft("a") for _ in range(5))):
        store.end(task.id, None, "completed")
    add(store, *(draft("b") for _ in range(3)))
    add(store, *(draft("a") for _ in range(3)))
    assert order(store) == "bababa"


def test_store_orders_higher_priority_first(store: Store) -> None:
    for priority, client in (("low", "l"), ("normal", "n"), ("high", "h"), ("normal", "n"), ("high", "h")):
        add(store, draft(client, priority=priority))
    assert order(store) == "hhnnl"


def test_store_accepts_a_whole_batch_or_nothing(store: Store) -> None:
    with pytest.raises(QueueFull, match="0 run and 0 wait"):
        add(store, *(draft() for _ in range(8)), slots=2, queue_size=5)
    assert store.counts() == {}
    tasks = add(store, *(draft() for _ in range(7)), slots=2, queue_size=5)  # two of them will not have to wait
    with pytest.raises(QueueFull):
        add(store, draft(), slots=2, queue_size=5)
    store.begin(tasks[0].id, "run")
    with pytest.raises(QueueFull, match="1 run and 6 wait"):
        add(store, draft(), slots=2, queue_size=5)
    store.end(tasks[1].id, None, "cancelled")
    add(store, draft(), slots=2, queue_size=5)


def test_store_makes_one_task_of_a_thousand_repetitions(store: Store) -> None:
    async def send_all() -> list[tuple[Task, bool]]:
        jobs = [store.call(store.add, [draft(key="k")], slots=1, queue_size=5, fallback=1.0) for _ in range(1000)]
        return [answer for (answer,) in await asyncio.gather(*jobs)]

    answers = asyncio.run(send_all())
    assert len({task.id for task, _ in answers}) == 1
    assert [new for _, new in answers].count(True) == 1
    assert store.counts() == {"queued": 1}


def test_idempotency_keys_belong_to_one_client_and_one_request(store: Store) -> None:
    (first,) = add(store, draft("a", key="k"))
    assert [task.id for task in add(store, draft("a", key="k"))] == [first.id]
    with pytest.raises(Conflict, match=first.id):
        add(store, draft("a", key="k", digest="other"))
    assert add(store, draft("b", key="k", digest="other"))[0].id != first.id
    store.end(first.id, None, "failed", {"error": {"code": "c", "message": "m", "param": None}})
    assert add(store, draft("a", key="k"))[0].state == "failed"  # a repetition is no second attempt


def test_idempotency_key_of_a_deleted_task_is_gone(store: Store) -> None:
    (task,) = add(store, draft(key="k"))
    assert store.end(task.id, None, "cancelled")
    with store.transaction() as connection:
        connection.execute(sa.update(TASKS).where(TASKS.c.id == task.id).values(expired_at=time.time()))
    with pytest.raises(Gone, match=task.id):
        add(store, draft(key="k"))


def test_check_room_tells_what_adding_would_do(store: Store) -> None:
    bounds = {"slots": 1, "queue_size": 1}
    first, second = draft(key="one"), draft(key="two")
    assert store.check_room([first, second], **bounds) is None
    made = add(store, first, second)
    assert store.check_room([draft(key="one"), draft(key="two")], **bounds) == made
    with pytest.raises(Conflict):
        store.check_room([draft(key="one", digest="other")], **bounds)
    with pytest.raises(QueueFull):
        store.check_room([draft(key="one"), draft(key="three")], **bounds)
    assert store.counts() == {"queued": 2}


def test_store_lets_only_the_run_that_owns_the_task_write(store: Store) -> None:
    (task,) = add(store, draft())
    assert store.begin(task.id, "one")
    assert store.progress(task.id, "one", 3, 20)
    taken_over = store.begin(task.id, "two")
    assert taken_over is not None
    assert (taken_over.attempts, taken_over.step) == (2, 0)
    assert not store.progress(task.id, "one", 4, 20)
    assert not store.end(task.id, "one", "completed", {"results": [{"name": "x"}]})
    assert not store.hand_back(task.id, "one")
    assert store.end(task.id, "two", "completed")
    assert not store.end(task.id, None, "cancelled")
    assert store.begin(task.id, "three") is None
    ended = store.get(task.id)
    assert ended is not None
    assert (ended.state, ended.results) == ("completed", [])


def test_store_does_not_count_a_run_that_was_stopped(store: Store) -> None:
    (task,) = add(store, draft())
    store.begin(task.id, "run")
    assert store.hand_back(task.id, "run")
    again = store.get(task.id)
    assert again is not None
    assert (again.state, again.attempts) == ("queued", 0)
    store.begin(task.id, "run")
    assert store.wait_again(task.id, "run")
    again = store.get(task.id)
    assert again is not None
    assert (again.state, again.attempts) == ("queued", 1)


def test_store_works_with_an_older_database(tmp_path: Path) -> None:
    store = Store(connect(f"sqlite:///{tmp_path / 'darkroom.db'}"))
    try:
        store.create()
        (task,) = add(store, draft())
        with store.transaction() as connection:
            connection.execute(sa.text("ALTER TABLE darkroom_tasks DROP COLUMN pictures"))
            for table in ("darkroom_speeds", "darkroom_gain", VERSION_TABLE):
                connection.execute(sa.text(f"DROP TABLE {table}"))
            connection.execute(sa.text("CREATE TABLE darkroom_paces (operation TEXT, kind TEXT, seconds DOUBLE)"))
        store.create()
        with store.transaction() as connection:
            assert not sa.inspect(connection).has_table("darkroom_paces")
        assert store.get(task.id) == task
        measure(store, 3.0)
        assert estimate_of(store, 1).seconds_until_done(task) == pytest.approx(3.2)
    finally:
        store.close()


def test_store_raises_not_ready_without_a_database(tmp_path: Path) -> None:
    store = Store(connect(f"sqlite:///{tmp_path / 'darkroom.db'}"))
    with pytest.raises(NotReady, match="database"):
        store.counts()  # no table
    store.close()


def test_store_reads_while_another_connection_writes(store: Store) -> None:
    add(store, draft())
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        with store.transaction(locked=True) as connection:
            connection.execute(sa.update(TASKS).values(step=1))
            entered.set()
            leave.wait(10)

    writer = threading.Thread(target=write)
    writer.start()
    assert entered.wait(10)
    started = time.monotonic()
    assert store.counts() == {"queued": 1}
    assert time.monotonic() - started < 5
    leave.set()
    writer.join()
