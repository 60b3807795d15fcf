"""What needs no key, and what needs an admin's. Everything else needs a key, so a new route is protected by itself."""

from __future__ import annotations

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
ADMIN = ("/admin", "/admin/*")
"""Paths for which a key needs the role admin, with every method."""
_READS = ("GET", "HEAD")


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key."""
    return method in _READS and _matches(path, OPEN)


def is_for_admins(path: str) -> bool:
    """Whether a request needs the key of an admin."""
    return _matches(path, ADMIN)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(path.startswith(one[:-1]) if one.endswith("/*") else path == one for one in patterns)
