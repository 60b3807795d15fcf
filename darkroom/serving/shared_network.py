"""A network that the requests of a pipeline share: each call waits for its turn, and is split if it is too large.

The same for every host; they differ in how a call reaches the network.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from darkroom import tracing
from darkroom.errors import Cancelled, DarkroomError, NetworkError, OutOfMemory, from_wire
from darkroom.serving.measures import RECORDER, TURN
from darkroom.serving.model_config import instances, read_config, row_caps
from darkroom.serving.networks import Array, ModelSpec, RowCaps, RowSize, Tensors
from darkroom.serving.out_of_memory import is_out_of_memory
from darkroom.serving.turns import MEMBER, Member, Turns

Execute = Callable[[ModelSpec, Tensors], Awaitable[dict[str, Array]]]
"""One call of a network, for all of its outputs. Raises as `darkroom.serving.networks.Network` does."""
_WORTH_SAYING_SECONDS = 0.001
"""Shorter waits for a turn are no event in a trace."""


class SharedNetwork:
    """A network as a pipeline calls it.

    :param spec: the called model.
    :param execute: calls it once.
    :param max_rows: maximum number of rows in one call; more are sent in several calls at once. None = any number.
    :param caps: the same, by the size of an input.
    :param instances: number of batches that run at the same time.
    :param room: see `darkroom.serving.host.Host.network`.
    :param each: see `Turns`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        execute: Execute,
        *,
        max_rows: int | None = None,
        caps: RowCaps | None = None,
        instances: int = 1,
        room: Callable[[Tensors], float] | None = None,
        each: float = 1.0,
    ) -> None:
        self._spec = spec
        self._execute = execute
        self._max_rows = max_rows
        self._caps = caps
        self._instances = instances
        self._room = room or self._share_of_batches
        self.turns = Turns(each=each)

    async def __call__(self, inputs: Tensors) -> dict[str, Array]:
        rows, most = _rows(inputs), self._batch(inputs)
        if rows <= most:
            return await self._call(inputs)
        parts = [{name: value[at : at + most] for name, value in inputs.items()} for at in range(0, rows, most)]
        answers = await asyncio.gather(*(self._call(part) for part in parts))
        names = [tensor.name for tensor in self._spec.outputs]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in names}

    def _batch(self, inputs: Tensors) -> int:
        """The maximum number of rows in a batch with those of `inputs`."""
        return min(self._max_rows or sys.maxsize, self._caps.most(inputs) if self._caps else sys.maxsize)

    def _share_of_batches(self, inputs: Tensors) -> float:
        return _rows(inputs) / (2 * self._batch(inputs) * self._instances)

    async def _call(self, inputs: Tensors) -> dict[str, Array]:
        """Make one call when it is its request's turn: a call in the queue of the network cannot be taken back."""
        member, arrived = MEMBER.get() or Member(), time.monotonic()
        async with self.turns.turn(member, room=self._room(inputs), work=_work(inputs)):
            waited = time.monotonic() - arrived
            RECORDER.observe(TURN, waited, network=self._spec.name)
            if waited >= _WORTH_SAYING_SECONDS:
                tracing.event("turn", network=self._spec.name, rows=_rows(inputs), waited_seconds=waited)
            if member.stopped():
                raise Cancelled("The client cancelled the request.")
            return await self._execute(self._spec, inputs)


def shared_network(
    spec: ModelSpec,
    execute: Execute,
    repository: Path,
    *,
    size: RowSize | None = None,
    room: Callable[[Tensors], float] | None = None,
    each: float = 1.0,
) -> SharedNetwork:
    """Return a network of a repository, with the limits of its config; see `darkroom.serving.host.Host.network`."""
    config = read_config(repository / spec.name)
    if config is None:
        return SharedNetwork(spec, execute, room=room, each=each)
    caps = row_caps(config.parameters["rows_by_size"].string_value, size)
    rows, count = config.max_batch_size or None, instances(config)
    return SharedNetwork(spec, execute, max_rows=rows, caps=caps, instances=count, room=room, each=each)


def network_error(name: str, message: str) -> DarkroomError:
    """Return the error for a call that the network `name` answered with `message`: that of our tree, if it is one."""
    own = from_wire(message)
    if own is not None:
        return own
    kind = OutOfMemory if is_out_of_memory(message) else NetworkError
    return kind(f"network {name}: {message}")


def _rows(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))


def _work(inputs: Tensors) -> int:
    """The approximate cost of a call: the number of elements of its first input, which is the largest one."""
    return int(next(iter(inputs.values())).size)
