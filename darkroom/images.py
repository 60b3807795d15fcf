"""Pictures in and out: bytes of any common kind to 8-bit pixels and back.

`probe` looks at the header only and refuses what must not be decoded (bombs, files that are two things at once);
`decode` then normalises orientation, colour and depth. Neither trusts a file name or a declared content type.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from darkroom.errors import InvalidInput, NotAnImage, TooLarge
from darkroom.png import encode_png

Pixels = NDArray[np.uint8]
Format = Literal["png", "webp", "jpeg", "raw"]

READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MEDIA_TYPES = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "raw": "application/octet-stream",
}
LARGEST_SIDE = {"png": 2**31 - 1, "webp": 16383, "jpeg": 65500, "raw": 2**31 - 1}

_LARGEST_EXIF = 65533  # a JPEG segment's size has 16 bits; a comment that does not fit is left out
# Pillow warns from MAX_IMAGE_PIXELS on and raises from twice that on; `probe` has limits of its own, and sooner.
Image.MAX_IMAGE_PIXELS = None
# What Pillow's readers raise on damaged files; anything else is a bug of ours and stays one.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    OverflowError,
)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture's header claims. Width and height are before EXIF orientation."""

    format: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded picture.

    :param rgb: (height, width, 3) uint8.
    :param alpha: (height, width) uint8, or None for a picture without transparency.
    :param grey: the source was grey, so the result should be written grey.
    :param icc_profile: the colour profile that the pixel values are in; None means sRGB.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    icc_profile: bytes | None = None

    @property
    def channels(self) -> int:
        """Channels of the interleaved picture, 1..4."""
        return (1 if self.grey else 3) + (self.alpha is not None)


def probe(data: bytes, *, max_pixels: int, param: str = "file") -> Header:
    """Read the header, decode nothing.

    :raises NotAnImage: no readable picture, or a picture with another file attached.
    :raises TooLarge: more than `max_pixels` pixels.
    """
    if not data:
        raise NotAnImage("The file is empty (0 bytes); send a PNG, JPEG, WebP, BMP, TIFF or GIF.", param=param)
    try:
        with Image.open(io.BytesIO(data), formats=READABLE) as image:
            kind, (width, height) = image.format or "", image.size
    except UnidentifiedImageError:
        raise NotAnImage(
            "This is not a picture that can be read; send a PNG, JPEG, WebP, BMP, TIFF or GIF.",
            param=param,
        ) from None
    except _DECODE_ERRORS as error:
        raise NotAnImage(f"The picture has a damaged header ({_reason(error)}).", param=param) from error
    if width * height > max_pixels:
        raise TooLarge(
            f"The picture has {width}x{height} = {width * height:,} pixels; at most {max_pixels:,} are accepted.",
            param=param,
        )
    if min(width, height) < 1:
        raise NotAnImage(f"The picture has no pixels ({width}x{height}).", param=param)
    _refuse_two_in_one(data, kind, param)
    return Header(format=kind, width=width, height=height)


def decode(data: bytes, *, max_pixels: int, param: str = "file") -> Picture:
    """Decode to upright 8-bit RGB: EXIF orientation applied, CMYK, palette, grey, 16-bit and float converted.

    Animations give their first frame.

    :raises NotAnImage, TooLarge: as `probe`, and for pixel data that is damaged or cut short.
    """
    probe(data, max_pixels=max_pixels, param=param)
    try:
        with Image.open(io.BytesIO(data), formats=READABLE) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except MemoryError:
        raise TooLarge("The picture needs more memory to decode than there is.", param=param) from None
    except _DECODE_ERRORS as error:
        raise NotAnImage(f"The picture is damaged or cut short ({_reason(error)}).", param=param) from error
    return _normalise(upright)


def check_side(width: int, height: int, format: Format) -> None:
    """:raises InvalidInput: a picture of this size is larger than the format can hold."""
    limit = LARGEST_SIDE[format]
    if max(width, height) > limit:
        raise InvalidInput(
            f"format {format} holds at most {limit} pixels a side; the result would be {width}x{height}.",
            param="format",
        )


def encode(picture: Picture, *, format: Format, quality: int, text: Mapping[str, str] | None = None) -> bytes:
    """Encode a picture.

    :param format: "jpeg" has no transparency: it is laid on white. "raw" is the bare rows, channels last.
    :param quality: 1..100 for WebP and JPEG; the others are lossless.
    :param text: by keyword, as `darkroom.parameters.text_chunks` makes it. PNG carries all of it; WebP and JPEG carry
        "parameters" as their EXIF comment, where the web UI puts it.
    :raises InvalidInput: the picture is larger than the format can hold.
    """
    height, width = picture.rgb.shape[:2]
    check_side(width, height, format)
    pixels = interleave(picture)
    if format == "raw":
        return pixels.tobytes()
    if format == "png":
        return encode_png(pixels, icc_profile=picture.icc_profile, text=text)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if format == "jpeg" and picture.alpha is not None:
        image = _on_white(image.convert("RGBA"))
    if format == "webp" and image.mode == "LA":
        image = image.convert("RGBA")
    target = io.BytesIO()
    exif = _exif_comment((text or {}).get("parameters", ""))
    image.save(target, format.upper(), quality=quality, icc_profile=picture.icc_profile or b"", exif=exif)
    return target.getvalue()


