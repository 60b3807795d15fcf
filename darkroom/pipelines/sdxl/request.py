"""What a request for images may ask for: fields, ranges, defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from typing_extensions import Self

from darkroom.diffusion.control import ControlledRequest
from darkroom.diffusion.lora_weights import LoraRequest
from darkroom.diffusion.schedulers import SCHEDULER_FIELD
from darkroom.pipelines.sdxl.checkpoint import GUIDANCE_SCALE, STEPS, VAE_SCALE_FACTOR
from darkroom.prompts.schedule import check_prompts
from darkroom.request.field import Field, Shorthand
from darkroom.request.fields import check_pixels
from darkroom.request.image import (
    CheckpointGuidanceField,
    CheckpointStepsField,
    side_field,
    size_shorthand,
)
from darkroom.request.init_image import InitImageRequest

REFINER_START = 0.8
AESTHETIC_SCORE = 6.0
_LARGEST = 16384
"""Pixels: the largest size and crop of micro-conditioning."""


def _side(when: str, usual: str) -> Field:
    """A size of micro-conditioning."""
    help = (
        f"Micro-conditioning: the {usual} in pixels that a training image like this one had {when}. By default {usual}."
    )
    return Field(help=help, low=1, high=_LARGEST)


def _crop(where: str) -> Field:
    help = f"Micro-conditioning: pixels that were cut off {where}. Above 0 the objects are cut off more often."
    return Field(help=help, low=0, high=_LARGEST)


_BEFORE, _AFTER = "before it was resized", "after it was cropped"


class GenerateRequest(ControlledRequest, LoraRequest, InitImageRequest):
    """One request; what is not said here, as every request for images that may begin with one.

    Without width and height an image is as large as what the checkpoint was trained on. Steps and guidance of a
    request that names none are the checkpoint's. An absent negative prompt is not the same as an empty one: see
    `SdxlCheckpointInfo.force_zeros_for_empty_prompt`.

    Micro-conditioning (Podell et al. 2023, section 2.2) tells the networks which training images the result should
    resemble: by their size before they were resized, where they were cropped, and their size afterwards.
    """

    shorthands: ClassVar[dict[str, Shorthand]] = {
        **InitImageRequest.shorthands,
        "original_size": size_shorthand(
            "original_size", "original_width", "original_height", "original_width and original_height in one:"
        ),
        "target_size": size_shorthand(
            "target_size", "target_width", "target_height", "target_width and target_height in one:"
        ),
    }

    prompt: Annotated[
        str,
        Field(
            help="`(word:1.3)` weighs a word; `[a:b:0.5]`, `[a|b]` and BREAK are as in web UIs. Of any length up to "
            "SDXL_MAX_PROMPT.",
            longest="max_prompt",
            may_be_empty=True,
        ),
    ]
    steps: Annotated[int, CheckpointStepsField] = STEPS
    guidance_scale: Annotated[float, CheckpointGuidanceField] = GUIDANCE_SCALE
    width: Annotated[int | None, side_field(VAE_SCALE_FACTOR)] = None
    height: Annotated[int | None, side_field(VAE_SCALE_FACTOR)] = None
    scheduler: Annotated[str | None, SCHEDULER_FIELD] = None
    refiner_start: Annotated[
        float,
        Field(
            help="The share of the noise schedule after which the refiner takes over, without guidance. 1 leaves the "
            "refiner out. It does nothing where no refiner is installed.",
            low=0.0,
            high=1.0,
            aliases=("denoising_end",),
        ),
    ] = REFINER_START
    original_width: Annotated[int | None, _side(_BEFORE, "width")] = None
    original_height: Annotated[int | None, _side(_BEFORE, "height")] = None
    crop_top: Annotated[int, _crop("above")] = 0
    crop_left: Annotated[int, _crop("on the left")] = 0
    target_width: Annotated[int | None, _side(_AFTER, "width")] = None
    target_height: Annotated[int | None, _side(_AFTER, "height")] = None
    aesthetic_score: Annotated[
        float, Field(help="Micro-conditioning of the refiner: how beautiful the image is to be.", low=0.0, high=10.0)
    ] = AESTHETIC_SCORE

    def checked(self, limits: Any) -> Self:
        check_prompts(self.prompt, self.negative_prompt, self.steps)
        return super().checked(limits)

    def completed(self, checkpoint: Any, limits: Any) -> ResolvedRequest:
        """This request with its absent sizes filled in.

        :raises TooLarge: the image would have more pixels than the limit.
        """
        width, height = self.width or checkpoint.side, self.height or checkpoint.side
        check_pixels(width, height, limits)
        return self.resolved_as(
            ResolvedRequest,
            width=width,
            height=height,
            original_width=self.original_width or width,
            original_height=self.original_height or height,
            target_width=self.target_width or width,
            target_height=self.target_height or height,
        )


class ResolvedRequest(GenerateRequest):
    """A request that says everything; only `scheduler` None still means the checkpoint's own, and `negative_prompt`
    None that there is none."""

    width: Annotated[int, side_field(VAE_SCALE_FACTOR)]
    height: Annotated[int, side_field(VAE_SCALE_FACTOR)]
    original_width: Annotated[int, _side(_BEFORE, "width")]
    original_height: Annotated[int, _side(_BEFORE, "height")]
    target_width: Annotated[int, _side(_AFTER, "width")]
    target_height: Annotated[int, _side(_AFTER, "height")]
