"""Where a checkpoint comes from: a folder, a single file, or a hub id that is fetched only when an export needs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from exporters.errors import ExportError
from exporters.manifest import FileState, SourceCheckpoint

SINGLE = (".safetensors", ".ckpt")
"""Endings of single files."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A checkpoint by its name.

    :param name: a hub id, or the absolute path of a folder or of a single file.
    :param fetch: downloads a hub id, and returns the folder.
    :param unpack: unpacks a single file, as web UIs use them, and returns the folder.
    """

    name: str
    fetch: Callable[[str], Path]
    unpack: Callable[[Path], Path] | None = None

    @classmethod
    def of(
        cls, text: str, base: Path, fetch: Callable[[str], Path], unpack: Callable[[Path], Path] | None = None
    ) -> Origin:
        """Find the checkpoint that a user names: an existing folder or file (relative to `base`), else a hub id."""
        found = base / text
        # Not resolved: what a link is called may say what it is, and what it leads to only be called by a hash.
        local = found.exists() or found.suffix in SINGLE
        return cls(name=os.path.abspath(found) if local else text, fetch=fetch, unpack=unpack)  # noqa: PTH100

    @property
    def local(self) -> bool:
        """Whether it is a folder or a file on this machine."""
        return Path(self.name).is_absolute()

    @property
    def title(self) -> str:
        """The name that is written into images: the hub id, or that of the folder, or of the file without suffix."""
        path = Path(self.name)
        return self.name if not self.local else path.stem if path.suffix in SINGLE else path.name

    @cached_property
    def root(self) -> Path:
        """Its folder.

        :raises ExportError: it is not there, or cannot be fetched.
        """
        if not self.local:
            return self.fetch(self.name)
        path = Path(self.name)
        if path.is_file():
            if self.unpack is None:
                raise ExportError(f"{path} is a file; a checkpoint of this kind is a folder, or a hub id.")
            return self.unpack(path)
        if not path.is_dir():
            raise ExportError(f"The checkpoint {path} is not there.")
        return path

    def source(self, files: tuple[str, ...]) -> SourceCheckpoint:
        """The state of the files that an export reads."""
        return SourceCheckpoint(name=self.name, files={file: FileState.of(self.root / file) for file in files})

    def still(self, noted: SourceCheckpoint) -> bool:
        """Whether an export was made from this checkpoint.

        For a hub id, and for a missing folder or file, only the names are compared; nothing is downloaded.
        """
        if not self.local or not Path(self.name).exists():
            return noted.name == self.name
        return all(state.still(self.root / file) for file, state in noted.files.items())


def origin(
    text: str,
    base: Path,
    cache: Path,
    patterns: tuple[str, ...],
    *,
    unpack: Callable[[Path], Path] | None = None,
) -> Origin:
    """A checkpoint by what a user calls it.

    :param text: a folder or a single file, relative to `base`, or a hub id.
    :param patterns: what an export needs of a repository of the hub.
    :param unpack: makes a folder of a single file; None = single files are refused.
    """

    def fetch(name: str) -> Path:
        from exporters.checkpoints import hub  # which a folder does not need

        return hub.resolve(name, patterns=patterns, cache=cache)

    return Origin.of(text, base, fetch, unpack)
