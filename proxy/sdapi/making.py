"""Runs what txt2img and img2img have planned: batch after batch, with progress, until the caller stops it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from darkroom.images import MEDIA_TYPES
from darkroom.infotext import web_ui_text
from darkroom.parameters import text_chunks
from darkroom.png import with_text
from proxy.audit.notes import note_results
from proxy.operations.enlarging import ENLARGE, ENLARGE_MODEL
from proxy.operations.images import ImageJob, Outputs, run
from proxy.sdapi.plans import Plan, SecondPass
from proxy.sdapi.upscalers import enlarged, enlargement_of
from proxy.sdapi.works import Work, unless
from proxy.services import Services

_PNG = MEDIA_TYPES["png"]
_PREVIEW_EVERY = 5
"""Steps; what `show_progress_every_n_steps` says."""


@dataclass(frozen=True, kw_only=True)
class MadeImage:
    """A finished image.

    :param details: its parameters; `pairs` what its text says besides.
    """

    data: bytes | memoryview
    details: dict[str, Any]
    pairs: dict[str, Any] = field(default_factory=dict)

    @property
    def infotext(self) -> str:
        """The text that the image carries."""
        return web_ui_text(self.details, self.pairs)


@dataclass(kw_only=True)
class Made:
    """What a request has made so far."""

    images: list[MadeImage] = field(default_factory=list)
    control_map: memoryview | None = None


async def make(services: Services, plan: Plan, work: Work) -> Made:
    """Run a plan at the gate. Where `work` is interrupted, the images that are finished by then are all.

    :raises DarkroomError: the error of the gate or of a model.
    """
    made = Made()

    async def batches() -> None:
        for index in range(plan.batches):
            work.skipped.clear()
            work.job = f"Batch {index + 1} out of {plan.batches}" if plan.batches > 1 else work.job
            await unless(work.skipped, _batch(services, plan, index, work, made))
        work.begin_part(plan.parts, 0)

    await unless(work.interrupted, services.admitted(batches, plan.model.name))
    return made


async def _batch(services: Services, plan: Plan, index: int, work: Work, made: Made) -> None:
    size = plan.request.num_images
    part = index * (1 + (size if plan.second else 0))
    request = plan.request.with_values(
        seed=plan.request.seed + index * size,
        num_images=min(size, plan.images - index * size),
        progress_every=1,
        preview_every=min(_PREVIEW_EVERY, plan.request.steps),
    )
    work.begin_part(part, request.steps_left)
    first: list[MadeImage] = []

    async def on_response(outputs: Outputs) -> None:
        _note(work, outputs)
        if "control_map" in outputs:
            made.control_map = outputs["control_map"].data
        if "image" in outputs:
            image = MadeImage(data=outputs["image"].data, details=json.loads(outputs["details"][0]))
            (made.images if plan.second is None else first).append(image)

    await run(services, ImageJob.of(plan.model, request), on_response, results=plan.second is None)
    for number, image in enumerate(first):
        work.begin_part(part + 1 + number, 1)
        assert plan.second is not None
        made.images.append(await _again(services, plan, plan.second, image, work))


def _note(work: Work, outputs: Outputs) -> None:
    done, total = (int(n) for n in outputs["progress"]) if "progress" in outputs else (work.step, work.steps)
    work.note_steps(done, total)
    if "preview" in outputs:
        work.preview = outputs["preview"].tobytes()


async def _again(services: Services, plan: Plan, second: SecondPass, image: MadeImage, work: Work) -> MadeImage:
    """The image enlarged, and changed at its new size."""
    details = image.details
    own = int(details["width"]), int(details["height"])
    wanted = await enlargement_of(services, second.upscaler, bytes(image.data), param="hr_scale", sizes=second.sizes)
    larger = await enlarged(services, wanted, work.note_steps)
    if second.request is None:
        pairs = second.pairs(own)
        more = {ENLARGE: pairs["Hires upscale"], ENLARGE_MODEL: second.upscaler}
        chunks = text_chunks({**details, **more}, pairs)
        data = await services.signed(with_text(larger, chunks), _PNG, plan.model.name, plan.request)
        await note_results([data])
        return MadeImage(data=data, details={**details, **more}, pairs=pairs)
    request = second.request.with_values(
        init_image=larger,
        seed=details["seed"],
        progress_every=1,
        preview_every=min(_PREVIEW_EVERY, second.request.steps),
    )

    async def on_response(outputs: Outputs) -> None:
        _note(work, outputs)

    made = await run(services, ImageJob.of(plan.model, request), on_response)
    data, changed = made.images[0]
    return MadeImage(data=data, details=changed)
