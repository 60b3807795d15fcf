"""The pipeline `sd15` in one process, on tiny networks: pictures, shared batches, cancelling, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from darkroom.diffusion.checkpoint import FILE_NAME
from darkroom.diffusion.generation import FinishedImage
from darkroom.errors import NetworkError
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import TOKENIZER_NAME
from darkroom.pipelines.sd15.pipeline import Components, generate
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.serving.in_process import InProcess
from darkroom.serving.networks import ModelSpec
from tests import tiny_sd15
from tests.in_process import used
from tests.pictures import encoded, photo
from tests.served_networks import add_model, add_network, collect

T = TypeVar("T")
FIELDS: dict[str, Any] = {"prompt": "a photo of a cat", "seed": np.array([5], np.int64), "width": 64, "height": 64}


@dataclass(frozen=True)
class Tiny:
    repository: Path
    specs: tuple[ModelSpec, ...]
    components: Components

    def models(self) -> InProcess:
        return InProcess(self.repository, self.specs)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("sd15")
    pipeline = tiny_sd15.make_pipeline(folder / "checkpoint")
    components = tiny_sd15.make_components(pipeline, tiny_sd15.make_controlnet(pipeline.unet))
    repository = folder / "models"
    version = add_model(repository, networks.PIPELINE)
    (version / FILE_NAME).write_text(components.checkpoint.to_json())
    components.tokenizer.save(str(version / TOKENIZER_NAME))
    served = (
        (networks.TEXT_ENCODER, components.text_encoder),
        (networks.UNET, components.unet),
        (networks.VAE_ENCODER, components.vae_encoder),
        (networks.VAE_DECODER, components.vae_decoder),
        (networks.CONTROL_UNETS["canny"], components.control_unets["canny"]),
    )
    specs = [add_network(repository, spec, network) for spec, network in served if network is not None]
    return Tiny(repository, (networks.PIPELINE, *specs), components)


def with_models(tiny: Tiny, work: Callable[[InProcess], Awaitable[T]]) -> T:
    return used(tiny.models(), work)


def directly(tiny: Tiny, **fields: Any) -> list[bytes]:
    async def run() -> list[bytes]:
        request = GenerateRequest.parse(fields, tiny.components.limits)
        events = generate(request, tiny.components)
        return [event.data async for event in events if isinstance(event, FinishedImage)]

    return asyncio.run(run())


def images(responses: list[dict[str, Any]]) -> list[bytes]:
    return [response["image"].tobytes() for response in responses if "image" in response]


def test_sd15_in_process_gives_the_bytes_of_a_direct_call(tiny: Tiny) -> None:
    more = {"steps": 4, "num_images": 2, "negative_prompt": "a dog", "scheduler": "euler"}
    responses = with_models(tiny, lambda models: collect(models, "sd15", **FIELDS, **more, preview_every=2))
    assert [response["progress"].tolist() for response in responses] == [[n, 4] for n in (0, 1, 2, 3, 4, 4, 4)]
    assert [n for n, response in enumerate(responses) if "preview" in response] == [2]
    made = images(responses)
    assert made == directly(tiny, **{**FIELDS, "seed": 5}, **more)
    assert len(set(made)) == 2


def test_sd15_in_process_control_gives_the_bytes_of_a_direct_call(tiny: Tiny) -> None:
    picture = encoded(photo(0, 0, 64, 64))
    data = np.frombuffer(picture, np.uint8)
    responses = with_models(tiny, lambda models: collect(models, "sd15", **FIELDS, steps=3, control_image=data))
    assert "control_map" in responses[0]
    fields = {**FIELDS, "seed": 5, "steps": 3, "control_image": picture}
    assert images(responses) == directly(tiny, **fields)


def test_sd15_in_process_images_that_are_changed_share_batches_with_others(tiny: Tiny) -> None:
    """Rows of any strength, with and without a mask, and of text alone: each gives the image that it gives alone."""
    picture, mask = encoded(photo(0, 0, 90, 64)), encoded(Image.linear_gradient("L"))
    requests: list[dict[str, Any]] = [
        {"steps": 20},
        {"steps": 24, "init_image": picture, "strength": 0.3, "scheduler": "euler_a"},
        {"steps": 20, "init_image": picture, "strength": 0.9, "mask": mask, "num_images": 2},
        {"steps": 20, "init_image": picture, "strength": 1.0, "scheduler": "ddim"},
    ]

    def tensors(request: dict[str, Any]) -> dict[str, Any]:
        files = {name: np.frombuffer(data, np.uint8) for name, data in request.items() if isinstance(data, bytes)}
        return {**FIELDS, **request, **files, "format": "raw"}

    async def work(models: InProcess) -> tuple[list[Any], tuple[int, int]]:
        found = await asyncio.gather(*(collect(models, "sd15", **tensors(one)) for one in requests))
        return found, models.counts(networks.UNET.name)

    answers, (rows, batches) = with_models(tiny, work)
    # PNDM calls the network once more than there are steps.
    assert [answer[-1]["progress"].tolist() for answer in answers] == [[21, 21], [7, 7], [19, 19], [20, 20]]
    assert rows == 2 * (21 + 7 + 2 * 19 + 20)
    assert batches <= 40, "67 steps: at best 21 batches"
    for request, answer in zip(requests, answers, strict=True):
        alone = directly(tiny, **{**FIELDS, **request, "seed": 5, "format": "raw"})
        for made, expected in zip(images(answer), alone, strict=True):
            difference = np.frombuffer(made, np.uint8).astype(int) - np.frombuffer(expected, np.uint8)
            assert np.abs(difference).max() <= 2


def test_sd15_in_process_requests_share_batches(tiny: Tiny) -> None:
    others = [{**FIELDS, "steps": 20 + n, "guidance_scale": 3.0 + n, "scheduler": name}
              for n, name in enumerate(["euler", "ddim", "unipc"])]  # fmt: skip

    async def work(models: InProcess) -> tuple[list[Any], tuple[int, int]]:
        found = await asyncio.gather(*(collect(models, "sd15", **other) for other in others))
        return found, models.counts(networks.UNET.name)

    answers, (rows, batches) = with_models(tiny, work)
    assert [len(images(answer)) for answer in answers] == [1, 1, 1]
    assert rows == 2 * (20 + 21 + 22)
    assert batches <= 40, "63 steps: at best 22 batches"


def test_sd15_in_process_stops_within_a_step(tiny: Tiny) -> None:
    async def work(models: InProcess) -> int:
        async with aclosing(models.stream("sd15", {**FIELDS, "steps": 100})) as responses:
            async for response in responses:
                if response["progress"][0] == 3:
                    break
        _, at_leaving = models.counts(networks.UNET.name)
        await models.finished()
        return models.counts(networks.UNET.name)[1] - at_leaving

    assert with_models(tiny, work) <= 1


def test_sd15_in_process_error_of_a_network_reaches_its_own_request_only(tiny: Tiny) -> None:
    async def work(models: InProcess) -> tuple[list[Any], tuple[int, int]]:
        unknown = np.full((1, 77), 10**6, np.int64)
        calls = (
            collect(models, networks.TEXT_ENCODER.name, input_ids=unknown),
            collect(models, "sd15", **FIELDS, steps=3),
        )
        return await asyncio.gather(*calls, return_exceptions=True), models.counts(networks.TEXT_ENCODER.name)

    (bad, good), (rows, batches) = with_models(tiny, work)
    assert isinstance(bad, NetworkError)
    assert bad.message.startswith("network sd15_text_encoder: IndexError: ")
    assert images(good) == directly(tiny, **{**FIELDS, "seed": 5, "steps": 3})
    assert rows == 3
    assert batches <= 2
