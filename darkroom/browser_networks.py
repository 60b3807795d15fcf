"""Networks that browsers may run by themselves: a family says which, and the proxy gives them their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from darkroom.files import sha256_file


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """An ONNX file of this installation.

    :param name: of the network, for clients.
    :param facts: what else a browser has to know of it.
    """

    name: str
    path: Path
    bytes: int
    sha256: str
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, path: Path, facts: Mapping[str, Any]) -> NetworkFile | None:
        """Look at a file; None where it is not there."""
        try:
            status = path.stat()
            digest = _digest(path, status.st_size, status.st_mtime_ns)
        except OSError:
            return None
        return cls(name=name, path=path, bytes=status.st_size, sha256=digest, facts=facts)

    @property
    def file_name(self) -> str:
        """It changes with the content."""
        return f"{self.name}-{self.sha256[:16]}.onnx"


@dataclass(frozen=True, kw_only=True)
class BrowserNetworks:
    """What a browser needs to do the work of a family.

    :param facts: of all networks together.
    """

    facts: Mapping[str, Any]
    files: Sequence[NetworkFile]


@lru_cache(maxsize=32)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """The hash of a file; it is read again when its size or its time has changed."""
    return sha256_file(path)
