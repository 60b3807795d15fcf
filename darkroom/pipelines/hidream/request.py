"""The fields of a generation request, with their ranges and defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from darkroom.diffusion.schedulers import FLOW_SCHEDULERS, scheduler_name
from darkroom.errors import TooLarge
from darkroom.pipelines.hidream.checkpoint import PATCH_SIZE, VAE_SCALE_FACTOR
from darkroom.pipelines.hidream.variants import DEFAULT, VARIANTS
from darkroom.request.field import Field
from darkroom.request.fields import check_pixels
from darkroom.request.image import CheckpointGuidanceField, CheckpointStepsField, ImageRequest, side_field

SIDE_MULTIPLE = VAE_SCALE_FACTOR * PATCH_SIZE
"""Pixels of a token along each axis."""
SEQUENCE_RANGE = (16, 218)
"""Tokens; CLIP of HiDream reads no more than 218 (diffusers' pipeline_hidream_image.py)."""
USUAL_SEQUENCE = 128


class GenerateRequest(ImageRequest):
    """One request; what is not said here, as every request for images.

    Without width and height an image is as large as what the checkpoint was trained on. Steps and guidance of a
    request that names none are the checkpoint's: see `darkroom.pipelines.hidream.variants`.
    """

    prompt: Annotated[
        str,
        Field(
            help="What to show. What max_sequence_length does not hold is cut off.",
            longest="max_prompt",
            may_be_empty=True,
        ),
    ]
    steps: Annotated[int, CheckpointStepsField] = VARIANTS[DEFAULT].steps
    guidance_scale: Annotated[float, CheckpointGuidanceField] = VARIANTS[DEFAULT].guidance_scale
    width: Annotated[int | None, side_field(SIDE_MULTIPLE)] = None
    height: Annotated[int | None, side_field(SIDE_MULTIPLE)] = None
    scheduler: Annotated[
        str | None,
        Field(
            help="By default the checkpoint's own.",
            words=tuple(FLOW_SCHEDULERS),
            convert=partial(scheduler_name, schedulers=FLOW_SCHEDULERS),
        ),
    ] = None
    max_sequence_length: Annotated[
        int,
        Field(
            help="Maximum number of tokens that each encoder reads of a prompt; some encoders have a lower limit.",
            low=SEQUENCE_RANGE[0],
            high=SEQUENCE_RANGE[1],
        ),
    ] = USUAL_SEQUENCE

    def completed(self, checkpoint: Any, limits: Any) -> ResolvedRequest:
        """This request with its absent width and height filled in.

        :raises TooLarge: the image would have more pixels than the limit, or more tokens than the transformer has
            room for: it pads an image that is not square to `checkpoint.max_tokens`.
        """
        width, height = self.width or checkpoint.side, self.height or checkpoint.side
        check_pixels(width, height, limits)
        tokens = width * height // SIDE_MULTIPLE**2
        if width != height and tokens > checkpoint.max_tokens:
            most = checkpoint.max_tokens * SIDE_MULTIPLE**2
            raise TooLarge(
                f"width x height must be at most {most:,} pixels for images that are not square, with this "
                f"checkpoint; got {width}x{height} = {width * height:,}.",
                param="width",
            )
        return self.resolved_as(ResolvedRequest, width=width, height=height)


class ResolvedRequest(GenerateRequest):
    """A request with all values filled in; only `scheduler` may be None, for the checkpoint's own."""

    width: Annotated[int, side_field(SIDE_MULTIPLE)]
    height: Annotated[int, side_field(SIDE_MULTIPLE)]
