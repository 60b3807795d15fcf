"""Triton's stub processes: one for each instance of a model that runs in Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from supervisor.leftovers import STUB

Stubs = Mapping[psutil.Process, str]
"""Processes and the models that they run."""


def stubs_of(pid: int, repository: Path) -> dict[psutil.Process, str]:
    """Return the running stubs of a server with that repository. Slow: it looks at every process of the machine."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    found = {child: _model_of(child, repository) for child in children if is_living_stub(child)}
    return {child: model for child, model in found.items() if model is not None}


def is_living_stub(process: psutil.Process) -> bool:
    """Whether a process that was a stub still runs as one."""
    try:
        # The kernel cuts names at 15 characters, which psutil completes from a command line that zombies lack.
        named = process.is_running() and STUB.startswith(
            process.name()[:15]
        )  # another process may have its number by now
        return named and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(stubs: Stubs, models: set[str]) -> None:
    """Kill the stubs of some models; a stub that hangs would keep its memory for as long as its server runs."""
    for process, model in stubs.items():
        if model in models and is_living_stub(process):
            process.kill()


def _model_of(stub: psutil.Process, repository: Path) -> str | None:
    try:
        return Path(stub.cmdline()[1]).relative_to(repository).parts[0]
    except (psutil.NoSuchProcess, ValueError, IndexError):
        return None
