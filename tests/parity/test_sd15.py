"""The loop against diffusers' pipelines on the same weights: same noise, same picture."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image

from darkroom.diffusion.controls import ControlOptions, canny
from darkroom.diffusion.generation import base_details
from darkroom.diffusion.schedulers import SCHEDULERS
from darkroom.errors import Cancelled, InvalidInput
from darkroom.images import Picture, encode
from darkroom.parameters import parse, text_chunks
from darkroom.pipelines.sd15.pipeline import Components, FinishedImage, GenerationProgress, generate
from darkroom.pipelines.sd15.request import GenerateRequest
from exporters.sd15.pipeline import effective_scheduler
from tests import tiny_sd15
from tests.tiny_sd15 import Pictures

TOLERANCE = 2
"""Levels of 255. The sums are the same but for their order: CFG rows are one call here, too, yet rows of other
requests may stand beside them."""
PROMPT, NEGATIVE = "a photo of a cat on a blue background", "a dog"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    return tiny_sd15.make_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def components(pipeline: StableDiffusionPipeline) -> Components:
    return tiny_sd15.make_components(pipeline, tiny_sd15.make_controlnet(pipeline.unet))


@pytest.fixture(scope="module")
def reference() -> bytes:
    """A picture with edges, encoded."""
    rows, columns = np.mgrid[0:90, 0:70]
    shade = ((rows - 40) ** 2 + (columns - 30) ** 2 < 600) * np.uint8(180) + np.uint8(30)
    return encode(Picture(rgb=np.repeat(shade[..., None], 3, axis=2)), format="png", quality=90)


async def _collect(events: Any) -> list[GenerationProgress | FinishedImage]:
    return [event async for event in events]


def _ours(components: Components, control_image: bytes | None = None, **fields: Any) -> Pictures:
    given = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": 11, **fields}
    return tiny_sd15.our_pictures(components, control_image, **given)


def _theirs(pipeline: Any, **arguments: Any) -> Pictures:
    return tiny_sd15.their_pictures(
        pipeline, **{"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": 11, **arguments}
    )


THEIRS: dict[str | None, Callable[[Any], Any]] = {
    None: PNDMScheduler.from_config,
    "ddim": DDIMScheduler.from_config,
    "pndm": PNDMScheduler.from_config,
    "euler": EulerDiscreteScheduler.from_config,
    "euler_a": EulerAncestralDiscreteScheduler.from_config,
    "euler_karras": partial(EulerDiscreteScheduler.from_config, use_karras_sigmas=True),
    "dpmpp_2m": DPMSolverMultistepScheduler.from_config,
    "dpmpp_2m_karras": partial(DPMSolverMultistepScheduler.from_config, use_karras_sigmas=True),
    "dpmpp_2m_sde": partial(DPMSolverMultistepScheduler.from_config, algorithm_type="sde-dpmsolver++"),
    "dpmpp_2m_sde_karras": partial(
        DPMSolverMultistepScheduler.from_config, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
    ),
    "heun": HeunDiscreteScheduler.from_config,
    "dpm2": KDPM2DiscreteScheduler.from_config,
    "dpm2_a": KDPM2AncestralDiscreteScheduler.from_config,
    "unipc": UniPCMultistepScheduler.from_config,
    "lcm": LCMScheduler.from_config,
}
"""As a user of diffusers makes them of a checkpoint's configuration."""


