"""The Python client against a real loopback server that also misbehaves. Every test runs on both clients."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import darkroom_client
import pytest
from darkroom_client import (
    AsyncClient,
    Client,
    InvalidRequest,
    ServerError,
)

from tests.clients import Call
from tests.unit.loopback import IMAGE_EVENT, as_json, in_turn, loopback, picture


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


def test_batch_gives_one_item_for_each_picture(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    broken = {"code": "not_an_image", "message": "Not an image.", "param": "file"}
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
        "Not an image.",
    )
    assert type(items[2].error) is ServerError
    request = server.received[0]
    assert request.headers["accept"] == "application/json"
    assert request.fields() == {"scale": "2", "format": "webp"}
    assert [part[2] for part in request.parts() if part[0] == "files"] == [b"a", b"b", b"c"]


def test_a_batch_that_lost_an_item_is_refused(call: Call) -> None:
    with loopback(in_turn(as_json({"results": []}))) as server:
        with pytest.raises(ServerError, match="1 images were sent and 0 results came"):
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


def test_models(call: Call) -> None:
    there = {"name": "one", "title": "One", "operations": ["generate"], "installed": True, "ready": True}
    missing = {"name": "two", "title": "Two", "operations": ["edit"], "installed": False, "ready": False}
    more = {"default_for": ["generate"], "fields": {"steps": {"maximum": 150}}, "controls": ["canny"], "new": 1}
    with loopback(in_turn(as_json({"models": [there | more, missing | {"default_for": []}]}))) as server:
        first, second = call(server.url, "models")
    assert (first.name, first.operations, first.default_for, first.ready) == ("one", ("generate",), ("generate",), True)
    assert (first.fields["steps"]["maximum"], first.controls, first.raw["new"]) == (150, ("canny",), 1)
    assert (second.installed, second.fields, second.controls) == (False, {}, ())


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
