"""Who sends a request: the owner of a key, or anyone where the service has no keys."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import Literal

Role = Literal["user", "admin"]

KEY_PREFIX = "key:"
"""Before the id of a key in `Task.client`, and where keys take turns."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request.

    :param key: the id of the key (not the secret); None where the service has no keys, and everything is open.
    :param name: the name of the key's owner.
    :param address: where the request comes from; see `proxy.sources`.
    :param client: whose is what the request makes: the key; without keys the credentials as they came, else the
        address. Empty for work of the service itself.
    """

    key: str | None = None
    name: str = ""
    role: Role = "admin"
    address: str = ""
    client: str = ""

    @property
    def source(self) -> str:
        """What takes turns with others: the key, or without keys the address."""
        return f"{KEY_PREFIX}{self.key}" if self.key is not None else self.address

    @property
    def sees_all(self) -> bool:
        """Whether nothing that belongs to others is hidden: for admins, and where the service has no keys."""
        return self.role == "admin"


CALLER: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=Caller())  # noqa: B039 (frozen)
"""The caller of the current request."""
