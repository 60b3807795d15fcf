"""HiDream-I1 as data."""

from __future__ import annotations

from darkroom.diffusion.schedulers import FLOW_SCHEDULERS
from darkroom.family import Family
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.checkpoint import HidreamCheckpointInfo
from darkroom.pipelines.hidream.request import GenerateRequest

FAMILY = Family(
    name="hidream",
    title="HiDream-I1",
    operation="generate",
    order=30,
    pipeline=networks.PIPELINE,
    specs=networks.specs(),
    request=GenerateRequest,
    checkpoint=HidreamCheckpointInfo,
    features=lambda served: {"schedulers": list(FLOW_SCHEDULERS)},
    example={"prompt": "a red cat on grass", "seed": 7},
    seconds_per_unit=1.0,
)
