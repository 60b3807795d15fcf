"""`size`: what was asked for, and the nearest size that a model can make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.request.fields import SIDE_MINIMUM
from darkroom.request.image import ImageRequest
from darkroom.request.init_image import fitting_size
from proxy.models import ServedModel
from proxy.services import Services

Size = tuple[int, int]
"""Width and height in pixels."""

_SMALLER = 0.97
"""By this factor the sides shrink until a model with limits of its own takes the size."""
_ATTEMPTS = 100


def read_size(text: str | None) -> Size | None:
    """Return what `size` says; None for "auto" and where it is absent.

    :raises InvalidInput: it is no size.
    """
    if text is None:
        return None
    sides = ImageRequest.shorthands["size"].read(text)
    if sides and min(sides.values()) < 1:
        raise InvalidInput(f"size must have sides of at least 1 pixel; got {text!r}.", param="size")
    return (sides["width"], sides["height"]) if sides else None


def possible_size(services: Services, model: ServedModel, asked: Size, *, strict: bool) -> Size:
    """Return the size if the model can make it, else the nearest that it can.

    :param strict: refuse the others instead.
    :raises InvalidInput: names the nearest size.
    """
    about, limits = model.family.request.fields(), model.limits(services)
    takes = _check_of(services, model)
    found = nearest_size(asked, multiple=about["width"].multiple, most=limits.max_pixels, takes=takes)
    if strict and found != asked:
        raise InvalidInput(
            f"size {asked[0]}x{asked[1]} is none that {model.name} can make; the nearest is {found[0]}x{found[1]}.",
            param="size",
        )
    return found


def _check_of(services: Services, model: ServedModel) -> Callable[[Size], bool]:
    """Whether a model has limits of its own, of its checkpoint, that a size is over."""
    if model.family.request.image_list_fields():  # these have no requests without images, and no further limits
        return lambda size: True

    def takes(size: Size) -> bool:
        fields: dict[str, Any] = {"prompt": "", "width": size[0], "height": size[1]}
        try:
            model.parse(services, fields)
        except InvalidInput as error:
            return error.param not in ("width", "height")
        return True

    return takes


def nearest_size(asked: Size, *, multiple: int, most: int, takes: Callable[[Size], bool] = lambda size: True) -> Size:
    """The nearest size with sides that are multiples of `multiple` and not below SIDE_MINIMUM, and at most `most`
    pixels. Where not both can be kept, the proportions count before the area.

    :param takes: whether a size is within further limits; smaller ones are tried until one is.
    """
    scale = max(1.0, SIDE_MINIMUM / min(asked))
    scale = min(scale, math.sqrt(most / (asked[0] * asked[1])))
    for _ in range(_ATTEMPTS):
        found = _nearest(asked, scale, multiple, most)
        if takes(found):
            break
        scale *= _SMALLER
    return found


def _nearest(asked: Size, scale: float, multiple: int, most: int) -> Size:
    """The best of the sizes around `asked` times `scale`."""
    least = -(-SIDE_MINIMUM // multiple) * multiple
    around = [
        (math.floor(length / multiple) * multiple, math.ceil(length / multiple) * multiple)
        for length in (asked[0] * scale, asked[1] * scale)
    ]
    there = [size for size in itertools.product(*around) if min(size) >= least and size[0] * size[1] <= most]
    if not there:  # a long and narrow one, whose short side has to grow
        return fitting_size(asked, None, None, multiple=multiple, max_pixels=most)

    def error(size: tuple[int, ...]) -> tuple[float, float]:
        across, down = (math.log(side / (length * scale)) for side, length in zip(size, asked, strict=True))
        return abs(across - down) + abs(across + down) / 2, -size[0]

    width, height = min(there, key=error)
    return width, height
