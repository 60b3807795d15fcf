"""Digests of LoRA files, asked of the service."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from .calls_loras import SUFFIX
from .client import Client
from .errors import DarkroomError


class LoraDigests:
    """Finds out which files names and sessions mean. Each question is asked once.

    :param timeout: seconds for an answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._sessions: dict[str, str | None] = {}

    def __call__(self, choice: Mapping[str, Any]) -> str | None:
        """The SHA-256 of the file that an entry of `loras` means; None where the service does not say."""
        if "session_id" in choice:
            session = str(choice["session_id"])
            if session not in self._sessions:
                self._sessions[session] = self._newest(session)
            return self._sessions[session]
        name = str(choice["name"]).removesuffix(SUFFIX)
        if name in self._library:
            return self._library[name]
        found = [digest for one, digest in self._library.items() if one.rpartition("/")[2] == name]
        return found[0] if len(found) == 1 else None

    @cached_property
    def _library(self) -> dict[str, str]:
        try:
            with Client(self._url, timeout=self._timeout, retries=0) as client:
                return {one.name: one.digest for one in client.loras()}
        except DarkroomError:
            return {}

    def _newest(self, session: str) -> str | None:
        try:
            with Client(self._url, timeout=self._timeout, retries=0) as client:
                return hashlib.sha256(client.session_lora(session).data).hexdigest()
        except DarkroomError:
            return None
