"""The command `darkroom init`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import click

from darkroom.home import CODE, INSTALLED, VARIABLE, default_home


@click.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--demo", is_flag=True, help="Copy the demo checkpoints there as well, and export them.")
def init(folder: Path | None, demo: bool) -> None:
    """Make the home folder: settings, models and data of a service that was installed with pip.

    FOLDER is the one of DARKROOM_HOME, else ~/.darkroom. It gets an .env with all settings as comments, an example of a
    content policy, and with --demo the demo models, ready to serve. A second time adds what is missing and changes no
    file of yours. A checkout needs no home folder: there ./start.sh does all of it.

    \b
    Examples:
      darkroom init --demo
      darkroom init --demo /srv/darkroom
      darkroom init            no models yet: name a checkpoint in .env, then darkroom serve --prepare
    """
    given = os.environ.get(VARIABLE)
    if folder is None and not given and not INSTALLED:
        raise click.UsageError(f"{CODE} is a checkout, which needs no home folder: run ./start.sh, or name a FOLDER.")
    home = (folder or Path(given or default_home())).expanduser().absolute()
    if home == CODE:
        raise click.UsageError(f"{home} is the checkout itself, which needs no home folder; name another one.")
    # Another process, because the settings' defaults are computed from the home folder when they are imported.
    command = [sys.executable, "-m", "supervisor.initialise", *(["--demo"] if demo else [])]
    code = subprocess.run(command, env={**os.environ, VARIABLE: str(home)}, check=False).returncode
    if code:
        sys.exit(code if code > 0 else 128 + signal.Signals(-code))
    if home != default_home() or not INSTALLED:
        click.echo(f"Commands find this folder by DARKROOM_HOME: export {VARIABLE}={home}")
    click.echo(
        "Start the service: darkroom serve" if demo else "Name a checkpoint in .env, then: darkroom serve --prepare"
    )
