"""The Python client against a real loopback server that also misbehaves. Every test runs on both clients."""

from __future__ import annotations

import base64
import io
import threading
import time
from pathlib import Path
from typing import Any

import darkroom_client
import pytest
from darkroom_client import (
    AsyncClient,
    Busy,
    Cancelled,
    Client,
    DarkroomError,
    InvalidRequest,
    Progress,
    ServerError,
    TimedOut,
    Unavailable,
)

from benchmarks.processes import free_port
from tests.clients import CALLS, Call
from tests.unit.loopback import Answer, as_json, event, events, failure, in_turn, loopback, picture

IMAGE_EVENT = {
    "image": "data:image/webp;base64," + base64.b64encode(b"large").decode(),
    "media_type": "image/webp",
    "model": "x4plus",
    "scale": 2.5,
}


@pytest.fixture(params=list(CALLS))
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


def test_upscale_sends_the_options_and_reads_the_picture(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "фото.jpg"
    path.write_bytes(b"small")
    with loopback(in_turn(picture(b"large"))) as server:
        result = call(server.url, "upscale", path, model="x4plus", scale=2.5, tile=64, quality=80)
    assert (result.image, result.media_type, result.request_id) == (b"large", "image/png", "request-1")
    assert (result.model, result.scale) == ("x4plus", 4.0)
    request = server.received[0]
    assert request.path == "/api/upscale"
    assert request.fields() == {"model": "x4plus", "scale": "2.5", "tile": "64", "quality": "80", "format": "png"}
    assert request.parts()[-1] == ("file", "фото.jpg", b"small")


@pytest.mark.parametrize("image", [b"small", bytearray(b"small"), io.BytesIO(b"small")], ids=lambda i: type(i).__name__)
def test_a_picture_may_be_bytes_or_a_file(call: Call, image: Any) -> None:
    if isinstance(image, io.BytesIO):
        image.seek(0)
    with loopback(in_turn(picture(b"large"))) as server:
        call(server.url, "upscale", image)
    assert server.received[0].file() == b"small"


def test_what_is_no_picture_is_refused_by_its_type(call: Call) -> None:
    with loopback(in_turn(picture(b"large"))) as server, pytest.raises(TypeError, match="opened in binary mode"):
        call(server.url, "upscale", io.StringIO("small"))
    with pytest.raises(FileNotFoundError):
        call("http://127.0.0.1:9", "upscale", "no-such-file.png")


def test_a_file_name_that_is_no_text_can_be_sent(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "\udcff.png"
    path.write_bytes(b"small")
    with loopback(in_turn(picture(b"large"))) as server:
        call(server.url, "upscale", path)
    assert server.received[0].parts()[-1][1] == "?.png"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_request", InvalidRequest),
        (404, "not_found", InvalidRequest),
        (409, "conflict", InvalidRequest),
        (413, "too_large", InvalidRequest),
        (415, "not_an_image", InvalidRequest),
        (422, "invalid_input", InvalidRequest),
        (429, "queue_full", Busy),
        (499, "cancelled", Cancelled),
        (500, "internal_error", ServerError),
        (502, "http_error", ServerError),
        (503, "not_ready", Unavailable),
        (504, "task_timeout", TimedOut),
    ],
)
def test_every_status_has_its_class(call: Call, status: int, code: str, kind: type[DarkroomError]) -> None:
    answer = failure(status, code, "tile: 32..4096; got 7.", "tile", **{"X-Request-ID": "r7", "Retry-After": "3"})
    with loopback(in_turn(answer)) as server, pytest.raises(kind) as caught:
        call(server.url, "upscale", b"small")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.param, error.request_id) == (status, code, "tile", "r7")
    assert (str(error), error.message, error.retry_after) == ("tile: 32..4096; got 7.", error.message, 3.0)
    with loopback(in_turn(answer)) as server, pytest.raises(kind):
        call(server.url, "upscale", b"small", on_progress=lambda _: None)


def test_an_error_page_of_a_proxy_is_understood_by_its_status(call: Call) -> None:
    page = Answer(status=413, headers={"Content-Type": "text/html"}, body=b"<html>\xff too large</html>")
    with loopback(in_turn(page)) as server, pytest.raises(InvalidRequest, match="status 413") as caught:
        call(server.url, "upscale", b"small")
    assert caught.value.code == "http_413"


def test_a_redirect_names_the_new_address(call: Call) -> None:
    moved = Answer(status=307, headers={"Location": "https://elsewhere/api/upscale"})
    with loopback(in_turn(moved)) as server, pytest.raises(DarkroomError, match="https://elsewhere"):
        call(server.url, "upscale", b"small")


def test_busy_is_tried_again_after_the_time_it_asks_for(call: Call) -> None:
    busy = failure(429, "queue_full", "The queue is full.", **{"Retry-After": "1"})
    with loopback(in_turn(busy, picture(b"large"))) as server:
        started = time.monotonic()
        result = call(server.url, "upscale", b"small" * 100_000, retries=1)
        assert time.monotonic() - started >= 1
    assert result.image == b"large"
    first, second = server.received
    assert first.body == second.body
    assert first.file() == b"small" * 100_000


