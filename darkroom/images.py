"""Images in and out: bytes of any common kind to 8-bit pixels and back.

`probe` looks at the header only and refuses what must not be decoded (bombs, files that are two things at once);
`decode` then normalises orientation, colour and depth. Neither trusts a file name or a declared content type.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from darkroom import containers
from darkroom.containers import Source
from darkroom.containers.exif import make as make_exif
from darkroom.containers.source import MAX_PROFILE_BYTES
from darkroom.decoding import DECODE_ERRORS, normalised, opened, pixels_complete
from darkroom.decoding import Picture as Picture
from darkroom.decoding import Pixels as Pixels
from darkroom.errors import InvalidInput, NotAnImage, TooLarge
from darkroom.png import MAX_TEXT_BYTES, encode_png

Format = Literal["png", "webp", "jpeg", "raw"]

MEDIA_TYPES = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "raw": "application/octet-stream",
}
_LARGEST_PROFILE = {"png": MAX_TEXT_BYTES, "webp": MAX_PROFILE_BYTES, "jpeg": 255 * 65519, "raw": 0}
"""Bytes: Pillow's limit; ours; what fits into the numbered segments of a JPEG. Bare rows have no room."""
LARGEST_SIDE = {"png": 2**31 - 1, "webp": 16383, "jpeg": 65500, "raw": 2**31 - 1}

_ENDING = ("PNG", "WEBP", "BMP")
"""Formats behind whose end no document may begin."""
_DOCUMENT = re.compile(
    rb"<(!doctype|!--|\?(xml|php|=)|(html|head|body|script|svg|iframe|img|object|embed)[\s/>])", re.I
)
_BLANK = b"\0 \t\r\n\xef\xbb\xbf"
# Pillow warns from MAX_IMAGE_PIXELS on and raises from twice that on; `probe` has limits of its own, and sooner.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an image's header claims. Width and height are before EXIF orientation."""

    format: str
    width: int
    height: int


def probe(data: bytes, *, max_pixels: int, param: str = "file") -> Header:
    """Read the header, decode nothing.

    :raises NotAnImage: no readable image, or an image with another file attached.
    :raises TooLarge: more than `max_pixels` pixels, or more pieces than any image needs.
    """
    _refuse_attachments(data, param)
    return _header(containers.read(data, param=param, whole=False), data, max_pixels, param)


def upright_size(data: bytes, *, max_pixels: int, param: str = "file") -> tuple[int, int]:
    """The width and the height that `decode` gives; decodes nothing.

    :raises NotAnImage, TooLarge: as `probe`.
    """
    _refuse_attachments(data, param)
    source = containers.read(data, param=param)
    header = _header(source, data, max_pixels, param)
    swapped = containers.orientation(source) >= 5
    return (header.height, header.width) if swapped else (header.width, header.height)


def decode(data: bytes, *, max_pixels: int, param: str = "file") -> Picture:
    """Decode to upright 8-bit RGB: EXIF orientation applied, CMYK, palette, grey, 16-bit and float converted.

    Animations give their first frame. Metadata that is damaged counts as not there.

    :raises NotAnImage, TooLarge: as `probe`, and for pixel data that is damaged or cut short.
    """
    _refuse_attachments(data, param)
    source = containers.read(data, param=param)
    _header(source, data, max_pixels, param)
    try:
        if source.unfinished and not pixels_complete(source):
            raise NotAnImage("The image is cut short: not all of its pixels are there.", param=param)
        return normalised(source)
    except MemoryError:
        raise TooLarge("The image needs more memory to decode than there is.", param=param) from None
    except DECODE_ERRORS as error:
        raise NotAnImage(f"The image is damaged or cut short ({_reason(error)}).", param=param) from error


def _header(source: Source, data: bytes, max_pixels: int, param: str) -> Header:
    try:
        with opened(source) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise NotAnImage(
            "This is not an image that can be read; send a PNG, JPEG, WebP, BMP, TIFF or GIF.",
            param=param,
        ) from None
    except DECODE_ERRORS as error:
        raise NotAnImage(f"The image has a damaged header ({_reason(error)}).", param=param) from error
    if width * height > max_pixels:
        raise TooLarge(
            f"The image has {width}x{height} = {width * height:,} pixels; at most {max_pixels:,} are accepted.",
            param=param,
        )
    if min(width, height) < 1:
        raise NotAnImage(f"The image has no pixels ({width}x{height}).", param=param)
    if source.kind in _ENDING and source.end is not None and _document(data[source.end : source.end + 4096]):
        raise NotAnImage(f"This is a {source.kind} and a document in one file.", param=param)
    return Header(format=source.kind, width=width, height=height)


def trimmed(data: bytes) -> bytes:
    """The file without what lies behind the end of its image. If the end is unknown, all of it: `decode` then
    says what is wrong with it, or has no use for an end, as of a TIFF."""
    try:
        return data[: containers.read(data).end]
    except (NotAnImage, TooLarge):
        return data


def check_side(width: int, height: int, format: Format) -> None:
    """:raises InvalidInput: an image of this size is larger than the format can hold."""
    limit = LARGEST_SIDE[format]
    if max(width, height) > limit:
        raise InvalidInput(
            f"format {format} holds at most {limit} pixels a side; the result would be {width}x{height}.",
            param="format",
        )


