"""Contract D over REST."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.pictures import encoded, photo, pixels, psnr
from tests.service import RunningService

FAST = {"model": "animevideov3-x2"}
SMALL = encoded(photo(200, 60, 48, 40))


def post(http: httpx.Client, data: bytes, name: str = "in.png", **fields: object) -> httpx.Response:
    return http.post("/api/upscale", files={"file": (name, data)}, data={**FAST, **fields})


def test_answers_png_bytes_four_times_as_large(http: httpx.Client) -> None:
    answer = http.post("/api/upscale", files={"file": ("in.png", encoded(photo(200, 60, 24, 20)))})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-upscale-model"] == "x4plus"
    assert answer.headers["x-upscale-scale"] == "4"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (96, 80), "RGB")


@pytest.mark.parametrize(
    ("fields", "size", "model"),
    [
        ({"model": "animevideov3"}, (192, 160), "animevideov3-x4"),
        ({"model": "animevideov3", "scale": 2}, (96, 80), "animevideov3-x2"),
        ({"model": "animevideov3", "scale": 2.5}, (120, 100), "animevideov3-x3"),
        ({"model": "animevideov3-x2", "scale": 1}, (48, 40), "animevideov3-x2"),
        ({"model": "animevideov3-x2", "scale": 8}, (384, 320), "animevideov3-x2"),
        ({"model": "x4plus-anime"}, (192, 160), "x4plus-anime"),
    ],
)
def test_model_and_scale(http: httpx.Client, fields: dict[str, object], size: tuple[int, int], model: str) -> None:
    answer = post(http, SMALL, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-upscale-model"] == model
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == size


def test_same_request_same_bytes(http: httpx.Client) -> None:
    assert post(http, SMALL).content == post(http, SMALL).content


@pytest.mark.parametrize(
    ("format", "media_type"), [("webp", "image/webp"), ("jpeg", "image/jpeg"), ("png", "image/png")]
)
def test_formats(http: httpx.Client, format: str, media_type: str) -> None:
    answer = post(http, SMALL, format=format, quality=95)
    assert answer.headers["content-type"] == media_type
    got = pixels(answer.content)
    assert psnr(got, pixels(post(http, SMALL).content)) > 30
    assert got.shape == (80, 96, 3)


def test_raw_rows(http: httpx.Client) -> None:
    answer = post(http, SMALL, format="raw")
    assert answer.content == pixels(post(http, SMALL).content).tobytes()


def _modes() -> dict[str, tuple[Image.Image, str, dict[str, object]]]:
    rgb = photo(200, 60, 48, 40)
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    sixteen = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    return {
        "RGB JPEG": (rgb, "JPEG", {"quality": 95}),
        "grey": (rgb.convert("L"), "PNG", {}),
        "grey and alpha": (alpha.convert("LA"), "PNG", {}),
        "RGBA": (alpha, "PNG", {}),
        "RGBA WebP": (alpha, "WEBP", {"lossless": True}),
        "palette": (rgb.quantize(64), "PNG", {}),
        "palette GIF": (rgb.quantize(64), "GIF", {}),
        "one bit": (rgb.convert("1", dither=Image.Dither.NONE), "PNG", {}),
        "16 bit": (sixteen, "PNG", {}),
        "16 bit TIFF": (sixteen, "TIFF", {}),
        "CMYK JPEG": (rgb.convert("CMYK"), "JPEG", {"quality": 95}),
        "CMYK TIFF": (rgb.convert("CMYK"), "TIFF", {}),
        "BMP": (rgb, "BMP", {}),
        "float TIFF": (Image.fromarray(np.asarray(rgb.convert("L"), dtype=np.float32) / 255), "TIFF", {}),
    }


@pytest.mark.parametrize("name", _modes())
def test_every_mode_comes_back_as_what_it_shows(http: httpx.Client, name: str) -> None:
    image, format, options = _modes()[name]
    answer = post(http, encoded(image, format, **options))
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as result:
        assert result.size == (96, 80)
        shown = result.convert("RGBA").resize(image.size, Image.Resampling.BOX)
    wanted = (
        image.convert("RGBA")
        if image.mode not in ("I;16", "F")
        else photo(200, 60, 48, 40).convert("L").convert("RGBA")
    )
    floor = 15 if name in ("one bit", "palette", "palette GIF") else 24  # hard edges and dithering are smoothed
    assert psnr(np.asarray(shown), np.asarray(wanted)) > floor


def test_grey_stays_grey_and_alpha_stays(http: httpx.Client) -> None:
    modes = _modes()
    for name, mode in (("grey", "L"), ("grey and alpha", "LA"), ("RGBA", "RGBA")):
        with Image.open(io.BytesIO(post(http, encoded(modes[name][0])).content)) as result:
            assert result.mode == mode


def test_exif_orientation_is_applied(http: httpx.Client) -> None:
    image = photo(200, 60, 48, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees to the right
    turned = pixels(post(http, encoded(image, "JPEG", quality=100, subsampling=0, exif=exif)).content)
    upright = pixels(post(http, encoded(image.rotate(-90, expand=True), "JPEG", quality=100, subsampling=0)).content)
    assert turned.shape == (96, 80, 3)
    assert psnr(turned, upright) > 32


def test_icc_profile_is_kept(http: httpx.Client) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format in ("png", "jpeg", "webp"):
        answer = post(http, encoded(photo(0, 0, 32, 32), "PNG", icc_profile=profile), format=format)
        with Image.open(io.BytesIO(answer.content)) as result:
            assert result.info["icc_profile"] == profile


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3000, 3), (2, 1500)])
def test_tiny_pictures_and_long_strips(http: httpx.Client, size: tuple[int, int]) -> None:
    answer = post(http, encoded(photo(200, 60, 48, 40).resize(size)))
    assert pixels(answer.content).shape == (size[1] * 2, size[0] * 2, 3)


def test_tiles_leave_no_seam(http: httpx.Client) -> None:
    data = encoded(photo(150, 20, 200, 160))
    whole, tiled = (pixels(post(http, data, tile=tile).content) for tile in (0, 64))
    assert psnr(whole, tiled) >= 40


def test_progress_events(http: httpx.Client) -> None:
    data = encoded(photo(0, 0, 100, 60))
    with http.stream(
        "POST", "/api/upscale", files={"file": data}, data={**FAST, "tile": 50}, headers={"accept": "text/event-stream"}
    ) as answer:
        text = answer.read().decode()
    events = [(name, json.loads(body)) for name, body in re.findall(r"event: (\w+)\ndata: (.*)\n", text)]
    assert [name for name, _ in events] == ["progress"] * 4 + ["image"]
    assert [body for _, body in events[:4]] == [{"done": n, "total": 4} for n in (1, 2, 3, 4)]
    image = base64.b64decode(events[-1][1]["image"].removeprefix("data:image/png;base64,"))
    assert image == post(http, data, tile=50).content


def test_error_event(http: httpx.Client) -> None:
    cut = encoded(photo(0, 0, 100, 60))[:9000]  # the header is whole, the pixels are not
    answer = http.post("/api/upscale", files={"file": cut}, data=FAST, headers={"accept": "text/event-stream"})
    (body,) = re.findall(r"event: error\ndata: (.*)\n", answer.text)
    assert json.loads(body)["status"] == 415


def test_batch_as_zip_keeps_the_good_ones(http: httpx.Client) -> None:
    files = [("files", (name, data)) for name, data in (("a.png", SMALL), ("a.jpg", SMALL), ("bad.png", b"no picture"))]
    answer = http.post("/api/upscale-batch", files=files, data=FAST)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["x-failed-files"] == "1"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["a.png", "a-2.png", "errors.json"]
        assert archive.read("a.png") == post(http, SMALL).content
        assert json.loads(archive.read("errors.json"))["bad.png"]["code"] == "not_an_image"


def test_batch_as_json(http: httpx.Client) -> None:
    files = [("files", ("../../x.png", SMALL)), ("files", ("bad.png", b"no picture"))]
    answer = http.post("/api/upscale-batch", files=files, data=FAST, headers={"accept": "application/json"})
    good, bad = answer.json()["results"]
    assert (good["success"], bad["success"]) == (True, False)
    assert base64.b64decode(good["image"].removeprefix("data:image/png;base64,")) == post(http, SMALL).content
    assert bad["error"]["code"] == "not_an_image"


def test_batch_entry_names_cannot_leave_the_folder(http: httpx.Client) -> None:
    files = [("files", (name, SMALL)) for name in ("../../etc/x.png", "..\\..\\y.png", "...")]
    answer = http.post("/api/upscale-batch", files=files, data=FAST)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["x.png", "y.png", "image.png"]


def test_concurrent_uploads_share_batches(service: RunningService) -> None:
    model = "realesrgan_animevideov3_x4"
    data = encoded(photo())
    before = [service.counter(name, model) for name in ("nv_inference_count", "nv_inference_exec_count")]

    async def four() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
            jobs = [client.post("/api/upscale", files={"file": data}, data={"model": "animevideov3"}) for _ in range(4)]
            return await asyncio.gather(*jobs)

    answers = asyncio.run(four())
    assert {answer.status_code for answer in answers} == {200}
    after = [service.counter(name, model) for name in ("nv_inference_count", "nv_inference_exec_count")]
    inferences, executions = (late - early for late, early in zip(after, before, strict=True))
    assert inferences == 16  # four pictures of four tiles
    assert executions < inferences


def test_batched_result_is_the_single_result(service: RunningService) -> None:
    """Served with others a picture may differ by rounding only: at most 2 of 255."""
    data = encoded(photo(100, 0, 128, 128))

    async def many(count: int) -> list[bytes]:
        async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
            jobs = [client.post("/api/upscale", files={"file": data}, data=FAST) for _ in range(count)]
            return [answer.content for answer in await asyncio.gather(*jobs)]

    (alone,) = asyncio.run(many(1))
    for other in asyncio.run(many(8)):
        difference = np.abs(pixels(alone).astype(int) - pixels(other).astype(int))
        assert difference.max() <= 2