def test_events_are_tried_again_as_well(call: Call) -> None:
    starting = failure(503, "not_ready", "Models are loading.", **{"Retry-After": "1"})
    with loopback(in_turn(starting, events(event("image", IMAGE_EVENT)))) as server:
        assert call(server.url, "upscale", b"small", retries=1, on_progress=lambda _: None).image == b"large"
    assert len(server.received) == 2


def test_tries_are_bounded(call: Call) -> None:
    with (
        loopback(in_turn(failure(503, "not_ready", "Models are loading."))) as server,
        pytest.raises(Unavailable, match=r"Models are loading\.") as caught,
    ):
        call(server.url, "upscale", b"small", retries=1)
    assert caught.value.status == 503
    assert len(server.received) == 2


def test_nobody_there(call: Call) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for method, args in (("health", ()), ("info", ()), ("upscale", (b"small",))):
        with pytest.raises(Unavailable, match=rf"No Darkroom service answers at {url}.*start\.sh") as caught:
            call(url, method, *args)
        assert (caught.value.status, caught.value.code) == (None, "cannot_connect")


def test_a_service_that_comes_up_late_is_found(call: Call) -> None:
    port, answered = free_port(), threading.Event()

    def serve_later() -> None:
        time.sleep(0.3)
        with loopback(in_turn(picture(b"large")), port):
            answered.wait(20)

    late = threading.Thread(target=serve_later)
    late.start()
    try:
        assert call(f"http://127.0.0.1:{port}", "upscale", b"small", retries=4).image == b"large"
    finally:
        answered.set()
        late.join()


def test_health_and_info_are_asked_once(call: Call) -> None:
    with loopback(in_turn(failure(503, "not_ready", "Draining."))) as server:
        for method in ("health", "info"):
            with pytest.raises(Unavailable, match="Draining"):
                call(server.url, method, retries=5)
    assert len(server.received) == 2


def test_silence_times_out_and_is_not_tried_again(call: Call) -> None:
    over = threading.Event()

    def stall(_: object) -> Answer:
        over.wait(20)
        return picture(b"late")

    with loopback(stall) as server:
        with pytest.raises(TimedOut, match=r"did not answer within 0\.3 s") as caught:
            call(server.url, "upscale", b"small", retries=3, timeout=0.3)
        over.set()
    assert caught.value.status is None
    assert len(server.received) == 1


def test_a_broken_connection_is_not_tried_again(call: Call) -> None:
    cut = Answer(headers=picture(b"").headers, body=b"half a pic", cut=True)
    with (
        loopback(in_turn(cut)) as server,
        pytest.raises(Unavailable, match="broke before the answer came") as caught,
    ):
        call(server.url, "upscale", b"small", retries=3)
    assert caught.value.code == "connection_lost"
    assert len(server.received) == 1


def test_progress_comes_before_the_picture(call: Call) -> None:
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


def test_a_service_without_events_still_gives_the_picture(call: Call) -> None:
    with loopback(in_turn(picture(b"large"))) as server:
        assert call(server.url, "upscale", b"small", on_progress=lambda _: None).image == b"large"


def test_an_error_event_is_raised(call: Call) -> None:
    content = {"status": 504, "detail": "Too long.", "error": {"code": "task_timeout", "message": "Too long."}}
    stream = events(event("progress", {"done": 1, "total": 2}), event("error", content))
    with loopback(in_turn(stream)) as server, pytest.raises(TimedOut, match=r"^Too long\.$") as caught:
        call(server.url, "upscale", b"small", on_progress=lambda _: None)
    assert (caught.value.code, caught.value.request_id) == ("task_timeout", "request-1")


@pytest.mark.parametrize("cut", [True, False], ids=["broken off", "ended early"])
def test_a_stream_that_ends_before_the_picture(call: Call, cut: bool) -> None:
    half = event("image", IMAGE_EVENT)[:-10]
    with (
        loopback(in_turn(events(event("progress", {"done": 1, "total": 2}), half, cut=cut))) as server,
        pytest.raises(Unavailable) as caught,
    ):
        call(server.url, "upscale", b"small", on_progress=lambda _: None)
    assert caught.value.code == "connection_lost"


def test_an_exception_of_the_callback_ends_the_request(call: Call) -> None:
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
def test_nonsense_is_named_as_such(call: Call, stream: Answer) -> None:
    with loopback(in_turn(stream)) as server, pytest.raises(ServerError, match="cannot be understood") as caught:
        call(server.url, "upscale", b"small", on_progress=lambda _: None)
    assert caught.value.code == "bad_answer"


def test_a_very_long_event_line_takes_linear_time(call: Call) -> None:
    data = bytes(50 << 20)
    line = event("image", IMAGE_EVENT | {"image": "data:image/png;base64," + base64.b64encode(data).decode()})
    pieces = [line[start : start + 65_536] for start in range(0, len(line), 65_536)]
    with loopback(in_turn(events(*pieces))) as server:
        started = time.monotonic()
        result = call(server.url, "upscale", b"small", on_progress=lambda _: None)
        seconds = time.monotonic() - started
    assert result.image == data
    assert seconds < 20  # about 1 s; joining the line anew for each of its 1067 pieces would move 37 GB


