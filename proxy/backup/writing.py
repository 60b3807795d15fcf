"""Writes a backup."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import IO

from darkroom.settings import Settings
from proxy.backup import database
from proxy.backup.contents import home_files, parts
from proxy.backup.manifest import FORMAT, NAME, BackupError, Entry, Manifest

_LEVEL = 1  # of gzip: images and weights are compressed already


def write_backup(settings: Settings, file: Path, *, models: bool) -> Manifest:
    """Write an archive; the service may run meanwhile.

    The database is copied first, at one instant. The files are read after that. So each task of the copy has its
    inputs, and each completed one its results, unless the service deletes them in this moment; such files are counted.

    :raises BackupError: it cannot be written; there is no file of that name then.
    """
    if not file.name.endswith((".tar", ".tar.gz", ".tgz")):
        raise BackupError(f"FILE must end in .tar, .tar.gz or .tgz; got {file.name}")
    if file.exists():
        raise BackupError(f"{file} is there already; name another file.")
    database.require_programs(settings)
    version, kind = database.version(settings), database.kind_of(settings)
    try:
        with _archive(file) as (archive, folder):
            copy = folder / "database"
            database.snapshot(settings, copy)
            archive.add(database.MEMBERS[kind], copy)
            for name, data in home_files().items():
                archive.add_bytes(name, data)
            for part in parts(settings, models=models):
                for name, path in part.files():
                    archive.add(name, path)
            manifest = Manifest(
                format=FORMAT,
                darkroom=installed_version("darkroom"),
                made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                database=kind,
                version=version,
                vanished=archive.vanished,
                files=archive.entries,
            )
            archive.add_bytes(NAME, manifest.model_dump_json(indent=1).encode())
    except OSError as error:
        raise BackupError(f"The backup cannot be written: {error.strerror or error} ({error.filename}).") from None
    return manifest


class _Archive:
    """The tar file, and what was written into it."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.entries: dict[str, Entry] = {}
        self.vanished = 0

    def add(self, name: str, path: Path) -> None:
        """Add a file, unless it is deleted before it is opened.

        :raises BackupError: it becomes shorter while it is read.
        """
        try:
            source = path.open("rb")
        except FileNotFoundError:
            self.vanished += 1
            return
        with source:
            status = os.fstat(source.fileno())
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = status.st_size, status.st_mtime, status.st_mode & 0o777
            reader = _Hashing(source)
            try:
                self._tar.addfile(info, reader)
            except OSError as error:
                if reader.count < info.size and error.errno is None:  # tarfile's own
                    raise BackupError(f"{path} became shorter while it was read; try again.") from None
                raise
        self.entries[name] = Entry(size=info.size, sha256=reader.digest.hexdigest())

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add a file with this content."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))
        self.entries[name] = Entry(size=len(data), sha256=hashlib.sha256(data).hexdigest())


class _Hashing(io.RawIOBase):
    """Reads a file for `tarfile`, and hashes what it reads."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self.digest, self.count = source, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        self.count += len(data)
        return data


@contextmanager
def _archive(file: Path) -> Iterator[tuple[_Archive, Path]]:
    """An archive that gets its name at the end, when all of it is on the disk; and a folder for other files, beside it.

    :raises OSError: it cannot be written.
    """
    file = file.absolute()
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as name:  # for its owner only
        folder = Path(name)
        unfinished = folder / file.name
        compressed = not file.name.endswith(".tar")
        options = {"compresslevel": _LEVEL} if compressed else {}
        with tarfile.open(unfinished, "w:gz" if compressed else "w", **options) as tar:  # type: ignore[call-overload]
            yield _Archive(tar), folder
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.chmod(0o600)  # prompts, images, the salt of the audit trail
        os.link(unfinished, file)  # not a rename, which would replace a file that has come meanwhile
