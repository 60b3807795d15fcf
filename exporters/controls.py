"""UNets with a ControlNet belong to the base checkpoint that they were fused with; this keeps a repository true to it.

A repository may lack them one by one. Triton fails on a model folder without weights, so the whole folder goes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from darkroom.serving.networks import ModelSpec
from exporters import manifest
from exporters.checkpoints.controlnet import PATTERNS
from exporters.checkpoints.origin import Origin
from exporters.checkpoints.origin import origin as origin_of
from exporters.errors import ExportError
from exporters.export import ModelExport
from exporters.files import ROOT
from exporters.manifest import Manifest, Precision, SourceCheckpoint
from exporters.options import cache_option, force_option, label_option, output_option, precision_option
from exporters.repository import installed
from exporters.tasks import ExportTask, run_tasks

CONTROLNET = "controlnet"
"""The role of a ControlNet in an export, and the part of the plan that it is."""


@dataclass(frozen=True, kw_only=True)
class ControlUnets:
    """The UNets with a ControlNet of a family.

    :param unet: the plain one.
    :param specs: by the kind of control.
    :param task_of: the export of one of them.
    """

    unet: ModelSpec
    specs: Mapping[str, ModelSpec]
    task_of: Callable[[ModelExport], ExportTask]

    def labelled(self, label: str) -> dict[str, ModelSpec]:
        """The UNet of each kind of control, under the label of a checkpoint."""
        return {control: spec.labelled(label) for control, spec in self.specs.items()}

    def withdraw_stale(self, repository: Path, label: str = "") -> set[str]:
        """Take away the weights of control UNets of another base: they would steer the wrong UNet. Returns their
        names."""
        base = self.base_of(repository, label)
        stale = set()
        for spec in self.labelled(label).values():
            folder = repository / spec.name / "1"
            if installed(repository, spec) and not belongs(manifest.read(folder), base):
                shutil.rmtree(folder)
                stale.add(spec.name)
        return stale

    def prune(self, repository: Path, label: str = "") -> None:
        """Remove the folders of control UNets that have no weights."""
        for spec in self.labelled(label).values():
            if not installed(repository, spec):
                shutil.rmtree(repository / spec.name, ignore_errors=True)

    def base_of(self, repository: Path, label: str = "") -> SourceCheckpoint | None:
        """The checkpoint that the plain UNet was exported from, with the UNet's files; None when there is none."""
        found = manifest.read(repository / self.unet.labelled(label).name / "1")
        return found.sources.get("checkpoint") if found else None

    def task(
        self, spec: ModelSpec, repository: Path, base: Origin, controlnet: Origin, precision: Precision | None
    ) -> ExportTask:
        """The export of a UNet with a ControlNet."""
        beside = {CONTROLNET: controlnet}
        return self.task_of(
            ModelExport(spec=spec, repository=repository, checkpoint=base, beside=beside, precision=precision)
        )

    def export(
        self,
        base: Origin,
        repository: Path,
        precision: Precision | None,
        cache: Path,
        *,
        label: str = "",
        named: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> None:
        """Make the control UNets of a repository those of the base that is in it now; where that fails they go.

        :param named: the ControlNet of each kind of control; kinds that are not named are exported again from the one
            that the repository's own was made of.
        """
        specs = self.labelled(label)
        noted = {control: manifest.read(repository / spec.name / "1") for control, spec in specs.items()}
        stale = self.withdraw_stale(repository, label)
        for control, spec in specs.items():
            past = noted[control]
            name = (named or {}).get(control) or (past.sources[CONTROLNET].name if past else None)
            kept = precision or (past.precision if past else None)
            try:
                if name is not None:
                    steering = origin_of(name, ROOT, cache, PATTERNS)
                    run_tasks([self.task(spec, repository, base, steering, kept)], quiet=quiet)
                elif spec.name in stale:
                    raise ExportError("What it was made of is not noted.")
            except ExportError as error:
                click.echo(f"{spec.name}: {_consequence(repository, spec, stale)}. {error}")
        self.prune(repository, label)


def belongs(control: Manifest | None, base: SourceCheckpoint | None) -> bool:
    """Whether a control UNet was fused with the weights of that base."""
    if control is None or base is None or "checkpoint" not in control.sources:
        return False
    noted = control.sources["checkpoint"].files
    return {name: state.sha256 for name, state in noted.items()} == {
        name: state.sha256 for name, state in base.files.items()
    }


def _consequence(repository: Path, spec: ModelSpec, stale: set[str]) -> str:
    if installed(repository, spec):
        return "left as it is"
    return "removed, it was made for another checkpoint" if spec.name in stale else "left out"


def controlnet_command(
    controls: ControlUnets,
    base_command: click.Command,
    *,
    examples: str,
    origin: Callable[[str, Path, Path], Origin],
    checkpoint: Path,
    controlnet: Path | None = None,
) -> click.Command:
    """The command that exports the UNet of a family with a ControlNet.

    :param base_command: the command that exports a checkpoint of the family.
    :param origin: of a base checkpoint: its name, the folder that it is relative to, and the cache.
    :param checkpoint: the base where none is named and none is in the repository.
    :param controlnet: where none is named; None = one has to be.
    """
    what = "A folder in the diffusers layout, or a hub id."
    usual: dict[str, Any] = {}
    if controlnet is not None:
        usual = {"default": str(controlnet), "show_default": f"checkpoints/{controlnet.name}"}

    @click.command(f"{base_command.name}-controlnet", epilog=f"\b\nExamples:\n{examples}")
    @click.option("--control", type=click.Choice(tuple(controls.specs)), default="canny", show_default=True)
    @click.option("--controlnet", required=controlnet is None, help=what, **usual)
    @click.option("--checkpoint", "named", help=f"{what} Default: the one that is in the repository.")
    @label_option
    @precision_option
    @output_option("The model repository to write to.")
    @cache_option("Where downloads are kept.")
    @force_option
    def command(
        control: str,
        controlnet: str,
        named: str | None,
        label: str,
        precision: Precision | None,
        output: Path,
        cache: Path,
        force: bool,
    ) -> None:
        """Export the UNet with a ControlNet in one graph.

        The ControlNet has to suit the UNet of the checkpoint, which has to be the one that is in the repository.
        """
        noted = controls.base_of(output, label)
        base = origin(named or (noted.name if noted else str(checkpoint)), Path.cwd(), cache)
        if noted is not None and not base.still(noted):
            raise ExportError(
                f"{controls.unet.labelled(label).name} in {output} is of another checkpoint, {noted.name}; run first: "
                f"python -m exporters {base_command.name} --checkpoint {base.name}{f' --as {label}' if label else ''}"
            )
        steering = origin_of(controlnet, Path.cwd(), cache, PATTERNS)
        spec = controls.labelled(label)[control]
        run_tasks([controls.task(spec, output, base, steering, precision)], force=force)

    return command
