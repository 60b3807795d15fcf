"""The toy family as data."""

from __future__ import annotations

from darkroom.pipelines.toy import networks
from darkroom.pipelines.toy.request import ToyRequest

from darkroom.family import Family

FAMILY = Family(
    name="toy",
    title="Toy",
    operation="generate",
    order=90,
    pipeline=networks.PIPELINE,
    specs=(networks.PAINT, networks.PIPELINE),
    request=ToyRequest,
    example={"prompt": "a wall", "colour": "blue", "seed": 7},
    seconds_per_unit=0.01,
)
