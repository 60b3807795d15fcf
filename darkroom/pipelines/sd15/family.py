"""Stable Diffusion 1.5 as data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from darkroom.diffusion.image_check import FEATURE
from darkroom.diffusion.schedulers import SCHEDULERS
from darkroom.family import Family
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.pipelines.sd15.request import GenerateRequest


def _features(served: Collection[str]) -> Mapping[str, Any]:
    return {
        "schedulers": list(SCHEDULERS),
        "controls": [control for control, spec in networks.CONTROL_UNETS.items() if spec.name in served],
        FEATURE: networks.SAFETY_CHECKER.name in served,
    }


FAMILY = Family(
    name="sd15",
    title="Stable Diffusion 1.5",
    operation="generate",
    order=10,
    pipeline=networks.PIPELINE,
    specs=networks.specs(),
    request=GenerateRequest,
    lora_reader=networks.LORAS,
    checkpoint=Sd15CheckpointInfo,
    features=_features,
    lora_training=20,
    example={"prompt": "a red cat on grass", "steps": 20, "seed": 7, "width": 64, "height": 64},
    seconds_per_unit=0.1,
)
