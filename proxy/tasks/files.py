"""What tasks keep on the disk: a folder for each, with what it was given and what it made."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from darkroom.errors import DarkroomError, StorageFull
from darkroom.files import write_atomically
from darkroom.images import MEDIA_TYPES
from proxy.tasks.models import Output

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ORPHAN_SECONDS = 3600.0
"""A folder without a task may be one that is about to be accepted."""
_DATABASE = ".database"
_EXTENSIONS = {media_type: name for name, media_type in MEDIA_TYPES.items()}
_RESULT_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_(\d{1,4})\.([a-z]{3,4})")


class Files:
    """The folder `root`/tasks. Everything here waits for the disk: call it in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root / "tasks"

    def write_inputs(self, id: str, files: Mapping[str, bytes]) -> int:
        """Keep what came with a task; returns its bytes.

        :raises StorageFull: there is no room.
        """
        for name, data in files.items():
            self._write(id, f"inputs/{name}", data)
        return sum(len(data) for data in files.values())

    def read_inputs(self, id: str, names: Sequence[str]) -> dict[str, bytes]:
        """What `write_inputs` kept."""
        return {name: (self._folder(id) / "inputs" / name).read_bytes() for name in names}

    def write_results(self, id: str, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """Keep what a task made; returns what `Task.results` says of it.

        :raises StorageFull: there is no room; nothing is left of what was written.
        """
        results: list[dict[str, Any]] = []
        try:
            for index, output in enumerate(outputs):
                name = f"{id}_{index}.{_EXTENSIONS[output.media_type]}"
                self._write(id, name, output.data)
                entry = {"name": name, "media_type": output.media_type, "bytes": len(output.data)}
                results.append({**entry, "details": output.details})
        except DarkroomError:
            for result in results:  # and no others: another proxy may have taken the task over and be done with it
                (self._folder(id) / result["name"]).unlink(missing_ok=True)
            raise
        return results

    def result(self, name: str) -> tuple[str, Path] | None:
        """The task and the file of a result's name; None for a name that no result has."""
        found = _RESULT_NAME.fullmatch(name)
        return (found[1], self._folder(found[1]) / name) if found else None

    def remove(self, id: str) -> None:
        """Delete all of a task."""
        shutil.rmtree(self._folder(id), ignore_errors=True)

    def belong_to(self, database: str) -> bool:
        """Whether the tasks here are those of this database; the first one that asks gets the folder. Another database,
        or a new one in the place of one that was lost, knows none of them, and must not take them for nobody's."""
        path = self._root / _DATABASE
        if not path.exists():
            write_atomically(path, database.encode())
        return path.read_text() == database

    def folders(self) -> Iterator[str]:
        """The ids of the folders that are older than an hour."""
        for folder in self._root.glob("*/*"):
            with contextlib.suppress(OSError):  # it goes while we look
                if time.time() - folder.stat().st_mtime > _ORPHAN_SECONDS:
                    yield folder.name

    def _folder(self, id: str) -> Path:
        return self._root / id[:2] / id

    def _write(self, id: str, name: str, data: bytes | memoryview) -> None:
        """Write it so that after a crash there is all of it or nothing."""
        path = self._folder(id) / name
        try:
            write_atomically(path, bytes(data))
            for folder in (path.parent, self._folder(id), self._folder(id).parent, self._root):
                _sync_folder(folder)
        except OSError as error:
            if error.errno in _NO_ROOM:
                message = "There is no room on the service's disk for the files of this task."
                raise StorageFull(message, retry_after=60) from error
            log.error("the files of a task cannot be written: %s", error)
            raise DarkroomError("The files of this task cannot be written; the server's log has the reason.") from error


def _sync_folder(folder: Path) -> None:
    """Make the names in it last."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
