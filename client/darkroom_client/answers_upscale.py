"""The answers of an upscale, read by plain functions into plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from .answers import Events, bad_answer, decode_data_url, error_from, member, number, parsed
from .models import BatchItem, Progress, UpscaleResult


class UpscaleEvents(Events[UpscaleResult]):
    """The answer of `POST /api/upscale`."""

    kinds = frozenset({"progress", "image"})

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        super().__init__()
        self._on_progress = on_progress
        self._result: UpscaleResult | None = None

    def take(self, kind: str, body: Any) -> None:
        if kind == "progress":
            if self._on_progress is not None:
                self._on_progress(Progress(done=member(body, "done", int), total=member(body, "total", int)))
            return
        media_type, image = decode_data_url(member(body, "image", str))
        self._result = UpscaleResult(
            image=image,
            media_type=media_type,
            request_id=self.request_id,
            model=member(body, "model", str),
            scale=number(body, "scale"),
        )

    def finished(self) -> UpscaleResult | None:
        return self._result

    def whole(self, response: httpx.Response) -> UpscaleResult:
        media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        if not media_type.startswith("image/") or not response.content:
            raise bad_answer(f"expected an image, got {len(response.content)} bytes of {media_type or 'no type'}")
        try:
            scale = float(response.headers.get("x-upscale-scale", ""))
        except ValueError:
            raise bad_answer("the header X-Upscale-Scale is missing or no number") from None
        return UpscaleResult(
            image=response.content,
            media_type=media_type,
            request_id=self.request_id,
            model=response.headers.get("x-upscale-model", ""),
            scale=scale,
        )


def read_batch(response: httpx.Response, sent: int) -> list[BatchItem]:
    """The items of a successful `POST /api/upscale-batch`, one for each of the `sent` images, in their order."""
    results = member(parsed(response.content), "results", list)
    if len(results) != sent:
        raise bad_answer(f"{sent} images were sent and {len(results)} results came")
    return [_read_item(item) for item in results]


def _read_item(item: object) -> BatchItem:
    filename = member(item, "filename", str)
    if not member(item, "success", bool):
        return BatchItem(filename=filename, error=error_from(item, status=None))
    media_type, image = decode_data_url(member(item, "image", str))
    return BatchItem(filename=filename, image=image, media_type=media_type)
