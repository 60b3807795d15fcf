"""The clients: `Client` for ordinary code, `AsyncClient` for asyncio. Same arguments, same methods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING

import httpx
from httpx_sse import EventSource

from . import answers, calls
from .answers import Result
from .answers_generate import GenerateEvents, read_png_info
from .answers_service import read_health, read_info, read_models, read_status
from .answers_upscale import UpscaleEvents, read_batch
from .client_edit import AsyncEditMethods, EditMethods
from .client_loras import AsyncLoraMethods, LoraMethods
from .client_tasks import AsyncTaskMethods, TaskMethods
from .models import (
    BatchItem,
    Format,
    GenerateOptions,
    GenerateResult,
    Health,
    ImageInput,
    Info,
    PngInfo,
    Preview,
    Progress,
    Status,
    UpscaleOptions,
    UpscaleResult,
)
from .models_served import ServedModel
from .patience import PatientTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack  # every type checker has it; nothing is installed for it


class Client(TaskMethods, LoraMethods, EditMethods):
    """A connection to a Darkroom service.

        with Client() as darkroom:
            result = darkroom.upscale("photo.jpg", model="x4plus")
            Path("photo.png").write_bytes(result.image)

    Safe to use from several threads. Proxy variables of the environment (HTTP_PROXY) are not looked at.

    :param base_url: address of the service; the environment's DARKROOM_URL, or http://127.0.0.1:8000.
    :param timeout: seconds that the service may stay silent, above 0. Without progress (`on_progress`) it is silent
        until it is finished. Connecting has its own limit of 10 s.
    :param retries: how often a request is tried again when the service refused it (429, 503) or no connection
        could be made, 0 or more. Between tries it waits as long as `Retry-After` says, otherwise about
        1, 2, 4 ... seconds, and never longer than 60 s. Where `Retry-After` is longer than all tries together, as that
        of a daily limit may be, it does not try again. A connection that breaks or times out later is not
        tried again: see `darkroom_client.calls`. `health` and `info` are tried once.
    :param headers: sent with every request.
    :param api_key: the key of the service, where it has keys, sent as `Authorization: Bearer ...`; the environment's
        DARKROOM_API_KEY.
    :raises InvalidRequest: an argument is out of range.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: float = 600.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
    ) -> None:
        self._settings = calls.make_settings(base_url, timeout, retries, headers, api_key)
        self._http = httpx.Client(
            base_url=self._settings.base_url,
            headers=self._settings.headers,
            timeout=self._settings.timeout,
            transport=PatientTransport(httpx.HTTPTransport(limits=calls.LIMITS)),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self._http.close()

    def health(self) -> Health:
        """Whether the service is up and its models are loaded. Models that still load are no error.

        :raises Unavailable: no service answers.
        """
        return read_health(self._send(calls.Call(method="GET", path="/api/health")))

    def info(self) -> Info:
        """Models and limits of the service.

        :raises DarkroomError: as for `upscale`.
        """
        return read_info(answers.checked(self._send(calls.Call(method="GET", path="/api/info"))))

    def models(self) -> list[ServedModel]:
        """Every model of the service, and the fields that it takes.

        :raises DarkroomError: as for `upscale`.
        """
        return read_models(answers.checked(self._send(calls.Call(method="GET", path="/models"))))

    def status(self) -> Status:
        """Workers, queues and devices of the service.

        :raises DarkroomError: as for `upscale`.
        """
        return read_status(answers.checked(self._send(calls.Call(method="GET", path="/status"))))

    def upscale(
        self,
        image: ImageInput,
        *,
        model: str | None = None,
        scale: float | None = None,
        tile: int | None = None,
        tile_pad: int | None = None,
        format: Format | None = "png",
        quality: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> UpscaleResult:
        """Enlarge one image. What is None is left to the service; `info()` tells its limits.

        :param image: the bytes, a path, or a file opened for reading bytes; PNG, JPEG, WebP, BMP, TIFF or GIF.
        :param model: a name out of `info().models`.
        :param scale: output pixels per input pixel along each axis, 1..8; the model's own by default.
        :param tile: edge of the tiles that the image is cut into, input pixels, 32..4096; 0 for no tiles.
        :param tile_pad: overlap of neighbouring tiles, input pixels.
        :param quality: of webp and jpeg, 1..100.
        :param on_progress: called after each tile. An exception that it raises ends the request, and the
            service stops working on it.
        :raises InvalidRequest: the service refuses the image or an option.
        :raises Unauthorized, Forbidden: the service wants another key.
        :raises Refused: a rule of its content policy refuses the request.
        :raises Busy: the queue is full, after all retries; RateLimited: the key may not do more now.
        :raises Unavailable: no service answers, the service is not ready, or the connection broke.
        :raises TimedOut: the service gave up, or was silent for longer than `timeout`.
        :raises Cancelled: the service cancelled the request.
        :raises ServerError: the service failed, or gave an answer that cannot be understood.
        :raises OSError: the path cannot be read.
        """
        options = UpscaleOptions(model=model, scale=scale, tile=tile, tile_pad=tile_pad, format=format, quality=quality)
        call = calls.upscale_call(calls.load_image(image), options, stream=on_progress is not None)
        return self._follow(call, UpscaleEvents(on_progress))

    def upscale_batch(
        self,
        images: Iterable[ImageInput],
        *,
        model: str | None = None,
        scale: float | None = None,
        tile: int | None = None,
        tile_pad: int | None = None,
        format: Format | None = "png",
        quality: int | None = None,
    ) -> list[BatchItem]:
        """Enlarge several images in one request; the options are those of `upscale` and hold for all.

        All of them are in memory at once, going and coming: for a folder, call `upscale` for each.

        :returns: one item for each image, in order; a bad image has an `error` and does not lose the others.
        :raises DarkroomError: as for `upscale`, when the request as a whole fails.
        """
        options = UpscaleOptions(model=model, scale=scale, tile=tile, tile_pad=tile_pad, format=format, quality=quality)
        uploads = [calls.load_image(image) for image in images]
        if not uploads:
            return []
        return read_batch(answers.checked(self._send(calls.batch_call(uploads, options))), len(uploads))

    def generate(
        self,
        prompt: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """Make images of a text.

            result = darkroom.generate("a cat on a blue background", steps=20, seed=42, num_images=4)
            for image in result.images:
                Path(f"cat-{image.seed}.png").write_bytes(image.data)

        :param prompt: what to show; `(word:1.3)` weighs a word.
        :param on_progress: called after each step. An exception that it raises ends the request, and the
            service stops working on it within one step.
        :param on_preview: called with a small image of the state every `preview_every` steps (5 if not given).
        :param options: see `GenerateOptions`; what is not given or None is left to the service.
        :raises TypeError: there is no such option.
        :raises DarkroomError: as for `upscale`.
        :raises OSError: the path of an image cannot be read.
        """
        stream = on_progress is not None or on_preview is not None
        call = calls.generate_call(prompt, options, stream=stream, preview=on_preview is not None)
        return self._follow(call, GenerateEvents(options.get("num_images") or 1, on_progress, on_preview))

    def png_info(self, image: ImageInput) -> PngInfo:
        """Read the parameters that a generated image carries.

        :raises DarkroomError: as for `upscale`.
        :raises OSError: the path cannot be read.
        """
        return read_png_info(answers.checked(self._send(calls.png_info_call(calls.load_image(image)))))

    def _send(self, call: calls.Call) -> httpx.Response:
        with answers.translated_errors(self._settings):
            return self._http.request(call.method, call.path, **self._settings.arguments(call))

    def _follow(self, call: calls.Call, events: answers.Events[Result]) -> Result:
        """Send a request and read its answer as it comes."""
        with (
            answers.translated_errors(self._settings),
            self._http.stream(call.method, call.path, **self._settings.arguments(call)) as response,
        ):
            events.request_id = response.headers.get("x-request-id", "")
            if not answers.is_event_stream(response):
                response.read()
                return events.whole(answers.checked(response))
            for event in EventSource(response).iter_sse():
                events.feed(event)
            return events.result()


class AsyncClient(AsyncTaskMethods, AsyncLoraMethods, AsyncEditMethods):
    """`Client` for asyncio: the same arguments and methods, to be awaited. See there for all of them.

    Cancelling the task that awaits `upscale`, `generate` or `edit` closes the connection, and the service stops working
    on it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: float = 600.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
    ) -> None:
        self._settings = calls.make_settings(base_url, timeout, retries, headers, api_key)
        self._http = httpx.AsyncClient(
            base_url=self._settings.base_url,
            headers=self._settings.headers,
            timeout=self._settings.timeout,
            transport=PatientTransport(httpx.AsyncHTTPTransport(limits=calls.LIMITS)),
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        await self._http.aclose()

    async def health(self) -> Health:
        """See `Client.health`."""
        return read_health(await self._send(calls.Call(method="GET", path="/api/health")))

    async def info(self) -> Info:
        """See `Client.info`."""
        return read_info(answers.checked(await self._send(calls.Call(method="GET", path="/api/info"))))

    async def models(self) -> list[ServedModel]:
        """See `Client.models`."""
        return read_models(answers.checked(await self._send(calls.Call(method="GET", path="/models"))))

    async def status(self) -> Status:
        """See `Client.status`."""
        return read_status(answers.checked(await self._send(calls.Call(method="GET", path="/status"))))

    async def upscale(
        self,
        image: ImageInput,
        *,
        model: str | None = None,
        scale: float | None = None,
        tile: int | None = None,
        tile_pad: int | None = None,
        format: Format | None = "png",
        quality: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> UpscaleResult:
        """See `Client.upscale`. `on_progress` is an ordinary function here too."""
        options = UpscaleOptions(model=model, scale=scale, tile=tile, tile_pad=tile_pad, format=format, quality=quality)
        upload = await asyncio.to_thread(calls.load_image, image)
        call = calls.upscale_call(upload, options, stream=on_progress is not None)
        return await self._follow(call, UpscaleEvents(on_progress))

    async def upscale_batch(
        self,
        images: Iterable[ImageInput],
        *,
        model: str | None = None,
        scale: float | None = None,
        tile: int | None = None,
        tile_pad: int | None = None,
        format: Format | None = "png",
        quality: int | None = None,
    ) -> list[BatchItem]:
        """See `Client.upscale_batch`."""
        options = UpscaleOptions(model=model, scale=scale, tile=tile, tile_pad=tile_pad, format=format, quality=quality)
        uploads = [await asyncio.to_thread(calls.load_image, image) for image in images]
        if not uploads:
            return []
        return read_batch(answers.checked(await self._send(calls.batch_call(uploads, options))), len(uploads))

    async def generate(
        self,
        prompt: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """See `Client.generate`. `on_progress` and `on_preview` are ordinary functions here too."""
        stream = on_progress is not None or on_preview is not None
        preview = on_preview is not None
        call = await asyncio.to_thread(calls.generate_call, prompt, options, stream=stream, preview=preview)
        return await self._follow(call, GenerateEvents(options.get("num_images") or 1, on_progress, on_preview))

    async def png_info(self, image: ImageInput) -> PngInfo:
        """See `Client.png_info`."""
        upload = await asyncio.to_thread(calls.load_image, image)
        return read_png_info(answers.checked(await self._send(calls.png_info_call(upload))))

    async def _send(self, call: calls.Call) -> httpx.Response:
        with answers.translated_errors(self._settings):
            return await self._http.request(call.method, call.path, **self._settings.arguments(call))

    async def _follow(self, call: calls.Call, events: answers.Events[Result]) -> Result:
        """See `Client._follow`."""
        with answers.translated_errors(self._settings):
            async with self._http.stream(call.method, call.path, **self._settings.arguments(call)) as response:
                events.request_id = response.headers.get("x-request-id", "")
                if not answers.is_event_stream(response):
                    await response.aread()
                    return events.whole(answers.checked(response))
                async with aclosing(EventSource(response).aiter_sse()) as stream:
                    async for event in stream:
                        events.feed(event)
                return events.result()
