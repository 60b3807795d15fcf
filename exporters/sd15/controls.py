"""UNets with a ControlNet belong to the base checkpoint that they were fused with; this keeps a repository true to it.

A repository may lack them one by one. Triton fails on a model folder without weights, so the whole folder goes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from darkroom.pipelines.sd15.networks import CONTROL_UNETS, UNET
from darkroom.registry import all_specs
from darkroom.serving.networks import ModelSpec
from exporters import config, manifest
from exporters.manifest import Manifest, Source
from exporters.onnx_export import MODEL_NAME


def specs_of(repository: Path) -> tuple[ModelSpec, ...]:
    """Every model, but those that a repository does without: what comes only with its export (`on_demand`) and has no
    folder, and control UNets that have none beside the plain UNet's."""
    without = {spec.name for spec in all_specs() if spec.on_demand and not (repository / spec.name).is_dir()}
    if (repository / UNET.name).is_dir():
        without |= {spec.name for spec in CONTROL_UNETS.values() if not (repository / spec.name).is_dir()}
    return tuple(spec for spec in all_specs() if spec.name not in without)


def installed(repository: Path, spec: ModelSpec) -> bool:
    """Whether there are weights, of whatever checkpoint."""
    return (repository / spec.name / "1" / MODEL_NAME).exists()


def withdraw_stale(repository: Path) -> set[str]:
    """Take away the weights of control UNets of another base: they would steer the wrong UNet. Returns their names."""
    base = base_of(repository)
    stale = set()
    for spec in CONTROL_UNETS.values():
        folder = repository / spec.name / "1"
        if installed(repository, spec) and not belongs(manifest.read(folder), base):
            shutil.rmtree(folder)
            stale.add(spec.name)
    return stale


def prune(repository: Path) -> None:
    """Remove the folders of control UNets that have no weights."""
    for spec in CONTROL_UNETS.values():
        if not installed(repository, spec):
            shutil.rmtree(repository / spec.name, ignore_errors=True)


def base_of(repository: Path) -> Source | None:
    """The checkpoint that the plain UNet was exported from, with the UNet's files; None when there is none."""
    found = manifest.read(repository / UNET.name / "1")
    return found.sources.get("checkpoint") if found else None


def belongs(control: Manifest | None, base: Source | None) -> bool:
    """Whether a control UNet was fused with the weights of that base."""
    if control is None or base is None or "checkpoint" not in control.sources:
        return False
    noted = control.sources["checkpoint"].files
    return {name: state.sha256 for name, state in noted.items()} == {
        name: state.sha256 for name, state in base.files.items()
    }


def place(repository: Path, spec: ModelSpec) -> None:
    """Give a control UNet that came to a repository a config like that of the plain UNet, where it has none."""
    path, beside = config.config_path(repository, spec), config.config_path(repository, UNET)
    if path.is_file() or not beside.is_file():
        return
    config.write_configs(repository, [spec], config.placement_of(beside.read_text(), UNET))
