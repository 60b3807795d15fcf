"""Asks every request for its key, and says who sends it."""

from __future__ import annotations

import hashlib
import logging

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from darkroom.errors import DarkroomError, Forbidden, Unauthorized
from proxy.callers import CALLER, KEY_PREFIX, Caller
from proxy.errors import answer
from proxy.http.refused import refuse
from proxy.keys import quotas
from proxy.keys.access import METRICS, is_for_admins, is_from_here, is_open
from proxy.keys.hashing import secrets_in
from proxy.keys.keyring import Keyring
from proxy.keys.ledger import LEDGER, Charges, Ledger
from proxy.keys.models import Key
from proxy.sources import SOURCE, source_of
from proxy.tasks.store import Store

log = logging.getLogger(__name__)

_LOOPBACK = ("127.", "::1", "localhost")
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")


class Keys:
    """The keys of the service, and what runs on their account in this process.

    :param metrics_without_key: METRICS_WITHOUT_KEY.
    """

    def __init__(self, store: Store, *, metrics_without_key: bool = False) -> None:
        self.store = store
        self._open_metrics = metrics_without_key
        self.ring = Keyring(store)
        self.charges = Charges(store)

    async def start(self, host: str) -> None:
        """Read the keys.

        :param host: the address that the service listens on.
        :raises NotReady: the database is unavailable.
        """
        await self.ring.load()
        self.charges.start()
        if not self.ring.closed and not host.startswith(_LOOPBACK):
            log.warning(
                "The service listens on %s and has no keys: whoever reaches it may use it, and see everything whose id "
                "they know. `darkroom keys create --name NAME --role admin` makes the first key, and closes it.",
                host,
            )

    async def stop(self) -> None:
        """End."""
        await self.charges.stop()

    async def admit(self, request: Request) -> Caller:
        """Say who sends a request, and count it.

        :raises Unauthorized: it needs a key, and has none that is in use.
        :raises Forbidden: it needs the key of an admin.
        :raises RateLimited: the key may not send more requests now.
        :raises NotReady: the database is unavailable, and the requests of the key are counted.
        """
        LEDGER.set(None)
        address = source_of(request)
        if is_open(request.method, request.url.path) or self._reads_metrics(request):
            return Caller(role="user", address=address, client=client_without_key(request))
        await self.ring.fresh()
        if not self.ring.closed:
            return Caller(address=address, client=client_without_key(request))
        key = self._key_of(request.headers)
        if key.role != "admin" and is_for_admins(request.url.path):
            raise Forbidden("This needs the key of an admin.")
        if key.limits.rate is not None:
            await self.store.call(quotas.hit, self.store, key.id, key.limits.rate)
        LEDGER.set(Ledger(key=key, charges=self.charges, ring=self.ring))
        return Caller(key=key.id, name=key.name, role=key.role, address=address, client=key.client)

    def _reads_metrics(self, request: Request) -> bool:
        """Whether a request reads the metrics and needs no key for that."""
        return self._open_metrics and request.url.path == METRICS and is_from_here(request.scope)

    def _key_of(self, headers: Headers) -> Key:
        sent = list(secrets_in(headers))
        found = [key for key in map(self.ring.find, sent) if key is not None]
        if not found:
            problem = "The key is not valid" if sent else "This service wants a key"
            how = "as Authorization: Bearer, as x-api-key, or as the password of Basic"
            raise Unauthorized(f"{problem}; send one {how}.")
        return found[0]


def client_without_key(request: Request) -> str:
    """Whose is what a request makes where the service has no keys: the credentials that it carries (which are not kept,
    only their hash), else the address that it comes from."""
    secret = request.headers.get("authorization") or request.headers.get("x-api-key")
    if secret:
        return f"{KEY_PREFIX}{hashlib.sha256(secret.encode()).hexdigest()[:32]}"
    return f"address:{request.client.host if request.client else 'unknown'}"


class KeyGuard:
    """Middleware: refuses requests without a key where the service has keys, and sets `CALLER` and `SOURCE`.

    They are set for each request and never taken back, so that what is outside of this can read them, too.

    :param service: the app; its `state.keys` has the keys.
    """

    def __init__(self, app: ASGIApp, *, service: FastAPI) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        CALLER.set(Caller(role="user"))
        keys: Keys = self.service.state.keys
        try:
            caller = await keys.admit(Request(scope))
        except DarkroomError as error:
            if scope["method"] in _WITHOUT_BODY:
                await answer(error)(scope, receive, send)
            else:
                await refuse(answer(error), scope, receive, send)
            return
        CALLER.set(caller)
        SOURCE.set(caller.source)
        await self.app(scope, receive, send)
