"""Errors and retries of the Python client against a real loopback server. Every test runs on both clients."""

from __future__ import annotations

import json
import threading
import time

import pytest
from darkroom_client import (
    Busy,
    Cancelled,
    DarkroomError,
    Forbidden,
    InvalidRequest,
    RateLimited,
    Refused,
    ServerError,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from darkroom_client.cli import describe

from benchmarks.processes import free_port
from tests.clients import Call
from tests.unit.loopback import IMAGE_EVENT, Answer, event, events, failure, in_turn, loopback, picture


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_request", InvalidRequest),
        (400, "moderation_blocked", Refused),
        (401, "unauthorized", Unauthorized),
        (403, "forbidden", Forbidden),
        (404, "not_found", InvalidRequest),
        (409, "conflict", InvalidRequest),
        (413, "too_large", InvalidRequest),
        (415, "not_an_image", InvalidRequest),
        (422, "invalid_input", InvalidRequest),
        (429, "queue_full", Busy),
        (429, "rate_limited", RateLimited),
        (499, "cancelled", Cancelled),
        (500, "internal_error", ServerError),
        (502, "http_error", ServerError),
        (503, "not_ready", Unavailable),
        (504, "task_timeout", TimedOut),
    ],
)
def test_error_class_of_every_status(call: Call, status: int, code: str, kind: type[DarkroomError]) -> None:
    answer = failure(status, code, "tile: 32..4096; got 7.", "tile", **{"X-Request-ID": "r7", "Retry-After": "3"})
    with loopback(in_turn(answer)) as server, pytest.raises(kind) as caught:
        call(server.url, "upscale", b"small")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.param, error.request_id) == (status, code, "tile", "r7")
    assert (str(error), error.message, error.retry_after) == ("tile: 32..4096; got 7.", error.message, 3.0)
    with loopback(in_turn(answer)) as server, pytest.raises(kind):
        call(server.url, "upscale", b"small", on_progress=lambda _: None)


def test_error_of_a_policy_names_its_rule(call: Call) -> None:
    content = {"detail": "No.", "error": {"code": "moderation_blocked", "message": "No.", "param": None, "rule": "r1"}}
    answer = Answer(status=400, headers={"Content-Type": "application/json"}, body=json.dumps(content).encode())
    with loopback(in_turn(answer)) as server, pytest.raises(Refused, match="No") as caught:
        call(server.url, "upscale", b"small")
    assert caught.value.rule == "r1"
    assert describe(caught.value) == "No. (rule r1)"


def test_error_without_a_key_says_where_the_command_reads_it() -> None:
    error = Unauthorized("This service wants a key.", status=401, code="unauthorized")
    assert describe(error).endswith("DARKROOM_API_KEY.")


def test_error_page_of_a_proxy_is_read_by_its_status(call: Call) -> None:
    page = Answer(status=413, headers={"Content-Type": "text/html"}, body=b"<html>\xff too large</html>")
    with loopback(in_turn(page)) as server, pytest.raises(InvalidRequest, match="status 413") as caught:
        call(server.url, "upscale", b"small")
    assert caught.value.code == "http_413"


def test_error_of_a_redirect_names_the_new_address(call: Call) -> None:
    moved = Answer(status=307, headers={"Location": "https://elsewhere/api/upscale"})
    with loopback(in_turn(moved)) as server, pytest.raises(DarkroomError, match="https://elsewhere"):
        call(server.url, "upscale", b"small")


def test_retry_after_is_respected(call: Call) -> None:
    busy = failure(429, "queue_full", "The queue is full.", **{"Retry-After": "1"})
    with loopback(in_turn(busy, picture(b"large"))) as server:
        started = time.monotonic()
        result = call(server.url, "upscale", b"small" * 100_000, retries=1)
        assert time.monotonic() - started >= 1
    assert result.image == b"large"
    first, second = server.received
    assert first.body == second.body
    assert first.file() == b"small" * 100_000


def test_longer_wait_than_all_retries_take_is_not_begun(call: Call) -> None:
    used_up = failure(429, "rate_limited", "10 images a day are used up.", **{"Retry-After": "7200"})
    with loopback(in_turn(used_up)) as server, pytest.raises(RateLimited, match="used up") as caught:
        call(server.url, "upscale", b"small", retries=3)
    assert (len(server.received), caught.value.retry_after) == (1, 7200)


def test_retry_of_event_streams(call: Call) -> None:
    starting = failure(503, "not_ready", "Models are loading.", **{"Retry-After": "1"})
    with loopback(in_turn(starting, events(event("image", IMAGE_EVENT)))) as server:
        assert call(server.url, "upscale", b"small", retries=1, on_progress=lambda _: None).image == b"large"
    assert len(server.received) == 2


def test_retries_are_bounded(call: Call) -> None:
    with (
        loopback(in_turn(failure(503, "not_ready", "Models are loading."))) as server,
        pytest.raises(Unavailable, match=r"Models are loading\.") as caught,
    ):
        call(server.url, "upscale", b"small", retries=1)
    assert caught.value.status == 503
    assert len(server.received) == 2


def test_error_without_a_service(call: Call) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for method, args in (("health", ()), ("info", ()), ("upscale", (b"small",))):
        with pytest.raises(Unavailable, match=rf"No Darkroom service answers at {url}.*start\.sh") as caught:
            call(url, method, *args)
        assert (caught.value.status, caught.value.code) == (None, "cannot_connect")


def test_retry_finds_a_service_that_starts_late(call: Call) -> None:
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


def test_health_and_info_are_not_retried(call: Call) -> None:
    with loopback(in_turn(failure(503, "not_ready", "Draining."))) as server:
        for method in ("health", "info"):
            with pytest.raises(Unavailable, match="Draining"):
                call(server.url, method, retries=5)
    assert len(server.received) == 2


def test_timeout_is_not_retried(call: Call) -> None:
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


def test_broken_connection_is_not_retried(call: Call) -> None:
    cut = Answer(headers=picture(b"").headers, body=b"half a pic", cut=True)
    with (
        loopback(in_turn(cut)) as server,
        pytest.raises(Unavailable, match="broke before the answer came") as caught,
    ):
        call(server.url, "upscale", b"small", retries=3)
    assert caught.value.code == "connection_lost"
    assert len(server.received) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models": 3}', b"\xff\xfe", b"null"])
def test_error_of_an_answer_that_is_not_json(call: Call, body: bytes) -> None:
    with loopback(in_turn(Answer(body=body))) as server:
        for method in ("info", "health"):
            with pytest.raises(ServerError, match="is it a Darkroom service"):
                call(server.url, method)
