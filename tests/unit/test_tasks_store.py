"""The table of tasks on a real SQLite file: acceptance, turns, ends, and what is kept how long."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import math
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from darkroom.errors import Conflict, Gone, NotReady, QueueFull, StorageFull
from proxy.load import Direct, Used
from proxy.tasks.files import Files
from proxy.tasks.heartbeat import LOST_SECONDS, Heartbeats
from proxy.tasks.models import Draft, LaneLoad, Output, QueueEstimate, Task, Work
from proxy.tasks.retention import Retention
from proxy.tasks.schema import TASKS
from proxy.tasks.store import Store, connect

WORK = Work(fields={"prompt": "a cat"}, files={}, steps=20, kind="64x64", units=20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(connect(f"sqlite:///{tmp_path / 'new' / 'darkroom.db'}"))
    made.create()
    made.create()  # a second start
    yield made
    made.close()


def draft(
    client: str = "a",
    *,
    key: str | None = None,
    digest: str = "d",
    priority: str = "normal",
    work: Work = WORK,
    source: str | None = None,
) -> Draft:
    return Draft(
        id=str(uuid.uuid4()),
        operation="generate",
        client=client,
        priority=priority,
        key=key,
        digest=digest,
        work=work,
        source=source,
    )


def add(store: Store, *drafts: Draft, slots: int = 2, queue_size: int = 1000) -> list[Task]:
    return [task for task, _ in store.add(drafts, slots=slots, queue_size=queue_size, fallback=0.5)]


def estimate_of(store: Store, slots: int, *, arriving: bool = False, **load: Any) -> QueueEstimate:
    """Of the lane of images."""
    return store.queue_estimates({"images": LaneLoad(slots=slots, **load)}, arriving=arriving)["images"]


def order(store: Store) -> str:
    """The clients of the tasks that wait, in the order in which they will run."""
    names = {task.id: task.client for task in store.living(before=time.time() + 1)}
    return "".join(names[id] for id in estimate_of(store, 1).waiting)


def test_what_was_accepted_is_given_back(store: Store) -> None:
    (task,) = add(store, draft())
    assert store.get(task.id) == task
    assert (task.state, task.attempts, task.fields, task.results) == ("queued", 0, {"prompt": "a cat"}, [])
    assert store.get("nothing") is None
    assert store.counts() == {"queued": 1}


def test_clients_take_turns_whoever_came_first(store: Store) -> None:
    add(store, *(draft("a") for _ in range(4)))
    add(store, *(draft("b") for _ in range(3)))
    add(store, draft("c"))
    assert order(store) == "abcababa"


def test_invented_keys_of_one_source_are_one_client(store: Store) -> None:
    add(store, *(draft(f"key {n}", source="greedy") for n in range(40)))
    tasks = add(store, draft("new", source="other"), draft("new", source="other"))
    waiting = [one.id for one in estimate_of(store, 1).queue]
    assert [waiting.index(task.id) for task in tasks] == [1, 3]


def test_the_first_task_of_a_source_is_a_newcomers(store: Store) -> None:
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


def test_a_database_of_an_older_release_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    old = Store(connect(url))
    old.create()
    (kept,) = add(old, draft("a"))
    with old.transaction() as connection:
        for name in ("source", "newcomer"):
            connection.execute(sa.text(f"ALTER TABLE {TASKS.name} DROP COLUMN {name}"))
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


def test_a_client_that_comes_later_is_not_behind_what_another_one_piled_up(store: Store) -> None:
    tasks = add(store, *(draft("a") for _ in range(50)))
    for task in tasks[:30]:
        assert store.begin(task.id, "run")
        assert store.end(task.id, "run", "completed")
    assert store.begin(tasks[30].id, "run")
    add(store, draft("b"), draft("b"))
    assert order(store)[:4] == "baba"


def test_nobody_saves_up_turns_by_staying_away(store: Store) -> None:
    for task in add(store, *(draft("a") for _ in range(5))):
        store.end(task.id, None, "completed")
    add(store, *(draft("b") for _ in range(3)))
    add(store, *(draft("a") for _ in range(3)))
    assert order(store) == "bababa"


def test_a_higher_priority_is_always_first(store: Store) -> None:
    for priority, client in (("low", "l"), ("normal", "n"), ("high", "h"), ("normal", "n"), ("high", "h")):
        add(store, draft(client, priority=priority))
    assert order(store) == "hhnnl"


def test_all_of_a_batch_or_none(store: Store) -> None:
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


def test_a_thousand_repetitions_make_one_task(store: Store) -> None:
    async def send_all() -> list[tuple[Task, bool]]:
        jobs = [store.call(store.add, [draft(key="k")], slots=1, queue_size=5, fallback=1.0) for _ in range(1000)]
        return [answer for (answer,) in await asyncio.gather(*jobs)]

    answers = asyncio.run(send_all())
    assert len({task.id for task, _ in answers}) == 1
    assert [new for _, new in answers].count(True) == 1
    assert store.counts() == {"queued": 1}


def test_keys_are_a_clients_own_and_for_one_request(store: Store) -> None:
    (first,) = add(store, draft("a", key="k"))
    assert [task.id for task in add(store, draft("a", key="k"))] == [first.id]
    with pytest.raises(Conflict, match=first.id):
        add(store, draft("a", key="k", digest="other"))
    assert add(store, draft("b", key="k", digest="other"))[0].id != first.id
    store.end(first.id, None, "failed", {"error": {"code": "c", "message": "m", "param": None}})
    assert add(store, draft("a", key="k"))[0].state == "failed"  # a repetition is no second attempt


def test_what_a_key_made_and_is_deleted_is_gone(store: Store) -> None:
    (task,) = add(store, draft(key="k"))
    assert store.end(task.id, None, "cancelled")
    with store.transaction() as connection:
        connection.execute(sa.update(TASKS).where(TASKS.c.id == task.id).values(expired_at=time.time()))
    with pytest.raises(Gone, match=task.id):
        add(store, draft(key="k"))


def test_what_adding_would_do_is_known_before(store: Store) -> None:
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


def test_only_the_run_that_has_the_task_writes(store: Store) -> None:
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


def test_a_run_that_we_stopped_does_not_count(store: Store) -> None:
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


def measure(store: Store, *seconds: float, company: float = 0.0, work: Work = WORK) -> None:
    """Tasks of this kind took so long, one after the other."""
    for one in seconds:
        (task,) = add(store, draft(work=work))
        store.end(task.id, None, "completed")
        store.measured(task, Used(seconds=one, company=company))


def test_estimates_come_from_what_was_measured(store: Store) -> None:
    assert add(store, draft())[0].estimate == 0.5 * 20  # the operation's guess
    measure(store, 4.0)
    assert add(store, draft())[0].estimate == pytest.approx(4.0)
    measure(store, *[8.0] * 8)
    assert add(store, draft())[0].estimate == pytest.approx(8.0, rel=0.1)


def test_a_size_never_seen_is_estimated_from_the_nearest_one(store: Store) -> None:
    measure(store, *[2.0] * 5)
    measure(store, *[200.0] * 3, work=dataclasses.replace(WORK, kind="1024x1024"))
    for kind, expected in (("64x128", 4.0), ("512x1024", 100.0), ("unheard of", 2.0)):  # the last one is like most
        (task,) = add(store, draft(work=dataclasses.replace(WORK, kind=kind)))
        assert task.estimate == pytest.approx(expected), kind


def test_what_waits_is_estimated_by_what_is_known_now(store: Store) -> None:
    """A burst that came before anything was measured is not stuck with the guess."""
    first, second = add(store, draft(), draft())
    before = estimate_of(store, 1).seconds_until_done(second)
    measure(store, 2.0, 2.0)
    assert before == pytest.approx(20, abs=0.5)
    assert estimate_of(store, 1).seconds_until_done(second) == pytest.approx(4, abs=0.5)
    assert estimate_of(store, 1).seconds_until_done(first) == pytest.approx(2, abs=0.5)


def test_a_burst_of_tasks_does_not_inflate_later_estimates(store: Store) -> None:
    """Each of eight lasts eight times as long as alone, and has had an eighth of the machine."""
    measure(store, *[0.5] * 3)
    measure(store, *[0.5] * 20, company=math.log(8))
    assert add(store, draft())[0].estimate == pytest.approx(0.5)
    assert store.gain("images") == pytest.approx(0.0, abs=0.01)


def test_queue_estimate(store: Store) -> None:
    """20 steps of half a second. Two run at a time, each half as fast; the one that runs has done a quarter."""
    tasks = add(store, *(draft() for _ in range(4)))
    store.begin(tasks[0].id, "run")
    store.progress(tasks[0].id, "run", 5, 20)
    estimate = estimate_of(store, 2)
    assert estimate.waiting == [task.id for task in tasks[1:]]
    assert [estimate.position(task.id) for task in tasks] == [None, 1, 2, 3]
    now = [store.get(task.id) or task for task in tasks]
    seconds = [estimate.seconds_until_done(task) for task in now]
    assert seconds == pytest.approx([15, 20.2, 35.2, 37.7], abs=0.01)
    assert [estimate.seconds_until_room(count) for count in (1, 2, 99)] == pytest.approx([15, 20, 37.5], abs=0.01)


def test_what_a_task_had_counts_where_its_steps_tell_nothing(store: Store) -> None:
    (task,) = add(store, draft())
    store.begin(task.id, "run")
    task = store.get(task.id) or task
    assert estimate_of(store, 2).seconds_until_done(task) == pytest.approx(10)
    assert estimate_of(store, 2, had={task.id: 4.0}).seconds_until_done(task) == pytest.approx(6)
    assert estimate_of(store, 2, had={task.id: 40.0}).seconds_until_done(task) == pytest.approx(1)


def test_in_the_middle_of_a_burst_more_is_expected(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as have come in this second, up to the number of slots, behind those that are there."""
    now = time.time()
    monkeypatch.setattr("proxy.tasks.store.time.time", lambda: now)
    said = []
    for _ in range(3):
        (task,) = add(store, draft())
        said.append(estimate_of(store, 2, arriving=True).seconds_until_done(task))
        now += 0.01
    assert said == pytest.approx([10.2, 20.2, 40.2])
    assert estimate_of(store, 2).seconds_until_done(task) == pytest.approx(30.2)
    now += 2
    assert estimate_of(store, 2, arriving=True).seconds_until_done(task) == pytest.approx(30.2)


