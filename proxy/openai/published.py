"""Images behind URLs: files below DATA_DIR that anyone with the URL can fetch for an hour.

Their names cannot be guessed. They outlive restarts, and with a common DATA_DIR any proxy can answer with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from darkroom.errors import DarkroomError, Gone, NotFound
from darkroom.files import write_atomically
from proxy.tasks.files import is_full, storage_full

log = logging.getLogger(__name__)

KEPT_SECONDS = 3600.0
"""How long a URL is good."""
_FORGOTTEN_SECONDS = 7200.0
"""Age from which a file is deleted; until then its URL answers 410, and afterwards 404."""
_ROUND_SECONDS = 600.0
_TOKEN_BYTES = 24
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpeg|webp)")


class PublishedImages:
    """The folder `root`/published.

    :param clock: seconds since the epoch.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = root / "published"
        self._clock = clock

    def put(self, data: bytes | memoryview, format: str) -> str:
        """Write an image; returns its name. Waits for the disk.

        :param format: png, jpeg or webp.
        :raises StorageFull, DarkroomError: the disk is full, or cannot be written for another reason.
        """
        name = f"{secrets.token_urlsafe(_TOKEN_BYTES)}.{format}"
        path = self._folder / name
        try:
            write_atomically(path, bytes(data))
            os.utime(path, (self._clock(),) * 2)
        except OSError as error:
            if is_full(error):
                raise storage_full() from error
            log.error("an image cannot be written: %s", error)
            raise DarkroomError("The image cannot be written; see the server's log for the reason.") from error
        return name

    def find(self, name: str) -> tuple[Path, os.stat_result]:
        """Return the file of a name. Waits for the disk.

        :raises NotFound, Gone: there is none; its hour is over.
        """
        path = self._folder / name
        try:
            if not _NAME.fullmatch(name):
                raise FileNotFoundError
            found = path.stat()
        except OSError:
            raise NotFound(f"There is no image {name[:80]!r}, or it is deleted.", param="name") from None
        if self._clock() - found.st_mtime > KEPT_SECONDS:
            raise Gone("The URL was good for an hour, and that is over.", param="name")
        return path, found

    def sweep(self) -> None:
        """Delete the files that are too old. Waits for the disk."""
        for path in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # another proxy deletes it
                if self._clock() - path.stat().st_mtime > _FORGOTTEN_SECONDS:
                    path.unlink()

    async def keep_sweeping(self) -> None:
        """Sweep now and then, until this is cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.sweep)
            except OSError:
                log.exception("old images cannot be deleted")
            await asyncio.sleep(_ROUND_SECONDS)
