"""The policy of a running service, which is read again when its files change."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from proxy.policy.document import PolicyError, files_of, read_policy
from proxy.policy.rules import Policy

log = logging.getLogger(__name__)

_State = tuple[tuple[int, int, int] | None, ...]


class PolicyFile:
    """A policy and the files that it comes from.

    :ivar loaded_at: seconds since the epoch.
    :ivar error: why the files as they are now are not used; None if they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loaded_at = 0.0
        self.error: PolicyError | None = None
        self._policy: Policy | None = None
        self._files = [path]
        self._state: _State = ()
        self._turn = asyncio.Lock()

    def load(self) -> Policy:
        """Read the files.

        :raises PolicyError: they are no valid policy; the last valid one remains.
        """
        self._files = files_of(self.path)
        self._state = self._now()
        try:
            policy = read_policy(self.path)
        except PolicyError as error:
            self.error = error
            raise
        self._policy, self.error, self.loaded_at = policy, None, time.time()
        return policy

    async def current(self) -> Policy:
        """Return the policy. Where its files have changed it is read again; a broken one is logged and not used.

        :raises PolicyError: there was never a valid one.
        """
        if self._policy is None or self._now() != self._state:
            async with self._turn:
                await self._reload()
        assert self._policy is not None
        return self._policy

    async def _reload(self) -> None:
        before = self._policy
        if before is None:
            await asyncio.to_thread(self.load)
        elif self._now() != self._state:  # unless another request was faster
            try:
                await asyncio.to_thread(self._load_again, before)
            except PolicyError as error:
                for problem in error.problems:
                    log.error("the policy is broken, and version %s stays: %s", before.version, problem)

    def _load_again(self, before: Policy) -> None:
        after = self.load()
        if after.digest == before.digest:
            return
        log.info("the policy has changed: version %s, before %s", after.version, before.version)
        if after.version == before.version:
            log.warning("the policy has changed and its version has not: give each one a version of its own")

    def _now(self) -> _State:
        """What shows that the files have changed."""
        return tuple(_state(path) for path in self._files)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
