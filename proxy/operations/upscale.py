"""The operation `upscale`: enlarges an image."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

from darkroom.images import trimmed
from darkroom.serving.networks import ModelSpec
from proxy.models import ServedModel
from proxy.operations import upscaling
from proxy.operations.base import Operation
from proxy.operations.taking import names_of, take
from proxy.services import Services
from proxy.tasks.models import Output, TaskContext, Work


class _Costs(Protocol):
    """The properties of an upscale request that decide its cost."""

    def cost_units(self, width: int, height: int) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """The fields of the family, its image among them."""

    name: str
    model: ServedModel
    lane: ClassVar[str] = "images"
    resumable: ClassVar[bool] = False

    @property
    def pipeline(self) -> ModelSpec:
        return self.model.pipeline

    @property
    def longest_turn(self) -> float:
        return self.model.family.longest_turn  # an image is divided into tiles

    @property
    def fallback_seconds(self) -> float:
        return self.model.family.seconds_per_unit

    @property
    def names(self) -> frozenset[str]:
        return names_of(self.model)

    def bound(self, services: Services, fields: dict[str, Any]) -> Operation:
        return self

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        self.model.require(services)
        taken = await take(services, self.model, fields)
        ((name, image),) = taken.images.items()
        costs = cast(_Costs, taken.request)
        return Work(
            fields=taken.values,
            files={name: await asyncio.to_thread(trimmed, image.data)},
            steps=1,  # the number of tiles is known when the image is decoded
            kind=taken.request.cost_label,
            units=costs.cost_units(image.header.width, image.header.height),
            warnings=taken.warnings,
        )

    async def run(self, context: TaskContext) -> list[Output]:
        services, emit = context.services, context.emit
        self.model.require(services)
        request = self.model.parse(services, {**context.fields, **context.files})
        result = await upscaling.run(services, self.model, request, lambda done, total: emit(done, total, None))
        return [Output(data=result.data, media_type=result.media_type, details=result.details)]
