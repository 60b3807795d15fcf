"""The commands `darkroom serve` and `darkroom doctor`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from darkroom import tracing
from darkroom.command_settings import command_settings
from darkroom.home import ENV_FILE, PREPARE
from darkroom.parallel.processes import tied_to_us
from darkroom.settings import ROOT, Settings
from proxy.observability import configure, log_to_file
from supervisor.doctor import examine
from supervisor.engines import engine_of
from supervisor.errors import SetupError
from supervisor.options import family_epilog, family_options, family_settings
from supervisor.preflight import family_problems
from supervisor.proxy_alone import ProxyAlone
from supervisor.service import Service

log = logging.getLogger("darkroom")

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[red]problem[/]"}


@click.command(epilog=family_epilog())
@click.option("--host", help="Address to listen on [default: HOST, 0.0.0.0].")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the REST service [default: PORT, 8000].")
@click.option(
    "--only",
    type=click.Choice(["proxy", "triton"]),
    help="Start one part alone: several proxies can use several Tritons (TRITON_GRPC) [default: SERVE_ONLY, both].",
)
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False))
@click.option(
    "--engine",
    type=click.Choice(["triton", "local"], case_sensitive=False),
    help="What runs the models [default: ENGINE; triton where it is installed, else local].",
)
@family_options
@click.option(
    "--prepare",
    is_flag=True,
    help="First export models that are not exported yet. ./start.sh and the options -m, -e, -d, -c, -t imply this.",
)
def serve(
    host: str | None,
    port: int | None,
    only: str | None,
    log_level: str | None,
    engine: str | None,
    prepare: bool,
    **of_families: Any,
) -> None:
    """Start Triton (or the local engine) and the REST proxy, and keep them running.

    Settings come from the environment and from .env (see .env.example); the options here override them.
    A process that dies is restarted. Ctrl-C and SIGTERM drain: accepted work finishes, new work gets 503; a second
    Ctrl-C stops at once. Logs go to standard output and to logs/.

    \b
    Examples:
      darkroom serve
      darkroom serve --port 9000
      darkroom serve --engine local
      TRITON_GRPC=10.0.0.5:8001,10.0.0.6:8001 darkroom serve --only proxy
      UPSCALE_TILE=200 TASK_TIMEOUT=60 darkroom serve
    """
    chosen = family_settings(of_families)
    given = {
        "HOST": host,
        "PORT": port,
        "SERVE_ONLY": only,
        "LOG_LEVEL": log_level,
        "ENGINE": engine,
        **chosen,
    }
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    if not ROOT.is_dir():
        raise click.ClickException(
            f"There is no home folder {ROOT}; make it: darkroom init --demo (or set DARKROOM_HOME)."
        )
    os.chdir(ROOT)  # in a checkout the started processes import from the working directory
    settings = command_settings()
    if (prepare or chosen) and settings.serve_only != "proxy":
        _prepare(settings)
    tracing.read(ENV_FILE)
    configure(level=settings.log_level, file=settings.log_dir / "darkroom.log", format=settings.log_format)
    for line in settings.warnings():
        log.warning(line)
    try:
        asyncio.run(_serve(settings))
    except SetupError as error:
        raise click.ClickException(str(error)) from None


def _prepare(settings: Settings) -> None:
    """Export what the settings ask for, in a separate process that frees its memory; exit if it fails."""
    for problem in family_problems(settings):  # an export may take an hour
        raise click.ClickException(problem)
    command = [sys.executable, "-m", "exporters", "prepare"]
    code = subprocess.run(command, env=settings.environment(), check=False, **tied_to_us()).returncode
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _with_engine(settings: Settings) -> Service:
    engine = engine_of(settings)
    log_to_file(logging.getLogger(engine.name), settings.log_dir / f"{engine.name}.log", settings.log_format)
    if engine.name == "local":
        chosen = "as ENGINE says" if settings.engine else "because no tritonserver is installed"
        log.info("the local engine runs the models, %s (docs/local-engine.md)", chosen)
    return Service(settings, engine)


async def _serve(settings: Settings) -> None:
    service = ProxyAlone(settings) if settings.serve_only == "proxy" else _with_engine(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":  # whose event loop has no signal handlers
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(service.interrupt))
        else:
            loop.add_signal_handler(number, service.interrupt)
    await service.run()


@click.command()
def doctor() -> None:
    """Check whether this machine can serve, and say what to fix."""
    findings = examine(command_settings())
    table = Table(show_header=False, box=None)
    for finding in findings:
        table.add_row(finding.topic, _MARKS[finding.state], finding.text)
    Console().print(table)
    problems = sum(finding.state == "problem" for finding in findings)
    if problems:
        raise click.ClickException(f"{problems} problem(s) keep Darkroom from starting; see above.")
    warned = any(finding.state == "warning" for finding in findings)
    click.echo("Nothing is broken; see the warnings above." if warned else f"Darkroom can start: {PREPARE}")
