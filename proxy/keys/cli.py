"""The commands `darkroom keys`: they work on the database, with or without a running service."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import click
from rich.console import Console
from rich.table import Table

from darkroom.command_settings import command_settings
from darkroom.errors import DarkroomError
from proxy.callers import Role
from proxy.keys import store as table
from proxy.keys.keyring import FRESH_SECONDS
from proxy.keys.models import ROLES, Limits, NewKey, Rate
from proxy.keys.shown import shown
from proxy.tasks.database import connect
from proxy.tasks.models import PRIORITIES
from proxy.tasks.store import Store


@contextmanager
def _database() -> Iterator[Store]:
    """The database of the settings, with its tables."""
    store = Store(connect(command_settings().database))
    try:
        store.create()
        yield store
    except DarkroomError as error:
        raise click.ClickException(error.message) from None
    finally:
        store.close()


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of the service.

    A service without keys is open to everybody who reaches it. With at least one key, every request needs one.
    The commands change the database (DATABASE_URL, or the file in DATA_DIR); running services follow at once.

    \b
    Examples:
      darkroom keys create --name me --role admin
      darkroom keys create --name anna --rate 60/min --images-per-day 200 --concurrent 4 --priority normal
      darkroom keys list
      darkroom keys revoke anna
    """


@keys.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@click.option("--rate", metavar="N/TIME", help="Requests in a time: 10/s, 60/min, 1000/h, 5000/day.")
@click.option("--images-per-day", type=int, metavar="N", help="Images in a day of UTC.")
@click.option("--concurrent", type=int, metavar="N", help="Requests and tasks that run and wait at a time.")
@click.option(
    "--priority",
    type=click.Choice(PRIORITIES),
    help="The highest priority of its tasks, and the one that they have if they ask for none.",
)
def create(
    name: str,
    role: str,
    rate: str | None,
    images_per_day: int | None,
    concurrent: int | None,
    priority: str | None,
) -> None:
    """Make a key, and print it. It cannot be shown again: only its hash is kept."""
    with _database() as store:
        limits = Limits(
            rate=None if rate is None else Rate.parse(rate),
            images_per_day=images_per_day,
            concurrent=concurrent,
            priority=priority,
        )
        key, secret = table.create(store, NewKey(name=name, role=cast(Role, role), limits=limits))
    _let_services_see_it()
    click.echo(secret)
    click.echo(f"The {key.role} key of {key.name} (id {key.id}). Keep it: it is shown only now.", err=True)


@keys.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_keys(as_json: bool) -> None:
    """List the keys, with their limits."""
    with _database() as store:
        found = [shown(key) for key in table.keys(store)]
    if as_json:
        for one in found:
            click.echo(json.dumps(one))
        return
    if not found:
        click.echo("There are no keys: the service is open to everybody who reaches it.")
        return
    columns = Table(box=None)
    for name in found[0]:  # an id is what `revoke` takes, so it is never cut off
        columns.add_column(name.replace("_", " "), overflow="fold", no_wrap=name == "id")
    for one in found:
        columns.add_row(*("-" if value is None else str(value) for value in one.values()))
    Console().print(columns)


@keys.command()
@click.argument("key")
def revoke(key: str) -> None:
    """Revoke a key, by its id or its name. Requests that it has sent are done."""
    with _database() as store:
        revoked = table.revoke(store, key)
    _let_services_see_it()
    click.echo(f"The key of {revoked.name} (id {revoked.id}) is revoked.")


@keys.command(name="open")
@click.confirmation_option(prompt="Everybody who reaches the service may use it then. Go on?")
def open_service() -> None:
    """Forget all keys, when all are revoked: the service is open again, as it was before the first one."""
    with _database() as store:
        table.open_again(store)
    _let_services_see_it()
    click.echo("There are no keys any more: the service is open.")


def _let_services_see_it() -> None:
    """Return when running services act by the change."""
    time.sleep(FRESH_SECONDS)
