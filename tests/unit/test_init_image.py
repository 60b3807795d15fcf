"""Requests that change an image: sizes, steps, masks, contradictions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from darkroom.errors import InvalidInput, NotAnImage, TooLarge
from darkroom.images import read_mask, upright_size
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.sd15.settings import Settings
from darkroom.request.init_image import fitting_size, strength_steps
from tests.pictures import encoded

MEGAPIXEL = 1024 * 1024
PICTURE = encoded(Image.new("RGB", (150, 203), "red"))


def parse(**fields: object) -> GenerateRequest:
    return GenerateRequest.parse({"prompt": "a cat", **fields}, Settings())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 768), (512, 768)),
        ((519, 775), (512, 768)),
        ((1024, 1024), (1024, 1024)),
        ((2048, 2048), (1024, 1024)),
        ((1536, 1536), (1024, 1024)),
        ((4000, 3000), (1176, 880)),
        ((10, 20), (64, 128)),
        ((64, 64), (64, 64)),
        ((100_000, 10), (16384, 64)),
        ((10, 100_000), (64, 16384)),
    ],
)
def test_size_of_an_image_that_is_changed(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitting_size(size, None, None, multiple=8, max_pixels=MEGAPIXEL) == expected


@pytest.mark.parametrize("size", [(w, h) for w in (1, 63, 500, 4097, 90_000) for h in (1, 64, 999, 70_000)])
def test_size_of_any_image_is_within_the_limits(size: tuple[int, int]) -> None:
    width, height = fitting_size(size, None, None, multiple=8, max_pixels=MEGAPIXEL)
    assert width % 8 == height % 8 == 0
    assert min(width, height) >= 64
    assert width * height <= MEGAPIXEL


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(256, None, (256, 384)), (None, 256, (168, 256)), (256, 256, (256, 256))]
)
def test_one_side_keeps_the_proportions(width: int | None, height: int | None, expected: tuple[int, int]) -> None:
    image = encoded(Image.new("RGB", (512, 768)))
    made = parse(init_image=image, width=width, height=height)
    assert (made.width, made.height) == expected


def test_size_of_a_request_is_that_of_its_image() -> None:
    made = parse(init_image=PICTURE)
    assert (made.width, made.height) == (144, 200)
    plain = parse()
    assert (plain.width, plain.height) == (None, None)


def test_one_side_can_ask_for_too_many_pixels() -> None:
    with pytest.raises(TooLarge, match=r"width x height must be at most 1,048,576 pixels; got 1024x1384"):
        parse(init_image=PICTURE, width=1024)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_size_is_upright(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = io.BytesIO()
    Image.new("RGB", (60, 90)).save(target, format, exif=exif)
    assert upright_size(target.getvalue(), max_pixels=9000) == ((60, 90) if orientation < 5 else (90, 60))


@pytest.mark.parametrize(
    ("steps", "strength", "done"),
    [(20, 0.8, 16), (20, 1.0, 20), (20, 0.0, 0), (20, 0.04, 0), (20, 0.05, 1), (1, 0.99, 0), (1, 1.0, 1), (10, 0.7, 7)],
)
def test_steps_by_strength(steps: int, strength: float, done: int) -> None:
    assert strength_steps(steps, strength) == done
    assert parse(init_image=PICTURE, steps=steps, strength=strength).steps_left == done
    assert parse(steps=steps, strength=strength).steps_left == steps, "without an image it does nothing"


def test_mask_of_grey_is_cut_at_half() -> None:
    grey = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    mask = read_mask(encoded(grey), width=4, height=1, max_pixels=4, param="mask")
    assert mask.tolist() == [[False, False, True, True]]


def test_mask_of_alpha_is_cut_at_half() -> None:
    alpha = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    for colour in ("white", "black"):
        picture = Image.new("RGB", (4, 1), colour)
        picture.putalpha(alpha)
        mask = read_mask(encoded(picture), width=4, height=1, max_pixels=4, param="mask")
        assert mask.tolist() == [[True, True, False, False]]


def test_mask_with_an_opaque_alpha_channel_is_one_of_colours() -> None:
    white = encoded(Image.new("RGBA", (2, 2), "white"))
    assert read_mask(white, width=3, height=5, max_pixels=4, param="mask").all()
    black = encoded(Image.new("LA", (2, 2), (0, 255)))
    assert not read_mask(black, width=3, height=5, max_pixels=4, param="mask").any()


@pytest.mark.parametrize(
    ("fields", "error", "words", "param"),
    [
        ({"mask": PICTURE}, InvalidInput, "init_image is missing", "init_image"),
        ({"init_image": b"text"}, NotAnImage, "not an image", "init_image"),
        ({"init_image": b""}, NotAnImage, "empty", "init_image"),
        ({"init_image": PICTURE, "strength": 1.5}, InvalidInput, "strength must be from 0 to 1; got 1.5", "strength"),
        (
            {"init_image": encoded(Image.new("1", (4097, 4096)))},
            TooLarge,
            "4097x4096 = 16,781,312 pixels; at most 16,777,216",
            "init_image",
        ),
    ],
)
def test_requests_that_cannot_be(fields: dict[str, object], error: type[InvalidInput], words: str, param: str) -> None:
    with pytest.raises(error, match=words) as caught:
        parse(**fields)
    assert caught.value.param == param
