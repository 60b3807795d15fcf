"""What goes in and comes out of the client, as plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TypedDict, Union

from .errors import DarkroomError

# The bytes of a picture, the path of one (never base64), or a file opened for reading bytes.
ImageInput = Union[bytes, str, "os.PathLike[str]", BinaryIO]

Format = Literal["png", "webp", "jpeg"]


class UpscaleOptions(TypedDict, total=False):
    """The keyword arguments of `upscale` and `upscale_batch`; None leaves the choice to the service."""

    model: str | None
    scale: float | None
    tile: int | None
    tile_pad: int | None
    format: Format
    quality: int | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far one picture is: `done` of `total` tiles, 0 <= done <= total."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class UpscaleResult:
    """One upscaled picture.

    :param image: the encoded file, as it should be written to disk.
    :param media_type: "image/png", "image/webp" or "image/jpeg".
    :param request_id: the id under which the service's log knows the request; "" if it gave none.
    :param model: the model that was used.
    :param scale: output pixels per input pixel along each axis.
    """

    image: bytes
    media_type: str
    request_id: str
    model: str
    scale: float


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """One picture of a batch: either `image` and `media_type`, or `error`; the other side is None."""

    filename: str
    image: bytes | None = None
    media_type: str | None = None
    error: DarkroomError | None = None


@dataclass(frozen=True, kw_only=True)
class Health:
    """The state of the service.

    :param status: "healthy" when requests are served.
    :param device_type: "cuda", "mps" or "cpu"; "" while it is not known.
    """

    status: str
    model_loaded: bool
    device_type: str
    device_name: str

    @property
    def ready(self) -> bool:
        """True when an upscale sent now would be served."""
        return self.status == "healthy" and self.model_loaded


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model of the service and the scales it can give (output pixels per input pixel along each axis)."""

    name: str
    title: str
    scales: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Info:
    """What the service offers. `raw` is the whole answer, with fields that this version does not know."""

    models: tuple[ModelInfo, ...]
    default_model: str
    limits: Mapping[str, Any]
    raw: Mapping[str, Any]
