"""Sessions as folders: `session_<id>/<n>/<n>.png` with `<n>.txt` beside it, and `session_<id>/lora_<k>.safetensors`.

This is the layout of the service that these sessions come from, so that its folders can be used as they are. Several
processes may share the folder: everything that writes holds the lock of its session, and every file and every image
with its prompt appears at once and whole.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom.captioned_images import CaptionedImage, captioned_images, subfolders
from darkroom.errors import Conflict, Forbidden, InvalidInput, NotFound
from darkroom.files import sync_folder, write_atomically
from darkroom.locks import lock
from proxy.keys.owners import Owners, require_change, require_use

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FOLDER = re.compile(rf"session_({_ID.pattern})")
_LOCKS = ".locks"
_OWNERS = ".owners"
_LORA = re.compile(r"lora_([1-9]\d{0,8})\.safetensors")
LORA_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._()+\-]{0,119}\.safetensors"
"""A regular expression: the names that a LoRA file may have."""


@dataclass(frozen=True, kw_only=True)
class SessionSummary:
    """What a session holds.

    :param latest_lora: name of the newest LoRA file; None while there is none.
    :param image_groups: number of folders with images to train on.
    """

    session_id: str
    latest_lora: str | None
    image_groups: int


class SessionStore:
    """The sessions of a folder. All methods read and write files: call them in a thread.

    :raises NotFound: all methods that take a session id, when there is no such session.
    :raises Forbidden: the same methods, when it belongs to another key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owners = Owners(folder / _OWNERS)

    def create(self) -> int:
        """Make a session; returns its number, which is one more than the largest so far.

        The numbers of deleted sessions are not given again: a client that still has one must not reach another session.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked(None):
            last = self._folder / _LOCKS / "last"
            largest = int(last.read_text()) if last.is_file() else 0
            number = max([largest, *(int(one) for one in self._ids() if one.isdecimal())]) + 1
            write_atomically(last, str(number).encode())
            self._owners.add(str(number))
            (self._folder / f"session_{number}").mkdir()
        return number

    def require(self, session_id: str) -> None:
        """Check that there is a session."""
        self._of(session_id)

    def require_change(self, session_id: str) -> None:
        """Check that the caller may delete a session."""
        self._of(session_id)
        require_change(self._owners.of(session_id), "The session")

    def folder(self, session_id: str) -> Path:
        """The folder of a session, for reading."""
        return self._of(session_id)

    def summaries(self) -> list[SessionSummary]:
        """The sessions that the caller may see: numbers first, in order, then names."""
        found = []
        for one in sorted(self._ids(), key=lambda one: (not one.isdecimal(), int(one) if one.isdecimal() else 0, one)):
            with contextlib.suppress(Forbidden, NotFound, FileNotFoundError):  # of others; deleted meanwhile
                names = self._loras(one)
                groups = {example.image.parent for example in self.examples(one)}
                found.append(
                    SessionSummary(
                        session_id=one, latest_lora=names[-1].name if names else None, image_groups=len(groups)
                    )
                )
        return found

    def delete(self, session_id: str) -> None:
        """Remove a session and everything in it."""
        self.require_change(session_id)
        folder = self._of(session_id)
        with self._locked(session_id):
            gone = folder.with_name(f".deleted-{secrets.token_hex(8)}")
            try:
                folder.rename(gone)
            except FileNotFoundError:
                raise _no_session(session_id) from None
            shutil.rmtree(gone, ignore_errors=True)
            self._owners.forget(session_id)

    def add_image(self, session_id: str, png: bytes, prompt: str) -> int:
        """Add an image with its prompt; returns the number of its folder."""
        folder = self._of(session_id)
        with self._locked(session_id):
            self._of(session_id)
            number = max((int(one.name) for one in folder.iterdir() if one.name.isdecimal()), default=-1) + 1
            made = folder / f".{number}-{secrets.token_hex(8)}"
            try:
                write_atomically(made / f"{number}.png", png)
                write_atomically(made / f"{number}.txt", prompt.encode())
                made.rename(folder / str(number))
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
            sync_folder(folder)
        return number

    def examples(self, session_id: str) -> list[CaptionedImage]:
        """The images to train on, in the order of their paths: each one in a sub-folder, beside a text of its name."""
        return [one for group in subfolders(self._of(session_id)) for one in captioned_images(group)]

    def add_lora(self, session_id: str, data: bytes, name: str | None = None) -> str:
        """Add a LoRA file; returns its name.

        :param name: of the file; None for `lora_<k>.safetensors` with the next free number.
        :raises InvalidInput: the name is no plain file name that ends in .safetensors.
        :raises Conflict: the session has another file of that name.
        """
        if name is not None and not re.fullmatch(LORA_NAME, name):
            raise InvalidInput(
                f"filename must be a plain name that ends in .safetensors, at most 132 characters; got {name[:80]!r}.",
                param="filename",
            )
        folder = self._of(session_id)
        with self._locked(session_id):
            self._of(session_id)
            path = folder / (name or _next_name(folder))
            if path.exists() and path.read_bytes() != data:
                raise Conflict(f"The session has another file named {path.name}.", param="filename")
            write_atomically(path, data)
        return path.name

    def next_lora_name(self, session_id: str) -> str:
        """`lora_<k>.safetensors` with the next number, which another process may take before this one does."""
        return _next_name(self._of(session_id))

    def read_lora(self, session_id: str, iteration: int | None = None) -> tuple[str, bytes]:
        """The name and the bytes of a LoRA file.

        :param iteration: its number; None for the newest file.
        :raises NotFound: there is none.
        """
        for path in reversed(self._loras(session_id)):
            if iteration is None or path.name == f"lora_{iteration}.safetensors":
                with contextlib.suppress(FileNotFoundError):
                    return path.name, path.read_bytes()
        raise _no_lora("iteration" if iteration is not None else "session_id")

    def newest_lora(self, session_id: str, *, param: str = "session_id") -> Path:
        """The newest LoRA file of a session.

        :param param: the field that names the session.
        :raises NotFound: there is none, or no such session.
        """
        try:
            found = self._loras(session_id)
        except NotFound as error:
            raise NotFound(error.message, param=param) from None
        if not found:
            raise _no_lora(param)
        return found[-1]

    def lora_paths(self, *, of_others: bool = True) -> Iterator[Path]:
        """The LoRA files of all sessions.

        :param of_others: also of those that the caller may not see.
        """
        for session_id in self._ids():
            with contextlib.suppress(Forbidden, NotFound, FileNotFoundError):  # deleted meanwhile
                yield from _loras_in(self._there(session_id) if of_others else self._of(session_id))

    def _loras(self, session_id: str) -> list[Path]:
        return _loras_in(self._of(session_id))

    def _of(self, session_id: str) -> Path:
        """The folder of a session that the caller may see."""
        folder = self._there(session_id)
        require_use(self._owners.of(session_id), "The session")
        return folder

    def _there(self, session_id: str) -> Path:
        folder = self._folder / f"session_{session_id}"
        if not _ID.fullmatch(session_id) or not folder.is_dir():
            raise _no_session(session_id)
        return folder

    def _ids(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return [match[1] for one in self._folder.iterdir() if (match := _FOLDER.fullmatch(one.name)) and one.is_dir()]

    @contextlib.contextmanager
    def _locked(self, session_id: str | None) -> Iterator[None]:
        """Hold the lock of a session, or of the list of sessions. The file of the lock stays: a waiting process has it
        open."""
        locks = self._folder / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{session_id or '.sessions'}.lock").open("w") as file:
            lock(file.fileno())
            yield


def _loras_in(folder: Path) -> list[Path]:
    """The LoRA files of a session, oldest first. Those of one moment are in the order of their numbers."""

    def age(path: Path) -> tuple[int, int, str]:
        match = _LORA.fullmatch(path.name)
        return path.stat().st_mtime_ns, int(match[1]) if match else 0, path.name

    return sorted((one for one in folder.glob("[!.]*.safetensors") if one.is_file()), key=age)


def _next_name(folder: Path) -> str:
    found = [int(match[1]) for one in folder.iterdir() if (match := _LORA.fullmatch(one.name))]
    return f"lora_{max(found, default=0) + 1}.safetensors"


def _no_lora(param: str) -> NotFound:
    return NotFound("Requested LoRA not found", param=param)


def _no_session(session_id: str) -> NotFound:
    return NotFound(f"There is no session {session_id[:80]!r}.", param="session_id")
