"""The operation `generate`: makes images of a text, and enlarges them with an upscaler if requested."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from darkroom.errors import InvalidInput
from darkroom.images import trimmed
from darkroom.serving.networks import ModelSpec
from proxy.models import ServedModel
from proxy.operations.base import Operation
from proxy.operations.enlarging import (
    ENLARGE,
    ENLARGE_MODEL,
    Enlarging,
    enlarge,
    enlarge_ranges,
    enlarging,
    judged_enlarging,
)
from proxy.operations.images import GeneratedImages, ImageJob, Outputs, run
from proxy.operations.taking import MODEL, names_of, take, take_model, whole_fields
from proxy.operations.task_fields import KEEP_CONTROL_MAP, TASK_NAMES, control_map_output, task_fields
from proxy.services import Services
from proxy.tasks.models import Emit, Output, TaskContext, Work
from proxy.validation import validated


@dataclass(frozen=True, kw_only=True)
class Generate:
    """The fields of the family, and those of `task_fields`: `enlarge` (1..8), by how much the images are enlarged when
    they are made, `enlarge_model`, the upscaler that does it, and `keep_control_map`."""

    name: str
    model: ServedModel
    lane: ClassVar[str] = "images"
    resumable: ClassVar[bool] = False

    @property
    def pipeline(self) -> ModelSpec:
        return self.model.pipeline

    @property
    def longest_turn(self) -> float:
        return self.model.family.longest_turn

    @property
    def fallback_seconds(self) -> float:
        return self.model.family.seconds_per_unit

    @property
    def names(self) -> frozenset[str]:
        return names_of(self.model) | TASK_NAMES

    def bound(self, services: Services, fields: dict[str, Any]) -> Operation:
        own = self.model if self.name != self.model.family.operation else None
        if own is not None and not fields.get(MODEL):
            fields.pop(MODEL, None)
            return self
        model = take_model(services, self.model.family.operation, fields)
        if own not in (None, model):
            raise InvalidInput(f"model must be {self.name}, as the operation is; got {model.name}.", param=MODEL)
        return self if model == self.model else replace(self, name=model.name, model=model)

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        self.model.require(services)
        wanted = validated(fields, task_fields(), enlarge_ranges()).model_dump(exclude_none=True)
        sent = {name: value for name, value in fields.items() if name not in TASK_NAMES}
        taken = await take(services, self.model, sent)
        job = ImageJob.of(self.model, taken.request)
        request, larger = job.request, enlarging(services, wanted, job)
        warnings = list(taken.warnings)
        if larger is not None:
            larger, more = await judged_enlarging(services, larger, job)
            warnings += more
            wanted[ENLARGE] = larger.scale
        size = f"{request.width or 'default'}x{request.height or 'default'}"
        steps = max(1, request.steps_left)
        parts = (size, request.cost_label, larger.label if larger else "")
        # What is kept has nothing behind the end of the image.
        files = {name: await asyncio.to_thread(trimmed, image.data) for name, image in taken.images.items()}
        return Work(
            fields={**taken.values, **wanted, "seed": request.seed},
            files=files,
            steps=steps + (request.num_images if larger else 0),
            kind=" ".join(part for part in parts if part),
            units=steps * request.num_images * (2 if request.guided else 1),
            pictures=request.num_images,
            warnings=warnings,
        )

    async def run(self, context: TaskContext) -> list[Output]:
        services, fields, emit = context.services, context.fields, context.emit
        self.model.require(services)
        wanted = {name: fields[name] for name in TASK_NAMES if name in fields}
        values = {name: value for name, value in fields.items() if name not in TASK_NAMES}
        images = whole_fields(self.model.family.request, context.files)
        job = ImageJob.of(self.model, self.model.parse(services, {**values, **images}))
        larger = enlarging(services, wanted, job)
        if larger is not None:  # lossless: the upscaler decodes it again
            job = ImageJob.of(self.model, job.request.with_values(format="png"))
        afterwards = job.request.num_images if larger else 0
        steps = job.request.steps_left

        async def on_response(outputs: Outputs) -> None:
            nonlocal steps
            done, steps = (int(n) for n in outputs["progress"])
            preview = outputs.get("preview")
            emit(done, steps + afterwards, None if preview is None else preview.tobytes())

        made = await run(services, job, on_response)
        outputs = await _results(services, made, larger, steps, emit)
        return outputs + (control_map_output(made) if wanted.get(KEEP_CONTROL_MAP) else [])


async def _results(
    services: Services, made: GeneratedImages, larger: Enlarging | None, steps: int, emit: Emit
) -> list[Output]:
    """Return the images as results of a task, enlarged if requested: one step for each image."""
    outputs = [Output(data=data, media_type=made.media_type, details=details) for data, details in made.images]
    if larger is None:
        return outputs
    total = steps + len(outputs)
    for index, (data, details) in enumerate(made.images):
        # Tiles are not steps of the task, but they show that it makes progress.
        result = await enlarge(services, larger, bytes(data), lambda *_, at=steps + index: emit(at, total, None))
        more = {**details, ENLARGE: larger.scale, ENLARGE_MODEL: result.details["model"]}
        outputs[index] = Output(data=result.data, media_type=result.media_type, details=more)
        emit(steps + index + 1, total, None)
    return outputs
