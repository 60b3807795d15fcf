"""Prompts in the notation of web UIs, beside diffusers' pipeline that is given other embeddings from step to step."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from darkroom.diffusion.generation import FinishedImage
from darkroom.diffusion.sampling import get_schedule
from darkroom.diffusion.schedulers import make_scheduler
from darkroom.errors import InvalidInput
from darkroom.pipelines.sd15.pipeline import Components, generate
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.prompts.clip import encode_prompts
from darkroom.serving.networks import Array, Tensors
from tests import tiny_sd15
from tests.pictures import distance, encoded, photo
from tests.tiny_sd15 import Pictures

TOLERANCE = 2
"""Levels of 255."""
SEED, STEPS = 11, 6
CAT, DOG = "a photo of a cat on a blue background", "a pizza, a dog"
FIELDS = {"guidance_scale": 7.5, "width": 64, "height": 64}
Texts = Callable[[int, int], tuple[str, str]]
"""Negative prompt and prompt at a step, of the index and the number of steps."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    made = tiny_sd15.make_pipeline(tmp_path_factory.mktemp("tiny"))
    tiny_sd15.strengthen_prompts(made.unet)
    return made


@pytest.fixture(scope="module")
def components(pipeline: StableDiffusionPipeline) -> Components:
    return tiny_sd15.make_components(pipeline)


def ours(components: Components, **fields: Any) -> Pictures:
    return tiny_sd15.our_pictures(components, **{"seed": SEED, "steps": STEPS, **FIELDS, **fields})


def embeds(pipeline: StableDiffusionPipeline, text: str) -> Tensor:
    """(1, tokens, width): the parts between the words BREAK one after the other, each encoded by itself."""
    parts = [pipeline.encode_prompt(part, "cpu", 1, False)[0] for part in text.split("BREAK")]
    return torch.cat(parts, dim=1)


def theirs(
    pipeline: StableDiffusionPipeline, components: Components, texts: Texts, scheduler: str | None = None, **fields: Any
) -> Pictures:
    """What diffusers makes with other embeddings after each step, which it hands to the callback as two rows."""
    calls = len(get_schedule(scheduler, components.checkpoint.scheduler, STEPS))
    images = fields.get("num_images", 1)

    def at(index: int) -> list[Tensor]:
        return [embeds(pipeline, text) for text in texts(min(index, calls - 1), calls)]

    def after(_: Any, index: int, __: Any, given: dict[str, Any]) -> dict[str, Any]:
        rows = torch.cat([row.repeat(images, 1, 1) for row in at(index + 1)])
        assert rows.shape == given["prompt_embeds"].shape
        return {"prompt_embeds": rows}

    negative, prompt = at(0)
    own, pipeline.scheduler = pipeline.scheduler, make_scheduler(scheduler, components.checkpoint.scheduler)
    try:
        return tiny_sd15.their_pictures(
            pipeline,
            seed=SEED,
            num_inference_steps=STEPS,
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            callback_on_step_end=after,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
            **FIELDS,
            **fields,
        )
    finally:
        pipeline.scheduler = own


@pytest.mark.parametrize("name", [None, "ddim", "euler_a", "dpmpp_2m_karras", "heun", "dpm2"])
def test_sd15_prompt_switches_at_its_share_of_the_steps(
    pipeline: StableDiffusionPipeline, components: Components, name: str | None
) -> None:
    """A step is a call of the UNet, of which heun and dpm2 have nearly two for each step that a request asks for."""
    made = ours(components, prompt=f"[{CAT}:{DOG}:0.4]", scheduler=name)
    expected = theirs(pipeline, components, lambda index, calls: ("", CAT if index < int(0.4 * calls) else DOG), name)
    assert distance(made, expected) <= TOLERANCE
    for text in (CAT, DOG):
        assert distance(made, ours(components, prompt=text, scheduler=name)) > 2 * TOLERANCE


def test_sd15_prompt_switches_after_a_number_of_steps(
    pipeline: StableDiffusionPipeline, components: Components
) -> None:
    made = ours(components, prompt=f"{CAT}[, {DOG}:2]", scheduler="ddim", num_images=2)
    expected = theirs(
        pipeline,
        components,
        lambda index, _: ("", CAT if index < 2 else f"{CAT}, {DOG}"),
        "ddim",
        num_images=2,
    )
    assert distance(made, expected) <= TOLERANCE


def test_sd15_prompts_alternate_at_every_step(pipeline: StableDiffusionPipeline, components: Components) -> None:
    made = ours(components, prompt=f"[{CAT}|{DOG}|a fox]", negative_prompt="[a dog|a cat]", scheduler="ddim")
    expected = theirs(
        pipeline,
        components,
        lambda index, _: (["a dog", "a cat"][index % 2], [CAT, DOG, "a fox"][index % 3]),
        "ddim",
    )
    assert distance(made, expected) <= TOLERANCE
    assert distance(made, ours(components, prompt=CAT, negative_prompt="a dog", scheduler="ddim")) > 2 * TOLERANCE


