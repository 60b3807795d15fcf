"""Admission: how many tasks run at once, which one is next, how many may wait, and the refusal while draining."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass

from darkroom.errors import NotReady, QueueFull
from proxy.load import Load, Running
from proxy.retry import Appointments, Flow


@dataclass(eq=False, frozen=True)
class _Waiting:
    """A task in the queue. `round` is the number of turns of its client before it."""

    source: str
    round: int
    number: int
    admitted: asyncio.Future[None]


class Gate:
    """Bounded concurrency. Clients take turns: a free slot goes to the one that has the fewest slots, and of those to
    the one whose turn it is; the tasks of one client come in their order.

    A client without a slot does not wait for the long tasks of others while a guest slot is free. Guest slots are
    additional to the capacity.

    :param capacity: tasks that run at once.
    :param queue_size: tasks that may wait for a slot; further ones are refused with 429.
    :param guests: guest slots; by default half as many as there are slots.
    """

    def __init__(self, *, capacity: int, queue_size: int, guests: int | None = None) -> None:
        self.capacity = capacity
        self.queue_size = queue_size
        self.active = 0
        self.queued = 0
        self.total = 0
        self.durable = 0  # of `total`
        self.draining = False
        self.guests = capacity // 2 if guests is None else guests
        self._queue: list[_Waiting] = []
        self._running: Counter[str] = Counter()
        self._rounds: dict[str, int] = {}  # the last one of each client that runs or waits
        self._round = 0  # the one that is being served
        self._numbers = itertools.count()
        self.load = Load()
        self._flow = Flow()
        self._appointments = Appointments()
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self, source: str = "", *, waits: bool = False) -> None:
        """Check whether one more task of that client is admitted.

        :param waits: whether it waits for something else than a slot.
        :raises NotReady: the service is draining.
        :raises QueueFull: `queue_size` tasks wait already.
        """
        if self.draining:
            raise NotReady("The service is shutting down and takes no new work.", retry_after=self.retry_after())
        if (waits or not self._has_slot(source)) and self.queued >= self.queue_size:
            raise QueueFull(
                f"The queue is full: {self.active} tasks run and {self.queued} wait.", retry_after=self.retry_after()
            )

    @asynccontextmanager
    async def admit(
        self, source: str = "", before: AbstractAsyncContextManager[None] | None = None, *, waits: bool = False
    ) -> AsyncIterator[None]:
        """Hold a slot while the body runs; raises what `check` raises.

        :param before: what the task has to wait for before it waits for a slot; it is left when the slot is there.
        """
        self.check(source, waits=waits)
        self.queued += 1
        self._idle.clear()
        if self.active >= self.capacity:
            self._flow.waits()
        try:
            async with before or nullcontext():
                await self._acquire(source)
        except BaseException:
            self._leave_queue()
            self._note_idle()
            raise
        self._leave_queue()
        with self._occupied(source):
            yield

    def _leave_queue(self) -> None:
        self.queued -= 1
        self._flow.moved()
        if self.queued == 0:
            self._flow.empty()

    @asynccontextmanager
    async def slot(self, source: str = "") -> AsyncIterator[Running]:
        """Hold a slot for a durable task. Its own queue has a limit, so it is not counted here; it takes turns with
        the requests that wait.

        :raises NotReady: the service is draining; the task starts after the next start of the service.
        """
        await self._acquire(source)
        if self.draining:
            self._release(source)
            raise NotReady("The service is shutting down and begins no further task.", retry_after=self.retry_after())
        self.durable += 1
        with self._occupied(source) as job:
            yield job

    def _has_slot(self, source: str) -> bool:
        """Whether a task of that client could start now if no other task waited before it."""
        taken = self._running.total()
        return taken < self.capacity + (0 if self._running[source] else self.guests)

    async def _acquire(self, source: str) -> None:
        """Wait for a slot and take it; `_release` returns it."""
        self._rounds[source] = turn = max(self._round, self._rounds.get(source, -1) + 1)
        waiting = _Waiting(source, turn, next(self._numbers), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._admit_next()
        try:
            await waiting.admitted
        except BaseException:
            if waiting.admitted.done() and not waiting.admitted.cancelled():  # both at the same moment
                self._release(source)
            else:
                self._queue.remove(waiting)
                self._forget(source)
            raise

    def _release(self, source: str) -> None:
        self._running[source] -= 1
        self._forget(source)
        self._admit_next()

    def _admit_next(self) -> None:
        """Give the free slots to waiting tasks."""
        while (waiting := self._next()) is not None:
            self._queue.remove(waiting)
            self._round = max(self._round, waiting.round)
            self._running[waiting.source] += 1
            waiting.admitted.set_result(None)

    def _next(self) -> _Waiting | None:
        # A task that has just been cancelled may still be in the queue.
        ready = (one for one in self._queue if not one.admitted.done() and self._has_slot(one.source))
        return min(ready, key=lambda one: (self._running[one.source], one.round, one.number), default=None)

    def _forget(self, source: str) -> None:
        """Forget a client that has no running and no waiting task."""
        if not self._running[source]:
            del self._running[source]
            if not any(one.source == source for one in self._queue):
                self._rounds.pop(source, None)

    @contextmanager
    def _occupied(self, source: str) -> Iterator[Running]:
        """Record how long a slot was held, and return it."""
        self._idle.clear()
        self.active += 1
        self.total += 1
        try:
            with self.load.job() as job:
                yield job
        finally:
            self.active -= 1
            self._release(source)
            self._note_idle()

    def retry_after(self) -> int:
        """Whole seconds until there is probably room in the queue; one second more for each refused client."""
        interval = self._flow.interval(self.load.expected_seconds() / self.capacity)
        return self._appointments.next(lambda number: number * interval, most=self.capacity + self.queue_size)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return self.active == 0 and self.queued == 0

    async def wait_idle(self) -> None:
        """Return when nothing runs and nothing waits."""
        await self._idle.wait()

    def _note_idle(self) -> None:
        if self.idle:
            self._idle.set()
