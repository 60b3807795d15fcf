"""From a container to upright 8-bit pixels: depth, colour, transparency and orientation."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from darkroom import containers
from darkroom.containers import Source

Pixels = NDArray[np.uint8]

DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
    OverflowError,
)
"""What Pillow's readers raise on damaged files; anything else is a bug of ours and stays one."""

_FILLS = tuple(bytes([first << 5 | first]) + b"\x5a\xa5\x33\xcc\x0f\xf0\x92\x49" * 8 for first in range(1, 8))
"""What may stand where the data of an image is missing, one for each way to go on by three bits (the decoder's own are
zeros): an image that needs any of it shows the difference."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded image.

    :param rgb: (height, width, 3) uint8.
    :param alpha: (height, width) uint8, or None for an image without transparency.
    :param grey: the source was grey, so the result should be written grey.
    :param icc_profile: the colour profile that the pixel values are in; None means sRGB.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    icc_profile: bytes | None = None

    @property
    def channels(self) -> int:
        """Channels of the interleaved image, 1..4."""
        return (1 if self.grey else 3) + (self.alpha is not None)


def opened(source: Source) -> ImageFile.ImageFile:
    """The image, not decoded yet."""
    return Image.open(io.BytesIO(source.data), formats=[source.kind])


def pixels_complete(source: Source) -> bool:
    """Whether a JPEG without its end marker has the data of all of its pixels.

    The decoder makes up what is missing, and says nothing of it. So it is asked several times, with other data behind
    the end: an image that is whole does not look at it.
    """

    def decoded(behind: bytes) -> Pixels:
        with opened(replace(source, data=source.data[:-2] + behind + source.data[-2:])) as image:
            return np.asarray(image)

    following = bytes([0xFF, 0xD0 | _restarts_modulo_8(source.data)])
    first = decoded(b"")
    return all(np.array_equal(first, decoded(fill)) for fill in (following + _FILLS[0], *_FILLS))


def _restarts_modulo_8(data: bytes) -> int:
    """The number of the restart marker that would be the next one in the last scan."""
    scan = data.rfind(b"\xff\xda")
    last = max(range(8), key=lambda number: data.rfind(bytes([0xFF, 0xD0 | number]), scan))
    return (last + 1) % 8 if data.rfind(bytes([0xFF, 0xD0 | last]), scan) >= 0 else 0


def normalised(source: Source) -> Picture:
    """Decode.

    :raises DECODE_ERRORS: damaged or cut short.
    """
    with opened(source) as image:
        image.load()
    keyed = _keyed(image, source)
    picture = _converted(_eight_bit(image, source), source, keyed)
    return _upright(picture, containers.orientation(source))


def _keyed(image: Image.Image, source: Source) -> NDArray[np.bool_] | None:
    """(height, width): where an image without an alpha channel has its one transparent colour. None where it has
    none."""
    if source.key is None or source.bits is None:
        return None
    if len(source.key) == 3:
        same: NDArray[np.bool_] = np.all(_full_depth(image, source) == np.array(source.key), axis=-1)
        return same
    (key,) = source.key
    if source.bits < 8:  # which come out as 0..255
        key = key * 255 // ((1 << source.bits) - 1)
    values: NDArray[Any] = np.asarray(image.convert("L") if image.mode == "1" else image)
    return np.equal(values, key)


def _full_depth(image: Image.Image, source: Source) -> NDArray[np.uint16]:
    """(height, width, 3) of a PNG's colours. Pillow has no mode of 16 bits and three channels and leaves the lower
    bytes out; read as numbers of the other byte order they leave the upper ones out."""
    upper: NDArray[np.uint16] = np.asarray(image, dtype=np.uint16)
    if source.bits != 16:
        return upper
    with opened(source) as again:
        again.tile = [part._replace(args="RGB;16L") for part in again.tile]
        lower = np.asarray(again, dtype=np.uint16)
    return (upper << np.uint16(8)) | lower


def _converted(image: Image.Image, source: Source, keyed: NDArray[np.bool_] | None) -> Picture:
    profile = source.icc_profile
    transparent = image.has_transparency_data
    if image.mode == "CMYK":
        image, profile = _cmyk_to_srgb(image, profile), None
    grey = image.mode in ("1", "L", "LA", "La")
    if not _profile_fits(profile, grey):
        profile = None
    rgba = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    rgb = rgba[..., :3]
    if source.inverted and grey:
        rgb = 255 - rgb
    alpha = rgba[..., 3] if transparent else None
    if keyed is not None:
        alpha = np.where(keyed, 0, 255).astype(np.uint8)
    return Picture(rgb=rgb, alpha=alpha, grey=grey, icc_profile=profile)


def _upright(picture: Picture, orientation: int) -> Picture:
    """Turned as EXIF says: 5 to 8 swap the sides."""
    return replace(
        picture,
        rgb=_turned(picture.rgb, orientation),
        alpha=None if picture.alpha is None else _turned(picture.alpha, orientation),
    )


def _turned(plane: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        plane = np.swapaxes(plane, 0, 1)
    if orientation in (2, 3, 6, 7):
        plane = plane[:, ::-1]
    if orientation in (3, 4, 7, 8):
        plane = plane[::-1]
    return np.ascontiguousarray(plane)


def _eight_bit(image: Image.Image, source: Source) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey to 8 bits; Pillow's own conversion would clip them."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image)
    if source.kind == "TIFF" and source.bits == 32 and image.mode == "I":
        values = values.view(np.uint32)  # Pillow's are signed
    values = np.nan_to_num(values.astype(np.float64))
    return Image.fromarray(np.clip(values * (255.0 / _full(image, source, values)) + 0.5, 0, 255).astype(np.uint8))


def _full(image: Image.Image, source: Source, values: NDArray[np.float64]) -> float:
    """The value of white. Where files may mean several things by a depth, only the values tell which."""
    most = values.max(initial=0)
    if image.mode == "F":
        return 1.0 if most <= 1 else 255.0
    if image.mode.startswith("I;"):  # 12 bits come as such
        return float((1 << source.bits) - 1 if source.bits in (12, 16) else 65535)
    if most > 65535:
        return float(2**32 - 1)
    return 65535.0 if most > 255 else 255.0


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a damaged profile: the plain conversion is better than no image
    return image.convert("RGB")


def _profile_fits(profile: bytes | None, grey: bool) -> bool:
    """Whether the profile's colour space (ICC.1:2022, 7.2.6) is that of the pixels it would stand beside."""
    return profile is not None and len(profile) >= 128 and profile[16:20] == (b"GRAY" if grey else b"RGB ")
