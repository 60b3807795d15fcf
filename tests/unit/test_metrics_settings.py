"""The settings of metrics. Each test has an app of its own: a process can run one at a time."""

from __future__ import annotations

from pathlib import Path

from tests.keyed_app import keyed_app


def test_without_the_setting_this_machine_needs_a_key(tmp_path: Path) -> None:
    with keyed_app(tmp_path) as app:
        app.create("boss", "admin")
        assert app.call("GET", "/metrics", address="127.0.0.1").status_code == 401


def test_metrics_can_be_switched_off(tmp_path: Path) -> None:
    with keyed_app(tmp_path, metrics=False) as app:
        answer = app.call("GET", "/metrics")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert app.app.state.services.measures is None
        assert app.settings.environment()["METRICS"] == "false", "for the processes of Triton"
