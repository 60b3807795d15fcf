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
    """Let the kernel send us this signal when the thread that started us ends, however it ends.

    It comes again with each thread that inherits us from the one that has just ended, up to once for each thread of a
    parent that is killed: a handler has to bear that.

    Better called by the child itself than between fork and exec, where a process with threads should not run Python.

    :param parent: its number, where it may have ended before this is called.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended just before
        sys.exit(1)


def family(pid: int) -> list[psutil.Process]:
    """Everything below a process; empty when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL for each; a process that took over the number of one that ended is left alone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; what has ended and was not waited for does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
