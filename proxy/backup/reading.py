"""Unpacks an archive into new folders, and checks all of it before anything of this machine changes."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import ValidationError

from proxy.backup.manifest import NAME, BackupError, Entry, Manifest

_BLOCK = 1 << 20
_MANIFEST_BYTES = 512 << 20
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError)
"""What tarfile and gzip raise for bytes that are no whole archive."""


def unpack(file: Path, place: Callable[[PurePosixPath], Path]) -> Manifest:
    """Unpack an archive, and check that every file of its manifest is there and has its digest.

    :param place: where the file with a name in the archive goes; nothing may be there.
    :raises BackupError: the archive is damaged, truncated or no backup, or it has names, links or files that a backup
        does not have.
    :raises OSError: a file cannot be written.
    """
    entries: dict[str, Entry] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(file, "r|*") as tar:
            for member in tar:
                if manifest is not None:
                    raise BackupError(f"{file.name} has {member.name[:80]!r} behind its manifest.")
                name = _checked_name(member, entries)
                source = tar.extractfile(member)
                assert source is not None  # it is a file
                if member.name == NAME:
                    manifest = _manifest(source.read(_MANIFEST_BYTES + 1))
                else:
                    entries[member.name] = _write(source, member, place(name))
    except _DAMAGED as error:
        raise BackupError(f"{file.name} is damaged, or no backup of Darkroom: {error}") from None
    if manifest is None:
        raise BackupError(f"{file.name} has no {NAME}: it is truncated, or no backup of Darkroom.")
    _compare(entries, manifest)
    return manifest


def _checked_name(member: tarfile.TarInfo, entries: dict[str, Entry]) -> PurePosixPath:
    """:raises BackupError: the member is no plain file below the folder that is unpacked."""
    shown, name = repr(member.name[:80]), PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        raise BackupError(f"The archive has {shown}, which is no plain file; nothing was restored.")
    outside = name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name
    if outside or str(name) != member.name:
        raise BackupError(f"The archive has the name {shown}, which backups do not have; nothing was restored.")
    if member.name in entries:
        raise BackupError(f"The archive has {shown} twice; nothing was restored.")
    return name


def _write(source: IO[bytes], member: tarfile.TarInfo, target: Path) -> Entry:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        while block := source.read(_BLOCK):
            digest.update(block)
            size += len(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    target.chmod(0o644 if member.mode & 0o044 else 0o600)
    os.utime(target, (member.mtime, member.mtime))  # exports and published images are judged by it
    return Entry(size=size, sha256=digest.hexdigest())


def _manifest(data: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its JSON"
        raise BackupError(f"The archive's {NAME} is not one of this release: {where}: {first['msg']}") from None


def _compare(entries: dict[str, Entry], manifest: Manifest) -> None:
    """:raises BackupError: the files are not those of the manifest."""
    for name in sorted(entries.keys() | manifest.files.keys()):
        found, said = entries.get(name), manifest.files.get(name)
        if found != said:
            what = "is missing" if found is None else "is not in its manifest" if said is None else "is damaged"
            raise BackupError(f"{name[:200]} of the archive {what}; nothing was restored.")
