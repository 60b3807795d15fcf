"""Pictures for tests, and a measure of how alike two are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTO = Path(__file__).with_name("data") / "astronaut.png"


def photo(left: int = 0, top: int = 0, width: int = 512, height: int = 512) -> Image.Image:
    """A crop of the test photo (512x512, RGB)."""
    with Image.open(PHOTO) as image:
        return image.convert("RGB").crop((left, top, left + width, top + height))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """The image as a file."""
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def pixels(data: bytes) -> NDArray[np.uint8]:
    """The pixels of an encoded picture, in its own mode."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    assert one.shape == other.shape
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def distance(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    """By how many levels two images differ at most; neither may be flat, which would prove nothing."""
    assert first.shape == second.shape
    assert first.std() > 5, "a flat image would prove nothing"
    return int(np.abs(first.astype(int) - second.astype(int)).max())
