"""Notices processes that should be loading a model but have stopped working.

A load may take minutes, so its time says nothing. What loads uses the processor or reads files; what hangs does
neither.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import psutil

_BYTES_PER_SECOND = 10_000
"""A process that reads more than this works. One that waits reads nothing."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class _Use:
    """What processes have used since they started."""

    at: float
    cpu: float
    read: int
    processes: frozenset[int]
    waits_for_disk: bool


class Standstill(Generic[Key]):
    """Groups of processes, and since when each has done nothing.

    :param seconds: for how long a group has to be idle before it counts as standing still.
    :param share: share of a core that an idle group may use.
    :param descendants: whether the descendants of the processes count as well.
    """

    def __init__(self, seconds: float, *, share: float, descendants: bool) -> None:
        self._seconds = seconds
        self._share = share
        self._descendants = descendants
        self._marks: dict[Key, _Use] = {}

    def forget(self) -> None:
        """Begin anew, because the processes have been replaced."""
        self._marks.clear()

    def look(self, groups: Mapping[Key, Iterable[psutil.Process]]) -> set[Key]:
        """Measure the groups that there are now, and return those that stand still."""
        now = {key: _use_of(processes, self._descendants) for key, processes in groups.items()}
        self._marks = {
            key: use if (before := self._marks.get(key)) is None or self._has_worked(before, use) else before
            for key, use in now.items()
        }
        return {key for key, use in now.items() if use.at - self._marks[key].at >= self._seconds}

    def _has_worked(self, before: _Use, now: _Use) -> bool:
        """Whether a group has done anything since it was marked. It has if its processes have changed, too, or if it
        waits for a disk or a network file system, which nobody can interrupt."""
        return (
            now.processes != before.processes
            or now.waits_for_disk
            or now.cpu - before.cpu > self._share * self._seconds
            or now.read - before.read > _BYTES_PER_SECOND * self._seconds
        )


def _use_of(processes: Iterable[psutil.Process], descendants: bool) -> _Use:
    cpu, read, pids, waits = 0.0, 0, set(), False
    for top in processes:
        with suppress(psutil.NoSuchProcess):
            for process in (top, *(top.children(recursive=True) if descendants else ())):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    cpu, read = cpu + times.user + times.system, read + _bytes_read(process)
                    waits = waits or process.status() == psutil.STATUS_DISK_SLEEP
                    pids.add(process.pid)
    return _Use(at=time.monotonic(), cpu=cpu, read=read, processes=frozenset(pids), waits_for_disk=waits)


def _bytes_read(process: psutil.Process) -> int:
    """Bytes of read calls, and bytes that came from a disk, for a file that is mapped into memory. Some containers do
    not show them."""
    try:
        counters = process.io_counters()
    except (psutil.AccessDenied, NotImplementedError):
        return 0
    return int(counters.read_bytes + getattr(counters, "read_chars", 0))
