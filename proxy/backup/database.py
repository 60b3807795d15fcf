"""A copy of the database at one instant, and the way back. SQLite copies itself; PostgreSQL's own programs do it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from darkroom.settings import Settings
from proxy.backup.contents import sqlite_file
from proxy.backup.manifest import BackupError
from proxy.migrations import version_of
from proxy.tasks.database import connect

Kind = Literal["sqlite", "postgresql"]

MEMBERS: dict[Kind, str] = {"sqlite": "database/darkroom.db", "postgresql": "database/darkroom.dump"}
"""The name of the copy in the archive."""
_DEBIAN = Path("/usr/lib/postgresql")
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)


def kind_of(settings: Settings) -> Kind:
    """Which database the settings name."""
    return "postgresql" if sqlite_file(settings) is None else "sqlite"


def version(settings: Settings) -> str | None:
    """The version of the database's tables.

    :raises BackupError: there is no database yet, or it does not answer.
    """
    file = sqlite_file(settings)
    if file is not None and not file.is_file():
        raise BackupError(f"There is no database {file}: the service has not been started yet.")
    engine = connect(settings.database)
    try:
        with engine.connect() as connection:
            return version_of(connection)
    except sa.exc.SQLAlchemyError as error:
        raise BackupError(f"The database does not answer: {_reason(error)}") from None
    finally:
        engine.dispose()


def snapshot(settings: Settings, target: Path) -> None:
    """Write the database as it is at one instant into a file. The service may go on writing meanwhile.

    :raises BackupError: it cannot be read, or PostgreSQL's programs are not there.
    """
    file = sqlite_file(settings)
    if file is None:
        _postgres("pg_dump", settings, "--format=custom", f"--file={target}", "--no-owner", "--no-acl")
        return
    try:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file
    except sqlite3.Error as error:
        raise BackupError(f"The database {file} cannot be read: {error}") from None


def check_sqlite(file: Path) -> None:
    """:raises BackupError: the file is damaged, or no database."""
    try:
        with closing(sqlite3.connect(file)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        found = (str(error),)
    if found != ("ok",):
        raise BackupError(f"The database in the backup is damaged: {found[0]}")


def settle(file: Path) -> None:
    """Bring a SQLite database into its one file, because what is beside it would be applied to the one that takes its
    place. Nothing may be connected to it.

    :raises BackupError: it cannot be opened.
    """
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise BackupError(f"The database {file} cannot be opened: {error}; move it away first.") from None


def require_alone(settings: Settings, *, force: bool) -> None:
    """Check that a PostgreSQL database can be replaced.

    :param force: even if it has tasks or keys.
    :raises BackupError: something is connected to it, or it is not empty, or does not answer.
    """
    engine = connect(settings.database)
    try:
        with engine.connect() as connection:
            others = connection.scalar(sa.text(_OTHERS))
            tables = [name for name in ("darkroom_tasks", "darkroom_keys") if sa.inspect(connection).has_table(name)]
            rows = sum(connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) or 0 for name in tables)
    except sa.exc.SQLAlchemyError as error:
        raise BackupError(f"The database does not answer: {_reason(error)}") from None
    finally:
        engine.dispose()
    if others:
        raise BackupError(f"The database has {others} other connections; stop the services that use it first.")
    if rows and not force:
        raise BackupError("The database of DATABASE_URL has tasks or keys; --force replaces them.")


def restore_postgres(settings: Settings, dump: Path) -> None:
    """Replace the tables of a PostgreSQL database by those of a dump, in one transaction.

    :raises BackupError: it cannot be done; the database is as it was.
    """
    _postgres("pg_restore", settings, "--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error",
              f"--dbname={_without_password(settings)}", str(dump), named=False)  # fmt: skip


def require_programs(settings: Settings) -> None:
    """:raises BackupError: PostgreSQL's programs are needed and not there."""
    if kind_of(settings) == "postgresql":
        for name in ("pg_dump", "pg_restore"):
            _program(name)


def _postgres(name: str, settings: Settings, *arguments: str, named: bool = True) -> None:
    url = sa.make_url(settings.database)
    password = {"PGPASSWORD": str(url.password)} if url.password else {}  # arguments can be seen by other users
    command = [_program(name), *arguments, *([_without_password(settings)] if named else [])]
    done = subprocess.run(command, env={**os.environ, **password}, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise BackupError(f"{name} failed: {lines[0]}")


def _without_password(settings: Settings) -> str:
    return sa.make_url(settings.database).set(password=None).render_as_string(hide_password=False)


def _program(name: str) -> str:
    """The newest of Debian's, which need not be on the PATH, else the one that is."""
    found = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise BackupError(
            f"{name} was not found, and the database is PostgreSQL: install its client programs (Debian/Ubuntu: "
            "apt install postgresql-client), not older than the server."
        )
    return program


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    return str(getattr(error, "orig", error)).strip().splitlines()[0]
