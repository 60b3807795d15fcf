"""Where a checkpoint comes from: a folder, or a hub id that is fetched only when an export needs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from exporters.errors import ExportError
from exporters.manifest import FileState, Source


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A checkpoint by its name.

    :param name: a hub id, or a folder's absolute path.
    :param fetch: makes a folder of a hub id.
    """

    name: str
    fetch: Callable[[str], Path]

    @classmethod
    def of(cls, text: str, base: Path, fetch: Callable[[str], Path]) -> Origin:
        """What a user means by `text`: a folder where there is one (relative to `base`), else a hub id."""
        folder = base / text
        # Not resolved: what a link is called may say what it is, and what it leads to only be called by a hash.
        return cls(name=os.path.abspath(folder) if folder.is_dir() else text, fetch=fetch)  # noqa: PTH100

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine."""
        return Path(self.name).is_absolute()

    @cached_property
    def root(self) -> Path:
        """Its folder.

        :raises ExportError: it is not there, or cannot be fetched.
        """
        if not self.local:
            return self.fetch(self.name)
        folder = Path(self.name)
        if not folder.is_dir():
            raise ExportError(f"The checkpoint {folder} is not there.")
        return folder

    def source(self, files: tuple[str, ...]) -> Source:
        """The state of the files that an export reads."""
        return Source(name=self.name, files={file: FileState.of(self.root / file) for file in files})

    def still(self, noted: Source) -> bool:
        """Whether it is what an export was made of.

        A hub id is taken at its word, nothing is fetched to know; and so is a folder that is gone.
        """
        if not self.local or not Path(self.name).is_dir():
            return noted.name == self.name
        return all(state.still(self.root / file) for file, state in noted.files.items())
