"""The request of families that also change a given image: image to image, and inpainting."""

from __future__ import annotations

import math
from typing import Annotated, Any

from typing_extensions import Self

from darkroom.errors import InvalidInput
from darkroom.images import upright_size
from darkroom.request.field import Field
from darkroom.request.fields import SIDE_MINIMUM
from darkroom.request.image import ImageRequest


class InitImageRequest(ImageRequest):
    """Text to image, or a given image changed as a text says: all of it, or where a mask says so.

    The settings of the family have `max_init_pixels`, and `max_pixels` as for all images.
    """

    init_image: Annotated[
        bytes | None,
        Field(
            help="An image to be changed, in any format. It is resized to width and height, which by default are its "
            "own, rounded down to what the checkpoint can make.",
            aliases=("init_images",),
            max_pixels="max_init_pixels",
        ),
    ] = None
    mask: Annotated[
        bytes | None,
        Field(
            help="Where init_image is painted again, in any format and size: where the mask is transparent; of a mask "
            "without transparency, where it is white.",
            aliases=("mask_image",),
            max_pixels="max_init_pixels",
        ),
    ] = None
    strength: Annotated[
        float,
        Field(
            help="How much of init_image is changed: the share of the steps that are done. 1 is all of it; 0 only "
            "encodes and decodes it. Without init_image it does nothing.",
            low=0.0,
            high=1.0,
            aliases=("denoising_strength",),
        ),
    ] = 0.8

    @property
    def given_strength(self) -> float | None:
        """`strength`; None where there is no image that it is of."""
        return None if self.init_image is None else self.strength

    @property
    def steps_left(self) -> int:
        return self.steps if self.init_image is None else strength_steps(self.steps, self.strength)

    def checked(self, limits: Any) -> Self:
        if self.init_image is None and self.mask is not None:
            raise InvalidInput("init_image is missing: mask says where it is painted again.", param="init_image")
        return super(InitImageRequest, self._sized(limits)).checked(limits)

    def _sized(self, limits: Any) -> Self:
        """This request with the width and the height that its image gives it, where it does not say them."""
        if self.init_image is None or (self.width and self.height):
            return self
        size = upright_size(self.init_image, max_pixels=limits.max_init_pixels, param="init_image")
        multiple = self.fields()["width"].multiple
        width, height = fitting_size(size, self.width, self.height, multiple=multiple, max_pixels=limits.max_pixels)
        return self.with_values(width=width, height=height)


def strength_steps(steps: int, strength: float) -> int:
    """The steps that are done of `steps`: `get_timesteps` of diffusers' img2img pipelines. 0 if less than one is."""
    return min(int(steps * strength), steps)


def fitting_size(
    size: tuple[int, int], width: int | None, height: int | None, *, multiple: int, max_pixels: int
) -> tuple[int, int]:
    """Width and height for an image that is to be changed: about its own, or in its proportions where one is given.

    :param size: width and height of the image. Larger ones than `max_pixels` are made smaller, and ones with a side
        below SIDE_MINIMUM larger.
    :param multiple: of which both sides have to be; they are rounded down.
    """
    own_width, own_height = size
    if width:
        return width, _side(own_height * width / own_width, multiple)
    if height:
        return _side(own_width * height / own_height, multiple), height
    scale = max(1.0, SIDE_MINIMUM / min(size))
    scale = min(scale, math.sqrt(max_pixels / (own_width * own_height)))
    fitted = _side(own_width * scale, multiple), _side(own_height * scale, multiple)
    most = max_pixels // min(fitted)  # of a very long image, whose short side had to grow
    return min(fitted[0], _side(most, multiple)), min(fitted[1], _side(most, multiple))


def _side(length: float, multiple: int) -> int:
    """`length` rounded down to a multiple, and not below SIDE_MINIMUM."""
    least = -(-SIDE_MINIMUM // multiple) * multiple
    return max(least, int(length + 1e-6) // multiple * multiple)
