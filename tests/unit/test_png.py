"""The PNG writer, read back by Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from darkroom.errors import InvalidInput, NotAnImage, TooLarge
from darkroom.png import MAX_CHUNKS, MAX_TEXT_BYTES, MAX_TEXT_CHUNKS, encode_png, read_text
from tests.hostile import hostile_files
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


PLAIN = encode_png(np.zeros((2, 2, 3), np.uint8))


def _with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return PLAIN[:33] + b"".join(chunk(kind, body) for kind, body in chunks) + PLAIN[33:]


def test_text_is_plain_where_latin_1_suffices_and_international_elsewhere() -> None:
    data = encode_png(np.zeros((2, 2, 3), np.uint8), text={"one": "caf\u00e9", "two": "\u8c93"})
    assert b"tEXtone\0caf\xe9" in data
    assert b"iTXttwo\0" in data
    assert read_text(data) == {"one": "caf\u00e9", "two": "\u8c93"}


def test_text_behind_the_pixels_is_read() -> None:
    body = b"k\0late"
    chunk = struct.pack(">I", len(body)) + b"tEXt" + body + struct.pack(">I", zlib.crc32(b"tEXt" + body))
    assert read_text(PLAIN[:-12] + chunk + PLAIN[-12:]) == {"k": "late"}


@pytest.mark.parametrize(
    "bomb",
    [
        (b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20))),
        (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(64 << 20))),
        (b"tEXt", b"k\0" + bytes(MAX_TEXT_BYTES + 1)),
        (b"iTXt", b"k\0\0\0\0\0" + bytes(MAX_TEXT_BYTES + 1)),
    ],
)
def test_a_text_bomb_is_refused(bomb: tuple[bytes, bytes]) -> None:
    with pytest.raises(TooLarge, match="1,048,576"):
        read_text(_with_chunks(bomb))


def test_too_many_texts_are_refused() -> None:
    text = (b"tEXt", b"k\0v")
    assert read_text(_with_chunks(*[text] * MAX_TEXT_CHUNKS)) == {"k": "v"}
    with pytest.raises(TooLarge, match="64"):
        read_text(_with_chunks(*[text] * (MAX_TEXT_CHUNKS + 1)))


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(TooLarge, match="chunks"):
        read_text(PLAIN[:33] + (struct.pack(">I", 0) + b"IDAT" + bytes(4)) * (MAX_CHUNKS + 1) + PLAIN[33:])


def test_damaged_texts_are_refused() -> None:
    whole = _with_chunks((b"zTXt", b"k\0\0" + zlib.compress(b"text")))
    assert read_text(whole) == {"k": "text"}
    for data in (
        whole.replace(b"k\0\0", b"k\0\1"),
        _with_chunks((b"zTXt", b"k\0\0no deflate")),
        whole[:60],
        b"",
        b"no",
    ):
        with pytest.raises(NotAnImage):
            read_text(data)


def test_hostile_files_raise_nothing_else() -> None:
    for data in hostile_files().values():
        try:
            read_text(data)
        except InvalidInput:
            continue


def test_every_cut_of_a_file_is_refused() -> None:
    data = _with_chunks((b"zTXt", b"k\0\0" + zlib.compress(b"text")), (b"iTXt", b"k\0\0\0\0\0v"))
    for length in range(len(data)):
        with pytest.raises(NotAnImage):
            read_text(data[:length])