def _exif_comment(comment: str) -> bytes:
    """EXIF with a UserComment (Exif 2.32, 4.6.5) in big-endian UTF-16, as the web UI writes and reads it."""
    if not comment:
        return b""
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: b"UNICODE\0" + comment.encode("utf-16-be")}
    data = exif.tobytes()
    return data if len(data) <= _LARGEST_EXIF else b""


def interleave(picture: Picture) -> Pixels:
    """(height, width, 1..4) uint8: grey or RGB, with alpha last where there is any; no copy for plain RGB."""
    colour = picture.rgb if not picture.grey else _luma(picture.rgb)[..., None]
    return colour if picture.alpha is None else np.concatenate((colour, picture.alpha[..., None]), axis=2)


def opaque(picture: Picture) -> Pixels:
    """(height, width, 3) uint8 RGB: on white, where the picture is transparent."""
    if picture.alpha is None:
        return picture.rgb
    return np.asarray(_on_white(Image.fromarray(interleave(picture)).convert("RGBA")))


def resize(picture: Picture, *, width: int, height: int) -> Picture:
    """Resample with Lanczos (Pillow), alpha apart from colour."""

    def one(plane: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS))

    alpha = None if picture.alpha is None else one(picture.alpha)
    return Picture(rgb=one(picture.rgb), alpha=alpha, grey=picture.grey, icc_profile=picture.icc_profile)


def _normalise(image: Image.Image) -> Picture:
    profile = image.info.get("icc_profile") or None
    image = _eight_bit(image)
    transparent = image.has_transparency_data
    if image.mode == "CMYK":
        image, profile = _cmyk_to_srgb(image, profile), None
    grey = image.mode in ("1", "L", "LA", "La")
    if not _profile_fits(profile, grey):
        profile = None
    if transparent:
        rgba = np.asarray(image.convert("RGBA"))
        return Picture(
            rgb=np.ascontiguousarray(rgba[..., :3]),
            alpha=np.ascontiguousarray(rgba[..., 3]),
            grey=grey,
            icc_profile=profile,
        )
    return Picture(rgb=np.asarray(image.convert("RGB")), grey=grey, icc_profile=profile)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey to 8 bits; Pillow's own conversion would clip them."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    # 16-bit PNGs open as "I;16" or "I"; float TIFFs are either 0..1 or 0..255, which only their values tell.
    if image.mode.startswith("I"):
        full = 65535.0 if image.mode != "I" or values.max(initial=0) > 255 else 255.0
    else:
        full = 1.0 if values.max(initial=0) <= 1 else 255.0
    return Image.fromarray(np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8))


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a damaged profile: the plain conversion is better than no picture
    return image.convert("RGB")


def _profile_fits(profile: bytes | None, grey: bool) -> bool:
    """Whether the profile's colour space (ICC.1:2022, 7.2.6) is that of the pixels it would stand beside."""
    return profile is not None and len(profile) >= 128 and profile[16:20] == (b"GRAY" if grey else b"RGB ")


def _luma(rgb: Pixels) -> Pixels:
    """ITU-R BT.601 luma, as Pillow's "L"; of a grey source the three channels differ by rounding only."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _refuse_two_in_one(data: bytes, kind: str, param: str) -> None:
    """Refuse polyglots: files that are a picture to us and something else to the next program.

    PNG, WebP and BMP say where they end. JPEG and TIFF do not, and cameras do append to JPEGs, so there only
    an attached archive or document counts.
    """
    end = _declared_end(data, kind)
    if end is not None and len(data) > end and data[end:].strip(b"\0"):
        raise NotAnImage(f"The picture has {len(data) - end} foreign bytes behind the end of its {kind}.", param=param)
    tail = data.rfind(b"PK\x05\x06", max(0, len(data) - 65557))
    if tail >= 0 and len(data) >= tail + 22 and tail + 22 + struct.unpack_from("<H", data, tail + 20)[0] == len(data):
        raise NotAnImage("This is a picture and a zip archive in one file.", param=param)
    if b"%PDF-" in data[:1024]:
        raise NotAnImage("This is a picture and a PDF document in one file.", param=param)


def _declared_end(data: bytes, kind: str) -> int | None:
    if kind == "PNG":
        at = 8
        while at + 12 <= len(data):
            size, name = struct.unpack_from(">I4s", data, at)
            at += 12 + int(size)
            if name == b"IEND":
                return at
    if kind == "WEBP":
        size = int(struct.unpack_from("<I", data, 4)[0])
        return 8 + size + size % 2
    if kind == "BMP":
        declared = int(struct.unpack_from("<I", data, 2)[0])
        return declared if declared > 54 else None  # 0 in the field is common and harmless
    return None


def _reason(error: BaseException) -> str:
    text = str(error).split("\n")[0].strip()
    return text[:120] if text and "/" not in text and "0x" not in text else type(error).__name__
