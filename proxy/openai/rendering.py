"""Does the work of a request of OpenAI's images API, and writes the answer: JSON, or a stream of events."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from darkroom.images import Picture, decode, encode
from proxy.openai.calls import ImagesCall
from proxy.openai.fields import plain_quality
from proxy.openai.once import Send
from proxy.openai.published import PublishedImages
from proxy.operations.images import ImageJob, Outputs, run
from proxy.services import Services
from proxy.streams import event

_BACKGROUND = "opaque"
"""Of all images: no model here makes transparent ones."""

_PIXELS_PER_LATENT = 8
"""Of the VAEs of all families; a preview has a pixel for each latent."""
_MOST_PADDING = 8
"""Latents."""
_UNKNOWN_SIDE = 512
"""Of partial images, where the export lies on another machine and cannot be read."""

Made = tuple[memoryview, dict[str, Any]]
"""An image and its details."""


class Renderer:
    """Runs the jobs of one request.

    :param address: the URL of a published image by its name.
    """

    def __init__(
        self, services: Services, call: ImagesCall, published: PublishedImages, address: Callable[[str], str]
    ) -> None:
        self._services = services
        self._call = call
        self._published = published
        self._address = address

    async def render(self, send: Send) -> None:
        """Wait for a place at the gate, run the jobs and send the answer.

        :raises DarkroomError: it failed.
        """
        first = self._call.jobs[0].model.name
        if self._call.partial_images is None:
            images = await self._services.admitted(self._images, first)
            send(await asyncio.to_thread(self._answer, images))
        else:
            send(await self._services.admitted(partial(self._stream, send), first))

    async def _images(self) -> list[Made]:
        return [one for job in self._call.jobs for one in (await run(self._services, job)).images]

    def _answer(self, images: Sequence[Made]) -> bytes:
        """The answer in JSON. Encodes a lot of base64 and writes files: call it in a thread."""
        call, sizes = self._call, [_size_of(details) for _, details in images]
        answer = {
            "created": int(time.time()),
            "data": [self._entry(data, details) for data, details in images],
            **self._about(sizes[0]),
            "usage": call.tokens.usage(sizes),
        }
        return json.dumps({**answer, **call.more}).encode()

    def _entry(self, data: memoryview, details: dict[str, Any]) -> dict[str, Any]:
        if self._call.by_url:
            name = self._published.put(data, self._call.jobs[0].request.format)
            return {"url": self._address(name), "seed": details["seed"]}
        return {"b64_json": _base64(data), "seed": details["seed"]}

    def _about(self, size: tuple[int, int]) -> dict[str, Any]:
        return {
            "background": _BACKGROUND,
            "output_format": self._call.jobs[0].request.format,
            "quality": plain_quality(self._call.quality),
            "size": f"{size[0]}x{size[1]}",
        }

    async def _stream(self, send: Send) -> bytes:
        """Send the events of all jobs but the last one, which is returned: the work has to be recorded before it."""
        first, last = 0, b""
        for job in self._call.jobs:
            partials = PartialImages(job, self._call.partial_images or 0, _result_size(self._services, job))

            async def on_response(outputs: Outputs, partials: PartialImages = partials, first: int = first) -> None:
                for index, image in enumerate(await partials.due(outputs)):
                    send(await asyncio.to_thread(self._partial, image, partials, first + index))

            made = await run(self._services, job, on_response)
            for data, details in made.images:
                if last:
                    send(last)
                last = await asyncio.to_thread(self._completed, data, details, first)
                first += 1
        return last

    def _partial(self, data: bytes, partials: PartialImages, index: int) -> bytes:
        content = {
            **self._shown(data, partials.size),
            "partial_image_index": partials.sent - 1,
            "image_index": index,
        }
        return self._event("partial_image", content)

    def _completed(self, data: memoryview, details: dict[str, Any], index: int) -> bytes:
        size = _size_of(details)
        content = {
            **self._shown(data, size),
            "usage": self._call.tokens.usage([size]),
            "image_index": index,
            "seed": details["seed"],
            **self._call.more,
        }
        return self._event("completed", content)

    def _shown(self, data: bytes | memoryview, size: tuple[int, int]) -> dict[str, Any]:
        return {"b64_json": _base64(data), "created_at": int(time.time()), **self._about(size)}

    def _event(self, name: str, content: dict[str, Any]) -> bytes:
        kind = f"{self._call.event}.{name}"
        return event(kind, {"type": kind, **content})


class PartialImages:
    """Chooses among the previews of a job those that are sent, spread evenly over its steps.

    :param most: how many are sent.
    :param size: width and height of the results.
    :ivar sent: how many were.
    """

    def __init__(self, job: ImageJob, most: int, size: tuple[int, int]) -> None:
        request = job.request
        self._most = most
        self._count = request.num_images
        self._format = request.format
        self._quality = request.quality
        self.sent = 0
        self.size = size

    async def due(self, outputs: Outputs) -> list[bytes]:
        """Return the images of a response, one of each result, if it is their turn; else none."""
        if "preview" not in outputs or self.sent >= self._most:
            return []
        done, total = (int(n) for n in outputs["progress"])
        if done * (self._most + 1) < (self.sent + 1) * total:
            return []
        self.sent += 1
        return await asyncio.to_thread(self._enlarged, outputs["preview"].tobytes())

    def _enlarged(self, preview: bytes) -> list[bytes]:
        """The images of a preview, which has them side by side with a pixel for each latent, as large as the results
        and in their format."""
        pixels = decode(preview, max_pixels=1 << 28).rgb
        return [self._encoded(part) for part in np.split(pixels, self._count, axis=1)]

    def _encoded(self, pixels: NDArray[np.uint8]) -> bytes:
        large = Image.fromarray(pixels).resize(self.size, Image.Resampling.LANCZOS, self._box(*pixels.shape[:2]))
        return encode(Picture(rgb=np.asarray(large)), format=self._format, quality=self._quality)

    def _box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a preview that becomes the result: a model may make a little more on the right and below."""
        right, below = width - self.size[0] / _PIXELS_PER_LATENT, height - self.size[1] / _PIXELS_PER_LATENT
        if min(right, below) < 0 or max(right, below) >= _MOST_PADDING:
            return 0, 0, width, height  # the result is enlarged
        return 0, 0, width - right, height - below


def _result_size(services: Services, job: ImageJob) -> tuple[int, int]:
    """Width and height of the images of a job. What the request does not say is what the checkpoint was trained at."""
    request, checkpoint = job.request, job.model.checkpoint(services)
    if request.width and request.height:
        return request.width, request.height
    side = checkpoint.side if checkpoint is not None else _UNKNOWN_SIDE
    return request.width or side, request.height or side


def _size_of(details: dict[str, Any]) -> tuple[int, int]:
    return int(details["width"]), int(details["height"])


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")
