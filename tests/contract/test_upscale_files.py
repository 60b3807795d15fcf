"""`POST /api/upscale` of files that are odd and whole, and of files that lack pixels."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.contract.generating import CONTROL, post
from tests.odd_files import jpegs, noise, odd_files, png_chunk, png_with, profile, raw_png, small, tiff
from tests.pictures import encoded
from tests.service import RunningService

FAST = {"model": "animevideov3-x2", "tile": "0"}
FILES = odd_files()
MARK = b"behind the end of the image"


def upscale(http: httpx.Client, data: bytes, **fields: str) -> httpx.Response:
    return http.post("/api/upscale", files={"file": ("a.bin", data)}, data={**FAST, **fields})


def opened(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        image.load()
        return image


def test_odd_files_are_upscaled(http: httpx.Client) -> None:
    for name, data in FILES.items():
        assert opened(upscale(http, data)).size == (80, 48), name


def test_sixteen_bit_grey_keeps_its_transparent_colour(http: httpx.Client) -> None:
    samples = np.full((16, 20), 40_000, np.uint16)
    samples[:, :10] = 0x4646
    image = opened(upscale(http, raw_png(samples, depth=16, transparent=b"FF")))
    assert image.mode == "LA"
    alpha = np.asarray(image)[..., 1]
    assert alpha[:, :16].max() < 16
    assert alpha[:, 24:].min() > 239


@pytest.mark.parametrize("depth", [1, 8, 16])
def test_min_is_white(http: httpx.Client, depth: int) -> None:
    samples = np.zeros((16, 20), np.uint32)
    samples[:, 10:] = (1 << depth) - 1
    image = np.asarray(opened(upscale(http, tiff(samples, depth=depth, order=">", photometric=0))))
    assert image[:, :16].min() > 239
    assert image[:, 24:].max() < 16


@pytest.mark.parametrize("name", ["baseline", "progressive", "restarts"])
def test_a_jpeg_cut_in_its_pixels_is_refused(http: httpx.Client, name: str) -> None:
    whole = jpegs()[name]
    for data in (whole[:-30], whole[:-30] + bytes(100), whole[: len(whole) // 2]):
        assert upscale(http, data).status_code == 415


def test_a_wrong_checksum_of_the_pixels_is_refused(http: httpx.Client) -> None:
    data = encoded(small())
    for kind in (b"IHDR", b"IDAT"):
        at = data.index(kind)
        end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
        answer = upscale(http, data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :])
        assert answer.status_code == 415
        assert "wrong checksum" in answer.json()["detail"]


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_a_profile_that_the_answer_cannot_hold_is_left_out_and_named(http: httpx.Client, format: str) -> None:
    large = profile(1_300_000)
    for data in (
        encoded(small(), "JPEG", icc_profile=large),
        png_with(png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(large))),
        encoded(small(), "WEBP", icc_profile=large),
    ):
        answer = upscale(http, data, format=format)
        kept = opened(answer).info.get("icc_profile")
        assert kept == (None if format == "png" else large)
        assert answer.headers.get("X-Dropped-Metadata") == ("icc_profile" if format == "png" else None)
    answer = upscale(http, encoded(small(), "JPEG", icc_profile=profile(0)), format=format)
    assert opened(answer).info["icc_profile"] == profile(0)
    assert "X-Dropped-Metadata" not in answer.headers


def test_a_dropped_profile_is_named_in_json_and_readable_across_origins(http: httpx.Client) -> None:
    data = encoded(small(), "JPEG", icc_profile=profile(1_300_000))
    files = {"files": ("a.jpg", data)}
    answer = http.post("/api/upscale-batch", files=files, data=FAST, headers={"Accept": "application/json"})
    assert answer.json()["results"][0]["dropped_metadata"] == ["icc_profile"]
    crossed = http.post("/api/upscale", files={"file": data}, data=FAST, headers={"Origin": "http://shop.example"})
    assert "X-Dropped-Metadata" in crossed.headers["Access-Control-Expose-Headers"]


def test_odd_control_images(http: httpx.Client) -> None:
    for name in ("tail_image.png", "no_end_baseline.jpg", "exif_garbage.webp", "crc_several.png"):
        control = base64.b64encode(FILES[name]).decode()
        answer = post(http, **{**CONTROL, "control_image": control})
        assert answer.status_code == 200, (name, answer.text)


def _files_with(folder: Path, mark: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and mark in path.read_bytes()]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_nothing_behind_the_end_is_kept(http: httpx.Client, service: RunningService, format: str) -> None:
    image = encoded(small(), format)
    data = image + noise(100) + MARK
    answer = upscale(http, data)
    assert answer.status_code == 200
    assert MARK not in answer.content
    task: dict[str, Any] = http.post(
        "/tasks",
        json={"operation": "upscale", "image": base64.b64encode(data).decode(), "model": "animevideov3-x2"},
    ).json()
    control = {"operation": "generate", "prompt": "a cat", "steps": 1, "width": 64, "height": 64}
    other: dict[str, Any] = http.post(
        "/tasks", json={**control, "control_image": base64.b64encode(data).decode()}
    ).json()
    assert {"task_id"} <= task.keys() & other.keys(), (task, other)
    assert _files_with(service.folder, MARK) == []
    assert _files_with(service.folder, image[-40:-20]) != []
