"""The files of tasks on disk: one folder for each task, with its inputs, its workspace and its results."""

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
from darkroom.files import sync_folder, write_atomically
from darkroom.images import MEDIA_TYPES
from proxy.tasks.models import Output

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ORPHAN_SECONDS = 3600.0
"""Age in seconds from which a folder without a task counts as an orphan. A younger one may belong to a task that is
about to be accepted."""
_DATABASE = ".database"
_EXTENSIONS = {
    **{media_type: name for name, media_type in MEDIA_TYPES.items()},
    "application/octet-stream": "bin",
    "text/plain": "txt",
}
"""File extensions by media type. They take precedence over Python's table."""
_EXTENSION = re.compile(r"[a-z0-9]{1,16}")
_RESULT_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_(\d{1,4})\.([a-z0-9]{1,16})")
_MEDIA_TYPES = mimetypes.MimeTypes()
"""Python's own table of media types, without the table of the system."""


class Files:
    """The folder `root`/tasks. All methods wait for the disk, so call them in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root / "tasks"

    def write_inputs(self, id: str, files: Mapping[str, bytes]) -> int:
        """Write the input files of a task; returns their size in bytes.

        :raises StorageFull: the disk is full.
        """
        for name, data in files.items():
            self._write(id, f"inputs/{name}", data)
        return sum(len(data) for data in files.values())

    def read_inputs(self, id: str, names: Sequence[str]) -> dict[str, bytes]:
        """Read the files that `write_inputs` wrote."""
        return {name: (self._folder(id) / "inputs" / name).read_bytes() for name in names}

    def workspace(self, id: str) -> Path:
        """The folder in which a task keeps the data that it resumes from. It is created if it does not exist.

        :raises StorageFull: the disk is full.
        """
        folder = self._folder(id) / "workspace"
        with _disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove_workspace(self, id: str) -> None:
        """Delete the workspace of a task that has ended."""
        shutil.rmtree(self._folder(id) / "workspace", ignore_errors=True)

    def workspace_bytes(self, id: str) -> int:
        """The size of a task's workspace in bytes."""
        total = 0
        for folder, _, names in os.walk(self._folder(id) / "workspace"):
            for name in names:
                with contextlib.suppress(OSError):  # it goes while we look
                    total += Path(folder, name).lstat().st_size
        return total

    def write_results(self, id: str, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """Write the results of a task; returns the entries for `Task.results`.

        :raises StorageFull: the disk is full. The results written so far have been removed.
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
            for result in results:  # only these: another proxy may have taken over the task and written its results
                (self._folder(id) / result["name"]).unlink(missing_ok=True)
            raise
        return results

    def result(self, name: str) -> tuple[str, Path] | None:
        """The task id and the path of a result, by the result's name. None if the name is not that of a result."""
        found = _RESULT_NAME.fullmatch(name)
        return (found[1], self._folder(found[1]) / name) if found else None

    def remove(self, id: str) -> None:
        """Delete all files of a task."""
        shutil.rmtree(self._folder(id), ignore_errors=True)

    def belong_to(self, database: str) -> bool:
        """Whether the tasks in this folder belong to a database. The first database that asks owns the folder. Another
        one, or a new one that replaces a lost one, has no rows for these tasks and must not delete them as orphans."""
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
        """Write a file atomically: after a crash it is complete or does not exist."""
        path = self._folder(id) / name
        with _disk_errors():
            write_atomically(path, bytes(data))
            self._sync_folders(id, path.parent)

    def _take_from_workspace(self, id: str, source: Path, name: str) -> int:
        """Link a file of the workspace under the name of a result; returns its size in bytes. The file keeps its old
        name until the workspace is removed. So a run after a crash finds all the files that this run had."""
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
                other_name.unlink(missing_ok=True)  # a rename leaves it if both were names of the same file already
            self._sync_folders(id, self._folder(id))
            return target.stat().st_size

    def _sync_folders(self, id: str, folder: Path) -> None:
        for one in (folder, self._folder(id), self._folder(id).parent, self._root):
            sync_folder(one)


def extension(output: Output) -> str:
    """The file extension of an output: that of its name if it has one, else that of its media type."""
    given = (output.name or "").rpartition(".")[2].lower() if "." in (output.name or "") else ""
    if _EXTENSION.fullmatch(given):
        return given
    known = _EXTENSIONS.get(output.media_type) or _MEDIA_TYPES.guess_extension(output.media_type) or ""
    found = known.removeprefix(".")
    return found if _EXTENSION.fullmatch(found) else "bin"


def is_full(error: OSError) -> bool:
    """Whether an error means that the disk is full."""
    return error.errno in _NO_ROOM


def storage_full() -> StorageFull:
    """The error of a task whose files do not fit on the disk."""
    return StorageFull("There is no room on the service's disk for the files of this task.", retry_after=60)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn errors of the disk into errors of the tree.

    :raises StorageFull, DarkroomError: the disk is full, or cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise storage_full() from error
        log.error("the files of a task cannot be written: %s", error)
        raise DarkroomError("The files of this task cannot be written; see the server's log for the reason.") from error


def _sync_file(path: Path) -> None:
    """Flush the content of a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
