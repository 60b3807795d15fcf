"""Admission: how many tasks run at once, how many may wait, and the door that closes while draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from darkroom.errors import NotReady, QueueFull
from proxy.load import Load
from proxy.retry import Appointments, Flow


class Gate:
    """Bounded concurrency, first come first served.

    :param capacity: tasks that run at once.
    :param queue_size: tasks that may wait for a place; further ones are refused with 429.
    """

    def __init__(self, *, capacity: int, queue_size: int) -> None:
        self.capacity = capacity
        self.queue_size = queue_size
        self.active = 0
        self.queued = 0
        self.total = 0
        self.durable = 0  # of `total`
        self.draining = False
        self._places = asyncio.Semaphore(capacity)
        self.load = Load()
        self._flow = Flow()
        self._appointments = Appointments()
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self) -> None:
        """Whether one more task may come.

        :raises NotReady: the service is draining.
        :raises QueueFull: `queue_size` tasks wait already.
        """
        if self.draining:
            raise NotReady("The service is shutting down and takes no new work.", retry_after=self.retry_after())
        if self._places.locked() and self.queued >= self.queue_size:
            raise QueueFull(
                f"The queue is full: {self.active} tasks run and {self.queued} wait.", retry_after=self.retry_after()
            )

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Hold a place while the body runs; raises as `check`."""
        self.check()
        self.queued += 1
        self._idle.clear()
        if self.active >= self.capacity:
            self._flow.waits()
        try:
            await self._places.acquire()
        except BaseException:
            self._leave_queue()
            self._note_idle()
            raise
        self._leave_queue()
        with self._occupied():
            yield

    def _leave_queue(self) -> None:
        self.queued -= 1
        self._flow.moved()
        if self.queued == 0:
            self._flow.empty()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place for a durable task. It has waited in a queue of its own, which is bounded elsewhere, so it is
        not counted in this one; among those that wait here it takes its turn.

        :raises NotReady: the service is draining; what has not begun by then begins after the next start.
        """
        await self._places.acquire()
        if self.draining:
            self._places.release()
            raise NotReady("The service is shutting down and begins no further task.", retry_after=self.retry_after())
        self.durable += 1
        with self._occupied():
            yield

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        """Count a place that was acquired, and give it back."""
        self._idle.clear()
        self.active += 1
        self.total += 1
        try:
            with self.load.job():
                yield
        finally:
            self.active -= 1
            self._places.release()
            self._note_idle()

    def retry_after(self) -> int:
        """Whole seconds until there is likely room in the queue, another second for each who is told."""
        interval = self._flow.interval(self.load.expected_seconds() / self.capacity)
        return self._appointments.next(lambda number: number * interval, most=self.capacity + self.queue_size)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return self.active == 0 and self.queued == 0

    async def wait_idle(self) -> None:
        """Return when nothing runs and nothing waits."""
        await self._idle.wait()

    def _note_idle(self) -> None:
        if self.idle:
            self._idle.set()
