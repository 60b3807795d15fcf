"""Makes the home folder that DARKROOM_HOME names (`darkroom init` runs this)."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import click

from darkroom.env_example import render
from darkroom.files import write_atomically
from darkroom.home import CODE, INSTALLED, ROOT, SHIPPED

_PACKAGE = "darkroom_demo"
_HEAD = """\
# Settings of this service. Every setting is here as a comment with its default: remove the "# " in front of NAME=VALUE,
# and change the value. Settings that stay comments follow the defaults of later releases. Variables of the environment
# go before this file. Relative paths are relative to this folder.
"""


@click.command()
@click.option("--demo", is_flag=True)
def main(demo: bool) -> None:
    """Write what is missing into the home folder; with --demo export the demo checkpoints."""
    try:
        ROOT.mkdir(parents=True, exist_ok=True)
        write_missing(ROOT / ".env", env_text().encode())
        for path in (SHIPPED / "policies").glob("*.yaml"):
            write_missing(ROOT / "policies" / path.name, path.read_bytes())
        if demo:
            copy_checkpoints(demo_checkpoints(), ROOT / "checkpoints")
    except OSError as error:
        raise click.ClickException(f"{error.filename or ROOT} cannot be written: {error.strerror}.") from None
    click.echo(f"{ROOT} is the home folder.")
    if demo:
        from exporters.cli import run  # imports torch

        run(["prepare"])


def env_text() -> str:
    """The text of a new .env: every setting is a comment."""
    settings = re.sub(r"\A(#[^\n]*\n)+", "", render())  # it has another introduction
    return _HEAD + re.sub(r"^(?=[A-Z][A-Z0-9_]*=)", "# ", settings, flags=re.MULTILINE)


def write_missing(path: Path, data: bytes) -> None:
    """Write a file unless there is one.

    :raises OSError: it cannot be written.
    """
    if not path.exists():
        write_atomically(path, data)


def demo_checkpoints() -> list[Path]:
    """The folders of the demo checkpoints: those of the checkout, else of the package darkroom-demo.

    :raises click.ClickException: it is not installed.
    """
    root = CODE / "checkpoints"
    if INSTALLED:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise click.ClickException(
                "The demo checkpoints are a wheel of their own, darkroom_demo; install it as well (docs/install.md)."
            )
        root = Path(next(iter(spec.submodule_search_locations)))
    return sorted(path for path in root.glob("demo-*") if path.is_dir())


def copy_checkpoints(folders: list[Path], target: Path) -> None:
    """Copy folders, with the times of their files, by which exports see that nothing has changed. Those that are there
    already stay.

    :raises OSError: the target cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        copy = target / folder.name
        if copy.exists():
            continue
        staged = target / f".{folder.name}.copy"  # renamed at the end, so that a stopped copy is never taken for one
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(folder, staged)
        staged.rename(copy)


if __name__ == "__main__":
    main(prog_name="darkroom init")
    sys.exit()
