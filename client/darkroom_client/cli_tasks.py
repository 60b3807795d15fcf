"""`darkroom submit`, `watch`, `cancel` and `tasks`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .cli import PROBE_TIMEOUT, describe, url_option
from .client import Client
from .errors import DarkroomError
from .files import write_whole
from .models_tasks import TASK_STATES, TaskInfo
from .report import OnProgress, reporter, shown

_SILENCE = 60.0  # seconds without a sign of life on a stream of events, which shows one every 15

_output_option = click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where its images go when it is done.",
)
_NO_FIELDS = {"operation": "--operation", "priority": "--priority", "idempotency_key": "--key"}
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _fields(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, any number of times."""
    fields = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{one!r} should be NAME=VALUE, as in steps=30.")
        if name in _NO_FIELDS:
            raise click.BadParameter(f"{name} is no field of an operation; there is {_NO_FIELDS[name]}.")
        fields[name] = value
    return fields


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--operation", default="generate", show_default=True, help="generate, edit, upscale, or the name of a model."
)
@click.option(
    "-i", "--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The image to work on."
)
@click.option(
    "-s", "--set", "fields", multiple=True, metavar="NAME=VALUE", callback=_fields, help="A field of the operation."
)
@click.option("-n", "--num-images", type=click.IntRange(1), metavar="N", help="Images of the prompt.")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Denoising steps.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Makes the same image again.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Before or behind others [normal].")
@click.option("--key", metavar="TEXT", help="The same key with the same request gives the same task.")
@click.option("--watch", "follow", is_flag=True, help="Wait until it is done, and show how far it is.")
@_output_option
@_json_option
@url_option
def submit(prompt: str | None, url: str, follow: bool, output: Path | None, as_json: bool, **given: Any) -> None:
    """Hand a task to the service, which does it whatever happens.

    \b
    Examples:
      darkroom submit "a cat on a blue background"          prints the id of the task
      darkroom submit "a cat" -n 4 --watch -o out/          waits, then fetches the images
      darkroom submit "a cat" -s width=256 -s height=128 --priority low
      darkroom submit --operation upscale -i photo.jpg -s scale=2 --watch -o out/

    The task is kept on the service's disk: it survives a crash or a restart of any part of the service, and goes on
    when you close the terminal. `darkroom watch ID` looks at it again. The exit code is 0 when it was accepted, with
    --watch when it was done; 1 when it failed or was refused; 2 for a wrong command; 130 after Ctrl-C.
    """
    fields: dict[str, Any] = {name: given[name] for name in ("num_images", "steps", "seed") if given[name] is not None}
    fields |= given["fields"]
    if prompt is not None:
        fields["prompt"] = prompt
    if given["image"] is not None:
        fields["control_image" if given["operation"] == "generate" else "image"] = given["image"]
    with Client(url, timeout=_SILENCE) as client:
        task = client.submit(given["operation"], priority=given["priority"], idempotency_key=given["key"], **fields)
        if follow or output is not None:
            click.echo(f"task {task.id}", err=True)
            sys.exit(_follow(client, task.id, output, as_json))
    click.echo(json.dumps(task.raw, ensure_ascii=False) if as_json else task.id)


@click.command()
@click.argument("task_id", metavar="ID")
@_output_option
@_json_option
@url_option
def watch(task_id: str, url: str, output: Path | None, as_json: bool) -> None:
    """Show how far a task is until it is done; exit code 0 if it completed, 1 if not.

    Ctrl-C stops the watching and not the task.
    """
    with Client(url, timeout=_SILENCE) as client:
        sys.exit(_follow(client, task_id, output, as_json))


def _follow(client: Client, task_id: str, output: Path | None, as_json: bool) -> int:
    """Watch a task and fetch its images; the exit code."""
    with reporter(1, "tasks") as show, show.bar(f"task {task_id[:8]}") as bar:
        task = client.watch(task_id, on_state=_lines(bar, show.wants_progress), on_progress=bar)
    if task.state == "completed" and output is not None:
        for index, picture in enumerate(task.pictures):
            try:
                write_whole(output / Path(picture.name).name, client.download(task_id, index))
            except OSError as error:
                again = f"darkroom watch {task_id} -o FOLDER fetches into another folder"
                raise click.ClickException(f"{shown(output)}: {describe(error)}; {again}.") from None
    if as_json:
        click.echo(json.dumps(task.raw, ensure_ascii=False))
    elif task.state == "completed":
        for picture in task.pictures:
            click.echo(shown(output / picture.name) if output else f"{shown(picture.name)} ({picture.size:,} bytes)")
    if task.state != "completed":
        why = f": {describe(task.error)}" if task.error else ""
        click.echo(f"The task {'was cancelled' if task.state == 'cancelled' else 'failed'}{why}", err=True)
    return 0 if task.state == "completed" else 1


def _lines(bar: OnProgress, live: bool) -> Any:
    """Report a task's state: with a bar on a terminal, otherwise with a line for each change."""
    told: list[str] = []

    def tell(task: TaskInfo) -> None:
        if live:
            if task.state == "processing":
                bar(task.progress)
            return
        place = f", {task.queue_position} in the queue" if task.queue_position else ""
        line = f"{task.state}{place}"
        if line not in told[-1:]:
            told.append(line)
            click.echo(line, err=True)

    return tell


@click.command()
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@url_option
def cancel(task_ids: tuple[str, ...], url: str) -> None:
    """Cancel tasks; those that run stop within one step."""
    failed = False
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        for task_id in task_ids:
            try:
                client.cancel(task_id)
                click.echo(f"{shown(task_id)}: cancelled")
            except DarkroomError as error:
                failed = True
                click.echo(f"{shown(task_id)}: {describe(error)}", err=True)
    sys.exit(1 if failed else 0)


@click.command()
@click.option("--state", type=click.Choice(TASK_STATES), help="Only those.")
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="Maximum number of tasks to list, newest first.",
)
@_json_option
@url_option
def tasks(url: str, state: Any, limit: int, as_json: bool) -> None:
    """List the newest tasks that came from here, or with the same key."""
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        found = client.tasks(state, limit=limit)
    if as_json:
        click.echo(json.dumps([task.raw for task in found], indent=2, ensure_ascii=False))
        return
    table = Table("task", "operation", "state", "steps", "created", box=box.SIMPLE)
    for task in found:
        steps = f"{task.progress.done}/{task.progress.total}"
        place = f" ({task.queue_position}.)" if task.queue_position else ""
        table.add_row(Text(task.id), Text(task.operation), f"{task.state}{place}", steps, Text(task.created_at[:19]))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
