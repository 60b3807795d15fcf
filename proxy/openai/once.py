"""Work that is done once although its request comes again.

OpenAI's clients send a request again when the connection breaks or times out. They number the attempts
(`x-stainless-retry-count`) and send no key of their own accord, so an attempt after the first finds the work by the
digest of its body; with an Idempotency-Key any attempt finds it. Works are kept in the memory of this process. That is
decision 27.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from darkroom.errors import Cancelled, InvalidInput
from proxy.audit.notes import NOTES

Send = Callable[[bytes], None]
"""Takes the next part of an answer."""

_KEPT_SECONDS = 60.0
"""How long a finished answer is kept for a client that has not got it."""
_MOST_BYTES = 64 << 20
"""Of all finished answers together."""
_LINGER_SECONDS = 10.0
"""How long work goes on that nobody waits for. OpenAI's clients wait for at most 8 seconds before they try again."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What tells that two requests are one.

    :param key: of the client, the path, and the Idempotency-Key or the digest.
    :param digest: of the body.
    :param named: whether the request has an Idempotency-Key.
    :param again: whether this is not the first attempt.
    """

    key: str
    digest: str
    named: bool
    again: bool


class SharedWork:
    """Work whose answer several requests may wait for.

    :param linger: seconds that it goes on when nobody waits for it any more.
    :ivar notes: of the request that began it, for the audit trail.
    """

    def __init__(
        self, work: Callable[[Send], Awaitable[None]], *, digest: str, streamed: bool = False, linger: float = 0
    ) -> None:
        self.digest = digest
        self.streamed = streamed
        self.followers = 0
        self.bytes = 0
        self.notes = NOTES.get()
        self._linger = linger
        self._parts: list[bytes] = []
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.task = asyncio.ensure_future(work(self._add))
        self.task.add_done_callback(self._ended)

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self.bytes += len(part)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled():
            task.exception()  # asyncio logs exceptions that are never read
        self._wake()

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """Yield the parts of the answer from its beginning.

        :raises DarkroomError: the work failed.
        """
        self.followers += 1
        if self._timer is not None:
            self._timer.cancel()
        try:
            for at in itertools.count():
                while at >= len(self._parts) and not self.task.done():
                    await self._changed.wait()
                if at >= len(self._parts):
                    break
                yield self._parts[at]
            if self.task.cancelled():
                raise Cancelled("The work was stopped.")
            self.task.result()
        finally:
            self.followers -= 1
            if not self.followers and not self.task.done():
                self._abandon()

    def _abandon(self) -> None:
        if self._linger:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self.task.cancel)
        else:
            self.task.cancel()


class Works:
    """The works of this process by their identity."""

    def __init__(self, *, kept_seconds: float = _KEPT_SECONDS, linger: float = _LINGER_SECONDS) -> None:
        self._kept_seconds = kept_seconds
        self._linger = linger
        self._by_key: dict[str, list[SharedWork]] = {}
        self._finished: list[tuple[str, SharedWork]] = []

    def find(self, identity: Identity | None) -> SharedWork | None:
        """Return the work that a request asks for again: one that nobody waits for, if there is any.

        :raises InvalidInput: the Idempotency-Key is that of another request.
        """
        works = self._by_key.get(identity.key, []) if identity is not None else []
        if identity is None or not works or not (identity.named or identity.again):
            return None
        if any(work.digest != identity.digest for work in works):
            raise InvalidInput(
                "Idempotency-Key must be a new one for another request; this one was sent with other fields.",
                param="Idempotency-Key",
            )
        return min(reversed(works), key=lambda work: work.followers > 0)

    def begin(
        self, identity: Identity | None, work: Callable[[Send], Awaitable[None]], *, streamed: bool
    ) -> SharedWork:
        """Begin work. Without an identity it ends when its client goes away."""
        if identity is None:
            return SharedWork(work, digest="", streamed=streamed)
        made = SharedWork(work, digest=identity.digest, streamed=streamed, linger=self._linger)
        self._by_key.setdefault(identity.key, []).append(made)
        made.task.add_done_callback(lambda task: self._finish(identity.key, made))
        return made

    def _finish(self, key: str, work: SharedWork) -> None:
        """Keep a good answer for a while. A request whose work failed is done again."""
        if work.task.cancelled() or work.task.exception() is not None:
            self._forget(key, work)
            return
        self._finished.append((key, work))
        while sum(one.bytes for _, one in self._finished) > _MOST_BYTES:
            self._forget(*self._finished[0])
        asyncio.get_running_loop().call_later(self._kept_seconds, self._forget, key, work)

    def _forget(self, key: str, work: SharedWork) -> None:
        works = self._by_key.get(key, [])
        if work in works:
            works.remove(work)
        if not works:
            self._by_key.pop(key, None)
        self._finished = [(name, one) for name, one in self._finished if one is not work]
