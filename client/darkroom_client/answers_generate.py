"""The answers of a generation, read by plain functions into plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from .answers import Events, bad_answer, decode_data_url, member, parsed
from .models import GeneratedImage, GenerateResult, PngInfo, Preview, Progress


class GenerateEvents(Events[GenerateResult]):
    """The answer of `POST /generate`, which has `count` images: they come as they are finished, in any order."""

    kinds = frozenset({"progress", "preview", "control", "image", "done"})

    def __init__(
        self,
        count: int,
        on_progress: Callable[[Progress], None] | None,
        on_preview: Callable[[Preview], None] | None,
    ) -> None:
        super().__init__()
        self._count = count
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._images: dict[int, GeneratedImage] = {}
        self._control_map: bytes | None = None
        self._done: Any = None

    def take(self, kind: str, body: Any) -> None:
        if kind == "progress" and self._on_progress is not None:
            self._on_progress(Progress(done=member(body, "done", int), total=member(body, "total", int)))
        elif kind == "preview" and self._on_preview is not None:
            media_type, image = decode_data_url(member(body, "image", str))
            done, total = member(body, "done", int), member(body, "total", int)
            self._on_preview(Preview(image=image, media_type=media_type, done=done, total=total))
        elif kind == "control":
            self._take_control_map(body)
        elif kind == "image":
            self._take_image(member(body, "index", int), member(body, "image", str), member(body, "seed", int))
        elif kind == "done":
            self._done = body

    def finished(self) -> GenerateResult | None:
        return None if self._done is None else self._assembled(self._done)

    def whole(self, response: httpx.Response) -> GenerateResult:
        body = parsed(response.content)
        images, seeds = member(body, "images", list), member(body, "seeds", list)
        if len(images) != len(seeds):
            raise bad_answer(f"there are {len(images)} images and {len(seeds)} seeds")
        for index, (image, seed) in enumerate(zip(images, seeds, strict=True)):
            self._take_image(index, image, seed)
        if body.get("control_map") is not None:
            self._take_control_map(body)
        return self._assembled(body)

    def _take_control_map(self, body: Any) -> None:
        self._control_map = decode_data_url(member(body, "control_map", str))[1]

    def _take_image(self, index: int, image: object, seed: object) -> None:
        if not isinstance(image, str) or not isinstance(seed, int):
            raise bad_answer(f"image {index} should be text and its seed a number")
        media_type, data = decode_data_url(image)
        self._images[index] = GeneratedImage(data=data, media_type=media_type, seed=seed, index=index)

    def _assembled(self, body: Any) -> GenerateResult:
        images = tuple(self._images[index] for index in sorted(self._images))
        if [image.index for image in images] != list(range(self._count)):
            raise bad_answer(f"{self._count} images were asked for and {len(images)} came")
        return GenerateResult(
            images=images,
            seed=member(body, "seed", int),
            width=member(body, "width", int),
            height=member(body, "height", int),
            control_map=self._control_map,
            parameters=member(body, "parameters", dict),
            request_id=self.request_id,
        )


def read_png_info(response: httpx.Response) -> PngInfo:
    """The answer of a successful `POST /png-info`."""
    body = parsed(response.content)
    text, fields, darkroom = (body.get(name) if isinstance(body, dict) else None for name in _PNG_INFO)
    if not (text is None or isinstance(text, str)):
        raise bad_answer(f'"parameters" should be text, and is {type(text).__name__}')
    return PngInfo(
        parameters=text,
        fields=fields if isinstance(fields, dict) else None,
        darkroom=darkroom if isinstance(darkroom, dict) else None,
        chunks=member(body, "chunks", dict),
    )


_PNG_INFO = ("parameters", "fields", "darkroom")
