"""`darkroom png-info`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from .cli import PROBE_TIMEOUT, describe, url_option
from .client import Client
from .errors import DarkroomError
from .models import PngInfo
from .report import shown
from .runner import would_repeat


@click.command("png-info")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each file, with all that is known.")
@url_option
def png_info(url: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Print what generated images were made with.

    \b
    Examples:
      darkroom png-info a-cat-42.png
      darkroom png-info out/*.png --json | jq .darkroom.seed

    The text is the one that the common web interfaces write, too. The exit code is 1 if a file cannot be read or
    carries no parameters.
    """
    complete = True
    with Client(url, timeout=PROBE_TIMEOUT, retries=0) as client:
        for number, path in enumerate(files):
            try:
                found = client.png_info(path)
            except (DarkroomError, OSError) as error:
                if would_repeat(error, shared=()):
                    raise
                click.echo(f"{shown(path)}: failed: {describe(error)}", err=True)
                complete = False
                continue
            complete = complete and _has_parameters(found)
            if as_json:
                click.echo(json.dumps({"file": os.fspath(path), **asdict(found)}))
            else:
                _print(path, found, headed=len(files) > 1, spaced=number > 0)
    if not complete:
        sys.exit(1)


def _has_parameters(found: PngInfo) -> bool:
    return found.parameters is not None or found.darkroom is not None


def _print(path: Path, found: PngInfo, *, headed: bool, spaced: bool) -> None:
    if not _has_parameters(found):
        click.echo(f"{shown(path)}: carries no parameters", err=True)
        return
    if headed:
        click.echo(("\n" if spaced else "") + f"{shown(path)}:")
    text = found.parameters or json.dumps(found.darkroom, indent=2, ensure_ascii=False)
    click.echo("\n".join(shown(line) for line in text.splitlines()))
