"""What the endpoints of OpenAI's images API share in one process."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request

from darkroom.settings import Settings
from proxy.openai.once import Works
from proxy.openai.published import PublishedImages


class OpenaiState:
    """The works that may be asked for again, and the images behind URLs, which are deleted between `start` and
    `stop` when their time is over."""

    def __init__(self, settings: Settings) -> None:
        self.works = Works()
        self.published = PublishedImages(settings.data_dir)
        self._round: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to delete old images."""
        self._round = asyncio.create_task(self.published.keep_sweeping())

    async def stop(self) -> None:
        """End."""
        if self._round is not None:
            self._round.cancel()
            with suppress(asyncio.CancelledError):
                await self._round


def of(request: Request) -> OpenaiState:
    """The app's state, for `Depends`."""
    state: OpenaiState = request.app.state.openai
    return state


UseOpenai = Annotated[OpenaiState, Depends(of)]
