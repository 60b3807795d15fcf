"""How often the queue is looked into."""

from __future__ import annotations

import threading

import pytest

from proxy.tasks.pacing import Pace


def governed(pace: Pace) -> threading.Event:
    event = threading.Event()
    pace.govern(event)
    return event


def test_pacing_event_wakes_waiting_threads_only() -> None:
    pace = Pace()
    event, looks = governed(pace), threading.Semaphore(0)

    def look() -> None:
        while not event.wait(3600):
            looks.release()

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(3):
        while not looks.acquire(timeout=0.01):
            pace.wake()
    event.set()
    thread.join(60)
    assert not thread.is_alive()


def test_pacing_wait_ends_when_the_event_is_set() -> None:
    pace, event = Pace(), threading.Event()
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(event.wait(3600)))
    thread.start()
    pace.govern(event)
    pace.wake()
    assert not results
    event.set()
    thread.join(60)
    assert results == [True]


def test_pacing_waits_longer_only_while_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    event = governed(pace)
    waits: list[float | None] = []
    monkeypatch.setattr(pace.changed, "wait", waits.append)
    now = [0.0]
    monkeypatch.setattr("proxy.tasks.pacing.time.monotonic", lambda: now[0])
    pace.wake()
    event.wait(0.25)
    now[0] = 3600.0
    event.wait(0.25)
    event.wait(30)
    with pace.running():
        now[0] = 7200.0
        event.wait(0.25)
    event.wait(0.25)
    now[0] = 10800.0
    event.wait(0.25)
    assert waits == [0.25, 5.0, 30, 0.25, 0.25, 5.0]
