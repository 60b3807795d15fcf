"""What a request of SD 1.5 hands to its networks at every step, and what it does outside of the event loop."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.diffusion import control
from darkroom.diffusion.control import Control
from darkroom.diffusion.sampling import Step
from darkroom.pipelines.sd15 import pipeline
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.pipelines.sd15.pipeline import Components, GenerationProgress, Prediction
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.sd15.settings import Settings
from darkroom.prompts.by_step import EmbedsByStep
from darkroom.serving.networks import Array

CHECKPOINT = Sd15CheckpointInfo(
    name="none",
    digest="0" * 10,
    side=64,
    scheduler={"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"},
    latent_rgb=[[0.0] * 3] * 5,
    max_tokens=77,
    guidance_scale=7.5,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
)
FIELDS = {"prompt": "a cat", "num_images": 2, "width": 64, "height": 64, "steps": 2, "guidance_scale": 2.0}


def _components(asked: list[Mapping[str, Array]]) -> Components:
    async def unet(inputs: Mapping[str, Array]) -> dict[str, Array]:
        asked.append(inputs)
        return {"noise_pred": np.zeros_like(inputs["latents"])}

    return Components(
        checkpoint=CHECKPOINT,
        tokenizer=None,  # type: ignore[arg-type]  # prompts are not encoded here
        limits=Settings(),
        text_encoder=unet,
        unet=unet,
        vae_decoder=unet,
        control_unets={"canny": unet},
    )


def test_prediction_repeats_prompt_and_control_map_once_for_all_steps() -> None:
    asked: list[Mapping[str, Array]] = []
    given = GenerateRequest.parse(FIELDS | {"control_type": "canny", "control_image": b""}, Settings())
    request = given.completed(CHECKPOINT, Settings())
    embeds = np.arange(2 * 77 * 4, dtype=np.float32).reshape(2, 77, 4)
    control_map = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    prompts = EmbedsByStep({"prompt_embeds": embeds}, [(0, 1)] * 2, images=2)
    components = _components(asked)
    assert request.control is not None
    active = Control(request=request.control, network=components.unet, pixels=control_map, rows=4)
    predict = Prediction(request=request, components=components, prompts=prompts, control=active, steps=2)
    for index in range(2):
        asyncio.run(predict(Step(index=index, timestep=1.0, latents=torch.zeros(2, 4, 8, 8))))
    first, second = asked
    for name in ("prompt_embeds", "control_image"):
        assert first[name] is second[name]
        assert first[name].flags.c_contiguous
    np.testing.assert_array_equal(first["prompt_embeds"], embeds[[0, 0, 1, 1]])
    np.testing.assert_array_equal(first["control_image"], np.stack([control_map] * 4))


def test_control_map_is_encoded_outside_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def encode_png(pixels: Array) -> bytes:
        threads.append(threading.current_thread())
        return b"a PNG"

    async def first_event() -> object:
        events = pipeline.generate(request, _components([]))
        try:
            return await anext(events)
        finally:
            await events.aclose()

    monkeypatch.setattr(control, "encode_png", encode_png)
    image = io.BytesIO()
    Image.new("RGB", (64, 64)).save(image, "PNG")
    request = GenerateRequest.parse(FIELDS | {"control_image": image.getvalue()}, Settings())
    event = asyncio.run(first_event())
    assert isinstance(event, GenerationProgress)
    assert event.control_map == b"a PNG"
    assert threads
    assert threading.main_thread() not in threads