def _with_scheduler(
    pipeline: StableDiffusionPipeline, components: Components, name: str | None
) -> StableDiffusionPipeline:
    """The pipeline with another scheduler, given to its constructor, which corrects some of the settings."""
    scheduler = THEIRS[name](components.checkpoint.scheduler)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of what it corrects
        made = StableDiffusionPipeline(**{**pipeline.components, "scheduler": scheduler}, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def _distance(first: Pictures, second: Pictures) -> int:
    assert first.shape == second.shape
    assert first.std() > 5, "a flat picture would prove nothing"
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
@pytest.mark.parametrize("name", [None, *SCHEDULERS])
def test_every_scheduler_gives_diffusers_picture(
    pipeline: StableDiffusionPipeline, components: Components, name: str | None, guidance_scale: float
) -> None:
    pipeline = _with_scheduler(pipeline, components, name)
    fields = {"guidance_scale": guidance_scale, "width": 64, "height": 64}
    ours = _ours(components, scheduler=name, steps=6, **fields)
    assert _distance(ours, _theirs(pipeline, num_inference_steps=6, **fields)) <= TOLERANCE


@pytest.mark.parametrize("left_out", [("clip_sample",), ("clip_sample", "steps_offset")])
@pytest.mark.parametrize("name", [None, *SCHEDULERS])
def test_settings_that_diffusers_pipeline_mends(
    pipeline: StableDiffusionPipeline, components: Components, name: str | None, left_out: tuple[str, ...]
) -> None:
    """A PNDM's configuration says nothing of clipping, which DDIM does unless it is told not to."""
    config = {key: value for key, value in components.checkpoint.scheduler.items() if key not in left_out}
    exported = dataclasses.replace(components.checkpoint, scheduler=effective_scheduler(config))
    ours_of = dataclasses.replace(components, checkpoint=exported)
    as_it_was = dataclasses.replace(components.checkpoint, scheduler=config)
    theirs_of = dataclasses.replace(components, checkpoint=as_it_was)
    fields = {"guidance_scale": 7.5, "width": 64, "height": 64}
    ours = _ours(ours_of, scheduler=name, steps=6, **fields)
    theirs = _theirs(_with_scheduler(pipeline, theirs_of, name), num_inference_steps=6, **fields)
    assert _distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
@pytest.mark.parametrize(("num_images", "width", "height"), [(1, 72, 104), (4, 96, 64)])
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_sizes_and_several_pictures(
    pipeline: StableDiffusionPipeline,
    components: Components,
    name: str,
    num_images: int,
    width: int,
    height: int,
    guidance_scale: float,
) -> None:
    pipeline = _with_scheduler(pipeline, components, name)
    fields = {"num_images": num_images, "width": width, "height": height, "guidance_scale": guidance_scale}
    ours = _ours(components, scheduler=name, steps=4, **fields)
    assert _distance(ours, _theirs(pipeline, num_inference_steps=4, **fields)) <= TOLERANCE


def _controlled(
    pipeline: StableDiffusionPipeline, components: Components, reference: bytes, name: str, **fields: Any
) -> Pictures:
    """Pictures of 72 x 104 with the edges of a reference, compared with diffusers'."""
    controlled = tiny_sd15.controlled_pipeline(pipeline, tiny_sd15.make_controlnet(pipeline.unet))
    # The plain pipeline's constructor corrects the settings of its scheduler, the one with a ControlNet does not.
    controlled.scheduler = _with_scheduler(pipeline, components, name).scheduler
    fields = {"width": 72, "height": 104, "controlnet_conditioning_scale": 0.8, **fields}
    ours = _ours(components, reference, scheduler=name, steps=5, **fields)
    edges = Image.open(io.BytesIO(reference)).convert("RGB").resize((72, 104), Image.Resampling.LANCZOS)
    if fields.pop("control_preprocess", True):
        edges = Image.fromarray(canny.preprocess(np.asarray(edges), ControlOptions()))
    theirs = _theirs(controlled, image=edges, num_inference_steps=5, **fields)
    assert _distance(ours, theirs) <= TOLERANCE
    return ours


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_controlnet_with_every_scheduler(
    pipeline: StableDiffusionPipeline, components: Components, reference: bytes, name: str, guidance_scale: float
) -> None:
    """Two pictures that are not square."""
    _controlled(pipeline, components, reference, name, num_images=2, guidance_scale=guidance_scale)


def test_controlnet_reads_a_map_as_it_is(
    pipeline: StableDiffusionPipeline, components: Components, reference: bytes
) -> None:
    _controlled(pipeline, components, reference, "ddim", control_preprocess=False)


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("num_images", [1, 4])
@pytest.mark.parametrize(
    "window", [{}, {"control_guidance_start": 0.2, "control_guidance_end": 0.7}], ids=["whole", "part"]
)
def test_controlnet(
    pipeline: StableDiffusionPipeline,
    components: Components,
    reference: bytes,
    window: dict[str, float],
    num_images: int,
    guidance_scale: float,
) -> None:
    ours = _controlled(
        pipeline, components, reference, "ddim", num_images=num_images, guidance_scale=guidance_scale, **window
    )
    plain = _ours(components, scheduler="ddim", steps=5, num_images=num_images, width=72, height=104)
    assert _distance(ours, plain) > 10, "the control should change the picture"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"_class_name": "DPMSolverMultistepScheduler"}, "dpmpp_2m"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, "dpmpp_2m_karras"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "use_karras_sigmas": True},
            "DPMSolverMultistepScheduler",
        ),
        ({"_class_name": "EulerDiscreteScheduler"}, "euler"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "euler_karras"),
        ({"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True}, "UniPCMultistepScheduler"),
        ({"_class_name": "DEISMultistepScheduler"}, "DEISMultistepScheduler"),
    ],
)
def test_a_recorded_scheduler_makes_the_picture_again_and_says_which_it_is(
    components: Components, config: dict[str, Any], key: str
) -> None:
    """Of checkpoints whose own scheduler is another one than Stable Diffusion's."""
    own = {**components.checkpoint.scheduler, **config}
    components = dataclasses.replace(components, checkpoint=dataclasses.replace(components.checkpoint, scheduler=own))
    request = GenerateRequest.parse({"prompt": PROMPT, "seed": 11, "steps": 5}, components.limits)
    events = asyncio.run(_collect(generate(request, components)))
    recorded = next(event.details["scheduler"] for event in events if isinstance(event, FinishedImage))
    assert recorded == key
    first = _ours(components, steps=5)
    assert (first == _ours(components, steps=5, scheduler=recorded)).all()
    parsed = parse(
        text_chunks({**base_details(request, components.checkpoint, 0), "width": 64, "height": 64})["parameters"]
    )
    assert parsed["scheduler"] == key
    for other in {"dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_karras", "unipc"} - {key}:
        assert (first != _ours(components, steps=5, scheduler=other)).any(), other


