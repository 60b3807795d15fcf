"""Event streams in the Python client, whole and broken. Every test runs on both clients."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

import pytest
from darkroom_client import (
    Progress,
    ServerError,
    TimedOut,
    Unavailable,
)

from tests.clients import Call
from tests.unit.loopback import IMAGE_EVENT, Answer, event, events, in_turn, loopback, picture


def test_events_give_progress_before_the_image(call: Call) -> None:
    stream = events(
        b": hello\n\n",
        event("progress", {"done": 1, "total": 2}),
        event("news", "of a later version"),
        event("progress", {"done": 2, "total": 2})[:20],
        event("progress", {"done": 2, "total": 2})[20:] + event("image", IMAGE_EVENT),
    )
    seen: list[Progress] = []
    with loopback(in_turn(stream)) as server:
        result = call(server.url, "upscale", b"small", on_progress=seen.append)
    assert seen == [Progress(done=1, total=2), Progress(done=2, total=2)]
    assert (result.image, result.media_type, result.model, result.scale) == (b"large", "image/webp", "x4plus", 2.5)
    assert result.request_id == "request-1"
    assert server.received[0].headers["accept"] == "text/event-stream"


def test_events_are_optional_for_the_service(call: Call) -> None:
    with loopback(in_turn(picture(b"large"))) as server:
        assert call(server.url, "upscale", b"small", on_progress=lambda _: None).image == b"large"


def test_events_raise_an_error_event(call: Call) -> None:
    content = {"status": 504, "detail": "Too long.", "error": {"code": "task_timeout", "message": "Too long."}}
    stream = events(event("progress", {"done": 1, "total": 2}), event("error", content))
    with loopback(in_turn(stream)) as server, pytest.raises(TimedOut, match=r"^Too long\.$") as caught:
        call(server.url, "upscale", b"small", on_progress=lambda _: None)
    assert (caught.value.code, caught.value.request_id) == ("task_timeout", "request-1")


@pytest.mark.parametrize("cut", [True, False], ids=["broken off", "ended early"])
def test_events_that_end_before_the_image(call: Call, cut: bool) -> None:
    half = event("image", IMAGE_EVENT)[:-10]
    with (
        loopback(in_turn(events(event("progress", {"done": 1, "total": 2}), half, cut=cut))) as server,
        pytest.raises(Unavailable) as caught,
    ):
        call(server.url, "upscale", b"small", on_progress=lambda _: None)
    assert caught.value.code == "connection_lost"


def test_events_end_with_an_exception_of_the_callback(call: Call) -> None:
    left = threading.Event()

    def many(_: object) -> Answer:
        def pieces() -> Any:
            try:
                for done in range(100_000):
                    yield event("progress", {"done": done, "total": 100_000})
                    time.sleep(0.001)
            finally:
                left.set()

        return Answer(headers={"Content-Type": "text/event-stream"}, body=pieces())

    def enough(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyError("enough")

    with loopback(many) as server:
        with pytest.raises(KeyError, match="enough"):
            call(server.url, "upscale", b"small", on_progress=enough)
        assert left.wait(60)


@pytest.mark.parametrize(
    "stream",
    [
        events(b"event: progress\ndata: {nonsense\n\n"),
        events(event("progress", {"done": "three"})),
        events(event("image", IMAGE_EVENT | {"image": "data:image/png;base64,%%%"})),
        events(event("image", IMAGE_EVENT | {"image": "http://elsewhere/a.png"})),
        events(event("image", IMAGE_EVENT | {"scale": None})),
        events(event("error", {"detail": "no status"})),
        Answer(headers={"Content-Type": "text/html"}, body=b"<html>hello</html>"),
        Answer(headers={"Content-Type": "image/png", "X-Upscale-Scale": "4"}),
        Answer(headers={"Content-Type": "image/png"}, body=b"no scale"),
    ],
)
def test_events_that_cannot_be_read(call: Call, stream: Answer) -> None:
    with loopback(in_turn(stream)) as server, pytest.raises(ServerError, match="cannot be understood") as caught:
        call(server.url, "upscale", b"small", on_progress=lambda _: None)
    assert caught.value.code == "bad_answer"


def test_events_with_a_very_long_line_take_linear_time(call: Call) -> None:
    data = bytes(50 << 20)
    line = event("image", IMAGE_EVENT | {"image": "data:image/png;base64," + base64.b64encode(data).decode()})
    pieces = [line[start : start + 65_536] for start in range(0, len(line), 65_536)]
    with loopback(in_turn(events(*pieces))) as server:
        started = time.monotonic()
        result = call(server.url, "upscale", b"small", on_progress=lambda _: None)
        seconds = time.monotonic() - started
    assert result.image == data
    assert seconds < 20  # about 1 s; joining the line again for each of its 1067 pieces would move 37 GB
