"""The library of LoRA files: `.safetensors` files in a folder and the folders in it, named without that ending.

People may put files there by hand. Everything that is written here appears at once and whole.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from darkroom.errors import Conflict, Forbidden, InvalidInput, NotFound
from darkroom.files import sha256_file, sync_folder
from darkroom.request.fields import shown
from proxy.callers import CALLER
from proxy.keys.owners import Owners, may_use, require_change

SUFFIX = ".safetensors"
_OWNERS = ".owners"
NAME = r"[^\s./\\:*?\"<>|\x00-\x1f\x7f]([^/\\:*?\"<>|\x00-\x1f\x7f]{0,98}[^\s./\\:*?\"<>|\x00-\x1f\x7f])?"
"""A regular expression: the names that uploaded files may have, without their ending."""
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A file.

    :param name: its path in the library, without the ending.
    :param size: bytes.
    :param modified: nanoseconds since the epoch.
    """

    name: str
    path: Path
    size: int
    modified: int


class Digests:
    """The SHA-256 of files. Each is read once, and again when its size or time has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def of(self, path: Path) -> str:
        """Return the digest of a file: 64 lower-case hexadecimal digits.

        :raises OSError: it cannot be read.
        """
        status = path.stat()
        state = (status.st_size, status.st_mtime_ns)
        known = self._known.get(path)
        if known is None or known[0] != state:
            self._known[path] = known = state, sha256_file(path)
        return known[1]


class LoraLibrary:
    """The folder, which need not be there yet. All methods read and write files: call them in a thread.

    What people put there by hand and what admins upload is for all keys, everything else for the key that sent it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owners = Owners(folder / _OWNERS)

    def files(self) -> list[LoraFile]:
        """The files that the caller may use, by their names."""
        return [file for file in self.all_files() if self._may_use(file.name)]

    def all_files(self) -> list[LoraFile]:
        """All files, by their names."""
        return sorted(self._files(), key=lambda file: file.name.lower())

    def find(self, name: str, *, param: str = "name") -> LoraFile:
        """The file of a name. The name of its folder may be left out where only one file is called so.

        :param param: the field that the name is from.
        :raises NotFound: there is none; the message has similar names.
        :raises Forbidden: it belongs to another key.
        :raises InvalidInput: several folders have one.
        """
        wanted, there = name.removesuffix(SUFFIX), self.files()
        for one in (name, wanted):
            if exact := [file for file in there if file.name == one]:
                return exact[0]
        found = [file for file in there if file.name.rpartition("/")[2] == wanted]
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:5])
            raise InvalidInput(f"{param} {shown(name)} means several LoRAs: {names}.", param=param)
        if not found and any(wanted in (file.name, file.name.rpartition("/")[2]) for file in self.all_files()):
            raise Forbidden(f"The LoRA {shown(name)} belongs to another key.", param=param)
        if not found:
            near = difflib.get_close_matches(wanted, [file.name for file in there], n=3)
            hint = f" Similar names: {', '.join(near)}." if near else " GET /loras lists those that there are."
            raise NotFound(f"There is no LoRA {shown(name)}.{hint}", param=param)
        return found[0]

    def add(self, name: str, source: BinaryIO) -> LoraFile:
        """Store a file. Storing the same one again is no error.

        :param name: without folders; its ending may be there.
        :raises InvalidInput: the name cannot be one of a file.
        :raises Conflict: another file has the name.
        """
        plain = name.removesuffix(SUFFIX)
        if not re.fullmatch(NAME, plain) or len(plain.encode()) > 240 or plain.lower().endswith(SUFFIX):
            raise InvalidInput(
                'name must be 1 to 100 characters without / \\ : * ? " < > | and must not begin with a dot or end with '
                f"{SUFFIX} twice; got "
                f"{shown(name)}.",
                param="name",
            )
        path = self._folder / f"{plain}{SUFFIX}"
        self._folder.mkdir(parents=True, exist_ok=True)
        made = self._folder / f".{secrets.token_hex(8)}.tmp"
        try:
            _copy(source, made)
            self._put(made, path, plain)
            sync_folder(self._folder)
        finally:
            made.unlink(missing_ok=True)
        return self.find(plain)

    def _put(self, made: Path, path: Path, name: str) -> None:
        """Give a file its name and its owner.

        :raises Conflict: another file has the name.
        """
        there = path.exists()
        if not there:  # first the owner: at no moment may the file be there for all
            self._owners.forget(name)
            self._owners.add(name)
        try:
            os.link(made, path)  # which fails where a file is there, whoever put it there
        except FileExistsError:
            if sha256_file(path) != sha256_file(made):
                if not there:
                    self._owners.leave(name)
                raise Conflict(
                    f"There is another LoRA {shown(name)}; delete it first, or choose another name.", param="name"
                ) from None
            if self._owners.of(name):  # else it is for all
                self._owners.add(name)

    def delete(self, name: str) -> LoraFile:
        """Delete the file of a name; returns what it was. If others have sent the same file, it stays theirs.

        :raises NotFound, InvalidInput: as `find`.
        :raises Forbidden: it belongs to another key, or to all.
        """
        file = self.find(name)
        require_change(self._owners.of(file.name), f"The LoRA {shown(name)}")
        if self._owners.leave(file.name):
            return file
        file.path.unlink(missing_ok=True)
        self._owners.forget(file.name)
        sync_folder(file.path.parent)
        return file

    def _may_use(self, name: str) -> bool:
        if CALLER.get().sees_all:
            return True
        owners = self._owners.of(name)
        return not owners or any(owner.shared for owner in owners) or may_use(owners)

    def _files(self) -> Iterator[LoraFile]:
        for path in self._folder.rglob(f"*{SUFFIX}"):
            relative = path.relative_to(self._folder)
            if any(part.startswith(".") for part in relative.parts):
                continue
            with contextlib.suppress(OSError):  # deleted meanwhile, or a broken link
                status = path.stat()
                yield LoraFile(
                    name=relative.as_posix().removesuffix(SUFFIX),
                    path=path,
                    size=status.st_size,
                    modified=status.st_mtime_ns,
                )


def _copy(source: BinaryIO, target: Path) -> None:
    """Write a stream to a file and onto the disk."""
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, _PIECE)
        file.flush()
        os.fsync(file.fileno())
