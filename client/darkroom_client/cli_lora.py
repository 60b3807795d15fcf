"""`darkroom lora`: the library of LoRA files, and the group of commands."""

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

from .calls_loras import SUFFIX
from .cli import describe, url_option
from .cli_lora_train import add, create, pause, resume, train, watch
from .cli_options import session_option
from .client import Client
from .files import is_there, write_whole
from .models_loras import LoraInfo, SessionInfo
from .plan import names_folder
from .report import shown

_json_option = click.option("--json", "as_json", is_flag=True, help="Print the service's whole answer as JSON.")


@click.group()
def lora() -> None:
    """Manage LoRAs: list, upload, train, download, delete.

    \b
    Examples, with a file style.safetensors and a folder photos/:
      darkroom lora list                                 what is there?
      darkroom lora upload style.safetensors --name ink
      darkroom lora show ink                             which models does it fit?
      darkroom generate "a cat" --lora ink:0.8
      darkroom generate "a cat <lora:ink:0.8>"           the same
      darkroom lora download ink -o ink.safetensors
      darkroom lora create                               a session; prints its id, here 1
      darkroom lora add 1 photos/ --prompt "a cat"
      darkroom lora train 1 --steps 20 --rank 4 --watch
      darkroom generate "a cat" --lora session:1
      darkroom lora download --session 1 -o cat.safetensors
      darkroom lora upload cat.safetensors
      darkroom lora delete --session 1
      darkroom lora delete ink

    A LoRA is a small change of a checkpoint: a style, a person, a thing. It is trained in a session, which holds
    images with prompts; for twenty images, 1000 to 2000 steps are usual.
    """


@lora.command("list")
@_json_option
@url_option
def list_all(url: str, as_json: bool) -> None:
    """List the library and the sessions."""
    with Client(url) as client:  # whose patience lasts: the service reads files that it has not seen yet
        files, sessions = client.loras(), client.sessions()
    if as_json:
        found = {"loras": [one.raw for one in files], "sessions": [one.raw for one in sessions]}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    # Into a pipe, lines are as long as they need to be.
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(_files_table(files) if files else "The library has no files.")
    if sessions:
        console.print(_sessions_table(sessions))


def _files_table(files: list[LoraInfo]) -> Table:
    table = Table("LoRA", "size", "modified", "sha256", title="Library", title_justify="left", box=box.SIMPLE)
    for one in files:
        table.add_row(Text(shown(one.name)), _size(one.size), Text(one.modified[:19]), Text(one.digest[:12]))
    return table


def _sessions_table(sessions: list[SessionInfo]) -> Table:
    table = Table(
        "session", "images", "newest LoRA", "training", title="Sessions", title_justify="left", box=box.SIMPLE
    )
    for one in sessions:
        state = one.training.state
        state_shown = f"{state} ({one.training.progress} %)" if state == "in-progress" else state
        state_shown += ", paused" if one.training.paused else ""
        table.add_row(Text(shown(one.id)), str(one.image_groups), Text(shown(one.latest_lora, "none")), state_shown)
    return table


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


@lora.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="TEXT", help="What requests call it [default: the name of the file].")
@_json_option
@url_option
def upload(url: str, file: Path, name: str | None, as_json: bool) -> None:
    """Add a file to the library, and print what the models read of it.

    It is refused if no model can use it. The same file again is no error.
    """
    with Client(url) as client:
        try:
            found = client.upload_lora(file, name=name)
        except OSError as error:
            raise click.ClickException(f"{shown(file)}: {describe(error)}") from None
    _print(found, as_json)


@lora.command()
@click.argument("name")
@_json_option
@url_option
def show(url: str, name: str, as_json: bool) -> None:
    """Print what the models read of a file of the library."""
    with Client(url) as client:
        _print(client.lora(name), as_json)


def _print(found: LoraInfo, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found.raw, indent=2, ensure_ascii=False))
        return
    click.echo(f"{shown(found.name)}: {_size(found.size)}, sha256 {shown(found.digest)}")
    for model, read in found.models.items():
        click.echo(f"  {shown(model)}: {read.applied} of {read.total} tensors act, rank {read.rank}")
        if read.trigger_words:
            click.echo(f"    trigger words: {', '.join(map(shown, read.trigger_words))}")
        for warning in read.warnings:
            click.echo(f"    warning: {shown(warning)}")
    for model, reason in found.refused.items():
        click.echo(f"  {shown(model)}: does not fit: {shown(reason)}")


@lora.command()
@click.argument("name", required=False)
@session_option
@click.option("--iteration", type=click.IntRange(1), metavar="K", help="Of a session: lora_K [default: the newest].")
@click.option("-o", "--output", metavar="PATH", help="A file or a folder [default: this folder].")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
@url_option
def download(
    url: str, name: str | None, session: str | None, iteration: int | None, output: str | None, overwrite: bool
) -> None:
    """Download a file of the library, or of a session."""
    _require_one(name, session)
    if iteration is not None and session is None:
        raise click.UsageError("--iteration needs a --session.")
    with Client(url) as client:
        if session is not None:
            found = client.session_lora(session, iteration=iteration)
            path = _target(output, found.name)
            _refuse_to_replace(path, overwrite)
            data = found.data
        else:
            path = _target(output, f"{str(name).removesuffix(SUFFIX)}{SUFFIX}")
            _refuse_to_replace(path, overwrite)
            data = client.download_lora(str(name))
    try:
        write_whole(path, data)
    except OSError as error:
        raise click.ClickException(f"{shown(path)}: {describe(error)}") from None
    click.echo(shown(path))


def _target(output: str | None, name: str) -> Path:
    """Where a file goes: into a folder under its own name, or to the file that was asked for."""
    if output is None or names_folder(output):
        return Path(output or ".") / Path(name).name
    return Path(output)


def _refuse_to_replace(path: Path, overwrite: bool) -> None:
    if is_there(path) and not overwrite:
        raise click.ClickException(f"{shown(path)} is there already (--overwrite replaces it).")


@lora.command()
@click.argument("name", required=False)
@session_option
@url_option
def delete(url: str, name: str | None, session: str | None) -> None:
    """Delete a file of the library, or a session.

    With a session its images and LoRA files are deleted; a training that runs is stopped.
    """
    _require_one(name, session)
    with Client(url) as client:
        if session is not None:
            client.delete_session(session)
        else:
            client.delete_lora(str(name))
    click.echo(f"session {shown(session)}: deleted" if session is not None else f"{shown(name)}: deleted")


def _require_one(name: Any, session: Any) -> None:
    if (name is None) == (session is None):
        raise click.UsageError("Give either the NAME of a LoRA or a --session.")


for _command in (create, add, train, watch, pause, resume):
    lora.add_command(_command)
