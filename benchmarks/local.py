"""Upscaling without a service: the bare network over the tiles, and the pipeline around it, in this process."""

from __future__ import annotations

import asyncio
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT
from darkroom.images import decode
from darkroom.pipelines.upscale.pipeline import UpscaleContext, upscale
from darkroom.pipelines.upscale.request import UpscaleRequest
from darkroom.pipelines.upscale.settings import TILE, Settings
from darkroom.serving.networks import Array, OrtNetwork, Tensors
from darkroom.tiling import cut, tiles

PHOTO = ROOT / "tests" / "data" / "astronaut.png"


def photo(size: int = 512, *, left: int = 0, top: int = 0) -> bytes:
    """A square crop of the test photo (512x512 RGB) as a PNG file."""
    with Image.open(PHOTO) as image:
        return as_png(np.asarray(image.convert("RGB").crop((left, top, left + size, top + size))))


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels, (height, width, 3), as a PNG file."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG", compress_level=1)
    return target.getvalue()


def as_pixels(data: bytes) -> NDArray[np.uint8]:
    """An encoded image as pixels, (height, width, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


class Local:
    """One served network, loaded into this process from the same file.

    The session has ONNX Runtime's own defaults; only its threads do not spin, as in the service.

    :param model: as in a request: "animevideov3", "x4plus".
    :param threads: of ONNX Runtime; 0 is what the served model has, one per core.
    :raises BenchmarkError: the network is not exported.
    """

    def __init__(self, model: str, *, threads: int = 0) -> None:
        self._request = UpscaleRequest(model=model, scale=4.0, tile=TILE)
        path = ROOT / "model_repository" / self._request.network.model_name / "1" / "model.onnx"
        if not path.exists():
            raise BenchmarkError(f"{self._request.network.model_name} is not exported; run: python -m exporters")
        self._network = OrtNetwork(path, threads=threads)

    def tiles(self, data: bytes) -> list[NDArray[np.uint8]]:
        """The tiles that a request with default settings sends to the network, each (1, height, width, 3)."""
        pixels = decode(data, max_pixels=Settings().max_pixels).rgb
        height, width = pixels.shape[:2]
        windows = tiles(height, width, tile=TILE, pad=self._request.tile_pad)
        return [cut(pixels, window) for window in windows]

    def loop(self, batches: list[NDArray[np.uint8]]) -> None:
        """The bare loop: one call of the network per tile; what it gives is dropped."""
        for tile in batches:
            self._network.run({"image": tile})

    def upscale(self, data: bytes) -> bytes:
        """The whole pipeline, from file to file."""
        alone = asyncio.Lock()  # as in Triton: the one instance of a network runs one batch at a time

        async def network(inputs: Tensors) -> dict[str, Array]:
            async with alone:
                return await self._network(inputs)

        runner = UpscaleContext(
            network=network,
            limits=Settings(),
            on_progress=lambda done, of: None,
            stopped=lambda: False,
        )
        results: list[bytes] = []

        async def work() -> None:
            results.append((await upscale(data, self._request, runner)).data)

        # Nothing may be returned through asyncio.run: it formats its task, result included, for an error message
        # (signal.signal in CPython 3.11 on an unknown handler), which takes over 100 ms for 5 MB.
        asyncio.run(work())
        return results[0]