def test_a_class_of_diffusers_means_the_class_as_configured(components: Components) -> None:
    by_class = _ours(components, steps=5, scheduler="DPMSolverMultistepScheduler")
    assert (by_class == _ours(components, steps=5, scheduler="dpmpp_2m")).all()
    assert (by_class != _ours(components, steps=5, scheduler="dpmpp_2m_karras")).any()
    with pytest.raises(InvalidInput, match=r"scheduler must be one of ddim, .*; got 'DEISMultistepScheduler'"):
        _ours(components, steps=5, scheduler="DEISMultistepScheduler")


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_work_with_every_scheduler(components: Components, name: str, steps: int) -> None:
    assert _ours(components, scheduler=name, steps=steps).shape == (1, 64, 64, 3)


def test_too_many_steps_for_a_scheduler_are_refused(components: Components) -> None:
    with pytest.raises(InvalidInput, match="steps: 100 steps do not work with lcm"):
        _ours(components, scheduler="lcm", steps=100)


def test_the_kth_picture_is_that_of_its_seed_alone(components: Components) -> None:
    together = _ours(components, num_images=3, steps=4)
    for k in range(3):
        assert _distance(together[k : k + 1], _ours(components, seed=11 + k, steps=4)) <= TOLERANCE


def test_a_seed_gives_the_same_bytes_twice(components: Components) -> None:
    assert (_ours(components, steps=4) == _ours(components, steps=4)).all()


def test_cancelled_before_the_next_step(pipeline: StableDiffusionPipeline) -> None:
    calls = 0
    components = tiny_sd15.make_components(pipeline)
    unet = components.unet

    async def counted(inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        return await unet(inputs)

    stopping = dataclasses.replace(components, unet=counted, stopped=lambda: calls == 2)
    with pytest.raises(Cancelled):
        _ours(stopping, steps=10)
    assert calls == 2


def test_progress_previews_and_control_map(components: Components, reference: bytes) -> None:
    fields = {"prompt": PROMPT, "seed": 1, "steps": 6, "preview_every": 2, "num_images": 2, "control_image": reference}
    request = GenerateRequest.parse({**fields, "scheduler": "euler"}, components.limits)
    events = asyncio.run(_collect(generate(request, components)))
    steps = [event for event in events if isinstance(event, GenerationProgress)]
    assert [event.done for event in steps] == list(range(7))
    assert {event.total for event in steps} == {6}
    assert [event.done for event in steps if event.preview] == [2, 4]
    preview = Image.open(io.BytesIO(next(event.preview for event in steps if event.preview)))
    assert preview.size == (16, 8)
    assert steps[0].control_map is not None
    with Image.open(io.BytesIO(steps[0].control_map)) as edges:
        assert edges.size == (64, 64)
        assert set(np.unique(np.asarray(edges))) == {0, 255}
    pictures = [event for event in events if isinstance(event, FinishedImage)]
    assert [event.last for event in pictures] == [False, True]
    assert [event.details["seed"] for event in pictures] == [1, 2]
    assert pictures[0].details["control_type"] == "canny"


def test_control_map_without_preprocessing_is_the_image(components: Components, reference: bytes) -> None:
    fields = {"prompt": PROMPT, "seed": 1, "steps": 1, "control_image": reference, "control_preprocess": False}
    request = GenerateRequest.parse(fields, components.limits)
    events = asyncio.run(_collect(generate(request, components)))
    first, last = events[0], events[-1]
    assert isinstance(first, GenerationProgress)
    assert first.control_map is not None
    fitted = Image.open(io.BytesIO(reference)).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first.control_map))), np.asarray(fitted))
    assert isinstance(last, FinishedImage)
    assert last.details["control_preprocess"] is False


def test_control_without_its_network_is_refused(pipeline: StableDiffusionPipeline, reference: bytes) -> None:
    with pytest.raises(InvalidInput, match="control_type 'canny' has no network"):
        _ours(tiny_sd15.make_components(pipeline), reference)
