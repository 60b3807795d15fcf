"""Fields of requests and their ranges: what the `request.py` of every family that makes pictures checks alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from darkroom.errors import InvalidInput, TooLarge
from darkroom.images import Format

GUIDANCE_RANGE = (0.0, 50.0)
SEED_RANGE = (0, 2**63 - 1 - 1024)
"""The k-th picture's seed is seed + k, and has to fit into 64 bits as well."""
SIDE_MINIMUM = 64
QUALITY_RANGE = (1, 100)
FORMATS: tuple[str, ...] = get_args(Format)
DRAWN_SEEDS = 2**32
"""Seeds that are drawn fit into what every web UI and JavaScript can hold."""


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """What every request for pictures says.

    :param prompt, negative_prompt: any length up to the limit.
    :param steps: denoising steps.
    :param guidance_scale: of classifier-free guidance (Ho and Salimans 2022); 1 and below do without; None = what suits
        the checkpoint.
    :param seed: of the first picture; the k-th has `seed + k`.
    :param width, height: in pixels; None = the side that the checkpoint was trained at.
    :param scheduler: a name of `darkroom.schedulers`; None = the checkpoint's own.
    :param progress_every: steps between reports of progress; 0 = none.
    :param preview_every: steps between previews; 0 = none.
    :param format: "png", "webp", "jpeg", or "raw" (bare rows).
    :param quality: 1..100, for WebP and JPEG.
    """

    prompt: str
    negative_prompt: str = ""
    steps: int
    guidance_scale: float | None
    seed: int
    width: int | None = None
    height: int | None = None
    num_images: int = 1
    scheduler: str | None = None
    progress_every: int = 1
    preview_every: int = 0
    format: Format = "png"
    quality: int = 90

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance: two rows per picture instead of one."""
        return self.guidance_scale is None or self.guidance_scale > 1


class PixelLimits(Protocol):
    """Limits that say how many pixels a picture may have: width times height."""

    @property
    def max_pixels(self) -> int: ...


def check_pixels(width: int, height: int, limits: PixelLimits) -> None:
    """:raises TooLarge: width times height is over the limit."""
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"width x height must be at most {limits.max_pixels:,} pixels; got {width}x{height} = {width * height:,}.",
            param="width",
        )


def text(given: Mapping[str, Any], name: str, longest: int) -> str:
    """A text of at most `longest` characters; "" where there is none.

    :raises InvalidInput: it is longer.
    """
    value = str(given.get(name, ""))
    if len(value) > longest:
        raise InvalidInput(f"{name} must have at most {longest} characters; got {len(value)}.", param=name)
    return value


def side(given: Mapping[str, Any], name: str, limits: PixelLimits, *, multiple: int) -> int | None:
    """Pixels of a side, SIDE_MINIMUM and more, or None.

    :raises InvalidInput: it is out of range or no multiple of `multiple`.
    """
    if name not in given:
        return None
    value = integer(given, name, 0, (SIDE_MINIMUM, limits.max_pixels // SIDE_MINIMUM))
    if value % multiple:
        raise InvalidInput(f"{name} must be a multiple of {multiple}; got {value}.", param=name)
    return value


def integer(given: Mapping[str, Any], name: str, default: int, bounds: tuple[int, int]) -> int:
    """A whole number.

    :raises InvalidInput: it is outside of `bounds`.
    """
    value = int(given.get(name, default))
    if not bounds[0] <= value <= bounds[1]:
        raise InvalidInput(f"{name} must be from {bounds[0]} to {bounds[1]}; got {value}.", param=name)
    return value


def number(given: Mapping[str, Any], name: str, default: float, bounds: tuple[float, float]) -> float:
    """A finite number.

    :raises InvalidInput: it is outside of `bounds`.
    """
    value = float(given.get(name, default))
    if not (math.isfinite(value) and bounds[0] <= value <= bounds[1]):
        raise InvalidInput(f"{name} must be from {bounds[0]:g} to {bounds[1]:g}; got {value:g}.", param=name)
    return value


def format_name(given: Mapping[str, Any], default: Format) -> Format:
    """How the picture is encoded.

    :raises InvalidInput: none of FORMATS.
    """
    value: Format = given.get("format", default)
    if value not in FORMATS:
        raise InvalidInput(f"format must be one of {', '.join(FORMATS)}; got {value!r}.", param="format")
    return value


def required(given: Mapping[str, Any], name: str) -> None:
    """:raises InvalidInput: the field is not there."""
    if name not in given:
        raise InvalidInput(f"{name} is missing.", param=name)
