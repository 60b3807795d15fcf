"""GET /metrics of the app without Triton: what it says, and who may read it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from darkroom.restarts import Tally, restarts_file
from tests.keyed_app import KeyedApp, keyed_app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedApp]:
    with keyed_app(tmp_path_factory.mktemp("app"), metrics_without_key=True) as running:
        yield running


def test_metrics_without_triton_tell_of_the_proxy(app: KeyedApp) -> None:
    Tally(restarts_file(app.settings), ("triton",)).restarted("triton")
    answer = app.call("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["darkroom_triton_metrics_up",] == 0
    assert samples["darkroom_tasks_readable",] == 1
    assert samples["darkroom_tasks", "completed"] == 0
    assert samples["darkroom_queue_length", "direct"] == samples["darkroom_queue_length", "task"] == 0
    assert samples["darkroom_slots", "images"] == app.settings.max_concurrent_tasks
    assert samples["darkroom_restarts_total", "triton"] == 1
    assert (
        0
        < samples["darkroom_device_memory_bytes", "cpu", "used"]
        < samples["darkroom_device_memory_bytes", "cpu", "total"]
    )


def test_who_may_read_metrics_of_a_service_with_keys(app: KeyedApp) -> None:
    (_, user), (_, admin) = app.create("anna"), app.create("boss", "admin")

    def status(key: str | None, address: str, **headers: str) -> int:
        return app.call("GET", "/metrics", key, address, headers=headers).status_code

    assert status(admin, "10.0.0.1") == 200
    assert status(user, "10.0.0.1") == 403
    assert status(None, "10.0.0.1") == 401
    assert status(None, "127.0.0.1") == status(None, "::1") == 200
    assert status(None, "127.0.0.1", **{"X-Forwarded-For": "10.0.0.1"}) == 401, "it came through a reverse proxy"
    assert app.call("GET", "/tasks", address="127.0.0.1").status_code == 401, "for the metrics alone"
