"""The same edit by our loop and by diffusers' pipelines, and how far the results are apart."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.generation import FinishedImage
from darkroom.pipelines.qwen_edit.pipeline import Components, generate
from darkroom.pipelines.qwen_edit.request import EditRequest
from darkroom.png import encode_png
from tests.families.qwen_edit import tiny
from tests.tiny_sd15 import their_pictures

Pictures = NDArray[np.uint8]
TOLERANCE = 2
"""Levels of 255: the sums are the same but for their order."""
FIRST, SECOND, THIRD = (112, 80), (64, 96), (96, 96)
"""Width and height of images."""
PROMPT = "make the cat red"


def picture(size: tuple[int, int], seed: int = 0) -> Pictures:
    """Coloured squares, (height, width, 3)."""
    width, height = size
    squares = np.random.default_rng(seed).integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return squares.repeat(16, 0).repeat(16, 1)[:height, :width]


def ours(components: Components, images: list[Pictures], **fields: Any) -> Pictures:
    given = {"prompt": PROMPT, "images": [encode_png(one) for one in images], "format": "raw", "align": False, **fields}
    request = EditRequest.parse(given, components.limits, components.checkpoint.request_defaults)

    async def collect() -> list[Pictures]:
        events = [event async for event in generate(request, components)]
        return [np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)]

    return np.stack(asyncio.run(collect()))


def theirs(pipeline: Any, images: list[Pictures], *, size: tuple[int, int], **arguments: Any) -> Pictures:
    given: Any = [Image.fromarray(one) for one in images]
    if not isinstance(pipeline, QwenImageEditPlusPipeline):
        (given,) = given
    width, height = size
    with tiny.small_areas(), torch.no_grad():
        return their_pictures(pipeline, image=given, prompt=PROMPT, width=width, height=height, **arguments)


def difference(first: Pictures, second: Pictures) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())
