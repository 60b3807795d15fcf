"""Heartbeats of proxies: which of them is lost."""

from __future__ import annotations

import pytest

from proxy.tasks.heartbeat import LOST_SECONDS, Heartbeats
from proxy.tasks.store import Store


def test_heartbeat_that_stops_marks_a_proxy_as_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_heartbeat_after_an_unavailable_database_marks_no_proxy_as_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
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
