"""The trainer as a process of its own: started, followed, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import psutil

from darkroom.errors import DarkroomError, NetworkError, from_wire
from darkroom.parallel.processes import kill_session, own_session, stop_softly
from darkroom.settings import ROOT, Settings

log = logging.getLogger(__name__)

Heard = Callable[[dict[str, Any]], None]
"""Takes each line of progress."""

_GRACE_SECONDS = 20.0
"""How long a trainer gets to save its state when the service stops. Without it, the last saved state stays."""
_LOOK_SECONDS = 20.0
"""How often a trainer that says nothing is looked at: a step of a large model may take minutes on a CPU."""


async def train(
    arguments: Sequence[str],
    settings: Settings,
    *,
    heard: Heard,
    alive: Callable[[], None],
    save: Callable[[], bool],
) -> None:
    """Run `python -m training lora` to its end. When this is cancelled, the trainer is stopped.

    :param alive: called now and then while the trainer computes, whether it says anything or not.
    :param save: asked when this is cancelled: whether the trainer shall save its state, which may take a moment.
    :raises DarkroomError: the trainer refused, or died.
    """
    command = [sys.executable, "-m", "training", "lora", *arguments, "--parent", str(os.getpid())]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**settings.environment(), "OMP_WAIT_POLICY": "PASSIVE"},  # waiting threads leave the cores to others
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **own_session(),
    )
    watcher = asyncio.ensure_future(_watch(process.pid, alive))
    failure: DarkroomError | None = None
    try:
        async for line in _lines(process):
            said = _progress(line)
            if said is None:
                log.info("trainer: %s", line)
            elif "error" in said:
                failure = from_wire(str(said["error"]))
            else:
                heard(said)
        code = await process.wait()
    finally:
        watcher.cancel()
        await _end(process, _GRACE_SECONDS if save() else 0.0)
        for last in (await _rest(process)).splitlines():  # of a trainer that has saved its state
            if "step" in (said := _progress(last) or {}):
                heard(said)
    if code:
        raise failure or NetworkError(f"The trainer ended with code {code}.")


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    """The lines of its output. Not with `readline`, which gives up on lines over its limit."""
    assert process.stdout is not None
    rest = b""
    while chunk := await process.stdout.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip()
    if rest:
        yield rest.decode("utf-8", "replace").rstrip()


async def _rest(process: asyncio.subprocess.Process) -> str:
    """What an ended process has said and nobody has read; the first line may be cut off."""
    assert process.stdout is not None
    return (await process.stdout.read()).decode("utf-8", "replace")


def _progress(line: str) -> dict[str, Any] | None:
    """A line of progress; None for another one."""
    if not line.startswith("{"):
        return None
    with contextlib.suppress(ValueError):
        said = json.loads(line)
        return said if isinstance(said, dict) else None
    return None


async def _watch(pid: int, alive: Callable[[], None]) -> None:
    """Call `alive` at intervals in which the process has used processor time."""
    used = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        while True:
            times = psutil.Process(pid).cpu_times()
            if times.user + times.system > used:
                used = times.user + times.system
                alive()
            await asyncio.sleep(_LOOK_SECONDS)


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    """Stop a process that may still run, and everything that it started.

    :param grace: seconds that it gets to end by itself.
    """
    try:
        if process.returncode is None and grace:
            stop_softly(process.pid)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), grace)
    finally:
        if process.returncode is None:
            kill_session(process.pid)
            await process.wait()
