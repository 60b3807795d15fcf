"""Locks on open files, between processes, on every system. They end with the process or when the file is closed."""

from __future__ import annotations

import sys
import time

_PAUSE = 0.1

if sys.platform == "win32":
    import msvcrt

    def try_lock(handle: int) -> bool:
        """See below."""
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def try_lock(handle: int) -> bool:
        """Lock an open file if no other process holds the lock; returns whether it is ours now.

        :param handle: the descriptor of the file, which has to be open for writing.
        """
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def lock(handle: int) -> None:
    """Lock an open file; wait while another process holds the lock."""
    if sys.platform == "win32":
        while not try_lock(handle):
            time.sleep(_PAUSE)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX)
