"""What the supervisors have in common: children that are started again, and a stop that drains."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from darkroom.restarts import Tally, restarts_file
from darkroom.settings import Settings
from supervisor.child import Child
from supervisor.errors import SetupError

log = logging.getLogger("darkroom")

MALLOC = {"MALLOC_ARENA_MAX": "2"}
"""For the processes, unless the environment says otherwise. glibc gives threads up to 8 arenas per core, and each keeps
what its threads have freed: a process of many threads grows for hours without a leak."""
GRACE_SECONDS = 15.0
"""What a process gets to end, beyond the time for accepted work."""
_BACKOFF = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_CALM_SECONDS = 60.0  # after this time without a failure the backoff starts from the beginning


class Supervision:
    """Children that run until `stopping` is set.

    :ivar proxy: None where Triton runs alone.
    :ivar ready: whether everything has worked once.
    """

    def __init__(self, settings: Settings, *, restarts: tuple[str, ...]) -> None:
        """`restarts` are the kinds of restarts that it counts, for the metrics."""
        self.settings = settings
        self.stopping = asyncio.Event()
        self.ready = False
        self.proxy: Child | None = None
        self._deaths: dict[str, list[float]] = {}
        self._tally = Tally(restarts_file(settings), restarts)

    @property
    def _serves(self) -> bool:
        """Whether the proxy is alive, or none is wanted."""
        return self.proxy is None or self.proxy.alive

    async def _revive(self, child: Child) -> None:
        """Restart a dead child: at once the first time, then after growing pauses."""
        if child is self.proxy and not self.ready:
            raise SetupError(f"The proxy ended with code {child.exit_code} while it started; see logs/proxy.log.")
        now = time.monotonic()
        recent = [t for t in self._deaths.get(child.name, []) if now - t < _CALM_SECONDS]
        self._deaths[child.name] = [*recent, now]
        wait = _BACKOFF[min(len(recent), len(_BACKOFF) - 1)]
        log.warning("starting %s again%s", child.name, f" in {wait:g} s" if wait else "")
        await self._pause(wait)
        if not self.stopping.is_set():
            try:
                self._tally.restarted(child.name)
                await child.start()
            except OSError as error:  # no memory, or too many processes: the next round tries again
                log.error("%s cannot be started: %s", child.name, error)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake up to stop."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return

    async def _stop_proxy(self) -> None:
        """Stop the proxy when its accepted work has finished."""
        if self.proxy is None:
            return
        if self.proxy.alive:
            log.info("stopping: accepted work finishes first (again Ctrl-C or SIGTERM: stop at once)")
        await self.proxy.stop(grace=self.settings.drain_timeout + GRACE_SECONDS)

    def interrupt(self) -> None:
        """Handle SIGTERM and Ctrl-C: the first one drains, the second one stops at once."""
        if not self.stopping.is_set():
            self.stopping.set()
        elif self.proxy is not None and self.proxy.alive:
            os.kill(self.proxy.pid, 9)


def loopback(host: str) -> str:
    """Return the loopback address for a host that means all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address_of(host: str, port: int) -> str:
    """Return the URL by which this machine reaches the service."""
    return f"http://{loopback_address(host, port)}"


def loopback_address(host: str, port: int) -> str:
    """Return the host and port by which this machine reaches a server."""
    host = loopback(host)
    return f"{f'[{host}]' if ':' in host else host}:{port}"
