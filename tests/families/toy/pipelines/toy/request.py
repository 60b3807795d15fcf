"""What a request may ask for."""

from __future__ import annotations

from typing import Annotated

from darkroom.request.field import Field
from darkroom.request.image import ImageRequest

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ToyRequest(ImageRequest):
    """One request; what is not said here, as every request for images."""

    steps: Annotated[int, Field(help="Steps.", low=1, high="max_steps", aliases=("num_inference_steps",))] = 3
    colour: Annotated[str, Field(help="The colour of the images.", words=tuple(COLOURS))] = "red"
