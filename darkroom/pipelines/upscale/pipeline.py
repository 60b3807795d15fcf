"""decode -> tile -> network -> assemble -> encode, as plain functions over arrays that are given a `Network`.

Follows `RealESRGANer.enhance` (realesrgan/utils.py of Real-ESRGAN 0.3.0): alpha goes through the network as a
grey image of its own. Memory: the result is assembled in 8 bits, so the peak is the result, the tiles in
flight and the encoded file.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from darkroom import tracing
from darkroom.errors import Cancelled, OutOfMemory, TooLarge
from darkroom.images import Picture, Pixels, check_side, decode, dropped_metadata, encode, resize
from darkroom.pipelines.upscale.request import TILE_RANGE, UpscaleRequest, default_tile, output_size
from darkroom.pipelines.upscale.settings import Settings
from darkroom.serving.measures import RECORDER, STAGE, TILE, side_of, stage
from darkroom.serving.networks import Network
from darkroom.tiling import Tile, cut, paste, tiles


@dataclass(frozen=True, kw_only=True)
class Upscaled:
    """The finished job.

    :param data: the encoded image (or bare rows).
    :param shape: (height, width, channels).
    :param tile: the tile that worked; smaller than asked when memory was short.
    :param dropped: metadata of the input that the result cannot hold ("icc_profile").
    """

    data: bytes
    shape: tuple[int, int, int]
    tile: int
    dropped: list[str]


@dataclass(frozen=True, kw_only=True)
class UpscaleContext:
    """What a job runs on and whom it talks to.

    :param network: takes `image` uint8 (n, height, width, 3), gives `upscaled` uint8, `scale` times as large.
    :param limits: of the installation.
    :param window: side in pixels of the largest window where the request does not say; None = any.
    :param on_progress: called with the number of finished tiles and of all tiles, from the loop's thread.
    :param stopped: asked before every tile whether the client has gone.
    """

    network: Network
    limits: Settings
    window: int | None = None
    on_progress: Callable[[int, int], None] = lambda done, total: None
    stopped: Callable[[], bool] = lambda: False


async def upscale(data: bytes, request: UpscaleRequest, runner: UpscaleContext) -> Upscaled:
    """Upscale one encoded image.

    :raises NotAnImage, TooLarge, InvalidInput: the input is at fault.
    :raises Cancelled: `runner.stopped` said so.
    :raises OutOfMemory: not even the smallest tile fitted.
    """
    began = time.monotonic()
    with tracing.span("read"):
        picture = await asyncio.to_thread(decode, data, max_pixels=runner.limits.max_pixels, param="image")
    height, width = picture.rgb.shape[:2]
    RECORDER.observe(STAGE, time.monotonic() - began, stage="read", size=side_of(width, height))
    size = output_size(width, height, request.factor)
    _check_output(size, request, runner.limits)
    with stage("enlarge", *size):
        larger, tile = await _enlarge(picture, request, runner)
    if larger.rgb.shape[:2] != size[::-1]:
        larger = await asyncio.to_thread(resize, larger, width=size[0], height=size[1])
    with stage("write", *size):
        encoded = await asyncio.to_thread(encode, larger, format=request.format, quality=request.quality)
    dropped = dropped_metadata(larger, request.format)
    return Upscaled(data=encoded, shape=(size[1], size[0], larger.channels), tile=tile, dropped=dropped)


def _check_output(size: tuple[int, int], request: UpscaleRequest, limits: Settings) -> None:
    """Refuse before the work what would not fit into memory, or what `encode` could not write, after it."""
    if size[0] * size[1] > limits.max_output_pixels:
        raise TooLarge(
            f"The result would have {size[0]}x{size[1]} = {size[0] * size[1]:,} pixels; at most "
            f"{limits.max_output_pixels:,} are made. Send a smaller image or ask for a smaller scale.",
            param="scale",
        )
    check_side(*size, request.format)


async def _enlarge(picture: Picture, request: UpscaleRequest, runner: UpscaleContext) -> tuple[Picture, int]:
    """Run the network over the image; start again with half the tile for as long as memory is short."""
    longest = max(picture.rgb.shape[:2])
    wanted = default_tile(runner.limits, request.tile_pad, runner.window) if request.tile is None else request.tile
    tile = min(wanted or longest, longest)
    while True:
        try:
            return await _enlarge_tiled(picture, request, runner, tile), tile
        except OutOfMemory:
            if tile // 2 < TILE_RANGE[0]:
                raise
            tile //= 2


async def _enlarge_tiled(picture: Picture, request: UpscaleRequest, runner: UpscaleContext, tile: int) -> Picture:
    """All tiles of the colours and, where it varies, of alpha, `limits.tiles_in_flight` at a time."""
    height, width = picture.rgb.shape[:2]
    scale = request.network.scale
    rgb = np.empty((height * scale, width * scale, 3), np.uint8)
    planes: list[tuple[Pixels, Pixels]] = [(picture.rgb, rgb)]
    alpha = None
    if picture.alpha is not None:
        alpha = np.full(rgb.shape[:2], picture.alpha[0, 0], np.uint8)
        if picture.alpha.min() != picture.alpha.max():
            planes.append((picture.alpha, alpha))
    windows = tiles(height, width, tile=tile, pad=request.tile_pad)
    work = [(source, target, window) for source, target in planes for window in windows]
    done = 0

    async def one(source: Pixels, target: Pixels, window: Tile) -> None:
        nonlocal done
        if runner.stopped():
            raise Cancelled("The client cancelled the request.")
        with tracing.span("tile"), RECORDER.timed(TILE):
            answer = await runner.network({"image": cut(source, window)})
        paste(answer["upscaled"][0], target, window, scale)
        done += 1
        runner.on_progress(done, len(work))

    await _bounded((partial(one, *job) for job in work), runner.limits.tiles_in_flight)
    return dataclasses.replace(picture, rgb=rgb, alpha=alpha)


async def _bounded(jobs: Iterable[Callable[[], Awaitable[None]]], limit: int) -> None:
    """Run all jobs, at most `limit` at once. After an error no further one starts, and the running ones are
    waited for, since their memory is still in use."""
    waiting = deque(jobs)

    async def worker() -> None:
        while waiting:
            try:
                await waiting.popleft()()
            except BaseException:
                waiting.clear()
                raise

    results = await asyncio.gather(*(worker() for _ in range(limit)), return_exceptions=True)
    for result in results:
        if result is not None:
            raise result
