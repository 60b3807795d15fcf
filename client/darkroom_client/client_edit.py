"""The methods of both clients that have images changed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from . import answers, calls
from .answers import Result
from .answers_generate import GenerateEvents
from .calls_edit import MODES_CALL, edit_call, read_modes
from .models import EditOptions, GenerateResult, ImageInput, Preview, Progress
from .models_edit import EditModeInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EditMethods(ABC):
    """What `Client` adds to a connection."""

    @abstractmethod
    def _send(self, call: calls.Call) -> httpx.Response: ...

    @abstractmethod
    def _follow(self, call: calls.Call, events: answers.Events[Result]) -> Result: ...

    def edit(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str,
        *,
        mode: int | None = None,
        control: ImageInput | None = None,
        text: Mapping[str, Any] | None = None,
        additional: Mapping[str, Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        **options: Unpack[EditOptions],
    ) -> GenerateResult:
        """Change an image as a text says.

            result = darkroom.edit("photo.png", "make the background red", seed=42)
            Path("red.png").write_bytes(result.images[0].data)

        :param images: one, or a list of up to five: the first is changed, the others show what the prompt speaks of.
        :param prompt: what to change.
        :param mode: a number of `edit_modes()`, which says how the prompt is meant. `parameters` of the result has the
            prompt that was made of it.
        :param control: the control image of modes 13 to 16: a depth map, edges, keypoints, or a sketch.
        :param text: of modes 9 to 12: `old_text`, `new_text`, `position`, `font_type`, `color`.
        :param additional: of any mode: `positions`, `style`, `preserve_features`; of modes 13 to 16: `make_control`.
        :param on_progress: called after each step. An exception that it raises ends the request, and the
            service stops working on it within one step.
        :param on_preview: called with a small image of the state every `preview_every` steps (5 if not given).
        :param options: see `EditOptions`; what is not given or None is left to the service.
        :raises TypeError: there is no such option.
        :raises DarkroomError: as for `upscale`.
        :raises OSError: the path of an image cannot be read.
        """
        call = edit_call(
            images,
            prompt,
            mode=mode,
            control=control,
            text=text,
            additional=additional,
            options=options,
            stream=on_progress is not None or on_preview is not None,
            preview=on_preview is not None,
        )
        return self._follow(call, GenerateEvents(options.get("num_images") or 1, on_progress, on_preview))

    def edit_modes(self) -> list[EditModeInfo]:
        """The modes of editing.

        :raises DarkroomError: as for `upscale`.
        """
        return read_modes(answers.checked(self._send(MODES_CALL)))


class AsyncEditMethods(ABC):
    """`EditMethods` for asyncio: see there for all of them."""

    @abstractmethod
    async def _send(self, call: calls.Call) -> httpx.Response: ...

    @abstractmethod
    async def _follow(self, call: calls.Call, events: answers.Events[Result]) -> Result: ...

    async def edit(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str,
        *,
        mode: int | None = None,
        control: ImageInput | None = None,
        text: Mapping[str, Any] | None = None,
        additional: Mapping[str, Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        **options: Unpack[EditOptions],
    ) -> GenerateResult:
        """See `Client.edit`. `on_progress` and `on_preview` are ordinary functions here too."""
        make = partial(
            edit_call,
            images,
            prompt,
            mode=mode,
            control=control,
            text=text,
            additional=additional,
            options=options,
            stream=on_progress is not None or on_preview is not None,
            preview=on_preview is not None,
        )
        call = await asyncio.to_thread(make)
        return await self._follow(call, GenerateEvents(options.get("num_images") or 1, on_progress, on_preview))

    async def edit_modes(self) -> list[EditModeInfo]:
        """See `Client.edit_modes`."""
        return read_modes(answers.checked(await self._send(MODES_CALL)))
