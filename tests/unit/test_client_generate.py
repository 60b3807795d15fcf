"""Generation with the Python client, against a real loopback server. Every test runs on both clients."""

from __future__ import annotations

import base64
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from darkroom_client import InvalidRequest, Preview, Progress, ServerError, TimedOut, Unavailable

from tests.clients import Call
from tests.unit.loopback import (
    Answer,
    Received,
    as_json,
    data_url,
    drawing,
    event,
    events,
    failure,
    generation,
    in_turn,
    loopback,
)

DONE = {"seed": 7, "seeds": [7], "parameters": {}, "width": 8, "height": 6}
IMAGE = {"index": 0, "image": data_url(b"picture"), "seed": 7}


def test_the_options_are_sent_and_the_pictures_read(call: Call, tmp_path: Path) -> None:
    control = tmp_path / "рисунок.png"
    control.write_bytes(b"drawing")
    options = {
        "negative_prompt": "text",
        "steps": 9,
        "guidance_scale": 3.5,
        "seed": 40,
        "width": 64,
        "height": 128,
        "num_images": 3,
        "scheduler": "Euler a",
        "control_type": "canny",
        "low_threshold": 50,
        "high_threshold": 150,
        "controlnet_conditioning_scale": 0.5,
        "control_guidance_start": 0.25,
        "control_guidance_end": 0.75,
        "preview_every": 2,
        "format": "webp",
        "quality": 70,
    }
    with loopback(generation) as server:
        result = call(server.url, "generate", "кот", control_image=control, **options)
    request = server.received[0]
    assert request.path == "/generate"
    assert request.headers["accept"] == "application/json"
    control_text = base64.b64encode(b"drawing").decode()
    assert request.json() == {"prompt": "кот", "control_image": control_text, **options}
    assert [(image.index, image.seed, image.media_type) for image in result.images] == [
        (0, 40, "image/webp"),
        (1, 41, "image/webp"),
        (2, 42, "image/webp"),
    ]
    assert result.images[1].data == drawing(41, format="webp")
    assert (result.seed, result.width, result.height, result.request_id) == (40, 8, 6, "request-1")
    assert result.control_map == b"edges of drawing"
    assert result.parameters["scheduler"] == "Euler a"


def test_what_is_not_given_is_not_sent(call: Call) -> None:
    with loopback(generation) as server:
        result = call(server.url, "generate", "a cat", steps=None, seed=0, control_image=None)
    assert server.received[0].json() == {"prompt": "a cat", "seed": 0}
    assert len(result.images) == 1
    assert result.control_map is None


def test_events_give_the_same_result(call: Call) -> None:
    seen: list[Progress] = []
    shown: list[Preview] = []
    arguments: dict[str, Any] = {"num_images": 2, "control_image": b"drawing"}
    with loopback(lambda request: generation(request, steps=2, previews=True)) as server:
        plain = call(server.url, "generate", "a cat", **arguments)
        streamed = call(server.url, "generate", "a cat", on_progress=seen.append, **arguments)
        previewed = call(server.url, "generate", "a cat", on_preview=shown.append, **arguments)
    assert plain.images == streamed.images == previewed.images
    assert plain.control_map == streamed.control_map == b"edges of drawing"
    assert seen == [Progress(done=1, total=2), Progress(done=2, total=2)]
    assert shown[1] == Preview(image=b"state 2", media_type="image/png", done=2, total=2)
    assert [request.headers["accept"] for request in server.received[1:]] == ["text/event-stream"] * 2
    assert [request.json().get("preview_every") for request in server.received] == [None, None, 5]


def test_a_service_without_events_still_gives_the_pictures(call: Call) -> None:
    answer = as_json({**DONE, "images": [IMAGE["image"]]})
    with loopback(in_turn(answer)) as server:
        result = call(server.url, "generate", "a cat", on_progress=lambda _: None)
    assert result.images[0].data == b"picture"


def test_an_option_that_there_is_not_is_named(call: Call) -> None:
    with loopback(generation) as server:
        with pytest.raises(TypeError, match="no option 'step'; there are model, negative_prompt, steps"):
            call(server.url, "generate", "a cat", step=3)
        with pytest.raises(FileNotFoundError):
            call(server.url, "generate", "a cat", control_image="no-such-file.png")
    assert server.received == []


@pytest.mark.parametrize(
    ("prompt", "options", "param"),
    [
        ("half an emoji \ud83d", {}, "prompt"),
        ("a cat", {"negative_prompt": "\udcff"}, "negative_prompt"),
        ("a cat", {"guidance_scale": float("nan")}, "guidance_scale"),
        ("a cat", {"guidance_scale": float("inf")}, "guidance_scale"),
    ],
)
def test_what_json_cannot_hold_is_refused(call: Call, prompt: str, options: dict[str, Any], param: str) -> None:
    with loopback(generation) as server, pytest.raises(InvalidRequest, match=f"^{param} cannot be sent") as caught:
        call(server.url, "generate", prompt, **options)
    assert caught.value.param == param
    assert server.received == []


@pytest.mark.parametrize("on_progress", [None, lambda _: None], ids=["plain", "events"])
def test_a_refusal_names_the_field(call: Call, on_progress: Any) -> None:
    refusal = failure(422, "invalid_input", "steps must be from 1 to 150; got 999.", "steps")
    with loopback(in_turn(refusal)) as server, pytest.raises(InvalidRequest, match="from 1 to 150") as caught:
        call(server.url, "generate", "a cat", steps=999, on_progress=on_progress)
    assert caught.value.param == "steps"


