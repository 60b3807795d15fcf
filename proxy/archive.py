"""A zip that grows on disk, so that a batch never holds more than the image at hand in memory."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from types import TracebackType

_UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"|?*]")


class Archive:
    """A zip in a temporary file; `close` it, send `path`, and `remove` it.

    Entries are stored, not deflated: images are compressed already.
    """

    def __init__(self) -> None:
        with tempfile.NamedTemporaryFile(prefix="darkroom-", suffix=".zip", delete=False) as file:
            self.path = Path(file.name)
        self._zip = zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED)
        self._names: set[str] = set()

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Append an entry; a name that is taken gets a number."""
        name = unused(name, self._names, str.lower)
        self._names.add(name.lower())
        with self._zip.open(name, "w", force_zip64=True) as entry:
            entry.write(data)

    def close(self) -> None:
        """Write the directory."""
        self._zip.close()

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
        if error is not None:
            self.remove()


def unused(name: str, taken: Collection[str], key: Callable[[str], str] = str) -> str:
    """The name, with a number where it is among those that are taken.

    :param key: of a name, which `taken` has.
    """
    path, number = PurePosixPath(name), 1
    while key(name) in taken:
        number += 1
        name = f"{path.stem}-{number}{path.suffix}"
    return name


def entry_name(uploaded: str | None, extension: str) -> str:
    """A safe entry name from what the client called its file: no folders, no control characters."""
    base = _UNSAFE.sub("_", (uploaded or "").replace("\\", "/").rsplit("/", 1)[-1])
    stem = PurePosixPath(base).stem.strip(". ")[:200]
    return f"{stem or 'image'}.{extension}"
