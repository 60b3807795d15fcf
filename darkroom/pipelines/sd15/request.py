"""The fields of a generation request, with their ranges and defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

from typing import Annotated, Any

from typing_extensions import Self

from darkroom.diffusion.control import ControlledRequest
from darkroom.diffusion.image_check import CheckedRequest
from darkroom.diffusion.lora_weights import LoraRequest
from darkroom.diffusion.schedulers import SCHEDULER_FIELD
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
_GUIDANCE = Field(
    help="1 and below: no guidance, in half the time. By default what the checkpoint asks for, else 7.5.",
    low=GUIDANCE_RANGE[0],
    high=GUIDANCE_RANGE[1],
)


class GenerateRequest(ControlledRequest, LoraRequest, CheckedRequest, InitImageRequest):
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

    def checked(self, limits: Any) -> Self:
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
