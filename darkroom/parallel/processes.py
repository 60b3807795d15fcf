"""Processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when the thread that started it ends, however it ends.

    The signal may arrive several times, up to once for each thread of a killed parent, because each ending thread
    passes its children on to the next one. A handler has to allow for that.

    The child itself should call this. Between fork and exec a process with threads should not run Python.

    :param parent: the process id of the parent, if the parent may have ended before this call.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it has ended already
        sys.exit(1)


def family(pid: int) -> list[psutil.Process]:
    """Return all descendants of a process; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL to processes, but not to another process that has the id of one that ended."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
