"""What a request for pictures may ask for: fields, ranges, defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.diffusion.schedulers import FLOW_SCHEDULERS, scheduler_name
from darkroom.errors import TooLarge
from darkroom.pipelines.hidream.networks import PATCH_SIZE, VAE_SCALE_FACTOR
from darkroom.pipelines.hidream.variants import DEFAULT, VARIANTS, Variant
from darkroom.request.fields import (
    Bounds,
    PictureRequest,
    check_pixels,
    format_name,
    integer,
    number,
    optional_text,
    picture_ranges,
    required,
    seed_of,
    side,
    text,
)
from darkroom.request.limits import EnvironmentLimits

SIDE_MULTIPLE = VAE_SCALE_FACTOR * PATCH_SIZE
"""Pixels of a token along each axis."""
SEQUENCE_RANGE = (16, 218)
"""Tokens; CLIP of HiDream reads no more than 218 (diffusers' pipeline_hidream_image.py)."""


@dataclass(frozen=True, kw_only=True)
class Limits(EnvironmentLimits):
    """What the installation sets.

    :param max_pixels: width times height of one picture.
    :param max_steps, max_images: of one request.
    :param max_prompt: characters of a prompt and of a negative prompt.
    """

    prefix = "hidream"
    max_pixels: int = 1024 * 1024
    max_steps: int = 150
    max_images: int = 8
    max_prompt: int = 4000


def ranges(limits: Limits) -> dict[str, Bounds]:
    """The smallest and the largest value of every number of a request, by the field's name."""
    return {**picture_ranges(limits), "max_sequence_length": SEQUENCE_RANGE}


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(PictureRequest):
    """One request; what is not said here, as every request for pictures.

    :param width, height: in pixels, multiples of 16; None = the side that the checkpoint was trained at.
    :param scheduler: a name of `darkroom.diffusion.schedulers.FLOW_SCHEDULERS`; None = the checkpoint's own.
    :param max_sequence_length: tokens that each encoder reads of a prompt; fewer where it cannot read so many.
    """

    guidance_scale: float
    max_sequence_length: int = 128

    @classmethod
    def parse(cls, fields: Mapping[str, Any], limits: Limits, variant: Variant = VARIANTS[DEFAULT]) -> GenerateRequest:
        """Validate named fields; those that are absent or None take their defaults, and a seed is drawn.

        :param variant: has the defaults of the checkpoint. Who validates without knowing it passes on what was given.
        :raises InvalidInput: names the field, its range and what came.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        required(given, "prompt")
        encoding = format_name(given, cls.format)
        name, bounds = given.get("scheduler"), ranges(limits)
        request = cls(
            prompt=text(given, "prompt", limits.max_prompt),
            negative_prompt=optional_text(given, "negative_prompt", limits.max_prompt),
            steps=integer(given, "steps", min(variant.steps, limits.max_steps), bounds["steps"]),
            guidance_scale=number(given, "guidance_scale", variant.guidance_scale, bounds["guidance_scale"]),
            seed=seed_of(given),
            width=side(given, "width", limits, multiple=SIDE_MULTIPLE),
            height=side(given, "height", limits, multiple=SIDE_MULTIPLE),
            num_images=integer(given, "num_images", cls.num_images, bounds["num_images"]),
            scheduler=scheduler_name(name, FLOW_SCHEDULERS) if name else None,
            max_sequence_length=integer(given, "max_sequence_length", cls.max_sequence_length, SEQUENCE_RANGE),
            progress_every=integer(given, "progress_every", cls.progress_every, bounds["progress_every"]),
            preview_every=integer(given, "preview_every", cls.preview_every, bounds["preview_every"]),
            format=encoding,
            quality=integer(given, "quality", cls.quality, bounds["quality"]),
        )
        if request.width and request.height:
            check_pixels(request.width, request.height, limits)
        return request

    def sized(self, side: int, max_tokens: int, limits: Limits) -> ResolvedRequest:
        """This request with its absent width and height filled in.

        :param max_tokens: of the transformer, for a picture that is not square: it pads those to this length.
        :raises TooLarge: the picture would have more pixels than the limit, or more tokens than the transformer has
            room for.
        """
        width, height = self.width or side, self.height or side
        check_pixels(width, height, limits)
        tokens = width * height // SIDE_MULTIPLE**2
        if width != height and tokens > max_tokens:
            most = max_tokens * SIDE_MULTIPLE**2
            raise TooLarge(
                f"width x height must be at most {most:,} pixels for pictures that are not square, with this "
                f"checkpoint; got {width}x{height} = {width * height:,}.",
                param="width",
            )
        return ResolvedRequest(**{**vars(self), "width": width, "height": height})


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest(GenerateRequest):
    """A request that says everything; only `scheduler` None still means the checkpoint's own."""

    width: int = field()
    height: int = field()
