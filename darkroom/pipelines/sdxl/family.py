"""Stable Diffusion XL as data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from darkroom.diffusion.schedulers import SCHEDULERS
from darkroom.family import Family
from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.checkpoint import SdxlCheckpointInfo
from darkroom.pipelines.sdxl.request import GenerateRequest


def _features(served: Collection[str]) -> Mapping[str, Any]:
    return {
        "schedulers": list(SCHEDULERS),
        "controls": [control for control, spec in networks.CONTROL_UNETS.items() if spec.name in served],
        "refiner": networks.REFINER_UNET.name in served,
    }


FAMILY = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    operation="generate",
    order=20,
    pipeline=networks.PIPELINE,
    specs=networks.specs(),
    request=GenerateRequest,
    lora_reader=networks.LORAS,
    checkpoint=SdxlCheckpointInfo,
    features=_features,
    lora_training=10,
    example={"prompt": "a red cat on grass", "seed": 7},
    seconds_per_unit=0.5,
)
