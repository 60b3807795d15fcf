"""The methods of both clients for LoRA files and the sessions in which they are trained."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx

from . import calls
from .answers import checked
from .answers_loras import (
    read_created,
    read_lora,
    read_loras,
    read_session_lora,
    read_sessions,
    read_text,
    read_training,
)
from .calls_loras import (
    download_lora_call,
    lora_call,
    session_call,
    session_image_call,
    session_lora_call,
    train_call,
    upload_lora_call,
)
from .client_tasks import Patience, patiently, patiently_async
from .fields import TrainOptions
from .models import ImageInput
from .models_loras import LoraInfo, SessionInfo, SessionLora, TrainingInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

POLL_SECONDS = 1.0


class LoraMethods(ABC):
    """LoRA files of the library, and sessions: images with prompts, and the LoRAs that are trained on them."""

    @abstractmethod
    def _send(self, call: calls.Call) -> httpx.Response: ...

    def loras(self) -> list[LoraInfo]:
        """The files of the library, by name.

        :raises DarkroomError: as for `upscale`.
        """
        return read_loras(checked(self._send(calls.Call(method="GET", path="/loras"))))

    def lora(self, name: str) -> LoraInfo:
        """A file of the library, with what the models have read of it.

        :param name: with its folder, which may be left out where only one file is called so.
        :raises InvalidRequest: there is none, or several folders have one.
        """
        return read_lora(checked(self._send(lora_call("GET", name))))

    def upload_lora(self, file: ImageInput, *, name: str | None = None) -> LoraInfo:
        """Add a LoRA file to the library. The same file again is no error.

            darkroom.upload_lora(Path("style.safetensors"), name="my style")
            darkroom.generate("a cat", loras=[{"name": "my style", "weight": 0.8}])

        :param file: the bytes, a path, or a file opened for reading bytes.
        :param name: by default that of the file.
        :raises InvalidRequest: it fits no model, is damaged or too large, or another file has the name.
        :raises OSError: the path cannot be read.
        """
        return read_lora(checked(self._send(upload_lora_call(file, name))))

    def download_lora(self, name: str) -> bytes:
        """The bytes of a file of the library.

        :raises InvalidRequest: as for `lora`.
        """
        return checked(self._send(download_lora_call(name))).content

    def delete_lora(self, name: str) -> None:
        """Delete a file of the library.

        :raises InvalidRequest: as for `lora`.
        """
        checked(self._send(lora_call("DELETE", name)))

    def create_session(self) -> str:
        """Make a training session; returns its id."""
        return read_created(checked(self._send(calls.Call(method="GET", path="/create_session"))))

    def sessions(self) -> list[SessionInfo]:
        """All training sessions."""
        return read_sessions(checked(self._send(calls.Call(method="GET", path="/list_sessions"))))

    def add_session_image(self, session_id: str | int, image: ImageInput, prompt: str) -> None:
        """Add an image to train on. The same image again is one more.

        :param prompt: what it shows.
        :raises InvalidRequest: there is no such session, or that is no image.
        :raises OSError: the path cannot be read.
        """
        checked(self._send(session_image_call(session_id, image, prompt)))

    def train_lora(self, session_id: str | int, **options: Unpack[TrainOptions]) -> str:
        """Begin to train a LoRA on the images of a session; returns the id of the durable task that does it.

            session = darkroom.create_session()
            darkroom.add_session_image(session, Path("cat.png"), "a cat")
            darkroom.train_lora(session, steps=500)
            darkroom.watch_training(session, on_progress=print)
            Path("cat.safetensors").write_bytes(darkroom.session_lora(session).data)

        :param options: see `TrainOptions`; what is not given or None is left to the service.
        :raises TypeError: there is no such option.
        :raises InvalidRequest: a training of the session runs already, or it has no images.
        """
        return read_text(checked(self._send(train_call(session_id, options))), "task_id")

    def training(self, session_id: str | int) -> TrainingInfo:
        """How far the newest training of a session is.

        :raises InvalidRequest: there is no such session.
        """
        return read_training(checked(self._send(session_call("/train_status", session_id))))

    def watch_training(
        self, session_id: str | int, *, on_progress: Callable[[TrainingInfo], None] | None = None
    ) -> TrainingInfo:
        """Wait until no training of a session runs. A service that goes away and comes back within two minutes does
        not matter.

        :param on_progress: called about every second while it waits or runs.
        :returns: how it ended; look at its `state`. "none": there was no training.
        :raises Unavailable: no service answers for too long.
        :raises InvalidRequest: there is no such session.
        """
        while True:
            found = patiently(Patience(), lambda: self.training(session_id))
            if found.state != "in-progress":
                return found
            if on_progress is not None:
                on_progress(found)
            time.sleep(POLL_SECONDS)

    def session_lora(self, session_id: str | int, *, iteration: int | None = None) -> SessionLora:
        """A LoRA file of a session.

        :param iteration: the k of `lora_<k>.safetensors`; None for the newest file.
        :raises InvalidRequest: there is none.
        """
        return read_session_lora(checked(self._send(session_call("/get_lora", session_id, {"iteration": iteration}))))

    def upload_session_lora(self, session_id: str | int, file: ImageInput, *, filename: str | None = None) -> str:
        """Add a LoRA file that was made elsewhere to a session; returns its name there.

        :param filename: by default `lora_<k>.safetensors` with the next number.
        :raises InvalidRequest: that is no safetensors file, or another file of the session has the name.
        :raises OSError: the path cannot be read.
        """
        return read_text(checked(self._send(session_lora_call(session_id, file, filename))), "lora_filename")

    def delete_session(self, session_id: str | int) -> None:
        """Delete a session with its images and LoRA files. A training that runs is stopped.

        :raises InvalidRequest: there is no such session.
        """
        checked(self._send(session_call("/delete_session", session_id)))


class AsyncLoraMethods(ABC):
    """`LoraMethods` for asyncio: see there for all of them."""

    @abstractmethod
    async def _send(self, call: calls.Call) -> httpx.Response: ...

    async def loras(self) -> list[LoraInfo]:
        """See `Client.loras`."""
        return read_loras(checked(await self._send(calls.Call(method="GET", path="/loras"))))

    async def lora(self, name: str) -> LoraInfo:
        """See `Client.lora`."""
        return read_lora(checked(await self._send(lora_call("GET", name))))

    async def upload_lora(self, file: ImageInput, *, name: str | None = None) -> LoraInfo:
        """See `Client.upload_lora`."""
        call = await asyncio.to_thread(upload_lora_call, file, name)
        return read_lora(checked(await self._send(call)))

    async def download_lora(self, name: str) -> bytes:
        """See `Client.download_lora`."""
        return checked(await self._send(download_lora_call(name))).content

    async def delete_lora(self, name: str) -> None:
        """See `Client.delete_lora`."""
        checked(await self._send(lora_call("DELETE", name)))

    async def create_session(self) -> str:
        """See `Client.create_session`."""
        return read_created(checked(await self._send(calls.Call(method="GET", path="/create_session"))))

    async def sessions(self) -> list[SessionInfo]:
        """See `Client.sessions`."""
        return read_sessions(checked(await self._send(calls.Call(method="GET", path="/list_sessions"))))

    async def add_session_image(self, session_id: str | int, image: ImageInput, prompt: str) -> None:
        """See `Client.add_session_image`."""
        call = await asyncio.to_thread(session_image_call, session_id, image, prompt)
        checked(await self._send(call))

    async def train_lora(self, session_id: str | int, **options: Unpack[TrainOptions]) -> str:
        """See `Client.train_lora`."""
        return read_text(checked(await self._send(train_call(session_id, options))), "task_id")

    async def training(self, session_id: str | int) -> TrainingInfo:
        """See `Client.training`."""
        return read_training(checked(await self._send(session_call("/train_status", session_id))))

    async def watch_training(
        self, session_id: str | int, *, on_progress: Callable[[TrainingInfo], None] | None = None
    ) -> TrainingInfo:
        """See `Client.watch_training`. `on_progress` is an ordinary function here too."""
        while True:
            found = await patiently_async(Patience(), lambda: self.training(session_id))
            if found.state != "in-progress":
                return found
            if on_progress is not None:
                on_progress(found)
            await asyncio.sleep(POLL_SECONDS)

    async def session_lora(self, session_id: str | int, *, iteration: int | None = None) -> SessionLora:
        """See `Client.session_lora`."""
        call = session_call("/get_lora", session_id, {"iteration": iteration})
        return read_session_lora(checked(await self._send(call)))

    async def upload_session_lora(self, session_id: str | int, file: ImageInput, *, filename: str | None = None) -> str:
        """See `Client.upload_session_lora`."""
        call = await asyncio.to_thread(session_lora_call, session_id, file, filename)
        return read_text(checked(await self._send(call)), "lora_filename")

    async def delete_session(self, session_id: str | int) -> None:
        """See `Client.delete_session`."""
        checked(await self._send(session_call("/delete_session", session_id)))
