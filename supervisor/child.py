"""One supervised process: started in a session of its own, its output logged, stopped with its descendants."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping

from darkroom.parallel.processes import PARENT, kill_session, own_session, stop_softly, tied_to_us

log = logging.getLogger(__name__)

_TAIL_LINES = 400
_GONE_SECONDS = 20.0
"""Seconds to wait for a killed process. After that it is stuck in the kernel, or another process holds its output."""


class Child:
    """A process that is started again under the same name.

    It gets a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone, and SIGTERM from
    the kernel when the supervisor dies.

    :param log_name: name of the logger that gets the output line by line; with None the process writes to our standard
        output itself.
    :param on_line: called with each of these lines.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        env: Mapping[str, str],
        *,
        log_name: str | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = name
        self._command = command
        self._env = dict(env)
        self._on_line = on_line
        self._log = logging.getLogger(log_name) if log_name else None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.started = 0.0  # time.monotonic
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    @property
    def pid(self) -> int:
        """The process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative for a signal, None while the process runs."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Start it, or restart it if it has ended."""
        self.started = time.monotonic()
        self._process = self._reader = None  # another process may have the old process id by now
        pipe = asyncio.subprocess.PIPE if self._log else None
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**self._env, PARENT: str(os.getpid())},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT if self._log else None,
            **(own_session() | tied_to_us()),
        )
        if self._process.stdout:
            self._reader = asyncio.create_task(self._copy(self._process.stdout))

    async def stop(self, *, grace: float) -> None:
        """Ask it to end (SIGTERM), and after `grace` seconds SIGKILL. Descendants are killed in any case."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            stop_softly(process.pid)
            try:
                await asyncio.wait_for(process.wait(), grace)
            except asyncio.TimeoutError:
                log.warning("%s did not stop within %g s and is killed", self.name, grace)
        await self.kill()

    async def kill(self) -> None:
        """Kill the process and its session; return when it has ended, or after a timeout."""
        if self._process is None:
            return
        kill_session(self._process.pid)
        # Processes with a session of their own, such as the ranks of a divided model, may outlive it and hold the pipe
        # open, and asyncio's `wait` waits for the pipe as well.
        waits = [asyncio.ensure_future(self._process.wait()), *([self._reader] if self._reader else [])]
        _, late = await asyncio.wait(waits, timeout=_GONE_SECONDS)
        if late:
            log.warning("%s, or a process that it started, is not gone after %g s", self.name, _GONE_SECONDS)
        for wait in late:
            wait.cancel()

    async def _copy(self, stream: asyncio.StreamReader) -> None:
        # Not line by line: `readline` gives up on lines over its limit, and a pipe that is not read blocks the child.
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._handle(line)
        if rest:
            self._handle(rest)

    def _handle(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip()
        self.tail.append(line)
        self._on_line(line)
        if self._log:
            self._log.info("%s", line)
