"""What goes in and comes out of the client, as plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, Union

from .errors import DarkroomError
from .fields import EditOptions as EditOptions
from .fields import Format as Format
from .fields import GenerateOptions as GenerateOptions
from .fields import TrainOptions as TrainOptions
from .fields import UpscaleOptions as UpscaleOptions

if TYPE_CHECKING:
    from PIL.Image import Image

# The bytes of an image, the path of one (never base64), or a file opened for reading bytes.
ImageInput = Union[bytes, str, "os.PathLike[str]", BinaryIO]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far one request is: `done` of `total` tiles (upscaling) or steps (generation), 0 <= done <= total."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class UpscaleResult:
    """One upscaled image.

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
    """One image of a batch: either `image` and `media_type`, or `error`; the other side is None."""

    filename: str
    image: bytes | None = None
    media_type: str | None = None
    error: DarkroomError | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A small encoded image of the state after `done` of `total` steps."""

    image: bytes
    media_type: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """One image of a result.

    :param data: the encoded file, as it should be written to disk. A PNG carries its parameters.
    :param media_type: "image/png", "image/webp" or "image/jpeg".
    :param seed: makes this image again, with the other parameters.
    :param index: its place in the request, from 0.
    """

    data: bytes
    media_type: str
    seed: int
    index: int

    def open(self) -> Image:
        """The image as Pillow has it.

        :raises ImportError: Pillow is not installed; `pip install 'darkroom-client[pillow]'`.
        """
        image: Image = pillow().open(BytesIO(self.data))
        return image


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """The images of one prompt.

    :param images: in the order of their seeds.
    :param seed: of the first.
    :param width, height: of each, in pixels.
    :param control_map: the encoded image that steered, the edges of `control_image` say; None without one.
    :param parameters: what the images were made with, defaults filled in.
    :param request_id: the id under which the service's log knows the request; "" if it gave none.
    """

    images: tuple[GeneratedImage, ...]
    seed: int
    width: int
    height: int
    control_map: bytes | None
    parameters: Mapping[str, Any]
    request_id: str


@dataclass(frozen=True, kw_only=True)
class PngInfo:
    """What an image says of how it was made; None where it does not.

    :param parameters: the text that the common web interfaces write and read.
    :param fields: the same, taken apart.
    :param darkroom: what Darkroom wrote, exact and complete.
    :param chunks: all texts of the file by their keyword.
    """

    parameters: str | None
    fields: Mapping[str, Any] | None
    darkroom: Mapping[str, Any] | None
    chunks: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the service is doing. `raw` is the whole answer, with fields that this version does not know.

    :param active_workers: tasks that can run at once.
    :param task_queue_size: tasks that wait.
    :param result_queue_size: results that wait for their client.
    :param pending_tasks: tasks that wait or run.
    :param gpu_info: one mapping for each GPU: `gpu_id`, `name`, `memory_allocated`, `memory_reserved` (GiB).
    """

    active_workers: int
    task_queue_size: int
    result_queue_size: int
    pending_tasks: int
    total_gpus: int
    gpu_info: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, Any]


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


def pillow() -> Any:
    """The module PIL.Image, which only a few conveniences need.

    :raises ImportError: Pillow is not installed.
    """
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise ImportError("This needs Pillow: pip install 'darkroom-client[pillow]'") from error
