"""What tasks keep on the disk: a folder for each, with what it was given, its workspace, and what it made."""

from __future__ import annotations

import contextlib
import errno
import logging
import mimetypes
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from darkroom.errors import DarkroomError, InvalidInput, StorageFull
from darkroom.files import write_atomically
from darkroom.images import MEDIA_TYPES
from proxy.tasks.models import Output

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ORPHAN_SECONDS = 3600.0
"""A folder without a task may be one that is about to be accepted."""
_DATABASE = ".database"
_EXTENSIONS = {
    **{media_type: name for name, media_type in MEDIA_TYPES.items()},
    "application/octet-stream": "bin",
    "text/plain": "txt",
}
"""Before those that Python knows."""
_EXTENSION = re.compile(r"[a-z0-9]{1,16}")
_RESULT_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_(\d{1,4})\.([a-z0-9]{1,16})")
_MEDIA_TYPES = mimetypes.MimeTypes()
"""Python's own table, without that of the system."""


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

    def workspace(self, id: str) -> Path:
        """The folder in which a task keeps what it resumes from; it is made if there is none.

        :raises StorageFull: there is no room.
        """
        folder = self._folder(id) / "workspace"
        with _disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove_workspace(self, id: str) -> None:
        """Delete the workspace of a task that has ended."""
        shutil.rmtree(self._folder(id) / "workspace", ignore_errors=True)

    def workspace_bytes(self, id: str) -> int:
        """How much there is in the workspace of a task."""
        total = 0
        for folder, _, names in os.walk(self._folder(id) / "workspace"):
            for name in names:
                with contextlib.suppress(OSError):  # it goes while we look
                    total += Path(folder, name).lstat().st_size
        return total

    def write_results(self, id: str, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """Keep what a task made; returns what `Task.results` says of it.

        :raises StorageFull: there is no room; nothing is left of what was written.
        :raises InvalidInput: a file is not in the task's workspace, or two have the same name.
        """
        given = [output.name for output in outputs if output.name is not None]
        if len(set(given)) < len(given):
            raise InvalidInput("Two results of the task have the same name.", param="name")
        results: list[dict[str, Any]] = []
        try:
            for index, output in enumerate(outputs):
                name = f"{id}_{index}.{extension(output)}"
                if isinstance(output.data, Path):
                    size = self._take_from_workspace(id, output.data, name)
                else:
                    self._write(id, name, output.data)
                    size = len(output.data)
                filename = {} if output.name is None else {"filename": output.name}
                entry = {"name": name, **filename, "media_type": output.media_type, "bytes": size}
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
        or a new one in the place of one that was lost, knows none of them, and must not delete them as orphans."""
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
        with _disk_errors():
            write_atomically(path, bytes(data))
            self._sync_folders(id, path.parent)

    def _take_from_workspace(self, id: str, source: Path, name: str) -> int:
        """Give a file of the workspace the name of a result; returns its size. It keeps its old name as well, until the
        workspace is removed: a run after a crash before the task's end was recorded finds all that this one had."""
        workspace = self._folder(id) / "workspace"
        inside = workspace.resolve() in source.resolve().parents
        if not inside or source.is_symlink() or not source.is_file():
            raise InvalidInput(f"The result {source.name[:80]!r} is not a file in the task's workspace.", param="name")
        target = self._folder(id) / name
        other_name = target.with_name(f".{name}.{uuid.uuid4().hex}")
        with _disk_errors():
            _sync_file(source)
            source.chmod(0o644)
            try:
                os.link(source, other_name)
            except OSError:  # a file system without hard links
                source.replace(target)
            else:
                other_name.replace(target)
                other_name.unlink(missing_ok=True)  # it stays where both were names of the same file already
            self._sync_folders(id, self._folder(id))
            return target.stat().st_size

    def _sync_folders(self, id: str, folder: Path) -> None:
        for one in (folder, self._folder(id), self._folder(id).parent, self._root):
            _sync_folder(one)


def extension(output: Output) -> str:
    """That of the name that the operation gave, else that of the media type."""
    given = (output.name or "").rpartition(".")[2].lower() if "." in (output.name or "") else ""
    if _EXTENSION.fullmatch(given):
        return given
    known = _EXTENSIONS.get(output.media_type) or _MEDIA_TYPES.guess_extension(output.media_type) or ""
    found = known.removeprefix(".")
    return found if _EXTENSION.fullmatch(found) else "bin"


def is_full(error: OSError) -> bool:
    """Whether there is no room on the disk."""
    return error.errno in _NO_ROOM


def storage_full() -> StorageFull:
    """What a task ends with when its files find no room."""
    return StorageFull("There is no room on the service's disk for the files of this task.", retry_after=60)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """:raises StorageFull, DarkroomError: the disk is full, or cannot be written for another reason."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise storage_full() from error
        log.error("the files of a task cannot be written: %s", error)
        raise DarkroomError("The files of this task cannot be written; the server's log has the reason.") from error


def _sync_file(path: Path) -> None:
    """Make what is in it last."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in it last."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
