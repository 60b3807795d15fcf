"""A file that only one process can hold."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from darkroom.locks import try_lock

_LOCK_SECONDS = 10.0
"""Seconds to wait for the process that holds the lock to end."""


async def hold(path: Path) -> int:
    """Lock a file until the process ends. Without the lock, two processes on one SQLite file would run the same tasks.

    :returns: the file's descriptor; closing it releases the lock.
    :raises RuntimeError: another process holds it.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return take(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"another proxy uses {path.with_suffix('')}: stop it, set DATA_DIR to another folder, "
                    "or set DATABASE_URL to a PostgreSQL database, which several proxies may share"
                ) from None
            await asyncio.sleep(0.2)


def take(path: Path) -> int:
    """Lock a file now; see `hold`.

    :raises BlockingIOError: another process holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not try_lock(handle):
        os.close(handle)
        raise BlockingIOError(f"another process holds {path}")
    return handle