def test_nothing_is_expected_after_a_batch(store: Store) -> None:
    tasks = add(store, *(draft() for _ in range(4)))
    estimate = estimate_of(store, 8, arriving=True)
    assert estimate.expected == []
    assert estimate.seconds_until_done(tasks[-1]) == pytest.approx(40.2)


def test_direct_requests_are_in_the_estimate(store: Store) -> None:
    (task,) = add(store, draft())
    other = Direct(group="other", left=30.0)
    assert estimate_of(store, 2).seconds_until_done(task) == pytest.approx(10.2)
    assert estimate_of(store, 2, direct=([other], [])).seconds_until_done(task) == pytest.approx(20.2)
    assert estimate_of(store, 1, direct=([other], [])).seconds_until_done(task) == pytest.approx(40.2)
    assert estimate_of(store, 1, direct=([other], [other])).seconds_until_done(task) == pytest.approx(70.2)
    assert estimate_of(store, 1, direct=([other], [other])).position(task.id) == 1


def test_every_proxy_has_its_places(store: Store) -> None:
    tasks = add(store, *(draft() for _ in range(4)))
    alone = estimate_of(store, 1).seconds_until_done(tasks[-1])
    for name in ("one", "other"):
        Heartbeats(store, name).beat()
    assert alone == pytest.approx(40.2)
    assert estimate_of(store, 1).seconds_until_done(tasks[-1]) == pytest.approx(20.2)