def test_busy_is_tried_again(call: Call) -> None:
    answers = [failure(429, "queue_full", "The queue is full.", **{"Retry-After": "1"})]

    def respond(request: Received) -> Answer:
        return answers.pop() if answers else generation(request)

    with loopback(respond) as server:
        assert call(server.url, "generate", "a cat", retries=1, on_progress=lambda _: None).seed == 7
    assert server.received[0].body == server.received[1].body


def test_an_error_event_is_raised(call: Call) -> None:
    content = {"status": 504, "detail": "Too long.", "error": {"code": "task_timeout", "message": "Too long."}}
    stream = events(event("progress", {"done": 1, "total": 2}), event("image", IMAGE), event("error", content))
    with loopback(in_turn(stream)) as server, pytest.raises(TimedOut, match=r"^Too long\.$") as caught:
        call(server.url, "generate", "a cat", on_progress=lambda _: None)
    assert caught.value.request_id == "request-1"


def test_a_stream_that_ends_early(call: Call) -> None:
    with (
        loopback(in_turn(events(event("image", IMAGE)))) as server,
        pytest.raises(Unavailable, match="ended before its result came") as caught,
    ):
        call(server.url, "generate", "a cat", on_progress=lambda _: None)
    assert caught.value.code == "connection_lost"


@pytest.mark.parametrize(
    "answer",
    [
        events(event("done", DONE)),
        events(event("image", IMAGE | {"index": 1}), event("done", DONE)),
        events(event("image", IMAGE), event("image", IMAGE | {"index": 1}), event("done", DONE)),
        events(event("image", IMAGE | {"image": 3}), event("done", DONE)),
        events(event("image", IMAGE | {"seed": "7"}), event("done", DONE)),
        events(event("image", IMAGE), event("done", DONE | {"parameters": None})),
        events(event("image", IMAGE), event("done", "finished")),
        events(event("preview", {"image": "nonsense", "done": 1, "total": 2})),
        events(event("control", {"control_map": "nonsense"})),
        events(event("progress", {"done": 1})),
        as_json(DONE),
        as_json({**DONE, "images": [IMAGE["image"]] * 2}),
        as_json({**DONE, "images": [3]}),
        as_json({**DONE, "images": [IMAGE["image"]], "control_map": 3}),
        as_json([]),
        Answer(headers={"Content-Type": "text/html"}, body=b"<html>hello</html>"),
    ],
)
def test_nonsense_is_named_as_such(call: Call, answer: Answer) -> None:
    with loopback(in_turn(answer)) as server, pytest.raises(ServerError, match="cannot be understood") as caught:
        call(server.url, "generate", "a cat", on_progress=lambda _: None, on_preview=lambda _: None)
    assert caught.value.code == "bad_answer"


def test_an_exception_of_the_callback_ends_the_request(call: Call) -> None:
    left = threading.Event()

    def endless(_: Received) -> Answer:
        def pieces() -> Iterator[bytes]:
            try:
                for done in range(100_000):
                    yield event("progress", {"done": done, "total": 100_000})
                    time.sleep(0.001)
            finally:
                left.set()

        return Answer(headers=events().headers, body=pieces())

    def enough(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyError("enough")

    with loopback(endless) as server:
        with pytest.raises(KeyError, match="enough"):
            call(server.url, "generate", "a cat", on_progress=enough)
        assert left.wait(60)


def test_a_picture_opens_in_pillow_where_that_is_installed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(generation) as server:
        image = call(server.url, "generate", "a cat", seed=258).images[0]
    assert image.open().getpixel((0, 0)) == (2, 1, 0)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'darkroom-client\[pillow\]'"):
        image.open()


def test_png_info(call: Call) -> None:
    content = {
        "parameters": "a cat\nSteps: 20",
        "fields": {"Steps": "20"},
        "darkroom": {"seed": 42},
        "chunks": {"parameters": "a cat\nSteps: 20"},
    }
    nothing = {"parameters": None, "fields": None, "darkroom": None, "chunks": {}}
    with loopback(in_turn(as_json(content), as_json(nothing), as_json({**nothing, "parameters": 3}))) as server:
        found, empty = call(server.url, "png_info", b"picture"), call(server.url, "png_info", b"picture")
        with pytest.raises(ServerError, match='"parameters" should be text, and is int'):
            call(server.url, "png_info", b"picture")
    assert (found.parameters, found.fields, found.darkroom) == ("a cat\nSteps: 20", {"Steps": "20"}, {"seed": 42})
    assert found.chunks == content["chunks"]
    assert (empty.parameters, empty.fields, empty.darkroom, empty.chunks) == (None, None, None, {})
    assert server.received[0].path == "/png-info"
    assert server.received[0].file() == b"picture"


def test_status(call: Call) -> None:
    gpu = {"gpu_id": 0, "name": "Some GPU", "memory_allocated": 1.5, "memory_reserved": 2}
    content = {
        "active_workers": 1,
        "task_queue_size": 100,
        "result_queue_size": 2,
        "pending_tasks": 3,
        "total_gpus": 1,
        "gpu_info": [gpu],
        "news": "of a later version",
    }
    with loopback(in_turn(as_json(content), failure(503, "not_ready", "Draining."))) as server:
        status = call(server.url, "status")
        with pytest.raises(Unavailable, match="Draining"):
            call(server.url, "status", retries=5)
    assert (status.active_workers, status.task_queue_size, status.pending_tasks) == (1, 100, 3)
    assert (status.result_queue_size, status.total_gpus, status.gpu_info) == (2, 1, (gpu,))
    assert status.raw == content
    assert [request.path for request in server.received] == ["/status", "/status"]
