"""What a request for pictures may ask for: fields, ranges, defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from darkroom.errors import InvalidInput, TooLarge
from darkroom.images import Format
from darkroom.pipelines.sd15.controls import ControlOptions, control_names
from darkroom.pipelines.sd15.networks import VAE_SCALE_FACTOR
from darkroom.schedulers import scheduler_name

GUIDANCE_RANGE = (0.0, 50.0)
SEED_RANGE = (0, 2**63 - 1 - 1024)
"""The k-th picture's seed is seed + k, and has to fit into 64 bits as well."""
SIDE_MINIMUM = 64
THRESHOLD_RANGE = (1, 255)
CONDITIONING_SCALE_RANGE = (0.0, 2.0)
SHARE_RANGE = (0.0, 1.0)
QUALITY_RANGE = (1, 100)
FORMATS: tuple[str, ...] = get_args(Format)
DRAWN_SEEDS = 2**32
"""Seeds that are drawn fit into what every web UI and JavaScript can hold."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the installation sets.

    :param max_pixels: width times height of one picture.
    :param max_steps, max_images: of one request.
    :param max_prompt: characters of a prompt and of a negative prompt.
    :param max_control_pixels: of a reference picture.
    """

    max_pixels: int = 1024 * 1024
    max_steps: int = 150
    max_images: int = 8
    max_prompt: int = 4000
    max_control_pixels: int = 4096 * 4096

    @classmethod
    def from_env(cls) -> Limits:
        """Read GENERATE_MAX_PIXELS, GENERATE_MAX_STEPS and so on, one variable per field."""
        names = cls.__dataclass_fields__
        given = {name: os.environ.get(f"GENERATE_{name.upper()}") for name in names}
        return cls(**{name: int(value) for name, value in given.items() if value})