def test_a_database_of_an_older_release_goes_on_working(tmp_path: Path) -> None:
    store = Store(connect(f"sqlite:///{tmp_path / 'darkroom.db'}"))
    try:
        store.create()
        (task,) = add(store, draft())
        with store.transaction() as connection:
            connection.execute(sa.text("ALTER TABLE darkroom_tasks DROP COLUMN pictures"))
            for table in ("darkroom_speeds", "darkroom_gain"):
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


def test_retention_by_age_and_size(store: Store, tmp_path: Path) -> None:
    files = Files(tmp_path)
    picture = Output(data=memoryview(bytes(1 << 20)), media_type="image/png", details={})
    names = []
    for task in add(store, *(draft() for _ in range(4))):
        results = files.write_results(task.id, [picture])
        store.end(task.id, None, "completed", {"results": results, "bytes": 1 << 20})
        names.append(results[0]["name"])
    ids = [name.split("_")[0] for name in names]

    def age(id: str, hours: float, column: str) -> None:
        with store.transaction() as connection:
            connection.execute(sa.update(TASKS).where(TASKS.c.id == id).values({column: time.time() - hours * 3600}))

    def there() -> list[bool]:
        return [found is not None and found[1].exists() for found in map(files.result, names)]

    for hours, id in zip((5, 3, 2, 1), ids, strict=True):
        age(id, hours, "completed_at")
    assert Retention(store, files, hours=4, gigabytes=1).sweep() == []
    assert there() == [False, True, True, True]
    Retention(store, files, hours=4, gigabytes=2 / 1024).sweep()
    assert there() == [False, False, True, True]
    expired = store.get(ids[0])
    assert expired is not None
    assert expired.expired_at is not None
    age(ids[0], 5, "expired_at")
    retention = Retention(store, files, hours=4, gigabytes=1)
    assert retention.sweep() == retention.sweep() == [ids[0]]  # until they are forgotten
    retention.forget([ids[0]])
    assert store.get(ids[0]) is None
    assert retention.sweep() == []
    assert store.get(ids[1]) is not None


