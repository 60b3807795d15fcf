"""How the family's networks are read from a checkpoint and exported."""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.pipelines.sd15 import networks
from darkroom.serving.networks import split_label
from exporters import latent_plans, manifest
from exporters.checkpoints.components import Component
from exporters.controls import CONTROLNET
from exporters.export import ModelExport, Recipe, network_task
from exporters.manifest import SourceCheckpoint
from exporters.sd15 import plans, weights
from exporters.tasks import ExportTask

_MODULES = (
    *latent_plans.MODULES,
    "exporters.sd15.graphs",
    "exporters.sd15.plans",
)


def current_hash() -> str:
    """The hash of everything that shapes the graphs."""
    return manifest.code_hash(_MODULES)


def task_of(wanted: ModelExport) -> ExportTask:
    """The export of a network; of a UNet with a ControlNet where `wanted` names one beside the checkpoint."""
    label = split_label(wanted.spec.name)[1]
    like = networks.UNET.labelled(label) if CONTROLNET in wanted.beside else None
    return network_task(wanted, exporter=current_hash, recipe=lambda: recipe(wanted), like=like)


def recipe(wanted: ModelExport) -> Recipe:
    """How to make a network of what the checkpoint's files say.

    :raises ExportError: a checkpoint is missing, incomplete or of another kind.
    """
    network = plans.plan_of(wanted.spec)
    components = read_components(wanted, network.parts)
    return Recipe(
        plan=network,
        exporter=current_hash(),
        components=components,
        sources=_sources(wanted, components),
        load=weights.load,
    )


def read_components(wanted: ModelExport, parts: tuple[str, ...]) -> dict[str, Component]:
    """The checked components of an export, by part.

    :raises ExportError: a checkpoint is missing, incomplete or of another kind.
    """
    checkpoint = weights.read_checkpoint(wanted.checkpoint.root)
    components = {part: checkpoint.component(part) for part in parts if part != CONTROLNET}
    if CONTROLNET in parts:
        components[CONTROLNET] = weights.read_controlnet(wanted.beside[CONTROLNET].root, checkpoint.unet)
    return components


def _sources(wanted: ModelExport, components: Mapping[str, Component]) -> dict[str, SourceCheckpoint]:
    base = tuple(file for part, c in components.items() if part != CONTROLNET for file in c.files)
    sources = {"checkpoint": wanted.checkpoint.source(base)}
    for role, origin in wanted.beside.items():
        sources[role] = origin.source(components[role].files)
    return sources
