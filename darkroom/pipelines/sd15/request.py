"""What a request for pictures may ask for: fields, ranges, defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.diffusion.controls import ControlOptions, control_names
from darkroom.diffusion.schedulers import scheduler_name
from darkroom.errors import InvalidInput
from darkroom.pipelines.sd15.checkpoint import Checkpoint
from darkroom.pipelines.sd15.networks import VAE_SCALE_FACTOR
from darkroom.request.fields import GUIDANCE_RANGE as GUIDANCE_RANGE
from darkroom.request.fields import QUALITY_RANGE as QUALITY_RANGE
from darkroom.request.fields import SEED_RANGE as SEED_RANGE
from darkroom.request.fields import SIDE_MINIMUM as SIDE_MINIMUM
from darkroom.request.fields import (
    Bounds,
    PictureRequest,
    check_pixels,
    choice,
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

GUIDANCE_SCALE = 7.5
"""What Stable Diffusion 1.5 is used with; a checkpoint may say otherwise."""
_USUAL_CONTROL = "canny"
THRESHOLD_RANGE = (1, 255)
CONDITIONING_SCALE_RANGE = (0.0, 2.0)
SHARE_RANGE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Limits(EnvironmentLimits):
    """What the installation sets.

    :param max_pixels: width times height of one picture.
    :param max_steps, max_images: of one request.
    :param max_prompt: characters of a prompt and of a negative prompt.
    :param max_control_pixels: of a reference picture.
    """

    prefix = "generate"
    max_pixels: int = 1024 * 1024
    max_steps: int = 150
    max_images: int = 8
    max_prompt: int = 4000
    max_control_pixels: int = 4096 * 4096


def ranges(limits: Limits) -> dict[str, Bounds]:
    """The smallest and the largest value of every number of a request, by the field's name."""
    return {
        **picture_ranges(limits),
        "low_threshold": THRESHOLD_RANGE,
        "high_threshold": THRESHOLD_RANGE,
        "controlnet_conditioning_scale": CONDITIONING_SCALE_RANGE,
        "control_guidance_start": SHARE_RANGE,
        "control_guidance_end": SHARE_RANGE,
    }


@dataclass(frozen=True, kw_only=True)
class ControlRequest:
    """How a reference picture steers.

    :param kind: one of `control_names()`.
    :param preprocess: whether the map is made of the reference picture; False where that is a map already.
    :param options: of the preprocessor.
    :param conditioning_scale: factor of the ControlNet's residuals, 0..2.
    :param start, end: shares of the steps (0..1) between which the ControlNet acts.
    """

    kind: str
    preprocess: bool = True
    options: ControlOptions = field(default_factory=ControlOptions)
    conditioning_scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(PictureRequest):
    """One request; what is not said here, as every request for pictures.

    :param prompt, negative_prompt: `(word:1.3)` weighs a word; any length up to the limit.
    :param steps: denoising steps; pndm calls the UNet once more, and heun, dpm2 and dpm2_a nearly twice for each.
    :param width, height: in pixels, multiples of 8; None = the side that the checkpoint was trained at.
    :param control: None = text only.
    """

    steps: int = 20
    guidance_scale: float | None = None
    control: ControlRequest | None = None

    @classmethod
    def parse(cls, fields: Mapping[str, Any], limits: Limits) -> GenerateRequest:
        """Validate named fields; those that are absent or None take their defaults, and a seed is drawn.

        :raises InvalidInput: names the field, its range and what came.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        required(given, "prompt")
        encoding = format_name(given, cls.format)
        bounds = ranges(limits)
        request = cls(
            prompt=text(given, "prompt", limits.max_prompt),
            negative_prompt=optional_text(given, "negative_prompt", limits.max_prompt),
            steps=integer(given, "steps", min(cls.steps, limits.max_steps), bounds["steps"]),
            guidance_scale=(
                number(given, "guidance_scale", GUIDANCE_SCALE, GUIDANCE_RANGE) if "guidance_scale" in given else None
            ),
            seed=seed_of(given),
            width=side(given, "width", limits, multiple=VAE_SCALE_FACTOR),
            height=side(given, "height", limits, multiple=VAE_SCALE_FACTOR),
            num_images=integer(given, "num_images", cls.num_images, bounds["num_images"]),
            scheduler=scheduler_name(given["scheduler"]) if given.get("scheduler") else None,
            control=_control(given),
            progress_every=integer(given, "progress_every", cls.progress_every, bounds["progress_every"]),
            preview_every=integer(given, "preview_every", cls.preview_every, bounds["preview_every"]),
            format=encoding,
            quality=integer(given, "quality", cls.quality, bounds["quality"]),
        )
        if request.width and request.height:
            check_pixels(request.width, request.height, limits)
        return request

    def completed(self, checkpoint: Checkpoint, limits: Limits) -> ResolvedRequest:
        """This request with what the checkpoint says of absent width, height and guidance scale.

        :raises TooLarge: the picture would have more pixels than the limit.
        """
        missing = {
            "width": self.width or checkpoint.side,
            "height": self.height or checkpoint.side,
            "guidance_scale": checkpoint.guidance_scale if self.guidance_scale is None else self.guidance_scale,
        }
        resolved = ResolvedRequest(**{**vars(self), **missing})
        check_pixels(resolved.width, resolved.height, limits)
        return resolved


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest(GenerateRequest):
    """A request that says everything; only `scheduler` None still means the checkpoint's own."""

    width: int = field()
    height: int = field()
    guidance_scale: float = field()


def _control(given: Mapping[str, Any]) -> ControlRequest | None:
    """The control that the fields ask for; None without a picture, unless another kind than the usual one is named."""
    kind = choice("control_type", given.get("control_type") or _USUAL_CONTROL, control_names())
    if "control_image" not in given and kind != _USUAL_CONTROL:
        raise InvalidInput("control_image is missing: control_type needs a reference picture.", param="control_image")
    control = _steering(kind, given)
    return control if "control_image" in given else None  # a client that sends every default steers nothing


def _steering(kind: str, given: Mapping[str, Any]) -> ControlRequest:
    """The fields of a control, each in its range."""
    options = ControlOptions(
        low_threshold=integer(given, "low_threshold", ControlOptions.low_threshold, THRESHOLD_RANGE),
        high_threshold=integer(given, "high_threshold", ControlOptions.high_threshold, THRESHOLD_RANGE),
    )
    if options.low_threshold > options.high_threshold:
        raise InvalidInput(
            f"low_threshold must not be above high_threshold, {options.high_threshold}; got {options.low_threshold}.",
            param="low_threshold",
        )
    start = number(given, "control_guidance_start", ControlRequest.start, SHARE_RANGE)
    end = number(given, "control_guidance_end", ControlRequest.end, SHARE_RANGE)
    if start >= end:
        raise InvalidInput(
            f"control_guidance_start must be below control_guidance_end; got {start:g} and {end:g}.",
            param="control_guidance_start",
        )
    scale = number(given, "controlnet_conditioning_scale", ControlRequest.conditioning_scale, CONDITIONING_SCALE_RANGE)
    return ControlRequest(
        kind=kind,
        preprocess=bool(given.get("control_preprocess", ControlRequest.preprocess)),
        options=options,
        conditioning_scale=scale,
        start=start,
        end=end,
    )
