"""Where the Tritons are: the entries of TRITON_GRPC, and the addresses that a name has now."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass

import httpx

from darkroom.triton_settings import DNS, host_and_port
from proxy.waiting import at_most

log = logging.getLogger(__name__)

_DNS_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Address:
    """One Triton.

    :param grpc: host:port.
    :param metrics: URL.
    """

    grpc: str
    metrics: str


async def addresses_of(entry: str, metrics: str) -> frozenset[Address] | None:
    """Return the Tritons of an entry of TRITON_GRPC; None while its name cannot be looked up.

    :param metrics: the URL of the metrics. For the addresses of a name, each stands in place of the host.
    """
    if not entry.startswith(DNS):
        return frozenset([Address(grpc=entry, metrics=metrics)])
    host, port = host_and_port(entry)
    loop = asyncio.get_running_loop()
    try:
        found = await at_most(_DNS_SECONDS, loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError, asyncio.TimeoutError) as error:
        log.debug("%s cannot be looked up (%s)", host, type(error).__name__)
        return None
    hosts = {str(sockaddr[0]) for *_, sockaddr in found}
    return frozenset(
        Address(grpc=f"[{one}]:{port}" if ":" in one else f"{one}:{port}", metrics=_at(metrics, one)) for one in hosts
    )


def _at(url: str, host: str) -> str:
    return str(httpx.URL(url).copy_with(host=host))
