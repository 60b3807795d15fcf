"""Odd files that are whole are read; files that lack pixels are not."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from darkroom.containers import read
from darkroom.containers.source import MAX_PROFILE_BYTES
from darkroom.errors import NotAnImage, TooLarge
from darkroom.images import Picture, decode, dropped_metadata, encode, probe, trimmed
from tests.odd_files import (
    BROKEN_EXIF,
    Order,
    exif,
    jpeg_with,
    jpegs,
    noise,
    odd_files,
    png_chunk,
    png_with,
    profile,
    raw_png,
    small,
    tiff,
    webp_with,
)
from tests.pictures import encoded, photo

ANY = 10**9
FILES = odd_files()
SIDES = (40, 24)


def read_whole(data: bytes) -> Picture:
    header = probe(data, max_pixels=ANY)
    picture = decode(data, max_pixels=ANY)
    assert picture.rgb.shape[:2] in ((header.height, header.width), (header.width, header.height))
    return picture


@cache
def plain() -> NDArray[np.int64]:
    return np.asarray(small()).astype(int)


@pytest.mark.parametrize("name", FILES)
def test_odd_files_are_read(name: str) -> None:
    picture = read_whole(FILES[name])
    if "flat" not in name and "grey" not in name:
        bound = {"gif": 30, "jpg": 8, "webp": 12}.get(name.split(".")[1], 0)
        bound = 25 if "coarse" in name else bound
        assert np.abs(picture.rgb.astype(int) - plain()).mean() <= bound
    if "large" not in name:
        assert picture.icc_profile is None


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("tail_") and "zeros" not in name])
def test_nothing_behind_the_end_is_kept(name: str) -> None:
    ending = name.split(".")[1]
    format = {"png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "jpg": "JPEG"}[ending]
    whole = encoded(small(), format, **({"quality": 95} if ending in ("jpg", "webp") else {}))
    assert trimmed(FILES[name]) == whole
    assert trimmed(whole) == whole


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".png", ".webp"))])
def test_the_decoder_sees_nothing_but_pixels(name: str) -> None:
    data = read(FILES[name]).data
    assert not any(kind in data for kind in (b"tEXt", b"eXIf", b"EXIF", b"XMP ", b"iCCP", b"Samsung"))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_colour_is_transparent_at_its_full_depth(depth: int, channels: int) -> None:
    if channels == 3 and depth < 8:
        pytest.skip("PNG has no such RGB")
    rng = np.random.default_rng(depth)
    top = (1 << depth) - 1
    samples = rng.integers(0, top + 1, (9, 21, channels)).astype(np.uint16)
    key = samples[3, 4].copy()
    samples[0, :5] = key
    if depth == 16:
        samples[1, 1] = key ^ 1  # differs in its lower byte only
    data = raw_png(samples if channels == 3 else samples[..., 0], depth=depth, transparent=key.astype(">u2").tobytes())
    picture = read_whole(data)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, (samples == key).all(axis=-1))
    assert set(np.unique(picture.alpha)) <= {0, 255}
    assert picture.grey == (channels == 1)
    expected = samples.astype(float) * 255 / top
    assert np.abs(picture.rgb - expected).max() <= 1


def test_a_palettes_transparency() -> None:
    image = small().quantize(8)
    data = encoded(image, transparency=bytes([0, 128, 255]))
    picture = read_whole(data)
    index = np.asarray(image)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, np.array([0, 128, 255, 255, 255, 255, 255, 255], np.uint8)[index])
    longer = data.replace(data[data.index(b"tRNS") - 4 :][:15], png_chunk(b"tRNS", bytes([0, 128, 255] * 99)))
    assert read_whole(longer).alpha is not None


@pytest.mark.parametrize("body", [b"", b"\0", bytes(3), bytes(7), bytes(600)])
def test_a_transparent_colour_of_a_wrong_length_is_none(body: bytes) -> None:
    for data in (
        png_with(png_chunk(b"tRNS", body)),
        png_with(png_chunk(b"tRNS", body), png=encoded(small().convert("L"))),
    ):
        assert read_whole(data).alpha is None


@pytest.mark.parametrize("strips", [1, 5])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", [1, 4, 8, 16, 32])
def test_min_is_white_is_shown_as_viewers_show_it(depth: int, order: Order, strips: int) -> None:
    top = (1 << depth) - 1
    samples = np.random.default_rng(depth).integers(0, top + 1, (20, 30), dtype=np.uint32)
    samples[0, :2] = 0, top
    dark = tiff(samples, depth=depth, order=order, photometric=1, strips=strips)
    light = tiff(samples, depth=depth, order=order, photometric=0, strips=strips)
    expected = samples.astype(float) * 255 / top
    assert np.abs(read_whole(dark).rgb[..., 0] - expected).max() <= 1
    picture = read_whole(light)
    assert picture.grey
    assert np.abs(picture.rgb[..., 0] - (255 - expected)).max() <= 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_min_is_white_compressed(compression: str) -> None:
    image = small().convert("1" if compression == "group4" else "L")
    data = encoded(image, "TIFF", compression=compression)
    inverted = _with_tag(data, 262, 0)
    first, second = read_whole(data).rgb, read_whole(inverted).rgb
    assert np.array_equal(first, 255 - second)


def _with_tag(data: bytes, tag: int, value: int) -> bytes:
    (first,) = struct.unpack_from("<I", data, 4)
    at = next(at for at in range(first + 2, len(data), 12) if struct.unpack_from("<H", data, at)[0] == tag)
    return data[: at + 8] + struct.pack("<I", value) + data[at + 12 :]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_wherever_it_is_told(place: str, orientation: int) -> None:
    told = {
        "PNG": lambda: png_with(png_chunk(b"eXIf", exif(orientation, order=">"))),
        "JPEG": lambda: jpeg_with((0xE1, b"Exif\0\0" + exif(orientation)), quality=95),
        "WEBP": lambda: webp_with((b"EXIF", exif(orientation, kind=4))),
        "TIFF": lambda: encoded(small(), "TIFF", tiffinfo={274: orientation}),
    }[place]()
    turned = Image.Image.getexif(small())
    turned[274] = orientation
    with Image.open(io.BytesIO(encoded(small(), exif=turned.tobytes()))) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    picture = read_whole(told)
    assert picture.rgb.shape == expected.shape
    assert np.abs(picture.rgb - expected).mean() <= (8 if place == "JPEG" else 0)


def test_orientation_in_xmp_alone() -> None:
    told = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for data in (
        png_with(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + told)),
        webp_with((b"XMP ", told)),
        jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + told)),
    ):
        assert read_whole(data).rgb.shape == (SIDES[0], SIDES[1], 3)


@pytest.mark.parametrize("name", jpegs())
def test_a_jpeg_that_is_cut_in_its_pixels_is_refused(name: str) -> None:
    """At every place of the coded data, up to the last byte but the padding."""
    whole = jpegs()[name]
    start = whole.rindex(b"\xff\xda") if "progressive" in name else whole.index(b"\xff\xda")
    first = decode(whole, max_pixels=ANY).rgb
    refused = 0
    for end in range(start, len(whole) - 3):
        try:
            assert np.array_equal(decode(whole[:end], max_pixels=ANY).rgb, first), end  # nothing was missing
        except NotAnImage:
            refused += 1
    assert refused >= (len(whole) - 3 - start) * (0.5 if name == "flat" else 0.95)
    for piece in (whole[: start + 40], whole[: start + 40] + bytes(3000), whole[: len(whole) - 9]):
        if name == "flat":  # all of it is a few bytes, and the last ones say nothing
            break
        with pytest.raises(NotAnImage):
            decode(piece, max_pixels=ANY)


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    whole = jpegs()["progressive"]
    at = [i for i in range(len(whole)) if whole[i : i + 2] == b"\xff\xda"]
    assert len(at) > 5
    for place in at[1:]:
        cut = whole[:place]
        table = cut.rfind(b"\xff\xc4")
        for data in (cut, cut[:table]):
            with pytest.raises(NotAnImage, match="cut short"):
                decode(data, max_pixels=ANY)


def _with_wrong_checksum(kind: bytes) -> bytes:
    data = bytearray(encoded(small().quantize(8)))
    at = data.index(kind)
    (size,) = struct.unpack_from(">I", data, at - 4)
    data[at + 4 + size] ^= 1
    return bytes(data)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE"])
def test_a_wrong_checksum_of_a_critical_chunk_is_refused(kind: bytes) -> None:
    with pytest.raises(NotAnImage, match="wrong checksum"):
        decode(_with_wrong_checksum(kind), max_pixels=ANY)


def test_the_end_needs_no_checksum() -> None:
    assert read_whole(_with_wrong_checksum(b"IEND")).rgb.shape == (SIDES[1], SIDES[0], 3)
    cut = encoded(small())[:-12]
    assert np.array_equal(read_whole(cut).rgb, np.asarray(small()))


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_checksum_of_any_piece_of_the_pixels_is_refused(count: int) -> None:
    body = zlib.compress(b"".join(b"\0" + noise(30) for _ in range(10)))
    pieces = [body[i::1][:40] for i in range(0, len(body), 40)]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0))
    for bad in range(min(count, len(pieces))):
        idat = b"".join(png_chunk(b"IDAT", piece, wrong=i == bad) for i, piece in enumerate(pieces))
        with pytest.raises(NotAnImage):
            decode(b"\x89PNG\r\n\x1a\n" + header + idat + png_chunk(b"IEND", b""), max_pixels=ANY)


def test_a_profile_bomb_is_refused_and_a_large_profile_is_not() -> None:
    large = read_whole(png_with(png_chunk(b"iCCP", b"k\0\0" + zlib.compress(profile(1_300_000)))))
    assert len(large.icc_profile or b"") == 1_300_000
    with pytest.raises(TooLarge, match="profile"):
        decode(png_with(png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(MAX_PROFILE_BYTES + 1)))), max_pixels=ANY)


@pytest.mark.parametrize("size", [0, 1_000_000, 1_048_576, 1_048_577, 1_300_000, 5_000_000])
@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_every_answer_can_be_read_back_whatever_its_profile(format: str, size: int) -> None:
    picture = decode(encoded(small(), "JPEG", icc_profile=profile(size)), max_pixels=ANY)
    given = picture.icc_profile
    assert given is not None
    answer = encode(picture, format=format, quality=90)  # type: ignore[arg-type]
    with Image.open(io.BytesIO(answer)) as image:
        image.load()
        kept = image.info.get("icc_profile")
    dropped = dropped_metadata(picture, format)  # type: ignore[arg-type]
    assert dropped == (["icc_profile"] if format == "png" and size > 1_048_576 else [])
    assert kept == (None if dropped else given)


def test_too_many_pieces_are_refused() -> None:
    many = {
        "chunks": encoded(small())[:33] + png_chunk(b"tIME", b"") * 70_000 + encoded(small())[33:],
        "segments": jpeg_with(*[(0xE5, b"")] * 70_000),
        "scans": jpegs()["progressive"][:-2] + _last_scan(jpegs()["progressive"]) * 200 + b"\xff\xd9",
        "blocks": encoded(small(), "GIF")[:-1] + b"\x21\xfe" + b"\1x" * (1 << 20) + b"\0;",
    }
    for what, data in many.items():
        with pytest.raises(TooLarge, match=what):
            decode(data, max_pixels=ANY)
    body = b"JUNK" + bytes(4)
    plain_webp = encoded(small(), "WEBP")
    webp = b"RIFF" + struct.pack("<I", 10**7) + b"WEBP" + body * 70_000 + plain_webp[12:]
    with pytest.raises(TooLarge, match="chunks"):
        decode(webp, max_pixels=ANY)


def _last_scan(data: bytes) -> bytes:
    return data[data.rindex(b"\xff\xda") : -2]


@pytest.mark.parametrize("name", BROKEN_EXIF)
def test_broken_exif_says_nothing(name: str) -> None:
    assert read_whole(png_with(png_chunk(b"eXIf", BROKEN_EXIF[name]))).rgb.shape == (SIDES[1], SIDES[0], 3)


def test_every_cut_and_flip_of_odd_files_is_refused_or_decoded() -> None:
    rng = np.random.default_rng(3)
    for data in (*FILES.values(), jpegs()["progressive"]):
        for _ in range(6):
            broken = bytearray(data[: rng.integers(1, len(data) + 1)])
            broken[rng.integers(len(broken))] ^= int(rng.integers(1, 256))
            try:
                decode(bytes(broken), max_pixels=10**6)
            except (NotAnImage, TooLarge):
                continue


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_plain_files_have_the_pixels_that_pillow_sees(mode: str, format: str) -> None:
    if format == "BMP" and mode == "LA":
        pytest.skip("BMP has no such mode")
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(photo(0, 0, 64, 48).convert(mode), format, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_whole(data).rgb, expected)


def test_a_png_cut_in_its_pixels_has_a_header_and_no_pixels() -> None:
    data = encoded(photo(0, 0, 100, 60))
    for end in (data.index(b"IDAT") + 4, 9000, len(data) - 13):
        assert probe(data[:end], max_pixels=ANY).width == 100
        with pytest.raises(NotAnImage, match="cut short"):
            decode(data[:end], max_pixels=ANY)
