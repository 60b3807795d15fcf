"""`manifest.json`, the last file of an archive: what else is in it, with digests."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1
NAME = "manifest.json"


class BackupError(Exception):
    """A backup or a restoration cannot be done; the text says why, for a person."""


class Entry(BaseModel):
    """One file."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class Manifest(BaseModel):
    """All of an archive.

    :param format: of archive and manifest; only this release's is read.
    :param database: sqlite or postgresql.
    :param version: the version of the database's tables (`proxy.migrations`).
    :param vanished: files that the running service deleted before they were read.
    :param files: by name in the archive, without the manifest.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    darkroom: str
    made_at: str
    database: Literal["sqlite", "postgresql"]
    version: str | None
    vanished: int
    files: dict[str, Entry]