def test_folders_of_nobody_go_after_an_hour(store: Store, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write_inputs("00000000-new", {"image": b"x"})
    files.write_inputs("00000000-old", {"image": b"x"})
    old = tmp_path / "tasks" / "00" / "00000000-old"
    past = time.time() - 2 * 3600
    os.utime(old, (past, past))
    Retention(store, files, hours=1, gigabytes=1).sweep()
    assert not old.exists()
    assert old.with_name("00000000-new").exists()


def test_another_database_leaves_the_folders_alone(store: Store, tmp_path: Path) -> None:
    """DATABASE_URL was changed, or darkroom.db was lost."""
    files = Files(tmp_path)
    (task,) = add(store, draft())
    files.write_inputs(task.id, {"image": b"x"})
    (folder,) = (tmp_path / "tasks").glob("*/*")
    past = time.time() - 2 * 3600
    os.utime(folder, (past, past))
    Retention(store, files, hours=1, gigabytes=1).sweep()
    other = Store(connect(f"sqlite:///{tmp_path / 'other.db'}"))
    try:
        other.create()
        Retention(other, files, hours=1, gigabytes=1).sweep()
        assert folder.exists()
    finally:
        other.close()


def test_a_full_disk_takes_only_what_this_run_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, id = Files(tmp_path), str(uuid.uuid4())
    picture = Output(data=memoryview(b"a"), media_type="image/png", details={})
    kept = {result["name"] for result in files.write_results(id, [picture, picture, picture])}

    def full(path: Path, data: bytes) -> None:
        if "_1." in path.name:
            raise OSError(errno.ENOSPC, "full")
        path.write_bytes(data)

    monkeypatch.setattr("proxy.tasks.files.write_atomically", full)
    with pytest.raises(StorageFull):
        files.write_results(id, [picture, picture])
    left = {path.name for path in tmp_path.rglob("*.png")}
    assert left == kept - {f"{id}_0.png"}, "of another run's pictures those that it has not replaced"


def test_whose_heart_does_not_beat_is_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("proxy.tasks.heartbeat.time.monotonic", lambda: now)
    ours, other = Heartbeats(store, "ours"), Heartbeats(store, "other")
    ours.beat()
    other.beat()
    assert ours.lost({"ours", "other"}) == set()
    assert ours.lost({"ours", "other", "ended"}) == {"ended"}
    end = now + LOST_SECONDS
    while now < end:
        now += 2
        assert ours.lost({"other"}) == set()
    now += 2
    assert ours.lost({"other"}) == {"other"}
    other.beat()
    assert ours.lost({"other"}) == set()


def test_a_database_that_was_away_silences_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is back first finds the others as silent as it was itself."""
    now = 1000.0
    monkeypatch.setattr("proxy.tasks.heartbeat.time.monotonic", lambda: now)
    ours, other = Heartbeats(store, "ours"), Heartbeats(store, "other")
    for beats in (ours, other):
        beats.beat()
    assert ours.lost({"other"}) == set()
    now += 10 * LOST_SECONDS
    ours.beat()
    assert ours.lost({"other"}) == set()
    other.beat()
    now += 2
    assert ours.lost({"other"}) == set()


def test_a_database_that_is_away_is_503(tmp_path: Path) -> None:
    store = Store(connect(f"sqlite:///{tmp_path / 'darkroom.db'}"))
    with pytest.raises(NotReady, match="database"):
        store.counts()  # no table
    store.close()


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
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
