"""The sample images of a training: made by the served model with the LoRA of each epoch, when nothing else waits."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError

from darkroom.errors import DarkroomError, NetworkError, NotReady, TaskTimeout
from darkroom.files import write_atomically
from darkroom.request.fields import DRAWN_SEEDS
from darkroom.request.loras import FIELD as LORAS
from proxy.errors import first_problem
from proxy.models import ServedModel
from proxy.operations.images import ImageJob, run
from proxy.operations.taking import take
from proxy.services import Services
from proxy.tasks.models import Output

log = logging.getLogger(__name__)

EPOCHS, SAMPLES = "epochs", "samples"
"""Folders in the workspace: the LoRAs that the trainer has left for samples, and the samples."""
_SOURCE = "training samples"
"""Their own turn at the gate."""
_PATIENCE_SECONDS, _LOOK_SECONDS = 60.0, 0.5
"""How long an image gives way to others, and how often it looks."""
_TRIES, _PAUSE_SECONDS = 5, 2.0
"""Of an image while Triton is not ready."""


class Samples:
    """Makes the samples of one run of a training, beside it. An image that cannot be made does not disturb it.

    :param workspace: of the task. What is there of an earlier run is not made again.
    :param model: None where the checkpoint is not served.
    :param prompts: of the images of an epoch.
    :param seed: of the first of them; the same one for each epoch.
    :param alive: called while it works.
    :ivar left_out: why images are missing; None where none are.
    """

    def __init__(
        self,
        services: Services,
        workspace: Path,
        model: ServedModel | None,
        prompts: Sequence[str],
        seed: int,
        alive: Callable[[], None],
    ) -> None:
        self._services, self._model, self._prompts, self._seed = services, model, prompts, seed
        self._epochs, self._samples = workspace / EPOCHS, workspace / SAMPLES
        self._alive = alive
        self._changed = asyncio.Event()
        self._ended = False
        self.left_out: str | None = None
        if prompts and model is None:
            self.left_out = "The checkpoint of the training is not served, so no sample images were made."

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Make samples while the body runs, and those that are left when it has ended."""
        working = asyncio.create_task(self._work())
        try:
            yield
            self._ended = True
            self.wake()
            try:
                await working
            except Exception:  # the LoRA is there, whatever became of its samples
                log.exception("the sample images were not made")
                self.left_out = "Sample images are missing; the log of the service says why."
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def wake(self) -> None:
        """Look for new LoRAs."""
        self._changed.set()

    async def _work(self) -> None:
        """Make the samples of all LoRAs that come."""
        while True:
            self._changed.clear()
            ended = self._ended
            for file in await asyncio.to_thread(lambda: sorted(self._epochs.glob("*.safetensors"))):
                await self._epoch(file)
            if ended:
                return
            await self._changed.wait()

    def outputs(self) -> list[Output]:
        """The samples as results, in the order of the epochs; reads files."""
        return [
            Output(data=path, media_type="image/png", details=json.loads(_details(path).read_text()), name=path.name)
            for path in sorted(self._samples.glob("*.png"))
        ]

    async def _epoch(self, file: Path) -> None:
        """Make the images of one LoRA, which is removed then: it may be large."""
        epoch = int(file.stem)
        for index, prompt in enumerate(self._prompts if self._model else ()):
            path = self._samples / f"epoch-{epoch:06}-{index + 1}.png"
            if path.is_file():
                continue
            seed = (self._seed + index) % DRAWN_SEEDS
            try:
                data, details = await self._patiently(file, {"prompt": prompt, "seed": seed})
            except (DarkroomError, RequestValidationError) as error:
                reason = error.message if isinstance(error, DarkroomError) else first_problem(error)[0]
                log.warning("no sample image of epoch %d: %s", epoch, reason)
                self.left_out = f"A sample image of epoch {epoch} could not be made: {reason}"
                continue
            await asyncio.to_thread(_keep, path, data, {**details, "epoch": epoch})
        await asyncio.to_thread(file.unlink, missing_ok=True)

    async def _patiently(self, file: Path, fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """`_image`, again while the server is at fault."""
        for left in reversed(range(_TRIES)):
            try:
                return await self._image(file, dict(fields))
            except (NotReady, NetworkError, TaskTimeout):
                if not left:
                    raise
                self._alive()
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError("the loop returns or raises")

    async def _image(self, file: Path, fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """One image, made as a request of a client, and what it was made with.

        :raises DarkroomError: as a request.
        """
        services, model = self._services, self._model
        assert model is not None
        model.require_ready(services)
        digest = await asyncio.to_thread(services.loras.digest_of, file)
        taken = await take(services, model, {**fields, "format": "png", LORAS: [{"digest": digest}]}, judge=False)
        job = ImageJob.of(model, taken.request)
        await self._give_way()
        async with services.gate.slot(_SOURCE):
            made = await run(services, job, self._on_response)
        data, details = made.images[0]
        return bytes(data), details

    async def _on_response(self, outputs: object) -> None:
        self._alive()

    async def _give_way(self) -> None:
        """Wait until a slot is free and nobody waits for one, but not for ever."""
        gate, deadline = self._services.gate, time.monotonic() + _PATIENCE_SECONDS
        while (gate.queued or gate.active >= gate.capacity) and time.monotonic() < deadline:
            self._alive()
            await asyncio.sleep(_LOOK_SECONDS)


def _details(path: Path) -> Path:
    return path.with_suffix(".json")


def _keep(path: Path, data: bytes, details: dict[str, Any]) -> None:
    """Write an image and before it what it was made with."""
    write_atomically(_details(path), json.dumps(details).encode())
    write_atomically(path, data)
