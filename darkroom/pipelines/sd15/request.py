"""The fields of a generation request, with their ranges and defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from typing_extensions import Self

from darkroom.diffusion.controls import ControlOptions, control_names
from darkroom.diffusion.lora_weights import LoraRequest
from darkroom.diffusion.schedulers import SCHEDULER_FIELD
from darkroom.errors import InvalidInput
from darkroom.pipelines.sd15.checkpoint import VAE_SCALE_FACTOR
from darkroom.prompts.schedule import check_prompts
from darkroom.request.field import Field
from darkroom.request.fields import GUIDANCE_RANGE as GUIDANCE_RANGE
from darkroom.request.fields import QUALITY_RANGE as QUALITY_RANGE
from darkroom.request.fields import SEED_RANGE as SEED_RANGE
from darkroom.request.fields import SIDE_MINIMUM as SIDE_MINIMUM
from darkroom.request.fields import check_pixels
from darkroom.request.image import side_field
from darkroom.request.init_image import InitImageRequest

GUIDANCE_SCALE = 7.5
"""The usual value for Stable Diffusion 1.5; a checkpoint may set another one."""
_USUAL_CONTROL = "canny"


@dataclass(frozen=True, kw_only=True)
class ControlRequest:
    """How a reference image guides the generation.

    :param kind: one of `control_names()`.
    :param preprocess: whether the map is made of the reference image; False where that is a map already.
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


_GUIDANCE = Field(
    help="1 and below: no guidance, in half the time. By default what the checkpoint asks for, else 7.5.",
    low=GUIDANCE_RANGE[0],
    high=GUIDANCE_RANGE[1],
)


def _threshold(which: str) -> Field:
    return Field(help=f"Of Canny's edges: the {which} one of two thresholds.", low=1, high=255)


def _share(which: str) -> Field:
    return Field(help=f"The share of the steps {which} which the ControlNet acts.", low=0.0, high=1.0)


class GenerateRequest(LoraRequest, InitImageRequest):
    """One request; what is not said here, as every request for images that may begin with one.

    `(word:1.3)` in a prompt weighs a word. pndm calls the UNet once more than there are steps, and heun, dpm2 and
    dpm2_a nearly twice for each. Without width and height an image is as large as what the checkpoint was trained on.
    """

    prompt: Annotated[
        str,
        Field(
            help="`(word:1.3)` weighs a word; `[a:b:0.5]`, `[a|b]` and BREAK are as in web UIs. Of any length up to "
            "SD15_MAX_PROMPT.",
            longest="max_prompt",
            may_be_empty=True,
        ),
    ]
    guidance_scale: Annotated[float | None, _GUIDANCE] = None
    width: Annotated[int | None, side_field(VAE_SCALE_FACTOR)] = None
    height: Annotated[int | None, side_field(VAE_SCALE_FACTOR)] = None
    scheduler: Annotated[str | None, SCHEDULER_FIELD] = None
    control_type: Annotated[str, Field(help="How the reference image steers.", words=control_names)] = _USUAL_CONTROL
    control_image: Annotated[
        bytes | None,
        Field(
            help="The reference image, in any format. Without one, the fields of the control do nothing.",
            aliases=("image", "image_base64", "reference_image"),
            max_pixels="max_control_pixels",
        ),
    ] = None
    control_preprocess: Annotated[
        bool, Field(help="Whether the map is made of the reference image. False: it is a map already.")
    ] = True
    low_threshold: Annotated[int, _threshold("lower")] = 100
    high_threshold: Annotated[int, _threshold("upper")] = 200
    controlnet_conditioning_scale: Annotated[
        float, Field(help="How strongly the reference image steers.", low=0.0, high=2.0)
    ] = 1.0
    control_guidance_start: Annotated[float, _share("from")] = 0.0
    control_guidance_end: Annotated[float, _share("up to")] = 1.0

    @property
    def control(self) -> ControlRequest | None:
        """The control of the request; None without a reference image."""
        if self.control_image is None:
            return None
        return ControlRequest(
            kind=self.control_type,
            preprocess=self.control_preprocess,
            options=ControlOptions(low_threshold=self.low_threshold, high_threshold=self.high_threshold),
            conditioning_scale=self.controlnet_conditioning_scale,
            start=self.control_guidance_start,
            end=self.control_guidance_end,
        )

    @property
    def cost_label(self) -> str:
        return "controlled" if self.control_image is not None else ""

    def checked(self, limits: Any) -> Self:
        if self.control_image is None and self.control_type != _USUAL_CONTROL:
            raise InvalidInput("control_image is missing: control_type needs a reference image.", param="control_image")
        if self.low_threshold > self.high_threshold:
            raise InvalidInput(
                f"low_threshold must not be above high_threshold, {self.high_threshold}; got {self.low_threshold}.",
                param="low_threshold",
            )
        if self.control_guidance_start >= self.control_guidance_end:
            raise InvalidInput(
                f"control_guidance_start must be below control_guidance_end; got {self.control_guidance_start:g} "
                f"and {self.control_guidance_end:g}.",
                param="control_guidance_start",
            )
        check_prompts(self.prompt, self.negative_prompt, self.steps)
        return super().checked(limits)

    def completed(self, checkpoint: Any, limits: Any) -> ResolvedRequest:
        """This request with what the checkpoint says of absent width, height and guidance scale.

        :raises TooLarge: the image would have more pixels than the limit.
        """
        width, height = self.width or checkpoint.side, self.height or checkpoint.side
        check_pixels(width, height, limits)
        scale = checkpoint.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return self.resolved_as(ResolvedRequest, width=width, height=height, guidance_scale=scale)


class ResolvedRequest(GenerateRequest):
    """A request with all values filled in; only `scheduler` may be None, for the checkpoint's own."""

    width: Annotated[int, side_field(VAE_SCALE_FACTOR)]
    height: Annotated[int, side_field(VAE_SCALE_FACTOR)]
    guidance_scale: Annotated[float, _GUIDANCE]
