"""`darkroom info` and `darkroom health`."""

from __future__ import annotations

import json
import sys

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .cli import PROBE_TIMEOUT
from .client import Client
from .models import Info


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the service's whole answer as JSON.")
@click.pass_obj
def info(url: str, as_json: bool) -> None:
    """List the models and limits of the service."""
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        answer = client.info()
    if as_json:
        click.echo(json.dumps(answer.raw, indent=2, ensure_ascii=False))
        return
    # Into a pipe, lines are as long as they need to be.
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(_models_table(answer))
    console.print(_limits_table(answer))


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
@click.pass_obj
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
