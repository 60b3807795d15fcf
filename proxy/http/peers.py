"""Who is at the other end of the connection, behind what reverse proxies say of their clients."""

from __future__ import annotations

import ipaddress
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_PEER = "darkroom.peer"


class ProxyHeaders:
    """uvicorn's middleware of the same purpose, which replaces the address of the client; the address of the reverse
    proxy is kept beside it.

    :param trusted: FORWARDED_ALLOW_IPS.
    """

    def __init__(self, app: ASGIApp, *, trusted: str) -> None:
        self._app: Any = ProxyHeadersMiddleware(app, trusted_hosts=trusted)  # type: ignore[arg-type]  # uvicorn's types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_PEER] = scope.get("client")
        await self._app(scope, receive, send)


def peer_of(scope: Scope) -> str | None:
    """The address at the other end of the connection; None where it is no network's."""
    peer = scope.get(_PEER) or scope.get("client")
    return str(peer[0]) if peer else None


def is_from_trusted(scope: Scope, trusted: str) -> bool:
    """Whether a request comes straight from a reverse proxy that FORWARDED_ALLOW_IPS names."""
    names = [name.strip() for name in trusted.split(",") if name.strip()]
    host = peer_of(scope) or ""
    return "*" in names or any(host == name or _holds(name, host) for name in names)


def _holds(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network)
    except ValueError:
        return False
