"""The command `darkroom`: a group whose commands are loaded when they are called.

Its own commands and those that other installed packages declare under the entry point group
"darkroom.commands" are found by name only, so that `darkroom --help` stays fast and one command that cannot be
imported does not break the others.
"""

from __future__ import annotations

import ast
import signal
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click

from .errors import DarkroomError, Refused, Unauthorized

Command = TypeVar("Command", bound=Callable[..., Any])

COMMAND_GROUP = "darkroom.commands"

PROBE_TIMEOUT = 10.0  # seconds; for requests that cost the service nothing

_OWN = [
    EntryPoint("generate", "darkroom_client.cli_generate:generate", COMMAND_GROUP),
    EntryPoint("edit", "darkroom_client.cli_edit:edit", COMMAND_GROUP),
    EntryPoint("edit-modes", "darkroom_client.cli_edit:edit_modes", COMMAND_GROUP),
    EntryPoint("png-info", "darkroom_client.cli_png_info:png_info", COMMAND_GROUP),
    EntryPoint("upscale", "darkroom_client.cli_upscale:upscale", COMMAND_GROUP),
    EntryPoint("submit", "darkroom_client.cli_tasks:submit", COMMAND_GROUP),
    EntryPoint("watch", "darkroom_client.cli_tasks:watch", COMMAND_GROUP),
    EntryPoint("cancel", "darkroom_client.cli_tasks:cancel", COMMAND_GROUP),
    EntryPoint("tasks", "darkroom_client.cli_tasks:tasks", COMMAND_GROUP),
    EntryPoint("lora", "darkroom_client.cli_lora:lora", COMMAND_GROUP),
    EntryPoint("bench", "darkroom_client.cli_bench:bench", COMMAND_GROUP),
    EntryPoint("playground", "darkroom_client.cli_playground:playground", COMMAND_GROUP),
    EntryPoint("info", "darkroom_client.cli_service:info", COMMAND_GROUP),
    EntryPoint("status", "darkroom_client.cli_service:status", COMMAND_GROUP),
    EntryPoint("health", "darkroom_client.cli_service:health", COMMAND_GROUP),
]


def url_option(command: Command) -> Command:
    """Lets a command take --url behind its name, too; it gets the address as `url` either way."""
    return click.option(
        "--url",
        metavar="URL",
        callback=lambda ctx, _, given: given or ctx.obj,
        help="Address of the service, as before the command's name.",
    )(command)


class LazyGroup(click.Group):
    """A group of the commands above. A `DarkroomError` out of any of them is shown as one plain sentence, and Ctrl-C
    gives the exit code of a shell, 130."""

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        found = {entry.name: entry for entry in entry_points(group=COMMAND_GROUP)}
        return found | {entry.name: entry for entry in _OWN}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        try:
            command = entry.load()
        except Exception as error:  # whatever a foreign module does when it is imported
            return _broken_command(entry, f"{type(error).__name__}: {error}")
        if not isinstance(command, click.Command):
            return _broken_command(entry, f"{entry.value} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _short_help(self._entries[name])) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DarkroomError as error:
            raise click.ClickException(describe(error)) from error
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)


def describe(error: Exception) -> str:
    """An error as one sentence for a person, with the request's id where the service's log can tell more."""
    if isinstance(error, DarkroomError) and error.request_id and (error.status or 0) >= 500:
        return f"{error} (request {error.request_id})"
    if isinstance(error, Unauthorized):
        return f"{error} The command reads the key from DARKROOM_API_KEY."
    if isinstance(error, Refused) and error.rule:
        return f"{error} (rule {error.rule})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value.partition(".")[0]


def _broken_command(entry: EntryPoint, problem: str) -> click.Command:
    """A command that says why the real one cannot be loaded, whatever it is called with."""

    def fail(words: tuple[str, ...]) -> None:
        raise click.ClickException(
            f"The command {entry.name!r} of the package {_package(entry)} cannot be loaded ({problem}). "
            "Install that package again, with its dependencies; the other commands are not affected."
        )

    return click.Command(
        entry.name,
        callback=fail,
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )


def _short_help(entry: EntryPoint) -> str:
    """First sentence of a command's docstring, read from its source: importing it may take seconds."""
    module, _, function = entry.value.partition(":")
    try:
        spec = find_spec(module)
        source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function:
                first = (ast.get_docstring(node) or "").partition("\n\n")[0]
                return " ".join(first.split()).partition(". ")[0].rstrip(".")
    except (ImportError, ValueError, SyntaxError, OSError):
        pass
    return f"(of the package {_package(entry)})"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    envvar="DARKROOM_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    show_envvar=True,
    help="Address of the service.",
)
@click.version_option(package_name="darkroom-client", prog_name="darkroom")
@click.pass_context
def main(ctx: click.Context, url: str) -> None:
    """Darkroom: an image service on your own machine.

    \b
    Examples:
      darkroom health                          is the service up?
      darkroom info                            which models does it have?
      darkroom status                          what is it doing?
      darkroom generate "a cat" -n 4 -o out/   four images of a text
      darkroom edit in.png "make it red"       change an image
      darkroom png-info out/*.png              what were they made with?
      darkroom upscale in.jpg out.png          enlarge one image
      darkroom upscale photos/ -o out/         a folder; can be stopped and resumed
      darkroom submit "a cat" --watch -o out/  a task that survives a crash of the service
      darkroom tasks                           what became of the tasks?
      darkroom lora list                       LoRAs, and the sessions that train some
      darkroom bench --json run.json           how fast is it, with 1 to 8 clients?
      darkroom playground                      a page for trying it out
      darkroom generate --help                 more of these; also upscale --help

    A service that wants a key gets the one in the environment's DARKROOM_API_KEY.
    """
    ctx.obj = url
