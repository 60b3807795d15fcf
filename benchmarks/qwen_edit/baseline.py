"""What Darkroom replaces: a plain FastAPI server around diffusers' QwenImageEditPlusPipeline behind a lock.

As `benchmarks.baseline`, for edits. `python -m benchmarks.qwen_edit.baseline` runs it alone.
"""

from __future__ import annotations

import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

from darkroom.devices import core_count
from training.demo.qwen_edit.pipeline import edit, load_pipeline


class EditBody(BaseModel):
    """One job: the fields of `POST /edit/json` that the benchmark sends; others are ignored."""

    prompt: str
    image_base64: str
    num_inference_steps: int
    true_guidance_scale: float
    seed: int


def create_app(pipeline: Any, threads: int) -> FastAPI:
    """`POST /edit/json` answers `images` (base64 PNG) and `seed`, one job at a time, first come, first served."""
    lock = asyncio.Lock()
    # A thread of its own: OpenMP starts another pool of workers for every thread that calls it.
    worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
    app = FastAPI(title="Baseline")

    def run(body: EditBody) -> Image.Image:
        given = np.asarray(Image.open(io.BytesIO(base64.b64decode(body.image_base64))).convert("RGB"))
        with torch.inference_mode():
            made = edit(
                pipeline,
                (given,),
                body.prompt,
                steps=body.num_inference_steps,
                guidance=body.true_guidance_scale,
                seed=body.seed,
            )
        return Image.fromarray(made)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.post("/edit/json")
    async def edit_json(body: EditBody) -> dict[str, Any]:
        async with lock:
            image = await asyncio.get_running_loop().run_in_executor(worker, run, body)
        return {"images": [await asyncio.to_thread(_png, image)], "seed": body.seed}

    return app


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=9000, show_default=True)
def main(checkpoint: Path, host: str, port: int) -> None:
    """Serve POST /edit/json the plain way: diffusers' pipeline behind one lock."""
    pipeline = load_pipeline(checkpoint)
    uvicorn.run(create_app(pipeline, core_count()), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.qwen_edit.baseline")
