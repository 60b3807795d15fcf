"""One endpoint, one lock, one thread."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from PIL import Image, UnidentifiedImageError

from benchmarks.baseline.generator import Generator, as_pngs
from benchmarks.baseline.request import GenerateBody


def create_app(generator: Generator) -> FastAPI:
    """The server. `POST /generate` answers `images` (base64 PNG), `seed` and `timings` in seconds:
    `waited` for the lock, `generated` by the pipeline, `encoded` by Pillow.
    """
    lock = asyncio.Lock()  # first come, first served
    # A thread of its own: OpenMP starts another pool of workers for every thread that calls it.
    worker = ThreadPoolExecutor(1, thread_name_prefix="generate", initializer=generator.prepare_thread)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shutdown()

    app = FastAPI(title="Baseline", lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.post("/generate")
    async def generate(body: GenerateBody) -> dict[str, Any]:
        control_image = _control_image(body, generator)
        seed = secrets.randbelow(2**32) if body.seed is None else body.seed
        came = time.perf_counter()
        async with lock:
            began = time.perf_counter()
            loop = asyncio.get_running_loop()
            images = await loop.run_in_executor(worker, generator, body, seed, control_image)
            done = time.perf_counter()
        texts = await asyncio.to_thread(_base64_pngs, images)
        timings = {"waited": began - came, "generated": done - began, "encoded": time.perf_counter() - done}
        return {"images": texts, "seed": seed, "timings": timings}

    return app


def _base64_pngs(images: Sequence[Image.Image]) -> list[str]:
    return [base64.b64encode(data).decode() for data in as_pngs(images)]


def _control_image(body: GenerateBody, generator: Generator) -> Image.Image | None:
    """:raises HTTPException: it is not an image, or there is no ControlNet."""
    if body.control_image is None:
        return None
    if not generator.controllable:
        raise HTTPException(422, "control_image: this server was started without --controlnet.")
    try:
        data = base64.b64decode(body.control_image.rpartition(",")[2], validate=True)
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise HTTPException(422, f"control_image is not a base64 picture ({type(error).__name__}).") from None
