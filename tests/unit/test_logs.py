"""Log lines as text and as objects."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

import pytest

from proxy.observability import REQUEST_ID, TASK_ID, _dressed


def line(format: str, message: str = "%s done", *, failed: bool = False, **extra: object) -> str:
    """What a handler writes of a record."""
    handler = _dressed(logging.NullHandler(), format)  # type: ignore[arg-type]
    info = None
    if failed:
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            info = sys.exc_info()
    record = logging.LogRecord("proxy", logging.WARNING, "file.py", 7, message, ("it",), info)
    record.__dict__.update(extra)
    assert handler.filter(record)
    return handler.format(record)


def test_logs_as_objects_have_time_level_logger_and_message() -> None:
    found = json.loads(line("json"))
    time = datetime.fromisoformat(found.pop("time"))
    assert time.utcoffset() == timezone.utc.utcoffset(None)
    assert found == {"level": "WARNING", "logger": "proxy", "message": "it done"}


def test_logs_as_objects_have_the_ids_that_are_known() -> None:
    request, task = REQUEST_ID.set("r1"), TASK_ID.set("t1")
    try:
        found = json.loads(line("json"))
    finally:
        REQUEST_ID.reset(request)
        TASK_ID.reset(task)
    assert (found["request_id"], found["task_id"]) == ("r1", "t1")
    assert "trace_id" not in found, "nothing is traced here"


def test_logs_as_objects_stay_on_one_line() -> None:
    text = line("json", "%s\nforged\x1b[31m\x85\u2028\ud800", failed=True, color_message="\x1b[31mred")
    assert text.isascii()
    assert text.isprintable()
    found = json.loads(text)
    assert found["message"] == "it\nforged\x1b[31m\x85\u2028\ud800"
    assert found["exception"].endswith("ValueError: broken\nin two")
    assert "color_message" not in found


@pytest.mark.parametrize("request_id", ["-", "r1"])
def test_logs_as_text_have_the_id_of_the_request(request_id: str) -> None:
    token = REQUEST_ID.set(request_id)
    try:
        assert line("text").endswith(f" WARNING proxy [{request_id}] it done")
    finally:
        REQUEST_ID.reset(token)
