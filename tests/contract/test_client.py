"""The Python client and the command line against the real service."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from darkroom_client import AsyncClient, Client, InvalidRequest, Progress
from darkroom_client.cli import main
from PIL import Image

from tests.clients import Call
from tests.pictures import encoded, photo, pixels
from tests.service import RunningService

FAST: dict[str, Any] = {"model": "animevideov3-x2", "timeout": 120}
SMALL = encoded(photo(200, 60, 32, 32))


def test_health_and_info(call: Call, service: RunningService) -> None:
    health = call(service.url, "health")
    assert health.ready
    assert health.device_type in ("cpu", "cuda", "mps")
    assert health.device_name
    info = call(service.url, "info")
    scales = {model.name: model.scales for model in info.models}
    assert (scales["x4plus"], scales["animevideov3"]) == ((4.0,), (2.0, 3.0, 4.0))
    assert info.default_model == "x4plus"
    assert info.limits["max_upload_mb"] == 20
    assert info.raw["formats"]


def test_upscale(call: Call, service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "кот.png"
    path.write_bytes(SMALL)
    result = call(service.url, "upscale", path, **FAST)
    assert pixels(result.image).shape == (64, 64, 3)
    assert (result.media_type, result.model, result.scale) == ("image/png", "animevideov3-x2", 2.0)
    assert result.request_id


@pytest.mark.parametrize(("format", "quality"), [("png", None), ("webp", 80), ("jpeg", 80)])
def test_events_give_the_same_picture(call: Call, service: RunningService, format: str, quality: int | None) -> None:
    data, options = encoded(photo(0, 0, 96, 64)), {**FAST, "tile": 32, "format": format, "quality": quality}
    seen: list[Progress] = []
    streamed = call(service.url, "upscale", data, on_progress=seen.append, **options)
    plain = call(service.url, "upscale", data, **options)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1] == Progress(done=6, total=6)
    assert streamed.media_type == plain.media_type == f"image/{format}"
    assert (streamed.model, streamed.scale) == (plain.model, plain.scale)
    with Image.open(io.BytesIO(streamed.image)) as image:
        assert image.format == format.upper()
    # Tiles of one request may be batched in another way each time, which may turn a rounding (in PNG, at most).
    if format == "png":
        difference = np.abs(pixels(streamed.image).astype(int) - pixels(plain.image).astype(int))
        assert difference.max() <= 2


@pytest.mark.parametrize("on_progress", [None, lambda _: None], ids=["plain", "events"])
@pytest.mark.parametrize(
    ("data", "options", "status", "param"),
    [
        (SMALL, {"model": "no-such-model"}, 422, "model"),
        (SMALL, {"scale": 9}, 422, "scale"),
        (SMALL, {"tile": 7}, 422, "tile"),
        (SMALL, {"format": "gif"}, 422, "format"),
        (b"no image", {}, 415, "file"),
        (b"", {}, 415, "file"),
        (bytes(21 << 20), {}, 413, None),
    ],
    ids=["model", "scale", "tile", "format", "no image", "empty", "too large"],
)
def test_refusals_name_the_field(
    call: Call,
    service: RunningService,
    data: bytes,
    options: dict[str, Any],
    status: int,
    param: str | None,
    on_progress: Any,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(service.url, "upscale", data, on_progress=on_progress, **{**FAST, **options})
    assert caught.value.status == status
    assert caught.value.request_id
    if param is not None:
        assert caught.value.param == param


def test_a_batch_with_one_bad_picture(call: Call, service: RunningService) -> None:
    bad, good = call(service.url, "upscale_batch", [b"no image", SMALL], format="webp", **FAST)
    assert good.error is None
    assert good.media_type == "image/webp"
    assert pixels(good.image).shape == (64, 64, 3)
    assert bad.image is None
    assert (type(bad.error), bad.error.code) == (InvalidRequest, "not_an_image")


def test_several_at_a_time(service: RunningService) -> None:
    pictures = [encoded(photo(32 * i, 0, 32, 32)) for i in range(6)]

    async def run() -> list[bytes]:
        async with AsyncClient(service.url) as client:
            results = await asyncio.gather(*(client.upscale(data, model="animevideov3-x2") for data in pictures))
        return [result.image for result in results]

    assert len({*asyncio.run(run())}) == len(pictures)


class Enough(Exception):
    """Raised by a callback that has seen enough."""


def test_leaving_stops_the_work(call: Call, service: RunningService) -> None:
    def leave(progress: Progress) -> None:
        assert progress.total == 256
        raise Enough

    def computed() -> float:
        return service.counter("nv_inference_count", "realesrgan_animevideov3_x2")

    before = computed()
    with pytest.raises(Enough):
        call(service.url, "upscale", encoded(photo()), tile=32, on_progress=leave, **FAST)
    deadline = time.monotonic() + 10
    while (answer := service.health()) is None or answer.json()["active_tasks"]:
        assert time.monotonic() < deadline, "the service still works for a client that has left"
        time.sleep(0.1)
    assert computed() - before < 128


def test_the_command_line(service: RunningService, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "a.png").write_bytes(SMALL)
    (photos / "b.png").write_bytes(b"no image")
    (photos / "c.jpg").write_bytes(encoded(photo(0, 0, 32, 32), "JPEG"))
    command = ["--url", service.url, "upscale", str(photos), "-o", str(out), "--model", "animevideov3-x2"]
    first = CliRunner().invoke(main, command)
    assert first.exit_code == 1
    assert "2 done, 1 failed" in first.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]
    assert pixels((out / "c.png").read_bytes()).shape == (64, 64, 3)
    (photos / "b.png").write_bytes(SMALL)
    second = CliRunner().invoke(main, command)
    assert second.exit_code == 0
    assert "1 done, 2 skipped" in second.stderr
    listed = CliRunner().invoke(main, ["--url", service.url, "info"])
    assert "x4plus (default)" in listed.stdout
    assert CliRunner().invoke(main, ["--url", service.url, "health"]).stdout.startswith("healthy: models loaded")


def test_a_service_that_is_not_there_is_told_apart(service: RunningService) -> None:
    with Client(service.url + "/not/here") as client, pytest.raises(InvalidRequest) as caught:
        client.info()
    assert caught.value.status == 404
