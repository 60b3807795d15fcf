"""Where a request comes from: the client that takes turns with others.

Not who owns a task (`Caller.client`): where the service has no keys, a key that a request carries proves nothing, and
one client could be as many as it invents. What it cannot invent is its address. With keys, each key takes turns.
"""

from __future__ import annotations

import contextvars
import ipaddress

from fastapi import Request

SOURCE: contextvars.ContextVar[str] = contextvars.ContextVar("source", default="")
"""The source of the current request or task."""

_IPV6_PREFIX = 64
"""Bits; the rest of an address is the host's own choice."""


def source_of(request: Request) -> str:
    """The address that a request comes from; of IPv6 its /64 network."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host or "unknown"
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))
