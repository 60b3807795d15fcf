"""Puts a backup in place of what is here: all of it, or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from darkroom.errors import Conflict
from darkroom.files import sync_folder, write_atomically
from darkroom.home import ROOT
from darkroom.settings import Settings
from proxy.backup import database
from proxy.backup.contents import MODELS, Part, parts, sqlite_file
from proxy.backup.manifest import BackupError, Manifest
from proxy.backup.reading import unpack
from proxy.migrations import require_known
from proxy.tasks import lock_file


def restore(settings: Settings, file: Path, *, force: bool) -> tuple[Manifest, list[Path]]:
    """Unpack a backup beside the folders of the settings, check it, and only then put it in their place.

    :param force: even if they hold something; it is deleted at the end.
    :returns: what the backup says of itself, and files of the home folder that could not be written.
    :raises BackupError: it cannot be done; everything is as it was.
    """
    if not file.is_file():
        raise BackupError(f"There is no file {file}.")
    places = _Places(settings)
    try:
        with _nobody_works(settings):
            places.recover()
            places.require_empty(force=force)
            if database.kind_of(settings) == "postgresql":
                database.require_programs(settings)
                database.require_alone(settings, force=force)
            try:
                manifest = unpack(file, places.staged)
                _check(settings, manifest, places)
                os.sync()
                with places.swapped(force=force):
                    if manifest.database == "postgresql":
                        database.restore_postgres(settings, places.dump)
                left_out = places.write_home()
            finally:
                places.clean()
    except OSError as error:
        raise BackupError(f"The backup cannot be restored: {error.strerror or error} ({error.filename}).") from None
    return manifest, left_out


def _check(settings: Settings, manifest: Manifest, places: _Places) -> None:
    """:raises BackupError: this release, or this database, cannot take the backup."""
    kind = database.kind_of(settings)
    if manifest.database != kind:
        raise BackupError(f"The backup is of a {manifest.database} database, and the settings name a {kind} one.")
    if database.MEMBERS[kind] not in manifest.files:
        raise BackupError("The backup has no database.")
    try:
        require_known(manifest.version)
    except Conflict as error:
        raise BackupError(error.message) from None
    if kind == "sqlite":
        database.check_sqlite(places.dump)


class _Places:
    """The folders of the settings, and beside each a new one, whose name begins with a dot."""

    def __init__(self, settings: Settings) -> None:
        self._parts = {part.name: part for part in parts(settings, models=True)}
        self._file = sqlite_file(settings)
        data = self._parts["data"].folder
        self._roots = {name: _root(part, data) for name, part in self._parts.items()}
        self._beside = data.with_name(f".{data.name}.beside")  # for what is not put in place by renaming
        self.dump = self._beside / "dump" if self._file is None else self._in_new(self._file)

    def staged(self, name: PurePosixPath) -> Path:
        """Where a file of the archive is unpacked.

        :raises BackupError: a backup has no such file.
        """
        head, rest = name.parts[0], PurePosixPath(*name.parts[1:])
        if str(name) in database.MEMBERS.values():
            return self.dump
        if head == "home" and (str(rest) == ".env" or (str(rest.parent) == "policies" and rest.suffix == ".yaml")):
            return self._beside / name
        if head in self._parts and rest.parts:
            return self._in_new(self._parts[head].folder / rest)
        raise BackupError(f"The archive has {str(name)[:80]!r}, which backups do not have; nothing was restored.")

    def recover(self) -> None:
        """Undo what a restoration that was killed has left."""
        for folder in self._folders():
            old = _old_of(folder)
            if old.exists() and not folder.exists():
                old.rename(folder)
        self.clean()

    def require_empty(self, *, force: bool) -> None:
        """:raises BackupError: a folder, or the place of the database, holds something."""
        data = [part.folder for name, part in self._parts.items() if name != MODELS]
        there = [
            folder for folder in data if folder.is_dir() and any(path.suffix != ".lock" for path in folder.iterdir())
        ]
        if self._file is not None and self._file.exists():
            there.append(self._file)
        if there and not force:
            raise BackupError(f"{there[0]} is not empty; --force replaces it by what the backup has.")

    @contextlib.contextmanager
    def swapped(self, *, force: bool) -> Iterator[None]:
        """Put the new folders in place. An error in the block, or here, puts the old ones back.

        :raises BackupError: the archive has models, and there are some; or the database cannot be opened.
        :raises OSError: a folder cannot be renamed, for example because a disk is mounted there.
        """
        models = self._parts[MODELS].folder
        if self._new_of(models).exists() and models.is_dir() and any(models.iterdir()) and not force:
            raise BackupError(f"The backup has models, and {models} is not empty; --force replaces it.")
        for name, root in self._roots.items():
            if name != MODELS:  # an empty one replaces what is there, too
                self._new_of(root).mkdir(parents=True, exist_ok=True)
        if self._file is not None and self._file in self._folders() and self._file.exists():
            database.settle(self._file)
        with contextlib.ExitStack() as undo:
            for folder in self._folders():
                new, old = self._new_of(folder), _old_of(folder)
                if not new.exists():
                    continue
                if folder.exists():
                    folder.rename(old)
                    undo.callback(old.rename, folder)
                new.rename(folder)
                undo.callback(folder.rename, new)
                sync_folder(folder.parent)
            yield
            undo.pop_all()

    def clean(self) -> None:
        """Delete new folders that are not in place, and old ones that are replaced."""
        for folder in self._folders():
            for path in (self._new_of(folder), *([_old_of(folder)] if folder.exists() else [])):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        shutil.rmtree(self._beside, ignore_errors=True)

    def write_home(self) -> list[Path]:
        """Put settings and policies into the home folder. An existing file stays, and the one of the backup comes
        beside it with `.restored` behind its name, unless it is the same.

        :returns: those that cannot be written, as the code of a container cannot.
        """
        left_out, home = [], self._beside / "home"
        for path in [path for path in home.rglob("*") if path.is_file()]:
            target, data = ROOT / path.relative_to(home), path.read_bytes()
            if target.exists() and target.read_bytes() != data:
                target = target.with_name(f"{target.name}.restored")
            try:
                write_atomically(target, data)
            except OSError:
                left_out.append(target)
        return left_out

    def _folders(self) -> Sequence[Path]:
        """What is replaced as a whole: the outermost folders, and the file of a database outside of them."""
        roots = list(dict.fromkeys(self._roots.values()))
        outside = self._file is not None and not any(self._file.is_relative_to(root) for root in roots)
        return [*roots, *([self._file] if outside and self._file is not None else [])]

    def _in_new(self, path: Path) -> Path:
        """The path that a path will come from."""
        for folder in self._folders():
            if path.is_relative_to(folder):
                return self._new_of(folder) / path.relative_to(folder)
        raise AssertionError(path)

    def _new_of(self, folder: Path) -> Path:
        return folder.with_name(f".{folder.name}.restoring")


def _root(part: Part, data: Path) -> Path:
    return data if part.folder.is_relative_to(data) else part.folder


def _old_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


@contextlib.contextmanager
def _nobody_works(settings: Settings) -> Iterator[None]:
    """Hold the lock of a SQLite database, which a running service has.

    :raises BackupError: a service works with it.
    """
    file = sqlite_file(settings)
    if file is None or not file.parent.is_dir():
        yield
        return
    try:
        lock = lock_file.take(Path(f"{file}.lock"))
    except BlockingIOError:
        raise BackupError(f"A service works with {file}; stop it first.") from None
    try:
        yield
    finally:
        os.close(lock)