def test_batch_gives_one_item_for_each_picture(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    broken = {"code": "not_an_image", "message": "Not a picture.", "param": "file"}
    full = {"code": "out_of_memory", "message": "No memory.", "param": None}
    results = [
        {"filename": "a.png", "success": True, "image": IMAGE_EVENT["image"], "media_type": "image/webp"},
        {"filename": "image", "success": False, "error": broken},
        {"filename": "image", "success": False, "error": full},
    ]
    with loopback(in_turn(as_json({"results": results}))) as server:
        items = call(server.url, "upscale_batch", [tmp_path / "a.png", b"b", b"c"], format="webp", scale=2)
    assert (items[0].image, items[0].media_type, items[0].error) == (b"large", "image/webp", None)
    assert (items[1].filename, items[1].image, type(items[1].error)) == ("image", None, InvalidRequest)
    assert (items[1].error.code, items[1].error.param, str(items[1].error)) == (
        "not_an_image",
        "file",
        "Not a picture.",
    )
    assert type(items[2].error) is ServerError
    request = server.received[0]
    assert request.headers["accept"] == "application/json"
    assert request.fields() == {"scale": "2", "format": "webp"}
    assert [part[2] for part in request.parts() if part[0] == "files"] == [b"a", b"b", b"c"]


def test_a_batch_that_lost_an_item_is_refused(call: Call) -> None:
    with loopback(in_turn(as_json({"results": []}))) as server:
        with pytest.raises(ServerError, match="1 pictures were sent and 0 results came"):
            call(server.url, "upscale_batch", [b"a"])
        assert call(server.url, "upscale_batch", []) == []
    assert len(server.received) == 1


def test_health(call: Call) -> None:
    up = {"status": "healthy", "model_loaded": True, "device": {"type": "cpu", "name": "Some CPU"}}
    loading = {"status": "unhealthy", "model_loaded": False, "device": None}
    with loopback(in_turn(as_json(up), as_json(loading, 503))) as server:
        first, second = call(server.url, "health"), call(server.url, "health")
    assert (first.ready, first.status, first.device_type, first.device_name) == (True, "healthy", "cpu", "Some CPU")
    assert (second.ready, second.status, second.device_type) == (False, "unhealthy", "")


def test_info(call: Call) -> None:
    content = {
        "models": [{"name": "animevideov3", "title": "drawings", "scales": [2, 3, 4]}],
        "default_model": "x4plus",
        "limits": {"max_upload_mb": 64},
        "tile": 400,
    }
    with loopback(in_turn(as_json(content))) as server:
        info = call(server.url, "info")
    assert (info.models[0].name, info.models[0].scales) == ("animevideov3", (2.0, 3.0, 4.0))
    assert (info.default_model, info.limits["max_upload_mb"], info.raw["tile"]) == ("x4plus", 64, 400)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models": 3}', b"\xff\xfe", b"null"])
def test_garbage_instead_of_json(call: Call, body: bytes) -> None:
    with loopback(in_turn(Answer(body=body))) as server:
        for method in ("info", "health"):
            with pytest.raises(ServerError, match="is it a Darkroom service"):
                call(server.url, method)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(in_turn(picture(b"large"))) as server:
        monkeypatch.setenv("DARKROOM_URL", server.url + "/")
        monkeypatch.setenv("DARKROOM_API_KEY", "secret")
        with Client(headers={"X-Team": "blue"}) as client:
            client.upscale(b"small")
    headers = server.received[0].headers
    assert (headers["authorization"], headers["x-team"]) == ("Bearer secret", "blue")
    assert headers["user-agent"].startswith("darkroom-client/")


def test_a_service_below_a_path_is_reached() -> None:
    with loopback(in_turn(picture(b"large"))) as server, Client(server.url + "/darkroom/") as client:
        client.upscale(b"small")
    assert server.received[0].path == "/darkroom/api/upscale"


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://localhost:80a0"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"api_key": "schlüssel"}, "api_key"),
        ({"timeout": 0}, "timeout"),
        ({"retries": -1}, "retries"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], param: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidRequest, match=param) as caught:
            kind(**arguments)
        assert caught.value.param == param


def test_a_header_that_cannot_be_sent_is_the_callers_fault() -> None:
    with (
        loopback(in_turn(picture(b"large"))) as server,
        Client(server.url, headers={"X-Team": "two\nlines"}) as client,
        pytest.raises(InvalidRequest, match="cannot be sent"),
    ):
        client.upscale(b"small")
    assert server.received == []


def test_every_public_name_can_be_imported() -> None:
    for name in darkroom_client.__all__:
        assert getattr(darkroom_client, name).__name__ if name not in ("Format", "ImageInput") else True
    with pytest.raises(AttributeError, match="Nonsense"):
        darkroom_client.Nonsense  # noqa: B018
