"""`darkroom info`, `darkroom health` and `darkroom status`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .cli import PROBE_TIMEOUT, url_option
from .client import Client
from .models import Info, Status
from .report import shown


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the service's whole answer as JSON.")
@url_option
def info(url: str, as_json: bool) -> None:
    """List the models and limits of the service."""
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        answer = client.info()
    if as_json:
        click.echo(json.dumps(answer.raw, indent=2, ensure_ascii=False))
        return
    console = _console()
    console.print(_models_table(answer))
    console.print(_limits_table(answer))


def _console() -> Console:
    # Into a pipe, lines are as long as they need to be.
    return Console(width=None if sys.stdout.isatty() else 200)


def _models_table(answer: Info) -> Table:
    table = Table("model", "scales", "for", title="Models", title_justify="left", box=box.SIMPLE)
    for model in answer.models:
        name = f"{model.name} (default)" if model.name == answer.default_model else model.name
        scales = " ".join(f"x{scale:g}" for scale in model.scales)
        table.add_row(Text(name), scales, Text(model.title))
    return table


def _limits_table(answer: Info) -> Table:
    table = Table("limit", "value", title="Limits", title_justify="left", box=box.SIMPLE)
    for name, value in answer.limits.items():
        table.add_row(Text(name), Text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@url_option
def health(url: str, as_json: bool) -> None:
    """Say whether the service is up; exit code 0 if it is ready, 1 if not."""
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        state = client.health()
    if as_json:
        fields = {
            "status": state.status,
            "model_loaded": state.model_loaded,
            "device": {"type": state.device_type, "name": state.device_name},
        }
        click.echo(json.dumps(fields, ensure_ascii=False))
    else:
        device = f"{state.device_type} {state.device_name}".strip() or "device not known yet"
        models = "models loaded" if state.model_loaded else "models not loaded yet"
        click.echo(f"{state.status}: {models}, {device}, {url}")
    if not state.ready:
        sys.exit(1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the service's whole answer as JSON.")
@url_option
def status(url: str, as_json: bool) -> None:
    """Show tasks and GPUs of the service, and what text to image can do there."""
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        state = client.status()
    if as_json:
        click.echo(json.dumps(state.raw, indent=2, ensure_ascii=False))
        return
    waiting = state.task_queue_size
    click.echo(f"{state.active_workers} workers, {state.pending_tasks - waiting} tasks running, {waiting} waiting")
    if state.gpu_info:
        _console().print(_gpu_table(state))
    else:
        click.echo("no GPU")
    generate = state.raw.get("generate")
    if isinstance(generate, dict):
        click.echo("text to image:")
        for name, value in generate.items():
            click.echo(f"  {name}: {_in_words(value)}")


def _gpu_table(state: Status) -> Table:
    table = Table("GPU", "name", "allocated", "reserved", box=box.SIMPLE)
    for gpu in state.gpu_info:
        memory = (_gibibytes(gpu.get(kind)) for kind in ("memory_allocated", "memory_reserved"))
        table.add_row(str(gpu.get("gpu_id", "")), Text(str(gpu.get("name", ""))), *memory)
    return table


def _gibibytes(value: Any) -> str:
    return f"{value:.1f} GiB" if isinstance(value, (int, float)) else "unknown"


def _in_words(value: Any) -> str:
    """JSON as people write it: a, b or a 1, b 2."""
    if isinstance(value, list):
        return ", ".join(_in_words(item) for item in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(item)}" for name, item in value.items())
    return shown(value if isinstance(value, str) else json.dumps(value))
