"""`python -m exporters prepare`: the repository that this machine and its settings ask for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import click

from darkroom.registry import families as served_families
from darkroom.serving.networks import split_label
from darkroom.settings import Settings
from exporters import config, registry
from exporters.config import Placement, write_configs
from exporters.errors import ExportError
from exporters.registry import Family
from exporters.repository import specs_of

_HELP = """Export what is not exported yet; with GPUs, in half precision and with configs for them.

Without a GPU this fills the committed model_repository; with GPUs it makes a repository of its own in .darkroom, with
one instance of each network per GPU (NUM_GPUS_TO_USE). MODEL_REPOSITORY names another one. FAMILIES chooses what is
exported; what the repository holds of other families stays as it is.
"""


def _help() -> str:
    """What every command of this kind does, and what each family's settings are for."""
    texts = [" ".join((inspect.getdoc(family.prepare) or "").split()) for family in registry.families().values()]
    return "\n\n".join([_HELP, *filter(None, texts)])


@click.command(help=_help(), short_help="Export what is not exported yet, for this machine.")
def prepare() -> None:
    """See `_help`."""
    settings = Settings()
    repository, families = settings.model_repository, registry.chosen(settings)
    for spec in specs_of(repository):
        config.renew(repository, spec)
    _write_configs(settings, repository, families)
    failures = []
    for family in families.values():
        try:
            family.prepare(settings, repository)
        except ExportError as error:  # other families can be served nevertheless
            failures.append(error)
    for failure in failures[1:]:
        click.echo(f"Error: {failure}", err=True)
    if failures:
        raise failures[0]


def _write_configs(settings: Settings, repository: Path, families: Mapping[str, Family]) -> None:
    """Write the configs of the chosen families, except in a repository that the user made, which keeps its own."""
    managed = repository == settings.state_dir / "model_repository"
    if not managed and any(repository.glob("*/config.pbtxt")):
        return
    owners = {spec.name: name for name, family in served_families().items() for spec in family.specs}
    usual = Placement(gpus=settings.gpus)
    for spec in specs_of(repository):
        name = owners[split_label(spec.name)[0]]
        if name in registry.families() and name not in families:
            continue
        family = families.get(name)
        write_configs(repository, [spec], family.placement(settings, spec, usual) if family else usual)
