"""Who sends a request: the owner of a key, or anyone where the service has no keys."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import Literal

Role = Literal["user", "admin"]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request.

    :param key: the id of the key (not the secret); None where the service has no keys, and everything is open.
    :param name: the name of the key's owner.
    :param address: where the request comes from; see `proxy.sources`.
    """

    key: str | None = None
    name: str = ""
    role: Role = "admin"
    address: str = ""


CALLER: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=Caller())  # noqa: B039 (frozen)
"""The caller of the current request."""
