"""How the family's networks are read from a checkpoint and exported."""

from __future__ import annotations

from darkroom.pipelines.sdxl import networks
from darkroom.serving.networks import split_label
from exporters import latent_plans, manifest
from exporters.controls import CONTROLNET
from exporters.export import ModelExport, Recipe, network_task
from exporters.sdxl import plans, weights
from exporters.tasks import ExportTask

BASE = "base"
"""The role of the base checkpoint in the export of a refiner."""
_MODULES = (
    *latent_plans.MODULES,
    "exporters.sdxl.graphs",
    "exporters.sdxl.plans",
)
_PARTS = {
    networks.TEXT_ENCODER.name: weights.TEXT_ENCODERS[0],
    networks.TEXT_ENCODER_2.name: weights.TEXT_ENCODERS[1],
    networks.UNET.name: weights.UNET,
    networks.VAE_ENCODER.name: weights.VAE,
    networks.VAE_DECODER.name: weights.VAE,
}


def current_hash() -> str:
    """The hash of everything that shapes the graphs."""
    return manifest.code_hash(_MODULES)


def task_of(wanted: ModelExport) -> ExportTask:
    """The export of a network; of the refiner's UNet where `wanted` names a base beside the checkpoint, and of a UNet
    with a ControlNet where it names one."""
    label = split_label(wanted.spec.name)[1]
    like = networks.UNET.labelled(label) if wanted.beside else None
    return network_task(wanted, exporter=current_hash, recipe=lambda: recipe(wanted), like=like)


def recipe(wanted: ModelExport) -> Recipe:
    """How to make a network of what the checkpoint's files say.

    :raises ExportError: a checkpoint is missing, incomplete or of another kind.
    """
    return _refiner_recipe(wanted) if BASE in wanted.beside else _base_recipe(wanted)


def _base_recipe(wanted: ModelExport) -> Recipe:
    checkpoint = weights.read_checkpoint(wanted.checkpoint.root)
    part = _PARTS.get(split_label(wanted.spec.name)[0], weights.UNET)
    components = {part: checkpoint.parts[part]}
    sources = {"checkpoint": wanted.checkpoint.source(components[part].files)}
    if CONTROLNET in wanted.beside:
        steering = wanted.beside[CONTROLNET]
        components[CONTROLNET] = weights.read_controlnet(steering.root, components[part])
        sources[CONTROLNET] = steering.source(components[CONTROLNET].files)
    return Recipe(
        plan=plans.plan_of(wanted.spec, projection=checkpoint.projection),
        exporter=current_hash(),
        components=components,
        sources=sources,
        load=weights.load,
    )


def _refiner_recipe(wanted: ModelExport) -> Recipe:
    beside = wanted.beside[BASE]
    base = weights.read_checkpoint(beside.root)
    refiner = weights.read_refiner(wanted.checkpoint.root, base)
    encoder = base.parts[weights.TEXT_ENCODERS[1]].files[0]  # config.json, which says how wide it is
    return Recipe(
        plan=plans.plan_of(wanted.spec, projection=base.projection, scored=refiner.scored),
        exporter=current_hash(),
        components={weights.REFINER: refiner.unet},
        sources={
            "checkpoint": wanted.checkpoint.source(("model_index.json", *refiner.unet.files)),
            BASE: beside.source((encoder,)),
        },
        load=weights.load,
    )
