"""Prompts in the notation of web UIs, beside diffusers' pipelines that are given other embeddings from step to step."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray
from torch import Tensor

from darkroom.diffusion.generation import FinishedImage
from darkroom.errors import InvalidInput
from darkroom.pipelines.sdxl.pipeline import Components, generate
from darkroom.pipelines.sdxl.request import GenerateRequest
from darkroom.serving.networks import Array, Network, Tensors
from tests import tiny_sdxl
from tests.pictures import distance, encoded, photo
from tests.tiny_sd15 import strengthen_prompts

TOLERANCE = 2
"""Levels of 255."""
SEED, STEPS = 11, 10
REFINER_START, BASE_STEPS = 0.3, 3
CAT, DOG = "a photo of a cat on a blue background", "a pizza, a dog"
Images = NDArray[np.uint8]
Text = Callable[[int], str | None]
"""A prompt at a step of the whole schedule."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    made = tiny_sdxl.make_pipeline(tmp_path_factory.mktemp("tiny"))
    strengthen_prompts(made.unet)
    return made


@pytest.fixture(scope="module")
def refiner(base: StableDiffusionXLPipeline) -> StableDiffusionXLImg2ImgPipeline:
    made = tiny_sdxl.make_refiner_pipeline(base)
    strengthen_prompts(made.unet)
    return made


@pytest.fixture(scope="module")
def components(base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline) -> Components:
    return tiny_sdxl.make_components(base, refiner)


def ours(components: Components, **fields: Any) -> Images:
    usual = {"seed": SEED, "steps": STEPS, "guidance_scale": 5.0, "refiner_start": REFINER_START, "format": "raw"}
    given = {**usual, "width": 64, "height": 64, **fields}
    request = GenerateRequest.parse(given, components.limits, components.checkpoint.request_defaults)

    async def collect() -> list[Images]:
        events = [event async for event in generate(request, components)]
        return [np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)]

    return np.stack(asyncio.run(collect()))


def embeds(pipeline: Any, text: str | None) -> tuple[Tensor, Tensor]:
    """The embeddings of one text and the pooled ones; zeros for None, as the base has for no negative prompt."""
    states, _, pooled, _ = pipeline.encode_prompt(
        text or "", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return (states, pooled) if text is not None else (torch.zeros_like(states), torch.zeros_like(pooled))


def swapping(pipeline: Any, rows: Callable[[int], list[str | None]], first: int, last: int) -> dict[str, Any]:
    """Arguments with the embeddings of the first step, and a callback with those of the following ones.

    :param rows: the texts of a step of the whole schedule.
    :param first, last: the steps that this pipeline does, the last one included.
    """

    def after(_: Any, index: int, __: Any, given: dict[str, Any]) -> dict[str, Any]:
        found = [embeds(pipeline, text) for text in rows(min(first + index + 1, last))]
        states, pooled = (torch.cat(each) for each in zip(*found, strict=True))
        assert (states.shape, pooled.shape) == (given["prompt_embeds"].shape, given["add_text_embeds"].shape)
        return {"prompt_embeds": states, "add_text_embeds": pooled}

    *negative, prompt = [embeds(pipeline, text) for text in rows(first)]
    arguments = {"prompt_embeds": prompt[0], "pooled_prompt_embeds": prompt[1]}
    if negative:
        arguments |= {"negative_prompt_embeds": negative[0][0], "negative_pooled_prompt_embeds": negative[0][1]}
    names = ["prompt_embeds", "add_text_embeds"]
    return {**arguments, "callback_on_step_end": after, "callback_on_step_end_tensor_inputs": names}


def theirs(base: Any, refiner: Any, prompt: Text, negative: Text) -> Images:
    common = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(SEED)}
    of_base = swapping(base, lambda index: [negative(index), prompt(index)], 0, BASE_STEPS - 1)
    latents = base(
        guidance_scale=5.0, width=64, height=64, denoising_end=REFINER_START, output_type="latent", **common, **of_base
    ).images
    of_refiner = swapping(refiner, lambda index: [prompt(index)], BASE_STEPS, STEPS - 1)
    images = refiner(image=latents, denoising_start=REFINER_START, guidance_scale=1.0, **common, **of_refiner).images
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4])
@pytest.mark.parametrize("negative", [None, "a fox"])
def test_sdxl_prompt_switches_at_its_share_of_the_whole_schedule(
    base: Any, refiner: Any, components: Components, negative: str | None, share: float
) -> None:
    """In the base, between base and refiner, and in the refiner."""
    made = ours(components, prompt=f"[{CAT}:{DOG}:{share}]", negative_prompt=negative)
    expected = theirs(base, refiner, lambda index: CAT if index < round(10 * share) else DOG, lambda _: negative)
    assert distance(made, expected) <= TOLERANCE
    for text in (CAT, DOG):
        assert distance(made, ours(components, prompt=text, negative_prompt=negative)) > 2 * TOLERANCE


