"""Remove what killed Triton servers left behind in /dev/shm and /tmp, and nothing that a living one may still use."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
SHM_PREFIX = "darkroom_"
"""Prefix of the names of all our shared-memory regions, for any port of the service."""
STUB = "triton_python_backend_stub"

_ENVIRONMENTS = Path("/tmp")  # Triton's Python backend asks no TMPDIR
_CLOCK_SECONDS = 2.0
"""Inaccuracy in seconds of the start times of processes: the kernel gives its own start in whole seconds."""


def sweep(prefix: str = SHM_PREFIX) -> None:
    """Remove the leftovers of all ended servers of this machine, whatever their ports were."""
    sweep_shared_memory(prefix)
    sweep_environments()


def sweep_shared_memory(prefix: str = SHM_PREFIX, folder: Path = SHARED_MEMORY) -> int:
    """Remove the regions that no process has open or mapped; returns how many there were."""
    unused = [region for region in folder.glob(f"{prefix}*") if not _is_in_use(region)]
    for region in unused:
        region.unlink(missing_ok=True)
    return len(unused)


def _is_in_use(region: Path) -> bool:
    """Whether a process, of any container, has the file open or mapped for writing; also True if that is unknown.

    The kernel knows: it grants a read lease only where no process writes (fcntl(2), "Leases"). A server has its
    regions mapped from their creation to its end.
    """
    try:
        file = os.open(region, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True  # gone, or of another user
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return True
    finally:
        os.close(file)  # which gives the lease back
    return False


def sweep_environments(folder: Path = _ENVIRONMENTS) -> int:
    """Remove the empty folders that Triton's Python backend makes at its start for packed Python environments, where no
    living server can have made them; returns how many there were. Our models have no packed environments.
    """
    # The folders first: a server that starts after this line has made none of them.
    empty = [found for found in folder.glob("python_env_*") if _is_empty_folder_of_ours(found)]
    owners = list(_server_starts())
    removed = 0
    for path in empty:
        try:
            made = path.stat().st_mtime
            if any(first - _CLOCK_SECONDS <= made <= last + _CLOCK_SECONDS for first, last in owners):
                continue
            path.rmdir()
        except OSError:  # another process removed it, or put something in
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
    """Return when each living tritonserver started, and the latest time at which it made its folders (time.time)."""
    for process in psutil.process_iter():
        try:
            if process.name() != "tritonserver" or process.status() == psutil.STATUS_ZOMBIE:
                continue
            started = process.create_time()
        except psutil.NoSuchProcess:
            continue
        yield started, _folders_made(process)


def _folders_made(server: psutil.Process) -> float:
    """A server makes the folder of a backend before the backend's first stub. Infinity if that is not known yet, or
    not any more."""
    first: dict[str, float] = {}  # by backend: its stubs are given a model.py or a model.onnx
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
