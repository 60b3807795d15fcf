"""Versions of the database: the steps from each to the next, run by Alembic (docs/decisions/0041-wheels.md).

A change of a table is a new file in `versions`, and stays as it is once it is released. The tables of DBOS are not
here: DBOS brings them up to date itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from darkroom.errors import Conflict

VERSION_TABLE = "darkroom_version"
_FOLDER = Path(__file__).parent


def upgrade(connection: sa.Connection) -> None:
    """Bring the tables to the newest version, in the transaction of the caller. Such transactions must not overlap.

    :raises Conflict: a newer release has made this database.
    """
    found = version_of(connection)
    require_known(found)
    if found != newest():
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def version_of(connection: sa.Connection) -> str | None:
    """The version of a database; None for a new one, and for one of the releases that had no versions."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return found


def require_known(version: str | None) -> None:
    """Check that this release can work with a version.

    :raises Conflict: it cannot.
    """
    if version is not None and version not in _known():
        raise Conflict(
            f"The database is of a newer release of Darkroom: it has version {version}, and this release knows "
            f"versions up to {newest()}. Install the newer release again, or restore a backup from before the upgrade."
        )


@cache
def newest() -> str:
    """The version that this release makes and works with."""
    return str(_scripts().get_current_head())


@cache
def _known() -> frozenset[str]:
    return frozenset(script.revision for script in _scripts().walk_revisions())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config
