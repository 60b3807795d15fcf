"""Fair scheduling of a resource that several requests share, for example a network.

Start-time fair queueing (Goyal, Vin, Cheng 1996) on two levels: between clients, and between the requests of one
client. Plain asyncio: no clock, no thread, no engine, so that the order depends on the calls alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_ROUNDING = 1e-9


@dataclass(eq=False, kw_only=True)
class Member:
    """One request that takes turns.

    :param client: who sent it; empty for a request that is a client of its own.
    :param stopped: whether its client has disconnected or cancelled.
    """

    client: str = ""
    stopped: Callable[[], bool] = lambda: False

    @property
    def key(self) -> object:
        """The key that identifies its client."""
        return self.client or self


MEMBER: contextvars.ContextVar[Member | None] = contextvars.ContextVar("member", default=None)
"""The request that the current context serves."""


@dataclass(eq=False)
class _Account:
    """The service that a client or a request has received.

    :ivar served: work so far; the member with the least is next. When its owner comes back after a pause it is raised
        to the present virtual time, so no client can save up turns by pausing.
    :ivar held: room that it takes now.
    :ivar waits: number of turns that it waits for.
    """

    served: float = 0.0
    held: float = 0.0
    waits: int = 0

    def come_back(self, clock: float) -> None:
        if not self.waits and not self.held:
            self.served = max(self.served, clock)
        self.waits += 1


@dataclass(eq=False)
class _Request(_Account):
    waiting: deque[_Wait] = field(default_factory=deque)

    def first(self) -> _Wait | None:
        """Its next turn; turns that were just cancelled are skipped."""
        return next((wait for wait in self.waiting if not wait.granted.done()), None)


@dataclass(eq=False)
class _Client(_Account):
    requests: dict[Member, _Request] = field(default_factory=dict)
    clock: float = 0.0
    last: int = -1
    """The number of its last turn."""


@dataclass(eq=False)
class _Wait:
    client: _Client
    request: _Request
    room: float
    work: float
    number: int
    granted: asyncio.Future[None]


class Turns:
    """Room of size 1. The next turn goes to the least served request of the least served client.

    While there are several clients, each may take an equal part of the room, and each of its requests an equal part of
    that, but always at least one turn at a time. A turn that needs more room than there is runs alone.

    :param each: the part of the room that one request may take, even if no other request is there.
    """

    def __init__(self, *, each: float = 1.0) -> None:
        self._each = each
        self._clients: dict[object, _Client] = {}
        self._held = 0.0
        self._clock = 0.0
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(self, member: Member, *, room: float, work: float) -> AsyncIterator[None]:
        """Wait for the turn of `member`, and hold its room while the body runs.

        :param room: the part of the room that it takes, above 0.
        :param work: its cost, in a unit that is the same for all turns here.
        """
        wait = self._wait(member, room, work)
        self._grant()
        try:
            await wait.granted
        except BaseException:
            self._withdraw(wait)
            raise
        try:
            yield
        finally:
            self._release(wait)

    def leave(self, member: Member) -> None:
        """Remove a request that has ended; its share goes to the others."""
        client = self._clients.get(member.key)
        if client is not None and client.requests.pop(member, None) is not None:
            if not client.requests:
                del self._clients[member.key]
            self._grant()

    def _wait(self, member: Member, room: float, work: float) -> _Wait:
        client = self._clients.setdefault(member.key, _Client())
        request = client.requests.setdefault(member, _Request())
        client.come_back(self._clock)
        request.come_back(client.clock)
        granted = asyncio.get_running_loop().create_future()
        wait = _Wait(client, request, room, work, next(self._numbers), granted)
        request.waiting.append(wait)
        return wait

    def _grant(self) -> None:
        while (wait := self._next()) is not None:
            client, request = wait.client, wait.request
            request.waiting.remove(wait)
            self._clock = max(self._clock, client.served)
            client.clock = max(client.clock, request.served)
            client.last = next(self._numbers)
            self._held += wait.room
            for account in (client, request):
                account.waits -= 1
                account.held += wait.room
                account.served += wait.work
            wait.granted.set_result(None)

    def _next(self) -> _Wait | None:
        """Return the next turn; None while no member waits, or there is no room for it."""
        requests = [request for client in self._clients.values() for request in client.requests.values()]
        first = [wait for request in requests if (wait := request.first()) is not None]
        for wait in sorted(first, key=_order):
            part = 1 / len(self._clients)
            if not _fits(wait.client, wait.room, part):
                continue
            if not _fits(wait.request, wait.room, min(self._each, part / len(wait.client.requests))):
                continue
            # Small turns must not overtake a large one for ever.
            return wait if not self._held or self._held + wait.room <= 1 + _ROUNDING else None
        return None

    def _withdraw(self, wait: _Wait) -> None:
        """Remove a turn that is not waited for any longer; it may have been granted at the same moment."""
        if wait.granted.done() and not wait.granted.cancelled():
            self._release(wait)
            return
        wait.request.waiting.remove(wait)
        for account in (wait.client, wait.request):
            account.waits -= 1
        self._grant()

    def _release(self, wait: _Wait) -> None:
        self._held -= wait.room
        for account in (wait.client, wait.request):
            account.held -= wait.room
        if self._held < _ROUNDING:  # nothing is held: drop the rounding error of the sums
            self._held = 0.0
        self._grant()


def _order(wait: _Wait) -> tuple[float, int, float, int]:
    return wait.client.served, wait.client.last, wait.request.served, wait.number


def _fits(account: _Account, room: float, part: float) -> bool:
    return account.held < _ROUNDING or account.held + room <= part + _ROUNDING
