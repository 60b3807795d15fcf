"""The control of a request: the fields for it, the map that is made of its reference image, and what its rows read.

Follows diffusers 0.42, pipelines/controlnet. A UNet and its ControlNet are one network. It is asked at the steps at
which the ControlNet acts, and the plain UNet at the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from typing_extensions import Self

from darkroom.diffusion.controls import ControlOptions, control_names, load_control
from darkroom.diffusion.shares import acts_at
from darkroom.errors import InvalidInput
from darkroom.images import Pixels, read_rgb
from darkroom.png import encode_png
from darkroom.request.field import Field
from darkroom.request.image import ImageRequest
from darkroom.serving.networks import Array, Network, Tensors, TensorSpec
from darkroom.serving.picture_model import picture_canary

INPUTS = (
    TensorSpec(name="control_image", dtype="UINT8", dims=(-1, -1, 3), help="preprocessed, as large as the image"),
    TensorSpec(name="controlnet_conditioning_scale", dtype="FP32", dims=(1,)),
)
"""What a UNet with a ControlNet reads beside what the plain one reads."""
MAP = TensorSpec(name="control_map", dtype="UINT8", dims=(-1,), help="PNG of what the ControlNet reads; first one")
"""The output of a pipeline."""
_USUAL_KIND = "canny"


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


def _threshold(which: str) -> Field:
    return Field(help=f"Of Canny's edges: the {which} one of two thresholds.", low=1, high=255)


def share_field(which: str) -> Field:
    """A field for one end of the steps at which a ControlNet acts."""
    return Field(help=f"The share of the steps {which} which the ControlNet acts.", low=0.0, high=1.0)


CONDITIONING_SCALE = Field(help="How strongly the reference image steers.", low=0.0, high=2.0)


def require_order(start: float, end: float) -> None:
    """:raises InvalidInput: a ControlNet would act at no step."""
    if start >= end:
        raise InvalidInput(
            f"control_guidance_start must be below control_guidance_end; got {start:g} and {end:g}.",
            param="control_guidance_start",
        )


class ControlledRequest(ImageRequest):
    """The request of a family whose UNets may have a ControlNet.

    The settings of the family have `max_control_pixels`.
    """

    control_type: Annotated[str, Field(help="How the reference image steers.", words=control_names)] = _USUAL_KIND
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
    controlnet_conditioning_scale: Annotated[float, CONDITIONING_SCALE] = 1.0
    control_guidance_start: Annotated[float, share_field("from")] = 0.0
    control_guidance_end: Annotated[float, share_field("up to")] = 1.0

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

    @property
    def control_details(self) -> dict[str, Any]:
        """What the details of an image say of its control."""
        control = self.control
        if control is None:
            return {}
        return {
            "control_type": control.kind,
            "control_preprocess": control.preprocess,
            "low_threshold": control.options.low_threshold,
            "high_threshold": control.options.high_threshold,
            "controlnet_conditioning_scale": control.conditioning_scale,
            "control_guidance_start": control.start,
            "control_guidance_end": control.end,
        }

    def checked(self, limits: Any) -> Self:
        if self.control_image is None and self.control_type != _USUAL_KIND:
            raise InvalidInput("control_image is missing: control_type needs a reference image.", param="control_image")
        if self.low_threshold > self.high_threshold:
            raise InvalidInput(
                f"low_threshold must not be above high_threshold, {self.high_threshold}; got {self.low_threshold}.",
                param="low_threshold",
            )
        require_order(self.control_guidance_start, self.control_guidance_end)
        return super().checked(limits)


@dataclass(frozen=True, kw_only=True)
class Control:
    """The control of one request at work.

    :param network: the UNet with the ControlNet.
    :param pixels: (height, width, 3) uint8: the map.
    :param rows: of latents.
    """

    request: ControlRequest
    network: Network
    pixels: Pixels
    rows: int

    def acts_at(self, index: int, steps: int) -> bool:
        """Whether the ControlNet acts at one of the steps, counted from 0."""
        return acts_at(index, steps, self.request.start, self.request.end)

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """INPUTS of all rows, in one piece of memory as Triton takes it; the same at every step."""
        return {
            "control_image": np.repeat(self.pixels[None], self.rows, axis=0),
            "controlnet_conditioning_scale": np.full((self.rows, 1), self.request.conditioning_scale, np.float32),
        }

    async def png(self) -> bytes:
        """The map as a PNG, encoded outside of the event loop."""
        return await asyncio.to_thread(encode_png, self.pixels)


async def read_control(request: ControlledRequest, unets: Mapping[str, Network], max_pixels: int) -> Control | None:
    """Make the map of a request whose width and height are known; None where it has no reference image.

    :param unets: the UNets with a ControlNet, by the kind of control, that this installation has.
    :param max_pixels: of the reference image.
    :raises InvalidInput: there is no network of this kind.
    :raises NotAnImage, TooLarge: names the field.
    """
    control = request.control
    if control is None:
        return None
    if control.kind not in unets:
        have = ", ".join(sorted(unets)) or "none"
        raise InvalidInput(
            f"control_type {control.kind!r} has no network in this installation; it has: {have}.", param="control_type"
        )

    def make() -> Pixels:
        size: dict[str, Any] = {"width": request.width, "height": request.height, "max_pixels": max_pixels}
        pixels = read_rgb(request.control_image or b"", **size, param="control_image")
        return load_control(control.kind).preprocess(pixels, control.options) if control.preprocess else pixels

    rows = request.num_images * (2 if request.guided else 1)
    return Control(request=control, network=unets[control.kind], pixels=await asyncio.to_thread(make), rows=rows)


def control_canary(kind: str) -> Tensors:
    """The smallest image of a pipeline with a control of this kind: only the pipeline knows how wide the embeddings of
    the checkpoint are."""
    png = encode_png(np.zeros((64, 64, 3), np.uint8))
    return {
        **picture_canary(guidance_scale=1),
        "control_type": np.array([kind], np.object_),
        "control_image": np.frombuffer(png, np.uint8),
    }
