"""The commands `darkroom audit export` and `darkroom audit verify`, which read the database themselves."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import click
import sqlalchemy as sa

from darkroom.command_settings import command_settings
from proxy.audit import chain, export
from proxy.audit.schema import HEAD
from proxy.tasks.database import connect

_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])


@click.group()
def audit() -> None:
    """Read and verify the audit trail of the service.

    It is read from the database that DATABASE_URL or DATA_DIR names, in the environment or in .env; the service may
    run meanwhile.
    """


@audit.command("export")
@click.option("--since", type=_MOMENT, help="The first moment, in UTC unless it has an offset.")
@click.option("--until", type=_MOMENT, help="The moment before which rows end.")
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
def export_rows(since: datetime | None, until: datetime | None, kind: str) -> None:
    """Write rows to standard output.

    \b
    Examples:
      darkroom audit export --since 2026-11-01 --until 2026-12-01 > november.jsonl
      darkroom audit export --format csv > trail.csv
    """
    write = export.write_csv if kind == "csv" else export.write_jsonl
    with _database() as connection:
        write(chain.rows(connection, since=_microseconds(since), until=_microseconds(until)), sys.stdout)


@audit.command()
@click.option(
    "--known",
    "known",
    multiple=True,
    metavar="SEQ:HASH",
    help="The end of the chain as an earlier run has shown it; repeatable. Keep it where the database's owner cannot "
    "write: only with it is a chain found that was written anew as a whole.",
)
def verify(known: tuple[str, ...]) -> None:
    """Check that no row is changed, removed or reordered. The exit code is 1 if one is."""
    hashes = dict(_known(text) for text in known)
    with _database() as connection:
        found = chain.verify(connection, hashes)
    for problem in found.problems:
        click.echo(f"{problem}.")
    if found.problems:
        sys.exit(1)
    click.echo(f"{found.rows} rows are intact; the end is {found.seq}:{found.hash}")


def _known(text: str) -> tuple[int, str]:
    match = _HEAD.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"must be a number, a colon and 64 hexadecimal digits; got {text[:80]!r}.")
    return int(match[1]), match[2]


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(aware.timestamp() * 1e6)


@contextmanager
def _database() -> Iterator[sa.Connection]:
    """A connection to the database of the trail."""
    settings = command_settings()
    address = sa.make_url(settings.database)
    if address.get_backend_name() == "sqlite" and not Path(address.database or "").exists():
        raise click.ClickException(f"There is no audit trail: {address.database} does not exist.")
    engine = connect(settings.database)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(HEAD.name):
                raise click.ClickException("There is no audit trail in this database; the service makes it.")
            yield connection
    except sa.exc.OperationalError as error:
        raise click.ClickException(f"The database does not answer: {str(error.orig).strip()}") from None
    finally:
        engine.dispose()
