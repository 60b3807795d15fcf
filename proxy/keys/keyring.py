"""The keys in memory: found by the hash of a secret, and at most a moment behind the database."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from typing import Any

from darkroom.errors import NotReady
from proxy.keys import store as table
from proxy.keys.hashing import digest_of
from proxy.keys.models import Key, Limits
from proxy.tasks.store import Store

log = logging.getLogger(__name__)

FRESH_SECONDS = 0.25
"""How far what is in memory may be behind: a key that is revoked stops after that long, at every proxy."""
_WAIT_SECONDS = 0.15
"""How long a request waits for a database that does not answer. Then what is known counts, so that direct requests go
on as they do without keys."""
_NOBODY = Key(id="", name="", digest=digest_of(""), role="user", limits=Limits(), created_at=0)
"""What a wrong secret is compared with, so that it takes the same steps as a right one."""


class Keyring:
    """The keys that are in use.

    :ivar closed: whether the service wants keys: there is at least one, revoked ones included. So revoking the last one
        does not open the service.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: dict[str, Key] = {}
        self._state: tuple[Any, ...] | None = None
        self._looked = 0.0
        self._look: asyncio.Future[None] | None = None
        self.closed = False

    def find(self, secret: str) -> Key | None:
        """The key with a secret, if it is in use. It takes as long for a wrong one."""
        digest = digest_of(secret)
        key = self._keys.get(digest, _NOBODY)
        return key if hmac.compare_digest(digest, key.digest) and key is not _NOBODY else None

    async def revoked(self, key: Key) -> None:
        """Wait until a key is revoked."""
        while self._keys.get(key.digest) is not None:
            await asyncio.sleep(FRESH_SECONDS)
            await self.fresh()

    async def fresh(self) -> None:
        """Look into the database if the last look is too old. All requests share one look."""
        for _ in range(2):  # one that was under way may have begun too early
            if time.monotonic() - self._looked < FRESH_SECONDS:
                return
            if self._look is None or self._look.done():
                self._look = asyncio.ensure_future(self._refresh())
            await asyncio.wait({self._look}, timeout=_WAIT_SECONDS)

    async def load(self) -> None:
        """Look into the database now.

        :raises NotReady: it is unavailable.
        """
        started = time.monotonic()
        state = await self._store.call(table.state, self._store)
        if state != self._state:
            found = await self._store.call(table.keys, self._store)
            self._keys = {key.digest: key for key in found if key.revoked_at is None}
            self.closed, self._state = bool(found), state
        self._looked = started

    async def _refresh(self) -> None:
        try:
            await self.load()
        except NotReady:
            log.warning("the keys cannot be read; those that are known still count")
            self._looked = time.monotonic()
        except Exception:
            log.exception("the keys cannot be read; those that are known still count")
            self._looked = time.monotonic()
