"""What needs no key, and what needs an admin's. Everything else needs a key, so a new route is protected by itself."""

from __future__ import annotations

from starlette.types import Scope

from proxy.http.peers import peer_of

OPEN = (
    "/",
    "/health",
    "/docs",
    "/docs/*",
    "/openapi.json",
    "/favicon.ico",
    "/health/*",
    "/assets/*",
    "/sw.js",
    "/v1/images/files/*",
)
"""Paths that need no key, for GET and HEAD. `/*` at the end stands for everything below. The name of a file below
/v1/images/files is a secret itself, as clients fetch it without their key."""
METRICS = "/metrics"
ADMIN = ("/admin", "/admin/*", METRICS)
"""Paths for which a key needs the role admin, with every method."""
_READS = ("GET", "HEAD")
_LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_FORWARDED = {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
"""Headers of reverse proxies. One on this machine that sends none of them would make every client one of this
machine's."""


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key."""
    return method in _READS and _matches(path, OPEN)


def is_from_here(scope: Scope) -> bool:
    """Whether a request comes from a program on this machine, and not through a reverse proxy on it.

    The address of the connection counts, not what a reverse proxy says of its client.
    """
    peer = peer_of(scope)
    names = {name.lower() for name, _ in scope["headers"]}
    return peer is not None and peer in _LOOPBACK and not names & _FORWARDED


def is_for_admins(path: str) -> bool:
    """Whether a request needs the key of an admin."""
    return _matches(path, ADMIN)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(path.startswith(one[:-1]) if one.endswith("/*") else path == one for one in patterns)
