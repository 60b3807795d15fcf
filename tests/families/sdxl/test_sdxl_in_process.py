"""The pipeline `sdxl` in one process, on tiny networks: images, shared batches, with and without a refiner."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.diffusion.checkpoint import FILE_NAME
from darkroom.diffusion.generation import FinishedImage
from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.checkpoint import TOKENIZERS
from darkroom.pipelines.sdxl.pipeline import Components, generate
from darkroom.pipelines.sdxl.request import GenerateRequest
from darkroom.serving.in_process import InProcess
from darkroom.serving.networks import ModelSpec
from tests import tiny_sdxl
from tests.pictures import encoded, photo
from tests.served_networks import add_model, add_network, collect
from tests.tiny_sd15 import plain_tokenizer

FIELDS: dict[str, Any] = {"prompt": "a photo of a cat", "seed": np.array([5], np.int64), "width": 64, "height": 64}


@dataclass(frozen=True)
class Tiny:
    repository: Path
    specs: tuple[ModelSpec, ...]
    components: Components


def make_tiny(folder: Path, *, refiner: bool) -> Tiny:
    """A repository of tiny networks."""
    pipeline = tiny_sdxl.make_pipeline(folder)
    components = tiny_sdxl.make_components(
        pipeline,
        tiny_sdxl.make_refiner_pipeline(pipeline) if refiner else None,
        tiny_sdxl.make_controlnet(pipeline.unet),
    )
    repository = folder / "models"
    version = add_model(repository, networks.PIPELINE)
    (version / FILE_NAME).write_text(components.checkpoint.to_json())
    for name, tokenizer in zip(TOKENIZERS, (pipeline.tokenizer, pipeline.tokenizer_2), strict=True):
        plain_tokenizer(tokenizer).save(str(version / name))
    served = [
        *zip(networks.TEXT_ENCODERS, components.text_encoders, strict=True),
        (networks.UNET, components.unet),
        (networks.CONTROL_UNETS["canny"], components.control_unets["canny"]),
        (networks.VAE_DECODER, components.vae_decoder),
    ]
    if components.vae_encoder is not None:
        served.append((networks.VAE_ENCODER, components.vae_encoder))
    if components.refiner_unet is not None:
        served.append((networks.REFINER_UNET, components.refiner_unet))
    specs = [add_network(repository, spec, network) for spec, network in served]
    return Tiny(repository, (networks.PIPELINE, *specs), components)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("sdxl"), refiner=True)


def directly(tiny: Tiny, **fields: Any) -> list[bytes]:
    async def run() -> list[bytes]:
        parts = tiny.components
        request = GenerateRequest.parse({**fields, "seed": 5}, parts.limits, parts.checkpoint.request_defaults)
        return [event.data async for event in generate(request, parts) if isinstance(event, FinishedImage)]

    return asyncio.run(run())


def images(responses: list[dict[str, Any]]) -> list[bytes]:
    return [response["image"].tobytes() for response in responses if "image" in response]


def test_sdxl_in_process_gives_the_bytes_of_a_direct_call(tiny: Tiny) -> None:
    more = {"steps": 5, "num_images": 2, "scheduler": "euler", "original_width": 128, "crop_top": 8}

    async def work() -> list[dict[str, Any]]:
        async with InProcess(tiny.repository, tiny.specs) as models:
            return await collect(models, "sdxl", **FIELDS, **more)

    responses = asyncio.run(work())
    assert [response["progress"].tolist() for response in responses] == [[n, 5] for n in (0, 1, 2, 3, 4, 5, 5, 5)]
    assert images(responses) == directly(tiny, **FIELDS, **more)


def test_sdxl_in_process_requests_share_batches_of_both_unets(tiny: Tiny) -> None:
    async def work() -> list[tuple[int, int]]:
        async with InProcess(tiny.repository, tiny.specs) as models:
            requests = ({**FIELDS, "seed": np.array([n], np.int64), "steps": 10} for n in range(4))
            await asyncio.gather(*(collect(models, "sdxl", **one) for one in requests))
            return [models.counts(spec.name) for spec in (networks.UNET, networks.REFINER_UNET)]

    (rows, batches), (refined_rows, refined_batches) = asyncio.run(work())
    assert (rows, refined_rows) == (4 * 2 * 8, 4 * 2)
    assert batches < rows / 2, "alone every step would be a batch of two rows"
    assert refined_batches < refined_rows


def test_sdxl_in_process_images_that_are_changed_share_batches_with_others(tiny: Tiny) -> None:
    picture = encoded(photo(0, 0, 90, 64))
    requests: list[dict[str, Any]] = [
        {"steps": 10},
        {"steps": 10, "init_image": picture, "strength": 0.5, "scheduler": "ddim"},
        {"steps": 10, "init_image": picture, "mask": encoded(Image.linear_gradient("L")), "strength": 1.0},
    ]

    def tensors(request: dict[str, Any]) -> dict[str, Any]:
        files = {name: np.frombuffer(data, np.uint8) for name, data in request.items() if isinstance(data, bytes)}
        return {**FIELDS, **request, **files, "format": "raw"}

    async def work() -> tuple[list[Any], tuple[int, int]]:
        async with InProcess(tiny.repository, tiny.specs) as models:
            found = await asyncio.gather(*(collect(models, "sdxl", **tensors(one)) for one in requests))
            return found, models.counts(networks.UNET.name)

    answers, (rows, batches) = asyncio.run(work())
    assert rows == 2 * (8 + 3 + 8)
    assert batches < rows / 2
    for request, answer in zip(requests, answers, strict=True):
        (made,), (alone,) = images(answer), directly(tiny, **FIELDS, **request, format="raw")
        assert np.abs(np.frombuffer(made, np.uint8).astype(int) - np.frombuffer(alone, np.uint8)).max() <= 2


def test_sdxl_in_process_controlled_requests_share_batches_and_the_map_comes_first(tiny: Tiny) -> None:
    """Of ten steps the base does eight, and the ControlNet acts at the first five; then all are in one batch again."""
    picture = encoded(photo(0, 0, 90, 64))
    fields = {**FIELDS, "steps": 10, "control_guidance_end": 0.5, "format": "raw"}
    control = {"control_image": np.frombuffer(picture, np.uint8)}

    async def work() -> tuple[list[Any], list[tuple[int, int]]]:
        async with InProcess(tiny.repository, tiny.specs) as models:
            requests = ({**fields, **more} for more in (control, {}, control))
            found = await asyncio.gather(*(collect(models, "sdxl", **one) for one in requests))
            return found, [models.counts(spec.name) for spec in (networks.CONTROL_UNETS["canny"], networks.UNET)]

    answers, ((controlled, control_batches), (rows, batches)) = asyncio.run(work())
    assert (controlled, rows) == (2 * 2 * 5, 2 * (3 + 8 + 3))
    assert control_batches < controlled / 2, "alone every step would be a batch of two rows"
    assert batches < rows / 2
    assert [set(answer[0]) for answer in answers] == [
        {"progress", "control_map"},
        {"progress"},
        {"progress", "control_map"},
    ]
    (made,), (alone,) = images(answers[0]), directly(tiny, **fields, control_image=picture)
    assert np.abs(np.frombuffer(made, np.uint8).astype(int) - np.frombuffer(alone, np.uint8)).max() <= 2


def test_sdxl_in_process_without_a_refiner_the_base_does_all_steps(tmp_path: Path, tiny: Tiny) -> None:
    alone = make_tiny(tmp_path, refiner=False)

    async def work() -> list[dict[str, Any]]:
        async with InProcess(alone.repository, alone.specs) as models:
            return await collect(models, "sdxl", **FIELDS, steps=5)

    made = images(asyncio.run(work()))
    assert made == directly(alone, **FIELDS, steps=5)
    without = Tiny(alone.repository, alone.specs, replace(tiny.components, refiner_unet=None))
    assert made == directly(without, **FIELDS, steps=5)
