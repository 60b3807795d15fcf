"""Header checks and decoding, where REST tests do not reach."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from darkroom.errors import InvalidInput, NotAnImage, TooLarge
from darkroom.images import Picture, decode, encode, probe
from tests.hostile import hostile_files
from tests.pictures import encoded, photo, pixels

ANY = 10**9


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_readable_format(format: str) -> None:
    header = probe(encoded(photo(0, 0, 30, 20), format), max_pixels=ANY)
    assert (header.format, header.width, header.height) == (format, 30, 20)


@pytest.mark.parametrize("format", ["PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "AVIF"])
def test_other_formats_are_not_read(format: str) -> None:
    """Fewer decoders, fewer holes: Pillow could read these."""
    if format in Image.registered_extensions().values():
        with pytest.raises(NotAnImage):
            probe(encoded(photo(0, 0, 32, 32), format), max_pixels=ANY)


def test_pixel_limit_is_exact() -> None:
    data = encoded(photo(0, 0, 30, 20))
    probe(data, max_pixels=600)
    with pytest.raises(TooLarge, match=r"30x20 = 600 pixels; at most 599"):
        probe(data, max_pixels=599)


@pytest.mark.parametrize("name", [n for n in hostile_files() if not n.startswith("zeros")])
def test_hostile_files_raise_nothing_else(name: str) -> None:
    with pytest.raises(InvalidInput):
        decode(hostile_files()[name], max_pixels=4096**2)


def test_every_cut_of_a_file_is_refused_or_decoded() -> None:
    """Fuzz: no prefix and no flipped byte may raise anything outside the tree."""
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        data = encoded(photo(0, 0, 16, 16), format)
        rng = np.random.default_rng(1)
        for _ in range(150):
            broken = bytearray(data[: rng.integers(1, len(data) + 1)])
            broken[rng.integers(len(broken))] ^= int(rng.integers(1, 256))
            try:
                decode(bytes(broken), max_pixels=10**6)
            except InvalidInput:
                continue


def test_camera_data_behind_a_jpeg_is_no_attack() -> None:
    """Phones append previews and films to their JPEGs."""
    decode(encoded(photo(0, 0, 32, 32), "JPEG") + b"\x00\x00\x00\x18ftypmp42" + bytes(500), max_pixels=ANY)


def test_zero_padding_behind_a_png_is_no_attack() -> None:
    decode(encoded(photo(0, 0, 32, 32)) + bytes(512), max_pixels=ANY)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = decode(encoded(Image.fromarray(ramp)), max_pixels=ANY)
    assert picture.grey
    assert np.abs(picture.rgb[..., 0].astype(int).reshape(-1) - np.arange(256)).max() <= 1


def test_cmyk_with_profile_and_without() -> None:
    image = photo(0, 0, 32, 32).convert("CMYK")
    plain = decode(encoded(image, "TIFF"), max_pixels=ANY)
    damaged = decode(encoded(image, "TIFF", icc_profile=b"not a profile" * 20), max_pixels=ANY)
    assert np.array_equal(plain.rgb, damaged.rgb)
    assert damaged.icc_profile is None


def test_profile_of_another_colour_space_is_dropped() -> None:
    profile = bytes(16) + b"CMYK" + bytes(200)
    assert decode(encoded(photo(0, 0, 8, 8), icc_profile=profile), max_pixels=ANY).icc_profile is None


def test_jpeg_lays_transparency_on_white() -> None:
    clear = Picture(rgb=np.zeros((8, 8, 3), np.uint8), alpha=np.zeros((8, 8), np.uint8))
    assert (pixels(encode(clear, format="jpeg", quality=100)) == 255).all()


def test_webp_side_limit() -> None:
    wide = Picture(rgb=np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(InvalidInput, match="16383"):
        encode(wide, format="webp", quality=80)
