"""Estimates of tasks and of the queue, from what was measured, on a real SQLite file."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest

from proxy.load import Direct
from proxy.tasks.heartbeat import Heartbeats
from proxy.tasks.store import Store
from tests.task_store import WORK, add, draft, estimate_of, measure


def test_estimates_come_from_what_was_measured(store: Store) -> None:
    assert add(store, draft())[0].estimate == 0.5 * 20  # the operation's guess
    measure(store, 4.0)
    assert add(store, draft())[0].estimate == pytest.approx(4.0)
    measure(store, *[8.0] * 8)
    assert add(store, draft())[0].estimate == pytest.approx(8.0, rel=0.1)


def test_estimate_of_a_new_size_comes_from_the_nearest_one(store: Store) -> None:
    measure(store, *[2.0] * 5)
    measure(store, *[200.0] * 3, work=dataclasses.replace(WORK, kind="1024x1024"))
    for kind, expected in (("64x128", 4.0), ("512x1024", 100.0), ("unheard of", 2.0)):  # the last one is like most
        (task,) = add(store, draft(work=dataclasses.replace(WORK, kind=kind)))
        assert task.estimate == pytest.approx(expected), kind


def test_estimate_of_waiting_tasks_uses_later_measurements(store: Store) -> None:
    """A burst that came before anything was measured is not stuck with the guess."""
    first, second = add(store, draft(), draft())
    before = estimate_of(store, 1).seconds_until_done(second)
    measure(store, 2.0, 2.0)
    assert before == pytest.approx(20, abs=0.5)
    assert estimate_of(store, 1).seconds_until_done(second) == pytest.approx(4, abs=0.5)
    assert estimate_of(store, 1).seconds_until_done(first) == pytest.approx(2, abs=0.5)


def test_estimates_are_not_inflated_by_a_burst(store: Store) -> None:
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


def test_queue_estimate_uses_the_time_that_a_task_had_without_steps(store: Store) -> None:
    (task,) = add(store, draft())
    store.begin(task.id, "run")
    task = store.get(task.id) or task
    assert estimate_of(store, 2).seconds_until_done(task) == pytest.approx(10)
    assert estimate_of(store, 2, had={task.id: 4.0}).seconds_until_done(task) == pytest.approx(6)
    assert estimate_of(store, 2, had={task.id: 40.0}).seconds_until_done(task) == pytest.approx(1)


def test_queue_estimate_expects_more_tasks_in_a_burst(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_queue_estimate_expects_nothing_after_a_batch(store: Store) -> None:
    tasks = add(store, *(draft() for _ in range(4)))
    estimate = estimate_of(store, 8, arriving=True)
    assert estimate.expected == []
    assert estimate.seconds_until_done(tasks[-1]) == pytest.approx(40.2)


def test_queue_estimate_includes_direct_requests(store: Store) -> None:
    (task,) = add(store, draft())
    other = Direct(group="other", left=30.0)
    assert estimate_of(store, 2).seconds_until_done(task) == pytest.approx(10.2)
    assert estimate_of(store, 2, direct=([other], [])).seconds_until_done(task) == pytest.approx(20.2)
    assert estimate_of(store, 1, direct=([other], [])).seconds_until_done(task) == pytest.approx(40.2)
    assert estimate_of(store, 1, direct=([other], [other])).seconds_until_done(task) == pytest.approx(70.2)
    assert estimate_of(store, 1, direct=([other], [other])).position(task.id) == 1


def test_queue_estimate_counts_the_slots_of_each_proxy(store: Store) -> None:
    tasks = add(store, *(draft() for _ in range(4)))
    alone = estimate_of(store, 1).seconds_until_done(tasks[-1])
    for name in ("one", "other"):
        Heartbeats(store, name).beat()
    assert alone == pytest.approx(40.2)
    assert estimate_of(store, 1).seconds_until_done(tasks[-1]) == pytest.approx(20.2)
