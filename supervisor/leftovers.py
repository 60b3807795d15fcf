"""Removes what killed Triton servers left in /dev/shm and /tmp, and nothing that a running server may still use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
SHM_PREFIX = "darkroom_"
"""Prefix of the names of all our shared-memory regions, for any port of the service."""
STUB = "triton_python_backend_stub"

_ENVIRONMENTS = Path("/tmp")  # Triton's Python backend does not read TMPDIR
_CLOCK_SECONDS = 2.0
"""Inaccuracy in seconds of the start times of processes: the kernel gives its own start in whole seconds."""


def sweep(prefix: str = SHM_PREFIX) -> None:
    """Remove the leftovers of all ended servers of this machine, for any port. Triton runs on Linux alone."""
    if sys.platform != "linux":
        return
    sweep_shared_memory(prefix)
    sweep_environments()


def sweep_shared_memory(prefix: str = SHM_PREFIX, folder: Path = SHARED_MEMORY) -> int:
    """Remove the regions that no process has open or mapped; returns their number."""
    unused = [region for region in folder.glob(f"{prefix}*") if not _is_in_use(region)]
    for region in unused:
        region.unlink(missing_ok=True)
    return len(unused)


def _is_in_use(region: Path) -> bool:
    """Whether a process, of any container, has the file open or mapped for writing; also True if that is unknown.

    The kernel grants a read lease only on a file that no process has open for writing (fcntl(2), "Leases"). A server
    has its regions mapped from their creation to its end.
    """
    import fcntl  # which Windows does not have

    try:
        file = os.open(region, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True  # removed, or of another user
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return True
    finally:
        os.close(file)  # releases the lease
    return False


def sweep_environments(folder: Path = _ENVIRONMENTS) -> int:
    """Remove the empty folders that Triton's Python backend creates at its start for packed Python environments, except
    those that a running server may have created. Returns their number. Our models have no packed environments.
    """
    # List the folders first: a server that starts after this line has created none of them.
    empty = [found for found in folder.glob("python_env_*") if _is_empty_folder_of_ours(found)]
    owners = list(_server_starts())
    removed = 0
    for path in empty:
        try:
            made = path.stat().st_mtime
            if any(first - _CLOCK_SECONDS <= made <= last + _CLOCK_SECONDS for first, last in owners):
                continue
            path.rmdir()
        except OSError:  # another process removed it, or put a file into it
            continue
        removed += 1
    return removed


def _is_empty_folder_of_ours(path: Path) -> bool:
    try:
        status = path.lstat()
        return path.is_dir() and not path.is_symlink() and status.st_uid == os.geteuid() and not any(path.iterdir())
    except OSError:
        return False


def _server_starts() -> Iterator[tuple[float, float]]:
    """Return when each running tritonserver started, and when at the latest it created its folders (time.time)."""
    for process in psutil.process_iter():
        try:
            if process.name() != "tritonserver" or process.status() == psutil.STATUS_ZOMBIE:
                continue
            started = process.create_time()
        except psutil.NoSuchProcess:
            continue
        yield started, _folders_made(process)


def _folders_made(server: psutil.Process) -> float:
    """The latest time at which a server created its folders: that of a backend is created before the backend's first
    stub. Infinity if the time is not known, because a stub has not started yet or has ended."""
    first: dict[str, float] = {}  # by backend; the command line of its stubs has a model.py or a model.onnx
    try:
        for stub in server.children(recursive=True):
            if STUB.startswith(stub.name()[:15]):
                backend = Path(stub.cmdline()[1]).suffix
                first[backend] = min(first.get(backend, float("inf")), stub.create_time())
        wanted = _backends_of(server)
    except (psutil.Error, IndexError, OSError):  # a process that is ending, or of another user
        return float("inf")
    return max(first.values()) if first and wanted <= first.keys() else float("inf")


def _backends_of(server: psutil.Process) -> set[str]:
    """Return the backends that the models of its repository need, by the names of `_folders_made`."""
    folders = [word.partition("=")[2] for word in server.cmdline() if word.startswith("--model-repository=")]
    return {found.suffix for folder in folders for found in Path(folder).glob("*/*/model.*")} & {".py", ".onnx"}