def test_sd15_break_lays_chunks_end_to_end(pipeline: StableDiffusionPipeline, components: Components) -> None:
    """The negative prompt gets an empty chunk, as that of a long prompt does."""
    prompt = f"{CAT} BREAK {DOG}"
    encoded = asyncio.run(
        encode_prompts(["", prompt], components.tokenizer, components.checkpoint, components.text_encoder)
    )
    for row, text in zip(encoded, (" BREAK ", prompt), strict=True):
        np.testing.assert_allclose(row, embeds(pipeline, text)[0].detach().numpy(), atol=1e-5)
    made = ours(components, prompt=prompt, scheduler="ddim")
    assert distance(made, theirs(pipeline, components, lambda *_: (" BREAK ", prompt), "ddim")) <= TOLERANCE
    assert (made != ours(components, prompt=f"{CAT} {DOG}", scheduler="ddim")).any()


def test_sd15_break_in_words_that_change(pipeline: StableDiffusionPipeline, components: Components) -> None:
    """All texts of a request get as many chunks as the longest one."""
    made = ours(components, prompt=f"{CAT}[ BREAK {DOG}:0.5]", scheduler="ddim")
    expected = theirs(
        pipeline,
        components,
        lambda index, _: (" BREAK ", f"{CAT} BREAK " if index < 3 else f"{CAT} BREAK {DOG}"),
        "ddim",
    )
    assert distance(made, expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"prompt": CAT}, 2),
        ({"prompt": CAT, "guidance_scale": 1.0}, 1),
        ({"prompt": CAT, "negative_prompt": CAT}, 2),
        ({"prompt": "[a|b|c] [d|e]", "negative_prompt": "[f:g:2]"}, 8),
        ({"prompt": "[a|b|c|d|e|f|g]"}, 7),
        ({"prompt": "[a BREAK b|c]", "negative_prompt": "d"}, 6),
        ({"prompt": "[a|b]", "negative_prompt": "[c|d]", "guidance_scale": 1.0}, 2),
    ],
)
def test_sd15_texts_are_encoded_once_in_one_call(components: Components, fields: dict[str, Any], rows: int) -> None:
    asked: list[int] = []

    async def counted(inputs: Tensors) -> dict[str, Array]:
        asked.append(len(inputs["input_ids"]))
        return await components.text_encoder(inputs)

    ours(dataclasses.replace(components, text_encoder=counted), scheduler="ddim", **fields)
    assert asked == [rows]


def test_sd15_changes_to_the_same_text_change_nothing(components: Components) -> None:
    plain = ours(components, prompt=f"a ({CAT}:1.2)")
    assert (plain == ours(components, prompt=f"a ([{CAT}|{CAT}]:1.2)")).all()
    assert (plain == ours(components, prompt=f"a ([{CAT}:{DOG}:1.0]:1.2)")).all()
    assert (plain == ours(components, prompt=f"a ([{DOG}:{CAT}:0]:1.2)")).all()


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_sd15_changes_count_the_steps_that_an_init_image_leaves(components: Components, strength: float) -> None:
    """No step, or four of six, of which 0.25 is one."""
    given = {"init_image": encoded(photo(64, 64), "PNG"), "strength": strength, "scheduler": "ddim"}
    made = ours(components, prompt=f"[{CAT}:{DOG}:0.25]", **given)
    assert (made == ours(components, prompt=f"[{CAT}:{DOG}:1]", **given)).all()
    assert (made != ours(components, prompt=CAT, **given)).any() == (strength > 0)


def test_sd15_details_have_the_prompts_as_they_were_sent(components: Components) -> None:
    sent = {"prompt": "[a:b:0.5] BREAK (c:1.2)", "negative_prompt": r"[d|e] \[f|g\]"}
    request = GenerateRequest.parse({**sent, "steps": 2, **FIELDS}, components.limits)

    async def last() -> Any:
        return [event async for event in generate(request, components)][-1]

    event = asyncio.run(last())
    assert isinstance(event, FinishedImage)
    assert {name: event.details[name] for name in sent} == sent


def test_sd15_prompts_that_are_refused(components: Components) -> None:
    with pytest.raises(InvalidInput, match=r"^prompt: AND between prompts is not supported"):
        GenerateRequest.parse({"prompt": "a cat AND a dog"}, components.limits)
    with pytest.raises(InvalidInput, match=r"^prompt: the steps of a request may read at most 64 different texts"):
        GenerateRequest.parse({"prompt": f"[{'|'.join(map(str, range(99)))}]", "steps": 99}, components.limits)
    with pytest.raises(InvalidInput, match=r"^prompt: the LoRA tag '<lora:ink:1>' cannot be used"):
        ours(components, prompt="<lora:ink:1> a dog")
    with pytest.raises(InvalidInput, match=r"^prompt: all texts of a request may have at most 512 chunks"):
        ours(components, prompt="a BREAK " * 400)
