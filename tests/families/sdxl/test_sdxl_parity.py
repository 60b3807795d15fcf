"""The loop against diffusers' Stable Diffusion XL pipelines on the same weights: same noise, same image."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray

from darkroom.diffusion.generation import FinishedImage, GenerationProgress
from darkroom.diffusion.schedulers import SCHEDULERS, make_scheduler
from darkroom.errors import Cancelled
from darkroom.pipelines.sdxl.pipeline import Components, generate
from darkroom.pipelines.sdxl.request import GenerateRequest
from tests import tiny_sdxl
from tests.pictures import distance, pixels

TOLERANCE = 2
"""Levels of 255."""
SEED, STEPS = 11, 4
PROMPT = "a photo of a cat on a blue background"
CONDITIONS = {"original_width": 100, "original_height": 160, "crop_top": 8, "crop_left": 24, "target_width": 48}
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    return tiny_sdxl.make_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def refiner(base: StableDiffusionXLPipeline) -> StableDiffusionXLImg2ImgPipeline:
    return tiny_sdxl.make_refiner_pipeline(base)


@pytest.fixture(scope="module")
def components(base: StableDiffusionXLPipeline) -> Components:
    return tiny_sdxl.make_components(base)


@pytest.fixture(scope="module")
def refined(base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline) -> Components:
    return tiny_sdxl.make_components(base, refiner)


async def _collect(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]


def events_of(components: Components, **fields: Any) -> list[Any]:
    given = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "guidance_scale": 5.0, **fields}
    request = GenerateRequest.parse(given, components.limits, components.checkpoint.request_defaults)
    return asyncio.run(_collect(generate(request, components)))


def ours(components: Components, **fields: Any) -> Images:
    events = events_of(components, format="raw", **fields)
    return np.stack([np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)])


def theirs(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline | None = None,
    *,
    scheduler: str | None = None,
    num_images: int = 1,
    start: float = 0.8,
    conditions: dict[str, Any] | None = None,
    aesthetic_score: float = 6.0,
    **fields: Any,
) -> Images:
    """What diffusers makes of the same; the k-th image has the seed SEED + k.

    :param conditions: `original_size` and so on, as diffusers has them.
    """
    make = partial(make_scheduler, scheduler, tiny_sdxl.make_checkpoint(base).scheduler)
    generators = [torch.Generator().manual_seed(SEED + k) for k in range(num_images)]
    given = {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": 5.0, **fields}
    more = {"num_images_per_prompt": num_images, "generator": generators, **(conditions or {})}
    sizes = {"width": given.pop("width", 64), "height": given.pop("height", 64)}
    if refiner is None:
        return called(base, make, **given, **sizes, **more)
    latents = called(base, make, **given, **sizes, **more, denoising_end=start, output_type="latent")
    several = {
        "prompt": [given["prompt"]] * num_images,
        "num_inference_steps": given["num_inference_steps"],
        "generator": generators,
        "aesthetic_score": aesthetic_score,
        **(conditions or {}),
    }
    return called(refiner, make, image=latents, denoising_start=start, guidance_scale=1.0, **several)


def called(pipeline: Any, make: Callable[[], Any], **arguments: Any) -> Any:
    """Latents, or the pixels of all images, of a pipeline that has another scheduler for this call."""
    own, pipeline.scheduler = pipeline.scheduler, make()
    try:
        images = pipeline(**arguments).images
    finally:
        pipeline.scheduler = own
    return images if torch.is_tensor(images) else np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("name", [None, "ddim", "euler_a", "dpmpp_2m_karras", "heun"])
def test_sdxl_base_alone_gives_diffusers_image(
    base: StableDiffusionXLPipeline, components: Components, name: str | None, guidance_scale: float
) -> None:
    made = ours(components, scheduler=name, guidance_scale=guidance_scale)
    assert distance(made, theirs(base, scheduler=name, guidance_scale=guidance_scale)) <= TOLERANCE


@pytest.mark.parametrize("guidance_scale", [5.0, 0.0])
@pytest.mark.parametrize("name", [None, *SCHEDULERS])
def test_sdxl_base_and_refiner_give_diffusers_image(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline,
    refined: Components,
    name: str | None,
    guidance_scale: float,
) -> None:
    fields = {"scheduler": name, "guidance_scale": guidance_scale, "num_images": 2}
    assert distance(ours(refined, **fields), theirs(base, refiner, **fields)) <= TOLERANCE


@pytest.mark.parametrize("start", [0.5, 0.95])
def test_sdxl_refiner_goes_on_where_it_is_told_to(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline,
    refined: Components,
    components: Components,
    start: float,
) -> None:
    fields = {"width": 72, "height": 104}
    made = ours(refined, steps=10, refiner_start=start, **fields)
    assert distance(made, theirs(base, refiner, start=start, num_inference_steps=10, **fields)) <= TOLERANCE
    assert (made != ours(components, steps=10, **fields)).any()


def test_sdxl_refiner_start_of_1_is_the_base_alone(refined: Components, components: Components) -> None:
    assert (ours(refined, refiner_start=1.0) == ours(components)).all()


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("negative", [None, "", "a dog"])
def test_sdxl_negative_prompts(base: StableDiffusionXLPipeline, negative: str | None, zeros: bool) -> None:
    before = base.config.force_zeros_for_empty_prompt
    base.register_to_config(force_zeros_for_empty_prompt=zeros)
    try:
        made = ours(tiny_sdxl.make_components(base), negative_prompt=negative)
        assert distance(made, theirs(base, negative_prompt=negative)) <= TOLERANCE
    finally:
        base.register_to_config(force_zeros_for_empty_prompt=before)


def test_sdxl_absent_and_empty_negative_prompts_differ_where_the_checkpoint_says_so(components: Components) -> None:
    assert (ours(components) != ours(components, negative_prompt="")).any()
    facts = dataclasses.replace(components.checkpoint, force_zeros_for_empty_prompt=False)
    without = dataclasses.replace(components, checkpoint=facts)
    assert (ours(without) == ours(without, negative_prompt="")).all()


@pytest.mark.parametrize("scored", [True, False])
def test_sdxl_micro_conditioning(base: StableDiffusionXLPipeline, scored: bool) -> None:
    refiner = tiny_sdxl.make_refiner_pipeline(base, scored=scored)
    components = tiny_sdxl.make_components(base, refiner)
    told = {"original_size": (160, 100), "crops_coords_top_left": (8, 24), "target_size": (64, 48)}
    made = ours(components, **CONDITIONS, aesthetic_score=2.0)
    assert distance(made, theirs(base, refiner, conditions=told, aesthetic_score=2.0)) <= TOLERANCE
    assert (made != ours(components, aesthetic_score=2.0)).any()
    assert (ours(components, aesthetic_score=9.0) != ours(components)).any() == scored


def test_sdxl_turbo_class_checkpoint_needs_one_step(tmp_path: Any) -> None:
    """Trailing timesteps come from the scheduler's configuration, steps and guidance from the checkpoint."""
    base = tiny_sdxl.make_pipeline(tmp_path, timestep_spacing="trailing")
    components = tiny_sdxl.make_components(base, tiny_sdxl.make_refiner_pipeline(base))
    facts = dataclasses.replace(components.checkpoint, steps=1, guidance_scale=0.0)
    components = dataclasses.replace(components, checkpoint=facts)
    request = GenerateRequest.parse({"prompt": PROMPT, "seed": SEED}, components.limits, facts.request_defaults)
    events = asyncio.run(_collect(generate(request, components)))
    assert [(e.done, e.total) for e in events if isinstance(e, GenerationProgress)] == [(0, 1), (1, 1)]
    made = pixels(events[-1].data)
    expected = theirs(base, num_inference_steps=1, guidance_scale=0.0)[0]
    assert distance(made, expected) <= TOLERANCE


