"""Real-ESRGAN as data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from darkroom.family import Family
from darkroom.pipelines.upscale import networks
from darkroom.pipelines.upscale.browser import browser_networks
from darkroom.pipelines.upscale.request import UpscaleRequest


def _features(served: Collection[str]) -> Mapping[str, Any]:
    return {"networks": [network.label for network in networks.NETWORKS if network.model_name in served]}


FAMILY = Family(
    name="upscale",
    title="Real-ESRGAN",
    operation="upscale",
    order=10,
    pipeline=networks.PIPELINE,
    specs=networks.specs(),
    request=UpscaleRequest,
    features=_features,
    example={"model": "animevideov3", "scale": 2},
    seconds_per_unit=0.005,
    longest_turn=1.0,
    browser=browser_networks,
)
