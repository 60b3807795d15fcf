"""A file that only one process can hold."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

_LOCK_SECONDS = 10.0
"""How long the process that holds it may take to end."""


async def hold(path: Path) -> int:
    """Hold a lock file until the process ends: DBOS would run what another process is running on the same SQLite.

    :returns: the file's descriptor; closing it gives the lock back.
    :raises RuntimeError: another process holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise RuntimeError(
                    f"another proxy works with {path.with_suffix('')}: stop it, set DATA_DIR to another folder, "
                    "or DATABASE_URL to a PostgreSQL database, which several proxies may share"
                ) from None
            await asyncio.sleep(0.2)
