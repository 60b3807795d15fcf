"""What `darkroom bench` sends to each API, and what it reads of the answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from darkroom_client import InvalidRequest
from darkroom_client.bench.apis import APIS, BadAnswer, Options, Received, check_images, error_kind
from darkroom_client.bench.detect import _speaks, split_address
from darkroom_client.bench.prompts import Shot
from httpx_sse import ServerSentEvent

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
SHOT = Shot(prompt="a cat", seed=7)
ALL = Options(model="m", size=(64, 32), steps=4, images=2, stream=True, preview_every=3, fields={"extra": [1]})


def event(kind: str, **data: Any) -> ServerSentEvent:
    return ServerSentEvent(event=kind, data=json.dumps(data))


def test_native_request() -> None:
    body, accept = APIS["native"].request(SHOT, ALL)
    assert body == {
        "prompt": "a cat", "seed": 7, "model": "m", "width": 64, "height": 32, "steps": 4, "num_images": 2,
        "preview_every": 3, "extra": [1],
    }  # fmt: skip
    assert accept == "text/event-stream"


def test_openai_request() -> None:
    body, accept = APIS["openai"].request(SHOT, ALL)
    assert body == {
        "prompt": "a cat", "model": "m", "n": 2, "size": "64x32", "response_format": "b64_json", "stream": True,
        "partial_images": 1, "extra": [1],
    }  # fmt: skip
    assert accept == "text/event-stream"
    gpt, _ = APIS["openai"].request(SHOT, Options(model="gpt-image-1"))
    assert gpt == {"prompt": "a cat", "model": "gpt-image-1", "n": 1}, "its models refuse response_format"


def test_a1111_request_is_never_streamed() -> None:
    body, accept = APIS["a1111"].request(SHOT, ALL)
    assert body == {
        "prompt": "a cat", "seed": 7, "steps": 4, "width": 64, "height": 32, "batch_size": 2,
        "override_settings": {"sd_model_checkpoint": "m"}, "extra": [1],
    }  # fmt: skip
    assert accept == "application/json"


@pytest.mark.parametrize("api", APIS)
def test_what_is_not_given_is_left_to_the_server(api: str) -> None:
    body, accept = APIS[api].request(SHOT, Options())
    assert None not in body.values()
    assert not {"width", "height", "size", "steps", "model", "stream", "preview_every", "override_settings"} & set(body)
    assert accept == "application/json"


@pytest.mark.parametrize(
    ("api", "answer"),
    [
        ("native", {"images": [f"data:image/png;base64,{PNG}"]}),
        ("openai", {"created": 1, "data": [{"b64_json": PNG}]}),
        ("a1111", {"images": [PNG], "info": "{}"}),
        ("a1111", {"images": [f"data:image/png;base64,{PNG}"]}),
    ],
)
def test_images_of_an_answer(api: str, answer: dict[str, Any]) -> None:
    assert APIS[api].images(answer) == [PNG]
    check_images(APIS[api].images(answer), 1)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"images": None, "data": None},
        {"images": [1], "data": [1]},
        {"data": [{"url": "x"}], "images": [None]},
    ],
)
@pytest.mark.parametrize("api", APIS)
def test_answer_of_another_form_is_no_success(api: str, answer: Any) -> None:
    with pytest.raises(BadAnswer):
        check_images(APIS[api].images(answer), 1)


@pytest.mark.parametrize("images", [[], [PNG, PNG], ["%%%"], [base64.b64encode(b"<html>").decode()]])
def test_images_that_are_none_are_no_success(images: list[str]) -> None:
    with pytest.raises(BadAnswer):
        check_images(images, 1)


def test_native_events() -> None:
    received = Received()
    api = APIS["native"]
    assert not api.take(event("progress", done=1, total=2), received)
    assert api.take(event("preview", image="data:image/jpeg;base64,xx", done=1, total=2), received)
    assert not api.take(event("image", index=0, image=f"data:image/png;base64,{PNG}", seed=7), received)
    assert not received.done
    api.take(event("done", seed=7), received)
    assert received.done
    assert received.images == [PNG]
    with pytest.raises(BadAnswer, match="error event out_of_memory"):
        api.take(event("error", status=503, error={"code": "out_of_memory"}), received)


def test_openai_events() -> None:
    received = Received()
    api = APIS["openai"]
    assert api.take(
        event("image_generation.partial_image", type="image_generation.partial_image", b64_json=PNG), received
    )
    assert received.images == []
    assert not api.take(event("image_generation.completed", type="image_generation.completed", b64_json=PNG), received)
    assert not api.take(ServerSentEvent(event="message", data="[DONE]"), received)
    assert received.done
    assert received.images == [PNG]
    with pytest.raises(BadAnswer, match="moderation_blocked"):
        api.take(event("error", type="error", error={"code": "moderation_blocked", "message": "no"}), received)


@pytest.mark.parametrize("api", APIS)
def test_event_that_is_no_json_is_a_bad_answer(api: str) -> None:
    with pytest.raises(BadAnswer):
        APIS[api].take(ServerSentEvent(event="image", data="{"), Received())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"detail": "x", "error": {"code": "queue_full"}}', "429 queue_full"),
        ('{"error": {"code": null, "type": "rate_limit_error"}}', "429 rate_limit_error"),
        ('{"error": "OutOfMemoryError", "detail": ""}', "429 OutOfMemoryError"),
        ('{"detail": "Not Found"}', "429"),
        ("<html>", "429"),
        ("[1]", "429"),
    ],
)
def test_kind_of_a_refusal(text: str, kind: str) -> None:
    assert error_kind(429, text) == kind


@pytest.mark.parametrize(
    ("url", "base", "api"),
    [
        ("http://a:8000", "http://a:8000", None),
        ("http://a:8000/", "http://a:8000", None),
        ("https://a/v1/", "https://a", "openai"),
        ("https://a/x/v1/images/generations", "https://a/x", "openai"),
        ("http://a:7860/sdapi/v1", "http://a:7860", "a1111"),
    ],
)
def test_address_may_name_the_api(url: str, base: str, api: str | None) -> None:
    assert split_address(url) == (base, api)


def test_address_without_http_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="url must start with http"):
        split_address("localhost:8000")


@pytest.mark.parametrize(
    ("name", "status", "body", "speaks"),
    [
        ("native", 503, {"status": "loading", "families": {}, "pipeline_ready": False}, True),
        ("native", 200, {"status": "ok"}, False),
        ("a1111", 200, {"sd_model_checkpoint": "m"}, True),
        ("a1111", 404, {"detail": "Not Found"}, False),
        ("openai", 200, {"object": "list", "data": []}, True),
        ("openai", 401, {"error": {"message": "no key"}}, True),
        ("openai", 404, {"error": {"message": "no"}}, False),
        ("openai", 200, [1], False),
    ],
)
def test_probe_tells_the_api(name: str, status: int, body: Any, speaks: bool) -> None:
    assert _speaks(name, httpx.Response(status, json=body)) is speaks


def test_probe_of_a_web_page_tells_nothing() -> None:
    assert not _speaks("native", httpx.Response(200, text="<html>"))
