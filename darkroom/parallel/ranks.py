"""The leader's side of the ranks: starts them with torchrun, watches and calls them, and ends them without leftovers.

A thread of the leader watches the ranks for as long as they run. It also starts them, because the kernel treats the end
of the thread that started a process as the end of its parent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from darkroom.parallel.channel import Channel, SharedTensors
from darkroom.parallel.devices import kind_of, rank_environment
from darkroom.parallel.job import ANSWER, SOCKET, RanksJob
from darkroom.parallel.processes import family, is_alive, kill

log = logging.getLogger(__name__)

PREFIX = "darkroom-ranks-"
"""Prefix of the private folders, which are in the folder for temporary files."""

_POLL_SECONDS = 0.25
_SUSPENDED_SECONDS = 5.0
"""If more time than this passes between two polls, this process was suspended."""
_GRACE = 5.0
"""Seconds that torchrun has to end after its ranks."""
_PATH = re.compile(r"(?<![\w.])/[^\s'\",:;)]+")
_LONGEST_REASON = 300
_NEW_SECONDS = 60.0
"""Age of a private folder up to which it may not have its socket yet."""


class RanksFailed(Exception):
    """The ranks have failed. The caller has to continue without them."""


@dataclass(kw_only=True)
class _Rank:
    """The state of one rank."""

    rank: int
    channel: Channel
    process: psutil.Process
    last_beat: float  # time.monotonic
    device: str = ""
    parameters: int = 0
    ready: bool = False
    done: int = 0  # number of the last call that it has answered

    def ended(self) -> str:
        """The reason to report when the process has ended."""
        return f"rank {self.rank} (process {self.process.pid}) ended"

    def failed(self, reason: str) -> str:
        """The reason to report when the rank has sent an error."""
        return f"rank {self.rank} failed: {reason}"


class Ranks:
    """All ranks of one job; `wait_ready` before the first call.

    :param on_failure: called once, from another thread, when the ranks have failed.
    :raises OSError: the private folder, the socket or the memory cannot be created.
    """

    def __init__(self, job: RanksJob, *, on_failure: Callable[[], None]) -> None:
        self._job = job
        self._on_failure = on_failure
        self._calling = threading.Lock()
        self._calls = 0
        # Held while the watching thread or callers access what both use.
        self._changed = threading.Condition()
        self._ranks: dict[int, _Rank] = {}
        self._failure: str | None = None
        self._failed_at: float | None = None
        self._closing = False
        _remove_leftovers()
        self._private = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.ExitStack() as undo:  # the disk may be full, or the path too long for a socket
            undo.callback(shutil.rmtree, self._private, ignore_errors=True)
            job.write(self._private)
            self._listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            self._listener.bind(str(self._private / SOCKET))
            self._listener.listen(job.layout.size)
            self._memory = SharedTensors()
            undo.pop_all()
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    def wait_ready(self) -> None:
        """Wait until all ranks are ready. :raises RanksFailed: a rank ended, or was not ready in time."""
        size = self._job.layout.size
        self._wait_for(
            lambda: sum(rank.ready for rank in self._ranks.values()) == size,
            self._job.timeouts.start,
            "were not ready",
        )
        self._send_all({"memory": True}, fd=self._memory.fd)

    def call(self, inputs: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Run the job's program once, on all ranks together. Thread safe; one call at a time.

        :param inputs: inputs of the program, of the types in `darkroom.parallel.channel.DTYPES`.
        :param shape: the shape of the answer.
        :returns: float32, on the CPU.
        :raises RanksFailed: a rank ended, hangs, or reported an error.
        """
        with self._calling:
            self._check()
            answer = torch.zeros(tuple(shape))
            entries = self._memory.write({**inputs, ANSWER: answer})
            self._calls += 1
            self._send_all({"call": self._calls, "tensors": [entry.to_json() for entry in entries]})
            self._wait_for(
                lambda: all(rank.done == self._calls for rank in self._ranks.values()),
                self._job.timeouts.call,
                "gave no answer",
            )
            return answer.copy_(self._memory.views(entries)[ANSWER])

    @property
    def failure(self) -> str | None:
        """Why the ranks failed; None while they work."""
        return self._failure

    @property
    def failed_at(self) -> float | None:
        """The time of the failure, in seconds since the epoch."""
        return self._failed_at

    def status(self) -> list[dict[str, Any]]:
        """The state of every known rank: rank, pid, device, parameters, alive, seconds since its last heartbeat."""
        now = time.monotonic()
        with self._changed:
            ranks = sorted(self._ranks.items())
        return [
            {
                "rank": number,
                "pid": rank.process.pid,
                "device": rank.device,
                "parameters": rank.parameters,
                "alive": is_alive(rank.process),
                "last_beat": round(now - rank.last_beat, 1),
            }
            for number, rank in ranks
        ]

    def close(self) -> None:
        """Finish the running call, end all processes, and wait until they have ended. May be called twice."""
        with self._calling, self._changed:
            self._closing = True
        self._watcher.join()

    def _send_all(self, message: Mapping[str, Any], *, fd: int | None = None) -> None:
        for rank in self._ranks.values():
            with contextlib.suppress(OSError):  # the rank has ended; the watching thread reports it
                rank.channel.send(message, fd=fd)

    def _check(self) -> None:
        if self._failure or self._closing:
            raise RanksFailed(self._failure or "closed")

    def _wait_for(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._failure or self._closing or done(), timeout):
                self._fail(f"the ranks {what} within {timeout:g} s")
            self._check()

    def _fail(self, reason: str) -> None:
        with self._changed:
            if self._failure is None and not self._closing:
                self._failure, self._failed_at = reason, time.time()
                log.warning("the ranks stop: %s", reason)
            self._changed.notify_all()

    # Everything below runs on the watching thread.

    def _watch(self) -> None:
        torchrun: subprocess.Popen[bytes] | None = None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                torchrun = self._start()
                looked = time.monotonic()
                while not (self._failure or self._closing):
                    for key, _ in selector.select(_POLL_SECONDS):
                        self._receive(selector, key.data)
                    now = time.monotonic()
                    if now - looked > _SUSPENDED_SECONDS:
                        self._reset_deadlines(now)
                    looked = now
                    self._check_ranks(torchrun, now)
        except Exception as error:
            log.exception("the watch over the ranks failed")
            self._fail(f"the watch over the ranks failed: {type(error).__name__}")
        finally:
            self._end(torchrun)
            if self._failure:
                self._on_failure()

    def _start(self) -> subprocess.Popen[bytes]:
        job = self._job
        # Not sys.executable: in a program with Python inside, as Triton's stub is, it may name another one.
        python = Path(sys.prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
        command = [str(python), "-m", "darkroom.parallel.launch", str(self._private), str(job.layout.size)]
        env = {**os.environ, **rank_environment(kind_of(job.device_type), job.devices)}
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)

    def _receive(self, selector: selectors.BaseSelector, sender: _Rank | Channel | None) -> None:
        """Receive a message.

        :param sender: a rank, the channel of a process whose rank is not known yet, or None for a new connection.
        """
        if sender is None:
            channel = Channel(self._listener.accept()[0])
            selector.register(channel, selectors.EVENT_READ, channel)
            return
        channel = sender if isinstance(sender, Channel) else sender.channel
        message = channel.receive()
        if message is None:
            selector.unregister(channel)
        with self._changed:
            if isinstance(sender, _Rank):
                self._update(sender, message)
            elif message is None:
                channel.close()
            else:
                process, now = psutil.Process(channel.peer()), time.monotonic()
                rank = _Rank(rank=message["rank"], channel=channel, process=process, last_beat=now)
                self._ranks[rank.rank] = rank
                selector.modify(channel, selectors.EVENT_READ, rank)
            self._changed.notify_all()

    def _update(self, rank: _Rank, message: dict[str, Any] | None) -> None:
        rank.last_beat = time.monotonic()
        if message is None:
            self._fail(rank.ended())
        elif message["state"] == "failed":
            self._fail(self._cause(rank, message["reason"]))
        elif message["state"] == "ready":
            rank.ready, rank.device, rank.parameters = True, message["device"], message["parameters"]
        elif message["state"] == "done":
            rank.done = message["call"]

    def _cause(self, rank: _Rank, reason: str) -> str:
        """Why the ranks failed, from the error of one rank, which may only have lost its connection to a dead one."""
        for other in self._ranks.values():
            if other is rank:
                continue
            # The connections of a dying process are closed before it has ended, so they are checked as well.
            while not is_alive(other.process) or _has_message(other.channel):
                message = other.channel.receive()  # cannot block: a message or the end of the connection is waiting
                if message is None:
                    return other.ended()
                if message["state"] == "failed":
                    return other.failed(message["reason"])
        return rank.failed(reason)

    def _check_ranks(self, torchrun: subprocess.Popen[bytes], now: float) -> None:
        if (code := torchrun.poll()) is not None:
            self._fail(f"torchrun ended with code {code}")
        for rank in self._ranks.values():
            silent = now - rank.last_beat
            if silent > self._job.timeouts.beat:
                self._fail(f"rank {rank.rank} (process {rank.process.pid}) was silent for {silent:.0f} s")

    def _reset_deadlines(self, now: float) -> None:
        """Reset the deadlines after this process was suspended (a paused container, for example), as the ranks were
        too.
        """
        for rank in self._ranks.values():
            rank.last_beat = now

    def _end(self, torchrun: subprocess.Popen[bytes] | None) -> None:
        """End the ranks: after a failure they are killed, else they end when their connections close."""
        self._listener.close()
        for rank in self._ranks.values():
            rank.channel.close()
        if torchrun is not None:
            if self._failure:
                self._kill(torchrun)
            try:
                torchrun.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._kill(torchrun)
                torchrun.kill()
                torchrun.wait()
        with self._calling:  # a call that has just succeeded may still read
            self._memory.close()
        shutil.rmtree(self._private, ignore_errors=True)

    def _kill(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Kill the ranks. torchrun is only asked to end, so that it can wait for them."""
        below = family(torchrun.pid)
        torchrun.terminate()
        kill([*below, *(rank.process for rank in self._ranks.values())])


def _has_message(channel: Channel) -> bool:
    """Whether a message, or the end of the connection, can be received without waiting."""
    return bool(select.select([channel], [], [], 0)[0])


def for_clients(reason: str) -> str:
    """The reason of a failure for clients: shortened, and without the paths of this machine."""
    first = (reason.splitlines() or [""])[0]
    return _PATH.sub("(a file)", first)[:_LONGEST_REASON]


def _remove_leftovers() -> None:
    """Remove the private folders of leaders that were killed together with all their processes."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _NEW_SECONDS and not _has_listener(folder / SOCKET):
                shutil.rmtree(folder, ignore_errors=True)


def _has_listener(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True
