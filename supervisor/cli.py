"""The commands `darkroom serve` and `darkroom doctor`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from proxy.observability import configure, log_to_file
from proxy.settings import Settings
from supervisor.doctor import examine
from supervisor.errors import SetupError
from supervisor.service import Service

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[red]problem[/]"}


@click.command()
@click.option("--host", help="Address to listen on [default: HOST, 0.0.0.0].")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the REST service [default: PORT, 8000].")
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False))
def serve(**options: Any) -> None:
    """Start Triton and the REST proxy, and keep them running.

    Settings come from the environment and from .env (see .env.example); the options here go before them.
    What dies is started again. Ctrl-C and SIGTERM drain: accepted work finishes, new work gets 503; a second
    Ctrl-C stops at once.

    \b
    Examples:
      darkroom serve
      darkroom serve --port 9000
      UPSCALE_TILE=200 TASK_TIMEOUT=60 darkroom serve
    """
    os.environ.update({name.upper(): str(value) for name, value in options.items() if value is not None})
    settings = _settings()
    configure(level=settings.log_level, file=settings.log_dir / "darkroom.log")
    log_to_file(logging.getLogger("triton"), settings.log_dir / "triton.log")
    try:
        asyncio.run(_serve(settings))
    except SetupError as error:
        raise click.ClickException(str(error)) from None


async def _serve(settings: Settings) -> None:
    service = Service(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.interrupt)
    await service.run()


@click.command()
def doctor() -> None:
    """Check whether this machine can serve, and say what to mend."""
    findings = examine(_settings())
    table = Table(show_header=False, box=None)
    for finding in findings:
        table.add_row(finding.topic, _MARKS[finding.state], finding.text)
    Console().print(table)
    problems = sum(finding.state == "problem" for finding in findings)
    if problems:
        raise click.ClickException(f"{problems} problem(s) keep Darkroom from starting; see above.")
    warned = any(finding.state == "warning" for finding in findings)
    click.echo("Nothing is broken; mind the warnings above." if warned else "Darkroom can start: ./start.sh")


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise click.ClickException(f"The setting {name} is wrong: {first['msg']}; got {first['input']!r}.") from None
