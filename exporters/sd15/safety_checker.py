"""The safety checker of a checkpoint, which is one more network where the checkpoint has one.

It is exported in fp32 whatever the precision of the others: whether an image is flagged must not hang on rounding.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from darkroom.pipelines.sd15 import networks
from darkroom.serving.networks import ModelSpec
from exporters import latent_plans, manifest, onnx_export, plan
from exporters.checkpoints import components
from exporters.checkpoints.components import INDEX, TRANSFORMERS_STEMS, Component, class_of, expect, read_component
from exporters.checkpoints.files import read_json
from exporters.checkpoints.origin import Origin
from exporters.errors import ExportError
from exporters.export import ModelExport, Recipe, network_task, up_to_date
from exporters.plan import NetworkPlan, Parts
from exporters.tasks import run_tasks

PART, KIND = "safety_checker", "StableDiffusionSafetyChecker"
EXTRACTOR = "feature_extractor/preprocessor_config.json"
PATTERNS = (f"{PART}/*", EXTRACTOR)
"""The files of a checkpoint that the export reads."""
_MODULES = (*plan.SHARED, "exporters.graphs.safety_checker", "exporters.latent_plans", "exporters.sd15.safety_checker")
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_BICUBIC = 3


def current_hash() -> str:
    """The hash of everything that shapes the graph."""
    return manifest.code_hash(_MODULES)


def export(base: Origin, repository: Path, label: str = "", *, renewed: bool, force: bool, quiet: bool) -> None:
    """Make the safety checker of a repository that of its checkpoint. Where the checkpoint has none, or one that cannot
    be exported, the repository has none either.

    :param renewed: whether other networks of the checkpoint were just exported. If not, a checkpoint that is not on
        this machine is not fetched to look for it.
    """
    spec = networks.SAFETY_CHECKER.labelled(label)
    wanted = ModelExport(spec=spec, repository=repository, checkpoint=base, precision="fp32")
    noted = manifest.read(wanted.folder)
    if noted is None and not renewed and not Path(base.name).exists():
        return
    try:
        if up_to_date(wanted, current_hash()) is None and not _has_one(base.root):
            _remove(repository, spec)
            return
        run_tasks(
            [network_task(wanted, exporter=current_hash, recipe=lambda: _recipe(wanted))], force=force, quiet=quiet
        )
    except ExportError as error:
        _remove(repository, spec)
        click.echo(f"{spec.name}: left out, so that no policy can have images checked. {error}")


def _remove(repository: Path, spec: ModelSpec) -> None:
    """Triton fails on a folder without weights, so all of it goes."""
    shutil.rmtree(repository / spec.name, ignore_errors=True)


def _has_one(root: Path) -> bool:
    return class_of(read_json(root, INDEX), PART) == KIND


def _recipe(wanted: ModelExport) -> Recipe:
    """:raises ExportError: the checker is incomplete or of another kind."""
    root = wanted.checkpoint.root
    component = read_component(root, PART, KIND, TRANSFORMERS_STEMS)
    _check_extractor(root, component)
    return Recipe(
        plan=_plan(wanted.spec),
        exporter=current_hash(),
        components={PART: component},
        sources={"checkpoint": wanted.checkpoint.source((*component.files, EXTRACTOR))},
        load=load,
    )


def load(part: str, component: Component) -> Any:
    """The network in fp32.

    :raises ExportError: its weights are damaged or of another network.
    """
    with onnx_export.quiet():
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    return components.load_component(StableDiffusionSafetyChecker, component)


def _check_extractor(root: Path, component: Component) -> None:
    """:raises ExportError: the feature extractor does something else than the graph."""
    from exporters.graphs.safety_checker import MEAN, STD

    config = read_json(root, EXTRACTOR)
    extractor = replace(component, part="feature_extractor", config=config)
    side = component.config.get("vision_config", {}).get("image_size", 224)
    for name in _STEPS:
        expect(extractor, name, True, default=True)
    expect(extractor, "resample", _BICUBIC, default=_BICUBIC)
    expect(extractor, "image_mean", list(MEAN), default=list(MEAN))
    expect(extractor, "image_std", list(STD), default=list(STD))
    why = "the side of the images that the safety checker sees"
    for name, keys in (("size", {"shortest_edge"}), ("crop_size", {"height", "width"})):
        found = config.get(name, side)
        sides = dict.fromkeys(keys, found) if isinstance(found, int) else found
        components.require(extractor, name, dict.fromkeys(keys, side), sides, why=why)


def _plan(spec: ModelSpec) -> NetworkPlan:
    def served(parts: Parts) -> Any:
        from exporters.graphs.safety_checker import ServedSafetyChecker

        return ServedSafetyChecker(parts[PART])

    return replace(latent_plans.make_plan(spec, (PART,), served, _scores), open_sizes=False)


def _scores(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """diffusers' scores, before it rounds them, of images that transformers' feature extractor has prepared."""
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import cosine_distance
    from transformers import CLIPImageProcessor

    checker = parts[PART]
    side = checker.config.vision_config.image_size
    extractor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    pixels = extractor(list(given["image"].numpy()), return_tensors="pt", input_data_format="channels_last")
    embeds = checker.visual_projection(checker.vision_model(pixels.pixel_values)[1])
    special = cosine_distance(embeds, checker.special_care_embeds) - checker.special_care_embeds_weights
    concepts = cosine_distance(embeds, checker.concept_embeds) - checker.concept_embeds_weights
    adjusted = torch.where(special.amax(1, keepdim=True).round(decimals=3) > 0, 0.01, 0.0)
    return {"score": concepts.amax(1, keepdim=True) + adjusted}
