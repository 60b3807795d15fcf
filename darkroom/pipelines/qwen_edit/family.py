"""Qwen-Image-Edit as data."""

from __future__ import annotations

from darkroom.diffusion.schedulers import FLOW_SCHEDULERS
from darkroom.family import Family
from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.checkpoint import QwenEditCheckpointInfo
from darkroom.pipelines.qwen_edit.request import EditRequest

FAMILY = Family(
    name="qwen_edit",
    title="Qwen-Image-Edit",
    operation="edit",
    order=10,
    pipeline=networks.PIPELINE,
    specs=networks.specs(),
    request=EditRequest,
    checkpoint=QwenEditCheckpointInfo,
    features=lambda served: {"schedulers": list(FLOW_SCHEDULERS)},
    example={"prompt": "make the cat red", "negative_prompt": " ", "seed": 7},
    seconds_per_unit=1.0,
)
