"""Results on the disk."""

from __future__ import annotations

import os
from pathlib import Path


def is_there(path: Path | None) -> bool:
    """Whether this output is done. Outputs appear under their name only when they are whole."""
    return path is not None and path.is_file() and path.stat().st_size > 0


def file_key(path: Path) -> str:
    """What makes two outputs the same file; upper and lower case are the same on macOS and Windows."""
    return str(path).casefold()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, even if the machine stops; make its folders.

    :raises OSError: it cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose files only their owner can read. No two jobs of one process have the same output.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