@pytest.mark.parametrize("name", [None, "ddim", "euler_a"])
def test_sdxl_checkpoint_that_predicts_v_and_ends_in_noise(tmp_path: Any, name: str | None) -> None:
    """As single files say it with the marks v_pred and ztsnr."""
    base = tiny_sdxl.make_pipeline(tmp_path, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    components = tiny_sdxl.make_components(base)
    assert distance(ours(components, scheduler=name), theirs(base, scheduler=name)) <= TOLERANCE


def test_sdxl_long_prompts_reach_both_encoders_whole(components: Components) -> None:
    long = "a cat on a blue background and a dog, " * 12
    assert (ours(components, prompt=long) != ours(components, prompt=f"{long}above")).any()
    assert (ours(components, prompt=long) != ours(components, prompt=long[:300])).any()


def test_sdxl_weighted_words_change_the_image(components: Components) -> None:
    assert (ours(components) != ours(components, prompt=PROMPT.replace("blue", "(blue:1.4)"))).any()


def test_sdxl_kth_image_is_that_of_its_seed_alone(refined: Components) -> None:
    together = ours(refined, num_images=3, scheduler="euler_a")
    for k in range(3):
        alone = ours(refined, seed=SEED + k, scheduler="euler_a")
        assert distance(together[k : k + 1], alone) <= TOLERANCE


def test_sdxl_progress_previews_and_details(refined: Components) -> None:
    events = events_of(refined, steps=10, preview_every=3, num_images=2, **CONDITIONS)
    steps = [event for event in events if isinstance(event, GenerationProgress)]
    assert [(event.done, event.total) for event in steps] == [(n, 10) for n in range(11)]
    assert [event.done for event in steps if event.preview] == [3, 6, 9]
    images = [event for event in events if isinstance(event, FinishedImage)]
    assert [event.details["seed"] for event in images] == [SEED, SEED + 1]
    details = images[0].details
    assert details["negative_prompt"] is None
    assert details["target_height"] == 64
    assert {name: details[name] for name in CONDITIONS} == CONDITIONS
    assert (details["refiner_start"], details["aesthetic_score"]) == (0.8, 6.0)


def test_sdxl_details_make_the_same_image_again(refined: Components) -> None:
    fields = {**CONDITIONS, "negative_prompt": "a dog", "scheduler": "dpmpp_2m_karras", "refiner_start": 0.6}
    first = events_of(refined, **fields)[-1]
    told = {name: value for name, value in first.details.items() if name in GenerateRequest.fields()}
    again = events_of(refined, **told)[-1]
    assert (pixels(first.data) == pixels(again.data)).all()


def test_sdxl_cancelled_before_the_next_step(refined: Components) -> None:
    calls = 0

    async def counted(inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        assert refined.refiner_unet is not None
        return await refined.refiner_unet(inputs)

    stopping = dataclasses.replace(refined, refiner_unet=counted, stopped=lambda: calls == 1)
    with pytest.raises(Cancelled):
        ours(stopping, steps=20)
    assert calls == 1