def encode(picture: Picture, *, format: Format, quality: int, text: Mapping[str, str] | None = None) -> bytes:
    """Encode an image.

    :param format: "jpeg" has no transparency: it is laid on white. "raw" is the bare rows, channels last.
    :param quality: 1..100 for WebP and JPEG; the others are lossless.
    :param text: by keyword, as `darkroom.parameters.text_chunks` makes it. PNG carries all of it; WebP and JPEG carry
        "parameters" as their EXIF comment, where the web UI puts it, and "darkroom" as their maker's note.
    :raises InvalidInput: the image is larger than the format can hold.
    """
    height, width = picture.rgb.shape[:2]
    check_side(width, height, format)
    pixels = interleave(picture)
    if format == "raw":
        return pixels.tobytes()
    if format == "png":
        profile = None if dropped_metadata(picture, format) else picture.icc_profile
        return encode_png(pixels, icc_profile=profile, text=text)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if format == "jpeg" and picture.alpha is not None:
        image = _on_white(image.convert("RGBA"))
    if format == "webp" and image.mode == "LA":
        image = image.convert("RGBA")
    target = io.BytesIO()
    exif = make_exif((text or {}).get("parameters", ""), (text or {}).get("darkroom", ""))
    profile = b"" if dropped_metadata(picture, format) else picture.icc_profile or b""
    image.save(target, format.upper(), quality=quality, icc_profile=profile, exif=exif)
    return target.getvalue()


def dropped_metadata(picture: Picture, format: Format) -> list[str]:
    """What `encode` leaves out because no reader of the format would take it."""
    profile = len(picture.icc_profile or b"")
    return ["icc_profile"] if profile > _LARGEST_PROFILE[format] else []


def interleave(picture: Picture) -> Pixels:
    """(height, width, 1..4) uint8: grey or RGB, with alpha last where there is any; no copy for plain RGB."""
    colour = picture.rgb if not picture.grey else _luma(picture.rgb)[..., None]
    return colour if picture.alpha is None else np.concatenate((colour, picture.alpha[..., None]), axis=2)


def opaque(picture: Picture) -> Pixels:
    """(height, width, 3) uint8 RGB: on white, where the image is transparent."""
    if picture.alpha is None:
        return picture.rgb
    return np.asarray(_on_white(Image.fromarray(interleave(picture)).convert("RGBA")))


def resize(picture: Picture, *, width: int, height: int) -> Picture:
    """Resample with Lanczos (Pillow), alpha apart from colour."""

    def one(plane: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS))

    alpha = None if picture.alpha is None else one(picture.alpha)
    return Picture(rgb=one(picture.rgb), alpha=alpha, grey=picture.grey, icc_profile=picture.icc_profile)


def read_rgb(data: bytes, *, width: int, height: int, max_pixels: int, param: str) -> Pixels:
    """(height, width, 3) uint8: an encoded image as networks read it, resized and opaque.

    :raises NotAnImage, TooLarge: as `decode`.
    """
    picture = decode(data, max_pixels=max_pixels, param=param)
    return opaque(resize(picture, width=width, height=height))


def read_mask(data: bytes, *, width: int, height: int, max_pixels: int, param: str) -> NDArray[np.bool_]:
    """(height, width): where an encoded image is transparent; without transparency, where it is white.

    An alpha channel that is opaque everywhere says nothing, so that the colours count: canvases of browsers always have
    one. Grey values are resampled and cut at half, as by diffusers' `mask_processor`.

    :raises NotAnImage, TooLarge: as `decode`.
    """
    picture = decode(data, max_pixels=max_pixels, param=param)
    resized = resize(picture, width=width, height=height)
    if picture.alpha is not None and resized.alpha is not None and picture.alpha.min() < 255:
        return resized.alpha < 128
    return _luma(resized.rgb) >= 128


def _luma(rgb: Pixels) -> Pixels:
    """ITU-R BT.601 luma, as Pillow's "L"; of a grey source the three channels differ by rounding only."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _document(tail: bytes) -> bool:
    return _DOCUMENT.match(tail.lstrip(_BLANK)) is not None


def _refuse_attachments(data: bytes, param: str) -> None:
    """Refuse empty files, and polyglots: files that are an image to us and something else to the next program.

    Cameras and phones do append to their images: previews, films, what was cropped away. So only an archive or a
    document counts; all else is not looked at, and not kept.
    """
    if not data:
        raise NotAnImage("The file is empty (0 bytes); send a PNG, JPEG, WebP, BMP, TIFF or GIF.", param=param)
    tail = data.rfind(b"PK\x05\x06", max(0, len(data) - 65557))
    if tail >= 0 and len(data) >= tail + 22 and tail + 22 + struct.unpack_from("<H", data, tail + 20)[0] == len(data):
        raise NotAnImage("This is an image and a zip archive in one file.", param=param)
    if b"%PDF-" in data[:1024]:
        raise NotAnImage("This is an image and a PDF document in one file.", param=param)


def _reason(error: BaseException) -> str:
    text = str(error).split("\n")[0].strip()
    return text[:120] if text and "/" not in text and "0x" not in text else type(error).__name__
