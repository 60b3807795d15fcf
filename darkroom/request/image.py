"""The request of every family that makes images of a text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from typing_extensions import Self

from darkroom.errors import InvalidInput
from darkroom.images import Format
from darkroom.request.field import Field, Shorthand
from darkroom.request.fields import (
    ANY_SEED,
    DRAWN_SEEDS,
    FORMATS,
    GUIDANCE_RANGE,
    OTHER_FORMATS,
    QUALITY_RANGE,
    SEED_RANGE,
    SIDE_MINIMUM,
    check_pixels,
    shown,
)
from darkroom.request.request import Request

ENCODED_FORMATS = tuple(name for name in FORMATS if name != "raw")
"""Formats for REST. Raw pixels are for programs on the same machine."""
_SIZE = re.compile(r"(\d{1,9})\s*[xX*×]\s*(\d{1,9})")
_ANY_SIZE = "auto"

FormatField = Field(
    help="How the images are encoded.", words=FORMATS, other_words=OTHER_FORMATS, rest_words=ENCODED_FORMATS
)
QualityField = Field(help="1 to 100, of WebP and JPEG.", low=QUALITY_RANGE[0], high=QUALITY_RANGE[1])

CheckpointStepsField = Field(
    help="Denoising steps. By default what suits the checkpoint.",
    low=1,
    high="max_steps",
    aliases=("num_inference_steps",),
    from_checkpoint=True,
)
"""`steps` of families whose checkpoints define the default."""
CheckpointGuidanceField = Field(
    help="1 and below: no guidance, in half the time. By default what the checkpoint asks for.",
    low=GUIDANCE_RANGE[0],
    high=GUIDANCE_RANGE[1],
    from_checkpoint=True,
)
"""`guidance_scale` of families whose checkpoints define the default."""


def side_field(multiple: int) -> Field:
    """Width or height in pixels, a multiple of `multiple`."""
    return Field(
        help="In pixels. By default the side that the checkpoint was trained at.",
        low=SIDE_MINIMUM,
        high=lambda limits: limits.max_pixels // SIDE_MINIMUM,
        multiple=multiple,
    )


def size_shorthand(name: str, width: str, height: str, help: str) -> Shorthand:
    """A field such as "512x768" that stands for two others.

    :param width, height: the names of the other fields.
    """

    def read(size: str) -> Mapping[str, Any]:
        if size.strip().lower() == _ANY_SIZE:
            return {}
        sides = _SIZE.fullmatch(size.strip())
        if sides is None:
            raise InvalidInput(
                f'{name} must be width x height in pixels, such as 512x768, or "{_ANY_SIZE}"; got {shown(size)}.',
                param=name,
            )
        return {width: int(sides[1]), height: int(sides[2])}

    return Shorthand(
        help=f'{help} "512x768", for example; "{_ANY_SIZE}" is the default.',
        kind=str,
        read=read,
        schema={"examples": [_ANY_SIZE], "pattern": r"^(auto|[1-9][0-9]{1,8}x[1-9][0-9]{1,8})$"},
    )


class ImageRequest(Request):
    """The fields of every request for images of a text."""

    shorthands: ClassVar[Mapping[str, Shorthand]] = {
        "size": size_shorthand("size", "width", "height", "Width and height in one:"),
        "randomize_seed": Shorthand(
            help="Choose a random seed, whatever `seed` says.",
            kind=bool,
            read=lambda wanted: {"seed": None} if wanted else {},
            overrides=True,
            default=False,
        ),
    }

    prompt: Annotated[
        str, Field(help="What to show. Of any length up to the limit.", longest="max_prompt", may_be_empty=True)
    ]
    negative_prompt: Annotated[str | None, Field(help="What not to show.", longest="max_prompt", may_be_empty=True)] = (
        None
    )
    steps: Annotated[
        int,
        Field(
            help="Denoising steps. By default what suits the checkpoint.",
            low=1,
            high="max_steps",
            aliases=("num_inference_steps",),
        ),
    ] = 20
    guidance_scale: Annotated[
        float | None,
        Field(
            help="1 and below: no guidance. By default what the checkpoint asks for.",
            low=GUIDANCE_RANGE[0],
            high=GUIDANCE_RANGE[1],
        ),
    ] = None
    seed: Annotated[
        int,
        Field(
            help="Of the first image; the k-th has seed + k. Random if absent or -1.",
            low=SEED_RANGE[0],
            high=SEED_RANGE[1],
            also={ANY_SEED: "any"},
            dtype="INT64",
        ),
    ] = ANY_SEED
    width: Annotated[int | None, side_field(1)] = None
    height: Annotated[int | None, side_field(1)] = None
    num_images: Annotated[
        int, Field(help="How many images.", low=1, high="max_images", aliases=("num_images_per_prompt",))
    ] = 1
    scheduler: Annotated[str | None, Field(help="By default the checkpoint's own.")] = None
    progress_every: Annotated[
        int,
        Field(help="Steps between reports of progress; 0 for none.", low=0, high="max_steps", rest=False),
    ] = 1
    preview_every: Annotated[
        int, Field(help="Steps between previews in a stream of events; 0 for none.", low=0, high="max_steps")
    ] = 0
    format: Annotated[Format, FormatField] = "png"
    quality: Annotated[int, QualityField] = 90

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance (Ho and Salimans 2022): two rows per image instead of one."""
        return self.guidance_scale is None or self.guidance_scale > 1

    @property
    def steps_left(self) -> int:
        """How many of the steps are done: fewer where an image is given that is changed a little."""
        return self.steps

    def checked(self, limits: Any) -> Self:
        if self.width and self.height:
            check_pixels(self.width, self.height, limits)
        return self if self.seed != ANY_SEED else self.with_values(seed=secrets.randbelow(DRAWN_SEEDS))
