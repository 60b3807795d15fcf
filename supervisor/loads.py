"""What is done about models that have stopped loading (docs/decisions/0046-starts-on-a-crowded-machine.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Set
from pathlib import Path

import psutil

from supervisor.standstill import Standstill
from supervisor.stubs import kill, stubs_of

log = logging.getLogger("darkroom")

_STUB_SHARE = 0.005
"""Share of a core that a stub may use and still be idle. One that waits uses less than a tenth of it."""
_SERVER_SHARE = 0.05
"""The same of the server, which answers the proxy's questions meanwhile."""
_LOOKS = 12
"""Number of looks until a load counts as standing still. Each goes through the processes of the machine."""


class Loads:
    """Watches a server that loads models.

    :param repository: its folder of models.
    :param seconds: for how long a load may do nothing.
    """

    def __init__(self, repository: Path, seconds: float) -> None:
        self._repository = repository
        self._seconds = seconds
        self._stubs: Standstill[str] = Standstill(seconds, share=_STUB_SHARE, descendants=True)
        self._server: Standstill[int] = Standstill(seconds, share=_SERVER_SHARE, descendants=False)
        self._looked = 0.0

    def forget(self) -> None:
        """Begin anew, because nothing is loading."""
        self._stubs.forget()
        self._server.forget()

    def look(self, server: int, loading: Set[str]) -> bool:
        """Kill the stubs of models whose load stands still. The server then says that these models did not load.

        :param server: its process id.
        :param loading: the models that are neither loaded nor failed.
        :returns: whether the server itself stands still: it should be loading models, but none of them has a stub.
        """
        now = time.monotonic()
        if now - self._looked < self._seconds / _LOOKS:
            return False
        self._looked = now
        found = stubs_of(server, self._repository)
        # All stubs of a model together: one that is ready waits for the others.
        groups = {model: [stub for stub in found if found[stub] == model] for model in {*found.values()} & loading}
        standing = self._stubs.look(groups)
        for model in sorted(standing):
            log.error("%s stopped loading: its process has done nothing for %g s; ending it", model, self._seconds)
        kill(found, standing)
        if groups:
            self._server.forget()
            return False
        try:
            return bool(self._server.look({server: [psutil.Process(server)]}))
        except psutil.NoSuchProcess:  # it has just ended
            return False
