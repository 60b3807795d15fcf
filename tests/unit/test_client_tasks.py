"""Tasks of the Python client and the command line against a real loopback server that comes and goes."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from darkroom_client import InvalidRequest, ServerError, Unavailable
from darkroom_client.cli import main
from darkroom_client.errors import error_class

from benchmarks.processes import free_port
from tests.clients import Call
from tests.conftest import stopped_by
from tests.unit.loopback import Answer, Received, as_json, event, events, failure, in_turn, loopback, picture

PICTURE = {"name": "a.png", "media_type": "image/png", "bytes": 5, "details": {}}


def task(**more: Any) -> dict[str, Any]:
    return {
        "task_id": "1",
        "operation": "generate",
        "status": "queued",
        "step": 0,
        "total_steps": 0,
        "created_at": "2026-01-01T00:00:00Z",
        "results": [],
        "estimated_time": 1.0,
        **more,
    }


DONE = events(event("done", task(status="completed", results=[PICTURE])))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks again soon."""
    monkeypatch.setattr("darkroom_client.client_tasks.RECONNECT_SECONDS", 0.01)


def command(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["--url", url, *words])


def test_task_submission_is_repeated_when_the_connection_breaks(call: Call) -> None:
    """A task has a key by which the service knows it again: a lost answer is asked for once more."""
    lost = [ConnectionResetError()]

    def respond(_: object) -> Answer:
        if lost:
            raise lost.pop()
        return as_json(task(), status=202)

    with loopback(respond) as server:
        assert call(server.url, "submit", "generate", prompt="a cat", retries=3).id == "1"
    first, second = server.received
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body


RESTARTING = [
    failure(503, "not_ready", "Not yet."),
    Answer(status=502, body=b"<html>bad gateway</html>"),
    Answer(status=504, body=b"<html>gateway timeout</html>"),
    events(event("state", task()), cut=True),
]


@pytest.mark.usefixtures("hurried")
def test_task_waits_for_a_service_that_restarts_behind_a_proxy(call: Call) -> None:
    with loopback(in_turn(*RESTARTING, DONE)) as server:
        assert call(server.url, "watch", "1").state == "completed"
    assert len(server.received) == 5


@pytest.mark.usefixtures("hurried")
def test_task_image_is_fetched_from_a_service_that_restarts(call: Call) -> None:
    with loopback(in_turn(*RESTARTING[:3], picture(b"large"))) as server:
        assert call(server.url, "download", "1", 2) == b"large"
    assert {request.path for request in server.received} == {"/download/1?image_index=2"}


@pytest.mark.parametrize("method", ["watch", "download"])
@pytest.mark.usefixtures("hurried")
def test_task_does_not_wait_forever_for_a_service(call: Call, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom_client.client_tasks.PATIENCE", 0.3)
    with pytest.raises(Unavailable):
        call(f"http://127.0.0.1:{free_port()}", method, "1")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(failure(410, "gone", "Deleted."), InvalidRequest), (failure(500, "internal_error", "No."), ServerError)],
)
def test_task_raises_other_errors_at_once(call: Call, answer: Answer, expected: type[Exception]) -> None:
    for method in ("watch", "download"):
        with loopback(in_turn(answer)) as server, pytest.raises(expected):
            call(server.url, method, "1")
        assert len(server.received) == 1


def test_a_full_disk_is_no_fault_of_the_request() -> None:
    assert error_class(None, "storage_full") is Unavailable


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_no_header_can_carry(call: Call, key: str) -> None:
    with pytest.raises(InvalidRequest, match="idempotency_key must consist of printable ASCII"):
        call("http://127.0.0.1:1", "submit", "generate", idempotency_key=key, prompt="a cat")


def obliging(request: Received) -> Answer:
    """A service that accepts a task, which is done at once and has an image."""
    if request.method == "POST":
        return as_json(task(), status=202)
    return picture(b"large") if request.path.startswith("/download") else DONE


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with loopback(obliging) as server:
        result = command(server.url, "submit", "a cat", "--watch", "-o", str(tmp_path / "file" / "out"))
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr
    assert "darkroom watch 1 -o FOLDER" in result.stderr


@pytest.mark.parametrize("name", ["priority", "operation", "idempotency_key"])
def test_options_are_no_fields(name: str) -> None:
    result = command("http://127.0.0.1:1", "submit", "a cat", "-s", f"{name}=low")
    assert (result.exit_code, "is no field of an operation; there is --" in result.stderr) == (2, True)


def test_any_other_name_is_a_field() -> None:
    with loopback(obliging) as server:
        assert command(server.url, "submit", "a cat", "-s", "self=1").exit_code == 0
    assert server.received[0].json() == {"operation": "generate", "prompt": "a cat", "self": "1"}


@pytest.mark.parametrize("words", [["submit", "a cat", "--watch"], ["watch", "1"]])
def test_ctrl_c_ends_watching_a_task(words: list[str]) -> None:
    reached, over = threading.Event(), threading.Event()

    def respond(request: Received) -> Answer:
        if request.method == "POST":
            return as_json(task(), status=202)

        def pieces() -> Any:
            yield event("state", task(status="processing", total_steps=2))
            reached.set()
            over.wait(30)

        return Answer(headers={"Content-Type": "text/event-stream"}, body=pieces())

    with loopback(respond) as server:
        program = [sys.executable, "-m", "darkroom_client", "--url", server.url, *words]
        stopped, _ = stopped_by(signal.SIGINT, program, reached)
        over.set()
    assert stopped == 130
