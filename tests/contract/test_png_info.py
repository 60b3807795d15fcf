"""`POST /png-info`: what a picture says of how it was made."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.contract.generating import CONTROL, QUICK, first, post
from tests.hostile import hostile_files
from tests.odd_files import exif, jpeg_with, png_chunk, png_with, webp_with
from tests.pictures import encoded, photo

FILES = hostile_files()
UNTOLD = {"prompt": "一隻貓 😀, (cat:1.3)\nline: two", "negative_prompt": 'bad, "worse"\nworst', "guidance_scale": 3}


def read(http: httpx.Client, data: bytes) -> dict[str, Any]:
    answer = http.post("/png-info", files={"file": ("a.png", data)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_round_trip(http: httpx.Client) -> None:
    answer = post(http, **UNTOLD, scheduler="unipc")
    body = read(http, first(answer))
    assert body["darkroom"] == answer.json()["parameters"]
    assert body["chunks"].keys() == {"parameters", "darkroom"}
    assert body["parameters"] == body["chunks"]["parameters"]
    fields = body["fields"]
    assert fields.pop("other") == {}
    assert fields == {name: value for name, value in body["darkroom"].items() if name != "index"}


def test_what_is_read_makes_the_picture_again(http: httpx.Client) -> None:
    data = first(http.post("/generate", json={**CONTROL, **UNTOLD, "control_guidance_end": 0.5, "low_threshold": 60}))
    fields = read(http, data)["fields"]
    assert (fields["control_type"], fields["low_threshold"], fields["control_guidance_end"]) == ("canny", 60, 0.5)
    again = http.post("/generate", json={**fields, "control_image": CONTROL["control_image"]})
    assert first(again) == data


@pytest.mark.parametrize("index", [0, 1])
def test_each_picture_tells_its_own_seed(http: httpx.Client, index: int) -> None:
    image = post(http, num_images=2).json()["images"][index]
    darkroom = read(http, base64.b64decode(image.split(",")[1]))["darkroom"]
    assert (darkroom["seed"], darkroom["index"]) == (QUICK["seed"] + index, index)


def test_every_way_to_send_it(http: httpx.Client) -> None:
    data = first(post(http))
    ours, text = read(http, data), base64.b64encode(data).decode()
    assert http.post("/png-info", files={"image": data}).json() == ours
    assert http.post("/png-info", json={"image": text}).json() == ours
    assert http.post("/png-info", json={"image": f"data:image/png;base64,{text}"}).json() == ours
    assert http.post("/png-info", data={"image_base64": text}).json() == ours


def test_a_foreign_picture(http: httpx.Client) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", "a dog\nSteps: 2, Sampler: DPM++ SDE, CFG scale: 5, Seed: 9, Size: 64x128", zip=True)
    chunks.add_itxt("Comment", "犬")
    body = read(http, encoded(photo(0, 0, 8, 8), pnginfo=chunks))
    assert body["darkroom"] is None
    assert body["chunks"]["Comment"] == "犬"
    fields = body["fields"]
    assert (fields["sampler"], fields["unsupported"], fields["height"]) == (
        "DPM++ SDE",
        {"scheduler": "DPM++ SDE"},
        128,
    )
    again = http.post("/generate", json=fields)
    assert again.status_code == 200, again.text
    assert again.json()["parameters"]["seed"] == 9


FOREIGN = {
    "line_end": "a cat\nNegative prompt: dog\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, Seed: 5, "
    'Size: 64x64, Wildcard prompt: "a __pet__\nand a __thing__", Version: v1.5.1',
    "forge": "a cat\nSteps: 2, Sampler: Euler, Schedule type: Beta, CFG scale: 1, Seed: 5, Size: 64x64, Module 1: ae",
    "utf8": "テスト 猫\nNegative prompt: 差\nSteps: 2, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 64x64",
    "swarm": '{"sui_image_params": {"prompt": "a cat", "seed": 5, "steps": 2, "width": 64, "height": 64}}',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_fields_of_foreign_images_make_an_image(http: httpx.Client, name: str) -> None:
    text = FOREIGN[name].encode()
    for data in (
        png_with(png_chunk(b"tEXt", b"Comment\0x", wrong=True), png_chunk(b"tEXt", b"parameters\0" + text)),
        jpeg_with((0xE1, b"Exif\0\0" + exif(order=">", comment=b"UNICODE\0" + FOREIGN[name].encode("utf-16-be")))),
        webp_with((b"EXIF", exif(comment=b"UNICODE\0" + FOREIGN[name].encode("utf-16-le")))),
    ):
        fields = read(http, data)["fields"]
        assert (fields["seed"], fields["steps"], fields["width"]) == (5, 2, 64)
        assert fields["negative_prompt"] in ("", "dog", "差")
        answer = http.post("/generate", json=fields)
        assert answer.status_code == 200, answer.text
        assert answer.json()["parameters"]["prompt"] == fields["prompt"]


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_round_trip_in_other_formats(http: httpx.Client, format: str) -> None:
    answer = post(http, **UNTOLD, format=format)
    data = first(answer, format)
    body = read(http, data)
    assert body["darkroom"] == answer.json()["parameters"]
    fields = body["fields"]
    assert fields.pop("other") == {}
    assert fields == {name: value for name, value in body["darkroom"].items() if name != "index"}
    assert first(http.post("/generate", json={**fields, "format": format}), format) == data


def test_a_picture_that_says_nothing(http: httpx.Client) -> None:
    body = read(http, encoded(Image.new("L", (3, 3))))
    assert body == {"parameters": None, "fields": None, "darkroom": None, "chunks": {}}


@pytest.mark.parametrize(
    ("name", "status"), [("truncated.jpg", 415), ("empty.png", 415), ("truncated.png", 415), ("text-bomb.png", 413)]
)
def test_no_png(http: httpx.Client, name: str, status: int) -> None:
    answer = http.post("/png-info", files={"file": (name, FILES[name])})
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == "file"


def test_hostile_files(http: httpx.Client) -> None:
    """A few are whole as far as their texts go; none may be more than an answer or a refusal."""
    for name, data in FILES.items():
        answer = http.post("/png-info", files={"file": (name, data)})
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, name


def test_nothing_sent(http: httpx.Client) -> None:
    answer = http.post("/png-info", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "file")
