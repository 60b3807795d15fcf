"""Secrets of keys: drawn, hashed, and found in the headers of a request.

A secret has 256 random bits, so one SHA-256 is as good as a slow hash: nobody can try out that many. What is compared
is the hash, which nobody can choose bit by bit, so the time of a comparison says nothing about a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterator

from starlette.datastructures import Headers

PREFIX = "dr_"
"""So that people and scanners for leaked secrets can tell what it is."""
_SECRET_BYTES = 32
_LONGEST = 512
"""Characters of a secret that are looked at."""


def new_secret() -> str:
    """Draw a secret of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(secret: str) -> str:
    """SHA-256 in hexadecimal, of any text."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def secrets_in(headers: Headers) -> Iterator[str]:
    """The secrets that a request carries: `Authorization: Bearer`, the password of `Authorization: Basic`, and
    `x-api-key`. Empty ones do not count."""
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    found = value.strip()
    if scheme.lower() == "basic":
        found = _password(found)
    elif scheme.lower() != "bearer":
        found = ""
    for secret in (found, headers.get("x-api-key", "").strip()):
        if 0 < len(secret) <= _LONGEST:
            yield secret


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
