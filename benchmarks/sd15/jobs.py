"""What the benchmarks of text to image ask for, and the ways to ask."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.clients import Answer, Post
from benchmarks.errors import BenchmarkError
from benchmarks.local import as_pixels

# In the words of the demo world, which any other checkpoint understands as well.
_PROMPTS = (
    "a cat on a blue background",
    "a pizza on a red background",
    "a cat on the left and a pizza on the right on a green background",
    "a photo of a rocket on a white background",
    "a drawing of a dog on a yellow background",
    "a large apple on a purple background",
    "a star above a tree on a black background",
    "a small car on an orange background",
)
# The bound of the REST contract for one image served alone and in a batch, and of parity with diffusers.
_ROUNDING = 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request for images; what is not said stays at the checkpoint's and the contract's defaults.

    :param side: width and height in pixels.
    """

    prompt: str
    seed: int
    steps: int
    side: int
    guidance_scale: float = 7.5
    num_images: int = 1

    def body(self) -> dict[str, Any]:
        """The JSON of `POST /generate`."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": self.steps,
            "width": self.side,
            "height": self.side,
            "guidance_scale": self.guidance_scale,
            "num_images": self.num_images,
        }

    def post(self) -> Post:
        """Sends it."""
        body = self.body()
        return lambda http: http.post("/generate", json=body)


def make_jobs(count: int, *, steps: int, side: int) -> list[Job]:
    """So many jobs, each with its own seed; the prompts take turns."""
    return [Job(prompt=_PROMPTS[k % len(_PROMPTS)], seed=1000 + k, steps=steps, side=side) for k in range(count)]


def pictures(answer: dict[str, Any]) -> list[bytes]:
    """The PNG files of an answer to `POST /generate`, of the service or of the baseline."""
    return [base64.b64decode(text.rpartition(",")[2]) for text in answer["images"]]


def content(answer: Answer | httpx.Response) -> dict[str, Any]:
    """The JSON of an answer."""
    response = answer.response if isinstance(answer, Answer) else answer
    found: dict[str, Any] = response.json()
    return found


def require_same(one: Sequence[bytes], other: Sequence[bytes], who: str, *, bound: int = _ROUNDING) -> None:
    """:raises BenchmarkError: images differ by more than rounding, so their times cannot be compared."""
    for ours, theirs in zip(one, other, strict=True):
        difference = np.abs(as_pixels(ours).astype(np.int16) - as_pixels(theirs)).max()
        if difference > bound:
            raise BenchmarkError(f"{who} made different pictures of the same seed (by {difference} of 255 levels).")
