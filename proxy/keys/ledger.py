"""What the current request uses of its key's limits: noted where a request is read, charged where it runs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from darkroom.errors import Forbidden, NotReady, RateLimited, Unauthorized
from proxy.keys import quotas
from proxy.keys.models import Key, Limits
from proxy.tasks.models import PRIORITIES

if TYPE_CHECKING:
    from proxy.keys.keyring import Keyring
    from proxy.tasks.store import Store

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Charge:
    """A direct request that holds a place of its key.

    :ivar images: those that count; lower it for those that fail.
    :ivar began: whether the work has begun. What is broken off after that still counts, because its client may have
        got most of it.
    """

    images: int = 0
    began: bool = False


class Charges:
    """The charges of the direct requests that run in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to renew the leases of what runs."""
        self._renewing = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        """End."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def check(self, key: Key, images: int) -> None:
        """:raises RateLimited, NotReady: `holding` would raise it now."""
        await self._store.call(quotas.check, self._store, key, images)

    @asynccontextmanager
    async def holding(self, key: Key, images: int) -> AsyncIterator[Charge]:
        """Charge a key while the body runs. Its images are given back if it fails.

        :raises RateLimited: the key may not use that much.
        :raises NotReady: the database is unavailable.
        """
        id, charge = str(uuid.uuid4()), Charge(images=images)
        self._running.add(id)
        ends: tuple[Any, ...] = (quotas.give_back, self._store, id)
        try:
            try:
                await self._store.call(quotas.charge, self._store, key, id, images)
            except RateLimited:
                ends = ()
                raise
            try:
                yield charge
                ends = (quotas.settle, self._store, id, charge.images)
            except asyncio.CancelledError:
                if charge.began:
                    ends = (quotas.settle, self._store, id, charge.images)
                raise
        finally:
            self._running.discard(id)
            if ends:
                await asyncio.shield(asyncio.ensure_future(self._end(*ends)))

    async def _end(self, *call: Any) -> None:
        try:
            await self._store.call(*call)
        except NotReady:  # its lease ends by itself
            log.warning("the charge of a request could not be settled")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(quotas.LEASE_SECONDS / 4)
            if self._running:
                try:
                    await self._store.call(quotas.renew, self._store, list(self._running))
                except NotReady:
                    log.warning("the charges of running requests could not be renewed")


@dataclass(kw_only=True)
class Ledger:
    """The use of the current request.

    :param key: of the request.
    :param ring: says when the key is revoked.
    :ivar images: those that were asked for and are not charged yet.
    """

    key: Key
    charges: Charges
    ring: Keyring
    images: int = field(default=0)


LEDGER: contextvars.ContextVar[Ledger | None] = contextvars.ContextVar("ledger", default=None)
"""The ledger of the current request; None where the service has no keys, and for work of the service itself."""


def note_images(count: int) -> None:
    """Note that the request asks for images."""
    ledger = LEDGER.get()
    if ledger is not None:
        ledger.images += count


async def while_valid(work: Awaitable[None]) -> None:
    """Await work for as long as the key of the request is in use. What is revoked ends within a second, at every proxy.

    :raises Unauthorized: the key was revoked; the work is cancelled.
    """
    ledger = LEDGER.get()
    if ledger is None:
        await work
        return
    job = asyncio.ensure_future(work)
    end = asyncio.ensure_future(ledger.ring.revoked(ledger.key))
    try:
        await asyncio.wait((job, end), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise Unauthorized("The key was revoked.")
        await job
    finally:
        job.cancel()
        end.cancel()


def require_priority(asked: str) -> None:
    """:raises Forbidden: the key may not ask for that priority."""
    ledger = LEDGER.get()
    most = None if ledger is None else ledger.key.limits.priority
    if most is not None and PRIORITIES.index(asked) < PRIORITIES.index(most):
        raise Forbidden(f"priority: this key may ask for {most} at most; got {asked}.", param="priority")


def priority_of(asked: str | None) -> str:
    """The priority of a task of the request: the usual one, or what was asked for, but never above the key's."""
    ledger = LEDGER.get()
    return (Limits() if ledger is None else ledger.key.limits).priority_of(asked)


async def check() -> None:
    """Refuse a direct request that its key may not send, before its answer begins.

    :raises RateLimited, NotReady: as `charged`.
    """
    ledger = _counting()
    if ledger is not None:
        await ledger.charges.check(ledger.key, ledger.images)


@asynccontextmanager
async def charged(images: int | None = None) -> AsyncIterator[Charge]:
    """Charge the key of the request while the body runs, for its place and its images.

    :param images: None for those that were noted.
    :raises RateLimited: the key may not use that much.
    :raises NotReady: the database is unavailable.
    """
    ledger = _counting()
    if ledger is None:
        yield Charge()
        return
    count, ledger.images = ledger.images if images is None else images, 0
    async with ledger.charges.holding(ledger.key, count) as charge:
        yield charge


def _counting() -> Ledger | None:
    """The ledger of a request whose work is counted."""
    ledger = LEDGER.get()
    return ledger if ledger is not None and ledger.key.limits.count_work else None
