"""The queue of one network in this process: calls that wait run together, as behind Triton's dynamic batcher."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from darkroom.serving.batching import NetworkCall
from darkroom.serving.networks import Tensors


class Executable(Protocol):
    """One opened instance of a network."""

    def execute(self, calls: Sequence[NetworkCall]) -> list[Tensors | Exception]:
        """Return the outputs or the error of each call, in order."""

    def error_text(self, error: Exception) -> str:
        """The text that a caller receives for an error from `execute`."""

    def close(self) -> None:
        """Free its memory; it is not used again."""


class Instance:
    """An opened network with its own thread, on which it is opened, run and closed."""

    def __init__(self, thread: ThreadPoolExecutor, network: Executable) -> None:
        self._thread = thread
        self.network = network

    @classmethod
    async def open(cls, build: Callable[[], Executable]) -> Instance:
        """Build a network on a new thread.

        :raises Exception: what `build` raises.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        try:
            return cls(thread, await asyncio.get_running_loop().run_in_executor(thread, build))
        except BaseException:
            thread.shutdown(wait=False)
            raise

    def execute(self, calls: Sequence[NetworkCall]) -> asyncio.Future[list[Tensors | Exception]]:
        """Run calls on the network's thread, after those that run now."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self.network.execute, calls)

    async def close(self) -> None:
        """Wait for running calls, and free the network."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.network.close)
        self._thread.shutdown(wait=False)


@dataclass
class Work:
    """What a model has done so far.

    :ivar requests: that were answered without an error; failures: with one.
    :ivar rows, executions: that ran, and the batches that they ran in.
    :ivar seconds: spent by requests, by what they were spent on: "request" (in all), "queue", "compute_infer".
    """

    requests: int = 0
    failures: int = 0
    rows: int = 0
    executions: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"request": 0.0, "queue": 0.0, "compute_infer": 0.0})


@dataclass(eq=False)
class _Waiting:
    call: NetworkCall
    answer: asyncio.Future[Tensors]
    since: float

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return sorted((name, array.shape[1:]) for name, array in self.call.inputs.items())


class NetworkQueue:
    """The waiting calls of one network, in order of arrival.

    Whenever an instance is idle it takes the calls at the head of the queue that have equal shapes, up to `max_rows`
    rows. Bound to the event loop that it is used in.

    :param max_rows: max_batch_size of the config; 0 for a network without a batch dimension, whose calls run alone.
    :param delay: seconds for which an incomplete batch waits for more calls.
    :ivar work: what has run so far.
    """

    def __init__(self, instances: Sequence[Instance], *, max_rows: int, delay: float = 0.0) -> None:
        self._instances = list(instances)
        self._idle = deque(instances)
        self._max_rows = max_rows
        self._delay = delay
        self._waiting: deque[_Waiting] = deque()
        self._scheduled = False
        self.work = Work()

    async def run(self, call: NetworkCall) -> Tensors:
        """Run one call and return its outputs.

        :raises Exception: what the network raised for this call; see `error_text`.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(call, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        self._schedule()
        return await waiting.answer

    def error_text(self, error: Exception) -> str:
        """The text that a caller receives for an error that `run` raised."""
        return self._instances[0].network.error_text(error)

    @property
    def networks(self) -> list[Executable]:
        """The opened instances."""
        return [instance.network for instance in self._instances]

    async def close(self) -> None:
        """Refuse the waiting calls, and free the instances."""
        for waiting in self._waiting:
            if not waiting.answer.done():
                waiting.answer.set_exception(RuntimeError("the network is closed, and not ready"))
        self._waiting.clear()
        await asyncio.gather(*(instance.close() for instance in self._instances))

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._gather, 0)

    def _gather(self, seen: int) -> None:
        """Start batches, once an iteration of the event loop has brought no further call.

        Requests whose last calls ran together make their next calls within one or a few iterations of the loop. Without
        this wait the first of them would run alone, and all others after it.
        """
        if len(self._waiting) > seen:
            asyncio.get_running_loop().call_soon(self._gather, len(self._waiting))
            return
        self._scheduled = False
        while self._idle and (batch := self._take()):
            self._start(self._idle.popleft(), batch)

    def _take(self) -> list[_Waiting]:
        """Remove and return the calls at the head of the queue that run together; none while they wait for more."""
        self._waiting = deque(one for one in self._waiting if not one.answer.done())  # callers may be cancelled
        batch: list[_Waiting] = []
        rows = 0
        for waiting in self._waiting:
            rows += waiting.call.rows if self._max_rows else 1
            if batch and (rows > self._max_rows or waiting.shapes != batch[0].shapes):
                break
            batch.append(waiting)
        else:
            if batch and rows < self._max_rows and self._waits(batch[0]):
                return []
        for _ in batch:
            self._waiting.popleft()
        return batch

    def _waits(self, first: _Waiting) -> bool:
        """Whether an incomplete batch waits for more calls; if so, `_schedule` is called when its time is over."""
        loop = asyncio.get_running_loop()
        left = first.since + self._delay - loop.time()
        if left > 0:
            loop.call_later(left, self._schedule)
        return left > 0

    def _start(self, instance: Instance, batch: list[_Waiting]) -> None:
        self.work.executions += 1
        self.work.rows += sum(waiting.call.rows if self._max_rows else 1 for waiting in batch)
        running = instance.execute([waiting.call for waiting in batch])
        running.add_done_callback(partial(self._deliver, instance, batch, asyncio.get_running_loop().time()))

    def _deliver(
        self,
        instance: Instance,
        batch: list[_Waiting],
        started: float,
        running: asyncio.Future[list[Tensors | Exception]],
    ) -> None:
        self._idle.append(instance)
        if running.cancelled():
            answers: list[Tensors | Exception] = [RuntimeError("the network was stopped")] * len(batch)
        elif (error := running.exception()) is not None:
            answers = [error if isinstance(error, Exception) else RuntimeError(str(error))] * len(batch)
        else:
            answers = running.result()
        for waiting, answer in zip(batch, answers, strict=True):
            self._count(waiting, started, failed=isinstance(answer, Exception))
            if waiting.answer.done():  # the caller was cancelled
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)
        self._schedule()

    def _count(self, waiting: _Waiting, started: float, *, failed: bool) -> None:
        if failed:
            self.work.failures += 1
            return
        now, seconds = asyncio.get_running_loop().time(), self.work.seconds
        self.work.requests += 1
        seconds["request"] += now - waiting.since
        seconds["queue"] += started - waiting.since
        seconds["compute_infer"] += now - started