def test_sdxl_prompts_alternate_at_every_step(base: Any, refiner: Any, components: Components) -> None:
    made = ours(components, prompt=f"[{CAT}|{DOG}|a fox]", negative_prompt="[a dog|a cat]")
    expected = theirs(
        base, refiner, lambda index: [CAT, DOG, "a fox"][index % 3], lambda index: ["a dog", "a cat"][index % 2]
    )
    assert distance(made, expected) <= TOLERANCE


def test_sdxl_break_lays_chunks_end_to_end(base: Any, components: Components) -> None:
    """The pooled embedding is that of the first chunk."""
    made = ours(components, prompt=f"{CAT} BREAK {DOG}", refiner_start=1.0)
    first, second, empty = (embeds(base, text) for text in (CAT, DOG, ""))
    generator = torch.Generator().manual_seed(SEED)
    expected = base(
        prompt_embeds=torch.cat([first[0], second[0]], dim=1),
        pooled_prompt_embeds=first[1],
        negative_prompt_embeds=torch.zeros(1, 154, empty[0].shape[-1]),
        negative_pooled_prompt_embeds=torch.zeros_like(empty[1]),
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        width=64,
        height=64,
        generator=generator,
    ).images
    assert distance(made, np.stack([np.asarray(image) for image in expected])) <= TOLERANCE
    assert (made != ours(components, prompt=f"{CAT} {DOG}", refiner_start=1.0)).any()


def test_sdxl_texts_are_encoded_once_in_one_call_of_each_encoder(components: Components) -> None:
    asked: list[int] = []

    def counted(encoder: Network) -> Network:
        async def call(inputs: Tensors) -> dict[str, Array]:
            asked.append(len(inputs["input_ids"]))
            return await encoder(inputs)

        return call

    counting = dataclasses.replace(components, text_encoders=[counted(one) for one in components.text_encoders])
    ours(counting, prompt="[a|b|c]", negative_prompt="[d:e:2]")
    ours(counting, prompt="[a|b|c]")
    assert asked == [5, 5, 3, 3]


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.9])
def test_sdxl_changes_count_the_steps_that_an_init_image_leaves(components: Components, strength: float) -> None:
    """None, those of the refiner alone, or two of the base and all of the refiner."""
    given = {"init_image": encoded(photo(64, 64), "PNG"), "strength": strength}
    made = ours(components, prompt=f"[{CAT}:{DOG}:0.4]", **given)
    assert (made == ours(components, prompt=f"[{CAT}:{DOG}:{int(0.4 * 10 * strength)}]", **given)).all()
    assert (made != ours(components, prompt=DOG, **given)).any() == (strength > 0)


def test_sdxl_changes_to_the_same_text_change_nothing(components: Components) -> None:
    plain = ours(components, prompt=CAT)
    assert (plain == ours(components, prompt=f"[{CAT}|{CAT}]")).all()
    assert (plain == ours(components, prompt=f"[{CAT}:{DOG}:1.0]")).all()


def test_sdxl_prompts_that_are_refused(components: Components) -> None:
    with pytest.raises(InvalidInput, match=r"^negative_prompt: AND between prompts is not supported"):
        GenerateRequest.parse({"prompt": CAT, "negative_prompt": "a cat AND a dog"}, components.limits)
    with pytest.raises(InvalidInput, match=r"^prompt: the LoRA tag '<lora:ink:1>' cannot be used"):
        ours(components, prompt="<lora:ink:1> a dog")
