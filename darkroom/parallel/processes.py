"""Processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import psutil

PARENT = "DARKROOM_PARENT"
"""The environment variable that tells a child the process id that it ends with, where the kernel does not see to it."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LOOK_SECONDS = 1.0


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when the thread that started it ends, however it ends.

    The signal may arrive several times, up to once for each thread of a killed parent, because each ending thread
    passes its children on to the next one. A handler has to allow for that.

    The child itself should call this. Between fork and exec a process with threads should not run Python.

    Other systems have no such call: there a thread looks every second whether the parent has ended, and ends this
    process with SIGTERM (on Windows at once), whatever `number` is.

    :param parent: the process id of the parent, if the parent may have ended before this call.
    """
    parent = parent or os.getppid()
    if sys.platform != "linux":
        _look_after(parent)
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it has ended already
        sys.exit(1)


def own_session() -> dict[str, Any]:
    """The arguments of `subprocess.Popen` for a child that Ctrl-C in the terminal does not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def tied_to_us() -> dict[str, Any]:
    """The arguments of `subprocess.Popen` for a child that ends with this process: on Linux by the kernel, elsewhere
    only where the child calls `follow_parent`."""
    if sys.platform == "linux":
        return {"preexec_fn": partial(die_with_parent, signal.SIGTERM, os.getpid())}
    return {}


def follow_parent() -> None:
    """For the main function of a child that was started with `tied_to_us` and the variable PARENT."""
    if sys.platform != "linux" and PARENT in os.environ:
        _look_after(int(os.environ[PARENT]))


def _look_after(parent: int) -> None:
    """End this process when another one has ended."""

    def look() -> None:
        while psutil.pid_exists(parent):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()


def stop_softly(pid: int) -> None:
    """Ask a child with `own_session` to end: SIGTERM, on Windows Ctrl-Break. Nothing if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            os.kill(pid, signal.CTRL_BREAK_EVENT)
        else:
            os.kill(pid, signal.SIGTERM)


def kill_session(pid: int) -> None:
    """Kill a child with `own_session` and what it has started."""
    if sys.platform == "win32":
        with contextlib.suppress(psutil.NoSuchProcess):
            kill([*family(pid), psutil.Process(pid)])
        return
    with contextlib.suppress(ProcessLookupError):  # nothing of the session is left
        os.killpg(pid, signal.SIGKILL)


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
