"""UNets with a ControlNet belong to the base checkpoint that they were fused with; this keeps a repository true to it.

A repository may lack them one by one. Triton fails on a model folder without weights, so the whole folder goes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from darkroom.pipelines.sd15.networks import CONTROL_UNETS, UNET
from darkroom.serving.networks import ModelSpec
from exporters import manifest
from exporters.manifest import Manifest, SourceCheckpoint
from exporters.repository import installed


def control_unets(label: str) -> dict[str, ModelSpec]:
    """The UNet of each kind of control, under the label of a checkpoint."""
    return {control: spec.labelled(label) for control, spec in CONTROL_UNETS.items()}


def withdraw_stale(repository: Path, label: str = "") -> set[str]:
    """Take away the weights of control UNets of another base: they would steer the wrong UNet. Returns their names."""
    base = base_of(repository, label)
    stale = set()
    for spec in control_unets(label).values():
        folder = repository / spec.name / "1"
        if installed(repository, spec) and not belongs(manifest.read(folder), base):
            shutil.rmtree(folder)
            stale.add(spec.name)
    return stale


def prune(repository: Path, label: str = "") -> None:
    """Remove the folders of control UNets that have no weights."""
    for spec in control_unets(label).values():
        if not installed(repository, spec):
            shutil.rmtree(repository / spec.name, ignore_errors=True)


def base_of(repository: Path, label: str = "") -> SourceCheckpoint | None:
    """The checkpoint that the plain UNet was exported from, with the UNet's files; None when there is none."""
    found = manifest.read(repository / UNET.labelled(label).name / "1")
    return found.sources.get("checkpoint") if found else None


def belongs(control: Manifest | None, base: SourceCheckpoint | None) -> bool:
    """Whether a control UNet was fused with the weights of that base."""
    if control is None or base is None or "checkpoint" not in control.sources:
        return False
    noted = control.sources["checkpoint"].files
    return {name: state.sha256 for name, state in noted.items()} == {
        name: state.sha256 for name, state in base.files.items()
    }
