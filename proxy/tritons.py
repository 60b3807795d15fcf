"""Several Tritons as one: each call goes to the one that has the least to do of those that are ready for its model."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from darkroom.errors import NotReady
from darkroom.serving.networks import Array, ModelSpec
from proxy.addresses import Address, addresses_of
from proxy.gateway import Gateway
from proxy.presence import EVERYTHING, Presence
from proxy.readiness import Monitor

log = logging.getLogger(__name__)

_ROUND_SECONDS = 1.0
_LOOK_UP_SECONDS = 5.0
"""How often names are looked up."""
_AVOIDED_SECONDS = 3.0
"""How long a Triton gets no new calls after it has broken one off. By then its monitor knows whether it works; and
without this it would get every next call, because it has none."""
_SILENT_ROUNDS = 3
"""After so many questions in a row without an answer the calls of a Triton are given up: a machine that is switched off
closes no connection."""
_ELSEWHERE_SECONDS = 1
"""Retry-After of a call that has failed while another Triton is ready."""


class Triton:
    """One Triton: the connection, its readiness, and the calls that this proxy has there.

    :ivar running: number of calls.
    :ivar turn: grows with each call; of equally busy ones the one that was called longest ago is next.
    """

    def __init__(self, address: Address, gateway: Gateway, monitor: Monitor) -> None:
        self.address = address
        self.gateway = gateway
        self.monitor = monitor
        self.running = 0
        self.turn = 0
        self.left = False
        self._avoided_until = 0.0
        self.watching = asyncio.create_task(monitor.run())

    @property
    def avoided(self) -> bool:
        """Whether it has broken off a call a moment ago."""
        return time.monotonic() < self._avoided_until

    def avoid(self) -> None:
        """Give it no calls for a moment if there is another one."""
        self._avoided_until = time.monotonic() + _AVOIDED_SECONDS

    def is_ready_for(self, model: str) -> bool:
        """Whether a group of the model is ready."""
        states = self.monitor.states.values()
        return any(state.ready and any(spec.name == model for spec in state.group.models) for state in states)

    def rank(self, model: str) -> tuple[bool, bool, bool, int, int]:
        """The order in which Tritons are chosen for a model; the smallest is the best."""
        ready = self.is_ready_for(model)
        return not ready or self.avoided, not ready, not self.monitor.models.get(model), self.running, self.turn

    async def close(self) -> None:
        """Stop watching it, and close the connection."""
        self.watching.cancel()
        with suppress(asyncio.CancelledError):
            await self.watching
        await self.gateway.close()


class Tritons:
    """The Tritons of this proxy, with the methods of `Gateway`.

    A name that has several addresses is looked up again every few seconds: Tritons that come get work, and those whose
    address is gone finish what they have.

    :param entries: of TRITON_GRPC, each with the URL of the metrics.
    :param families: the specs of all models.
    :param interval, timeout, presence: see `Monitor`.
    """

    def __init__(
        self,
        entries: Sequence[tuple[str, str]],
        families: Mapping[str, tuple[ModelSpec, ...]],
        *,
        interval: float,
        timeout: float,
        presence: Presence = EVERYTHING,
    ) -> None:
        self._presence = presence
        self._entries = entries
        self._families = families
        self._interval = interval
        self._timeout = timeout
        self._found: dict[str, frozenset[Address]] = {}
        self._members: dict[Address, Triton] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._turns = itertools.count(1)

    @property
    def members(self) -> list[Triton]:
        """The Tritons, without those that have left."""
        return list(self._members.values())

    async def start(self) -> None:
        """Look the addresses up for the first time, and watch them."""
        await self._look_up()

    async def run(self) -> None:
        """Follow the addresses, and give up the calls of Tritons that have fallen silent, until cancelled."""
        looked_up = time.monotonic()
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            if time.monotonic() - looked_up >= _LOOK_UP_SECONDS:
                await self._look_up()
                looked_up = time.monotonic()
            if len(self._members) > 1:
                for one in self._members.values():
                    if one.monitor.unanswered >= _SILENT_ROUNDS:
                        one.gateway.break_off_all()

    async def close(self) -> None:
        """Close all connections with their calls."""
        for triton in self._members.values():
            self._close(triton)
        self._members.clear()
        await asyncio.gather(*self._closing)

    def each(self, model: str) -> Sequence[Gateway]:
        """The connections to the Tritons that may run a model now: those that are ready for it, else the likeliest."""
        ready = [one.gateway for one in self._members.values() if one.is_ready_for(model) and not one.avoided]
        return ready or [self._choose(model).gateway]

    def has_another(self, model: str) -> bool:
        """Whether a Triton is ready for a model that has broken off no call a moment ago."""
        return any(one.is_ready_for(model) and not one.avoided for one in self._members.values())

    async def stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        request_id: str = "",
        client: str = "",
        can_stop: bool = True,
    ) -> AsyncGenerator[dict[str, Array], None]:
        """`Gateway.stream` of the Triton that has the fewest calls of those that are ready for the model.

        :raises NotReady: no Triton is known, or this one is unavailable; `retry_after` is short if there is another.
        """
        triton = self._choose(model)
        triton.running += 1
        triton.turn = next(self._turns)
        call = triton.gateway.stream(model, inputs, request_id=request_id, client=client, can_stop=can_stop)
        try:
            async with aclosing(call) as responses:
                async for outputs in responses:
                    yield outputs
        except NotReady as error:
            triton.avoid()
            if not self.has_another(model):
                raise
            raise NotReady(error.message, retry_after=_ELSEWHERE_SECONDS) from None
        finally:
            triton.running -= 1
            if triton.left and not triton.running:
                self._close(triton)

    def _choose(self, model: str) -> Triton:
        if not self._members:
            names = ", ".join(entry for entry, _ in self._entries)
            raise NotReady(f"No inference server is found at {names}.", retry_after=round(_LOOK_UP_SECONDS))
        return min(self._members.values(), key=lambda one: one.rank(model))

    async def _look_up(self) -> None:
        for entry, metrics in self._entries:
            found = await addresses_of(entry, metrics)
            if found is not None:
                self._found[entry] = found
        wanted = [address for found in self._found.values() for address in sorted(found, key=lambda one: one.grpc)]
        self._leave(self._members.keys() - set(wanted))
        several = len(self._entries) > 1 or len(wanted) > 1
        for address in wanted:
            if address not in self._members:
                self._members[address] = self._join(address, f" at {address.grpc}" if several else "")

    def _join(self, address: Address, place: str) -> Triton:
        if place:
            log.info("using the inference server%s", place)
        gateway = Gateway(address.grpc)
        monitor = Monitor(
            gateway,
            self._families,
            metrics_url=address.metrics,
            interval=self._interval,
            timeout=self._timeout,
            place=place,
            presence=self._presence,
        )
        return Triton(address, gateway, monitor)

    def _leave(self, gone: Iterable[Address]) -> None:
        for address in gone:
            log.warning("the inference server at %s has left", address.grpc)
            triton = self._members.pop(address)
            triton.left = True
            if not triton.running:
                self._close(triton)

    def _close(self, triton: Triton) -> None:
        task = asyncio.create_task(triton.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