@dataclass(frozen=True, kw_only=True)
class ControlRequest:
    """How a reference picture steers.

    :param kind: one of `control_names()`.
    :param options: of the preprocessor.
    :param conditioning_scale: factor of the ControlNet's residuals, 0..2.
    :param start, end: shares of the steps (0..1) between which the ControlNet acts.
    """

    kind: str
    options: ControlOptions = field(default_factory=ControlOptions)
    conditioning_scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One request.

    :param prompt, negative_prompt: `(word:1.3)` weighs a word; any length up to the limit.
    :param steps: denoising steps; a few schedulers call the UNet once more.
    :param guidance_scale: of classifier-free guidance (Ho and Salimans 2022); 1 and below do without.
    :param seed: of the first picture; the k-th has `seed + k`.
    :param width, height: in pixels, multiples of 8; None = the side that the checkpoint was trained at.
    :param scheduler: a name of `darkroom.schedulers.SCHEDULERS`; None = the checkpoint's own.
    :param control: None = text only.
    :param preview_every: steps between previews; 0 = none.
    :param format: "png", "webp", "jpeg", or "raw" (bare rows).
    :param quality: 1..100, for WebP and JPEG.
    """

    prompt: str
    negative_prompt: str = ""
    steps: int = 20
    guidance_scale: float = 7.5
    seed: int
    width: int | None = None
    height: int | None = None
    num_images: int = 1
    scheduler: str | None = None
    control: ControlRequest | None = None
    preview_every: int = 0
    format: Format = "png"
    quality: int = 90

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance: two rows per picture instead of one."""
        return self.guidance_scale > 1

    @classmethod
    def parse(cls, fields: Mapping[str, Any], limits: Limits) -> GenerateRequest:
        """Validate named fields; those that are absent or None take their defaults, and a seed is drawn.

        :raises InvalidInput: names the field, its range and what came.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        if "prompt" not in given:
            raise InvalidInput("prompt is missing.", param="prompt")
        if given.get("format", "png") not in FORMATS:
            raise InvalidInput(f"format must be one of {', '.join(FORMATS)}; got {given['format']!r}.", param="format")
        steps = _integer(given, "steps", cls.steps, (1, limits.max_steps))
        request = cls(
            prompt=_text(given, "prompt", limits.max_prompt),
            negative_prompt=_text(given, "negative_prompt", limits.max_prompt),
            steps=steps,
            guidance_scale=_number(given, "guidance_scale", cls.guidance_scale, GUIDANCE_RANGE),
            seed=_integer(given, "seed", secrets.randbelow(DRAWN_SEEDS), SEED_RANGE),
            width=_side(given, "width", limits),
            height=_side(given, "height", limits),
            num_images=_integer(given, "num_images", cls.num_images, (1, limits.max_images)),
            scheduler=scheduler_name(given["scheduler"]) if given.get("scheduler") else None,
            control=_control(given),
            preview_every=_integer(given, "preview_every", cls.preview_every, (0, limits.max_steps)),
            format=given.get("format", cls.format),
            quality=_integer(given, "quality", cls.quality, QUALITY_RANGE),
        )
        if request.width and request.height:
            check_pixels(request.width, request.height, limits)
        return request

    def sized(self, side: int, limits: Limits) -> GenerateRequest:
        """This request with its absent width and height filled in.

        :raises TooLarge: the picture would have more pixels than the limit.
        """
        request = replace(self, width=self.width or side, height=self.height or side)
        check_pixels(request.width or 0, request.height or 0, limits)
        return request


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """:raises TooLarge: width times height is over the limit."""
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"width x height must be at most {limits.max_pixels:,} pixels; got {width}x{height} = {width * height:,}.",
            param="width",
        )


def _control(given: Mapping[str, Any]) -> ControlRequest | None:
    """The control that the fields ask for; None when neither a kind nor a picture was given."""
    kind = given.get("control_type") or ("canny" if "control_image" in given else None)
    if kind is None:
        return None
    if kind not in control_names():
        raise InvalidInput(
            f"control_type must be one of {', '.join(control_names())}; got {kind!r}.", param="control_type"
        )
    if "control_image" not in given:
        raise InvalidInput("control_image is missing: control_type needs a reference picture.", param="control_image")
    options = ControlOptions(
        low_threshold=_integer(given, "low_threshold", ControlOptions.low_threshold, THRESHOLD_RANGE),
        high_threshold=_integer(given, "high_threshold", ControlOptions.high_threshold, THRESHOLD_RANGE),
    )
    if options.low_threshold > options.high_threshold:
        raise InvalidInput(
            f"low_threshold must not be above high_threshold, {options.high_threshold}; got {options.low_threshold}.",
            param="low_threshold",
        )
    start = _number(given, "control_guidance_start", ControlRequest.start, SHARE_RANGE)
    end = _number(given, "control_guidance_end", ControlRequest.end, SHARE_RANGE)
    if start >= end:
        raise InvalidInput(
            f"control_guidance_start must be below control_guidance_end; got {start:g} and {end:g}.",
            param="control_guidance_start",
        )
    scale = _number(given, "controlnet_conditioning_scale", ControlRequest.conditioning_scale, CONDITIONING_SCALE_RANGE)
    return ControlRequest(kind=kind, options=options, conditioning_scale=scale, start=start, end=end)


def _text(given: Mapping[str, Any], name: str, longest: int) -> str:
    text = str(given.get(name, ""))
    if len(text) > longest:
        raise InvalidInput(f"{name} must have at most {longest} characters; got {len(text)}.", param=name)
    return text


def _side(given: Mapping[str, Any], name: str, limits: Limits) -> int | None:
    if name not in given:
        return None
    value = _integer(given, name, 0, (SIDE_MINIMUM, limits.max_pixels // SIDE_MINIMUM))
    if value % VAE_SCALE_FACTOR:
        raise InvalidInput(f"{name} must be a multiple of {VAE_SCALE_FACTOR}; got {value}.", param=name)
    return value


def _integer(given: Mapping[str, Any], name: str, default: int, bounds: tuple[int, int]) -> int:
    value = int(given.get(name, default))
    if not bounds[0] <= value <= bounds[1]:
        raise InvalidInput(f"{name} must be from {bounds[0]} to {bounds[1]}; got {value}.", param=name)
    return value


def _number(given: Mapping[str, Any], name: str, default: float, bounds: tuple[float, float]) -> float:
    value = float(given.get(name, default))
    if not (math.isfinite(value) and bounds[0] <= value <= bounds[1]):
        raise InvalidInput(f"{name} must be from {bounds[0]:g} to {bounds[1]:g}; got {value:g}.", param=name)
    return value
