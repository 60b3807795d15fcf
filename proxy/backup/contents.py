"""What a backup holds, and where that is on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from darkroom.home import ENV_FILE, ROOT
from darkroom.settings import SECRETS, Settings

MODELS = "models"
_SETTING = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder: in the archive `name`, on this machine `folder`.

    :param without: folders and files below it that are other parts, or belong to the running service alone.
    """

    name: str
    folder: Path
    without: frozenset[Path]

    def files(self) -> Iterator[tuple[str, Path]]:
        """The files below it, with their names in the archive. Links are left out."""
        for path in sorted(_below(self.folder, self.without)):
            yield f"{self.name}/{path.relative_to(self.folder).as_posix()}", path


def parts(settings: Settings, *, models: bool) -> list[Part]:
    """The folders that a backup holds; of those the first may contain others.

    :param models: with the model repository.
    """
    folders = {"data": settings.data_dir, "sessions": settings.session_dir, "loras": settings.lora_dir}
    if models:
        folders[MODELS] = settings.model_repository
    folders = {name: folder.resolve() for name, folder in folders.items()}
    own = frozenset(folders.values()) | frozenset(database_files(settings))
    return [Part(name=name, folder=folder, without=own - {folder}) for name, folder in folders.items()]


def database_files(settings: Settings) -> list[Path]:
    """The file of a SQLite database with those beside it; none of PostgreSQL."""
    file = sqlite_file(settings)
    return [] if file is None else [file, *(Path(f"{file}{end}") for end in ("-wal", "-shm", "-journal", ".lock"))]


def sqlite_file(settings: Settings) -> Path | None:
    """The file of a SQLite database; None of PostgreSQL."""
    url = sa.make_url(settings.database)
    return Path(url.database or "").resolve() if url.get_backend_name() == "sqlite" else None


def home_files() -> dict[str, bytes]:
    """The settings and the policies of the home folder, with their names in the archive. `.env` has no secrets."""
    found = {f"home/policies/{path.name}": path.read_bytes() for path in sorted((ROOT / "policies").glob("*.yaml"))}
    if ENV_FILE.is_file():
        found["home/.env"] = without_secrets(ENV_FILE.read_text("utf-8")).encode()
    return found


def without_secrets(text: str) -> str:
    """The text of an .env with a comment in place of each line that has a secret."""
    lines = []
    for line in text.splitlines():
        name = _SETTING.match(line)
        secret = name is not None and name[1].upper() in SECRETS
        lines.append(f"# {name[1]} was left out of the backup" if secret and name else line)
    return "\n".join(lines) + "\n"


def _below(folder: Path, without: frozenset[Path]) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path in without or path.is_symlink():
            continue
        if path.is_dir():
            yield from _below(path, without)
        elif path.is_file():
            yield path
