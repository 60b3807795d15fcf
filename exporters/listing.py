"""`python -m exporters list` and `remove`: lists the exports in a repository, and removes a labelled checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from darkroom.registry import families
from darkroom.serving.networks import ModelSpec, is_label, split_label
from exporters import manifest
from exporters.errors import ExportError
from exporters.files import ROOT
from exporters.options import output_option
from exporters.repository import labels_of


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A checkpoint that a repository holds.

    :param checkpoint: what it was exported from.
    :param precision: of its ONNX networks.
    :param size: of all its files in bytes.
    """

    family: str
    label: str
    checkpoint: str
    precision: str
    size: int

    @property
    def name(self) -> str:
        """The family, with the label behind it where there is one."""
        return f"{self.family}.{self.label}" if self.label else self.family


def exported(repository: Path) -> list[Exported]:
    """List the exports in a repository, by family and label."""
    found = []
    for name, family in families().items():
        for label in ("", *labels_of(repository)):
            entry = _exported(repository, name, label, [spec.labelled(label) for spec in family.specs])
            if entry is not None:
                found.append(entry)
    return found


def _exported(repository: Path, family: str, label: str, specs: Sequence[ModelSpec]) -> Exported | None:
    read = {spec.name: manifest.read(repository / spec.name / "1") for spec in specs}
    manifests = {name: one for name, one in read.items() if one is not None}
    if not manifests:
        return None
    networks = [manifests[spec.name] for spec in specs if spec.name in manifests and spec.backend == "onnxruntime"]
    return Exported(
        family=family,
        label=label,
        checkpoint=list(manifests.values())[-1].source,  # the pipeline's, where it has one
        precision=", ".join(sorted({one.precision for one in networks})) or "as it is",
        size=sum(state.size for one in manifests.values() for state in one.files.values()),
    )


@click.command("list")
@output_option("The model repository.")
def list_command(output: Path) -> None:
    """Show what the repository holds: family, label, checkpoint, precision and size."""
    entries = exported(output)
    if not entries:
        click.echo(f"Nothing is exported in {output}.")
        return
    table = Table("family", "label", Column("checkpoint", overflow="fold"), "precision", "size", box=SIMPLE_HEAD)
    for entry in entries:
        table.add_row(entry.family, entry.label, _shown(entry.checkpoint), entry.precision, decimal(entry.size))
    console = Console()
    console.print(table, width=None if console.is_terminal else 200)


def _shown(checkpoint: str) -> str:
    """A folder of this checkout as its path inside it; all else as it is."""
    path = Path(checkpoint)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else checkpoint


@click.command(
    epilog="""\b
Example:
  python -m exporters remove FAMILY.LABEL"""
)
@click.argument("name", metavar="FAMILY.LABEL")
@output_option("The model repository.")
def remove(name: str, output: Path) -> None:
    """Remove a checkpoint that was exported with --as from the repository."""
    plain, label = split_label(name)
    family = families().get(plain)
    if family is None or not is_label(label):
        raise ExportError(f"{name} is no checkpoint with a label, which is FAMILY.LABEL; see: python -m exporters list")
    folders = [output / spec.labelled(label).name for spec in family.specs]
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        raise ExportError(f"{output} has no {name}; see: python -m exporters list")
    for folder in there:
        shutil.rmtree(folder)
    click.echo(f"{name}: {len(there)} models removed.")
