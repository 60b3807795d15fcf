"""Looks at the model repository every second, and loads and unloads models, as Triton does when it polls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from darkroom.registry import family_of
from darkroom.serving.in_process import InProcess

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Marks = frozenset[tuple[str, int, int]]
"""The files of a model: paths, times and sizes. They change when the model is to be loaded again."""


class Repository:
    """Keeps the loaded models equal to what the folder holds.

    A model that does not load is tried again when its files change.
    """

    def __init__(self, folder: Path, models: InProcess) -> None:
        self._folder = folder
        self._models = models
        self._seen: dict[str, Marks] = {}
        self._failed: dict[str, str] = {}
        self.waiting: tuple[str, ...] = ()

    async def watch(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Unload what has gone, and load what is new or has changed: one family after the other."""
        found = await asyncio.to_thread(self._read)
        for name in [name for name in self._seen if name not in found]:
            del self._seen[name]
            self._failed.pop(name, None)
            log.info("unloading %s", name)
            await self._models.unload_one(name)
        new = [name for name in found if self._seen.get(name) != found[name]]
        ordered = sorted(self._models.in_order(new), key=lambda name: family_of(name) or "")
        while ordered:
            self.waiting = tuple(ordered)
            await self._load(name := ordered.pop(0), found[name])
        self.waiting = ()

    def index(self) -> Iterator[tuple[str, Literal["READY", "LOADING", "UNAVAILABLE"], str]]:
        """Name, state and reason of each model of the folder, as Triton gives them."""
        for name in self._models.names():
            if name in self._models.loaded:
                yield name, "READY", ""
            elif name in self._failed:
                yield name, "UNAVAILABLE", self._failed[name]
            else:
                yield name, "LOADING", ""

    async def _load(self, name: str, marks: Marks) -> None:
        self._seen[name] = marks
        self._failed.pop(name, None)
        try:
            await self._models.load_one(name)
        except Exception as error:
            log.exception("%s", name)
            self._failed[name] = why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            log.error("failed to load '%s' version 1: %s", name, why)  # the supervisor reads this line
        else:
            log.info("loaded %s", name)

    def _read(self) -> dict[str, Marks]:
        found = {}
        for name in self._models.names():
            try:
                found[name] = frozenset(_marks(self._folder / name))
            except OSError:  # it is going, or not written yet
                continue
        return found


def _marks(model: Path) -> Iterator[tuple[str, int, int]]:
    """:raises OSError: a file has gone meanwhile."""
    for path in (model / "config.pbtxt", *model.glob("[0-9]*/*")):
        if path.is_file():
            status = path.stat()
            yield str(path), status.st_mtime_ns, status.st_size
