"""Servers in processes of their own: free ports, start and stop, health, logs, and the processes below them.

Benchmarks and tests both use it, so it needs nothing of pytest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT

Number = TypeVar("Number", int, float)

OUTPUT = "output.log"
"""The file with standard output and standard error of a program that was started."""
_STOP_SECONDS = 40.0
_LAST_LINES = 40
_MODEL_FOLDER = re.compile(r"/model_repository/([^/ ]+)/")
_PSS = re.compile(r"^Pss: +(\d+) kB$", re.MULTILINE)
_PSS_WITHOUT_FILES = re.compile(r"^Pss_(?:Anon|Shmem): +(\d+) kB$", re.MULTILINE)

_ports = itertools.count(os.getpid() * 613)  # a start that differs between processes that run at the same time


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now.

    A server may need a minute until it listens. Until then no other call in this process gets the port, and the kernel
    does not give it to an outgoing connection, because it chooses those from a higher range.
    """
    while True:
        port = 20000 + next(_ports) % 12000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


@dataclass(frozen=True, kw_only=True)
class Server:
    """A started HTTP server: its process, its address, and a folder with its output and other files."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    def log(self) -> str:
        """Everything that it has written to its standard output and standard error."""
        return (self.folder / OUTPUT).read_text(errors="replace")

    def health(self) -> httpx.Response | None:
        """`GET /health`, or None while nothing listens."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False)
        except httpx.TransportError:
            return None

    def wait_healthy(self, seconds: float) -> float:
        """Wait for a 200 from `/health`; returns the seconds it took.

        :raises BenchmarkError: it ended, or the time is over; with the last lines of its output.
        """
        started = time.monotonic()
        while time.monotonic() - started < seconds and self.process.poll() is None:
            answer = self.health()
            if answer is not None and answer.status_code == 200:
                return time.monotonic() - started
            time.sleep(0.1)
        code = self.process.poll()
        ended = f"is not healthy after {seconds} s" if code is None else f"ended with code {code}"
        raise BenchmarkError(f"the server at {self.url} {ended}:\n{self._last_lines()}")

    def wait_for_log(self, words: str, *, after: int = 0, timeout: float = 60) -> float:
        """Wait until the log contains `words` behind its first `after` characters; returns the seconds it took.

        :raises BenchmarkError: the time is over.
        """
        started = time.monotonic()
        while words not in self.log()[after:]:
            if time.monotonic() - started > timeout:
                raise BenchmarkError(f"no {words!r} in the log within {timeout} s:\n{self._last_lines()}")
            time.sleep(0.05)
        return time.monotonic() - started

    def tree(self) -> list[psutil.Process]:
        """Its process and all descendants."""
        return tree(self.process.pid)

    def find(self, words: str) -> list[psutil.Process]:
        """The processes of the tree whose command line contains `words`."""
        found = []
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def memory(self, *, files: bool = True) -> dict[str, int]:
        """Bytes of memory by the role of the process. Shared pages are divided among their users (PSS).

        :param files: count the pages of mapped files, whose share depends on who else has them open.
        :raises BenchmarkError: the kernel shows the memory of none of the processes.
        """
        pattern = _PSS if files else _PSS_WITHOUT_FILES
        found = self._by_role(lambda process: _pss(process.pid, pattern))
        if not sum(found.values()):
            raise BenchmarkError(f"the memory of the server at {self.url} could not be read.")
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds since the start, by the role of the process."""
        return self._by_role(lambda process: process.cpu_times().user + process.cpu_times().system)

    def _by_role(self, read: Callable[[psutil.Process], Number]) -> dict[str, Number]:
        found: dict[str, Number] = {}
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                first = process.pid == self.process.pid
                name = "supervisor" if first else _role(" ".join(process.cmdline()))
                found[name] = found.get(name, 0) + read(process)
        return found

    def _last_lines(self) -> str:
        return "\n".join(self.log().splitlines()[-_LAST_LINES:])


def _pss(pid: int, pattern: re.Pattern[str]) -> int:
    shares = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kilobytes) << 10 for kilobytes in pattern.findall(shares))


def _role(command: str) -> str:
    """The model that a stub runs, else `tritonserver`, `darkroom.local`, `proxy` or `other`."""
    model = _MODEL_FOLDER.search(command)
    if model:
        return model[1]
    return next((name for name in ("tritonserver", "darkroom.local", "proxy") if name in command), "other")


@contextlib.contextmanager
def started(
    command: Sequence[str], folder: Path, *, settings: Mapping[str, object]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in the root of the checkout, and stop it at the end.

    :param folder: for the file `OUTPUT`.
    :param settings: environment variables on top of those of this process; the case of the names does not matter.
    """
    environment = os.environ | {name.upper(): str(value) for name, value in settings.items()}
    with (folder / OUTPUT).open("wb") as file:
        # With a session of its own, Ctrl-C reaches this program alone, which then stops the server in order.
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)  # the second one does not wait for work
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
