"""The PNG writer, read back by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from darkroom.png import encode_png
from tests.pictures import photo

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (17, 23), (2, 700_000)])
def test_lossless_for_every_shape(channels: int, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(channels).integers(0, 256, (*size, channels), np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        image.load()
        assert image.mode == MODES[channels]
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_lossless_over_many_strips() -> None:
    """6 MB are two strips: the filter has to look over the border between them."""
    pixels = np.asarray(photo().resize((1600, 1300)))
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_not_contiguous() -> None:
    pixels = np.asarray(photo())[::2, ::-3]
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_profile_is_embedded() -> None:
    with Image.open(io.BytesIO(encode_png(np.zeros((2, 2, 3), np.uint8), icc_profile=b"x" * 200))) as image:
        assert image.info["icc_profile"] == b"x" * 200


def test_size_is_near_pillows() -> None:
    image = photo().resize((1024, 1024), Image.Resampling.BICUBIC)
    pillow = io.BytesIO()
    image.save(pillow, "PNG")
    assert len(encode_png(np.asarray(image))) < 1.25 * len(pillow.getvalue())
