"""Paths of the home folder, atomic writes, and digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dotenv import dotenv_values

from darkroom.home import ENV_FILE, STATE
from darkroom.home import ROOT as ROOT


def cache_folder() -> Path:
    """Return the folder of downloaded weights: `cache` in STATE_DIR, as the checkout may be read-only.

    Other settings are not read here, so that a wrong one does not keep a command from showing its help.
    """
    state = os.environ.get("STATE_DIR") or dotenv_values(ENV_FILE).get("STATE_DIR") or STATE
    return ROOT / state / "cache"


CACHE = cache_folder()


def move_into_place(made: Path, path: Path) -> None:
    """Rename a finished file of the same file system to `path`; missing folders are made.

    :raises OSError: the folder cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.chmod(0o644)
    made.replace(path)


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
