"""The pipeline `hidream` in one process, on tiny networks: pictures, shared batches, cancelling, errors."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from darkroom.diffusion.generation import FinishedImage
from darkroom.errors import NetworkError
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.checkpoint import ENCODERS
from darkroom.pipelines.hidream.pipeline import Components, generate
from darkroom.pipelines.hidream.request import GenerateRequest
from darkroom.serving.in_process import InProcess
from darkroom.serving.networks import ModelSpec
from tests import tiny_hidream
from tests.in_process import used
from tests.served_networks import add_model, add_network, collect

T = TypeVar("T")
TRANSFORMER = networks.TRANSFORMER.name
FIELDS: dict[str, Any] = {"prompt": "a photo of a cat", "seed": np.array([5], np.int64), "width": 64, "height": 64}


@dataclass(frozen=True)
class Tiny:
    repository: Path
    specs: tuple[ModelSpec, ...]
    components: Components


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("hidream")
    checkpoint, repository = folder / "checkpoint", folder / "models"
    pipeline = tiny_hidream.write_checkpoint(checkpoint)
    add_model(repository, networks.PIPELINE)
    components = tiny_hidream.make_components(pipeline, checkpoint, repository)
    transformer = add_model(repository, networks.TRANSFORMER)
    shutil.copytree(checkpoint / "transformer", transformer, dirs_exist_ok=True)
    served = [*zip(networks.ENCODERS, (components.encoders[name] for name in ENCODERS), strict=True)]
    served.append((networks.VAE_DECODER, components.vae_decoder))
    specs = [add_network(repository, spec, network) for spec, network in served]
    return Tiny(repository, (networks.PIPELINE, networks.TRANSFORMER, *specs), components)


def with_models(tiny: Tiny, work: Callable[[InProcess], Awaitable[T]]) -> T:
    return used(InProcess(tiny.repository, tiny.specs), work)


def directly(tiny: Tiny, **fields: Any) -> list[bytes]:
    async def run() -> list[bytes]:
        parts = tiny.components
        request = GenerateRequest.parse({**fields, "seed": 5}, parts.limits, parts.checkpoint.request_defaults)
        return [event.data async for event in generate(request, parts) if isinstance(event, FinishedImage)]

    return asyncio.run(run())


def images(responses: list[dict[str, Any]]) -> list[bytes]:
    return [response["image"].tobytes() for response in responses if "image" in response]


def test_hidream_in_process_gives_the_bytes_of_a_direct_call(tiny: Tiny) -> None:
    more = {"steps": 3, "num_images": 2, "negative_prompt": "a dog"}
    responses = with_models(tiny, lambda models: collect(models, "hidream", **FIELDS, **more))
    assert [response["progress"].tolist() for response in responses] == [[n, 3] for n in (0, 1, 2, 3, 3, 3)]
    made = images(responses)
    assert made == directly(tiny, **FIELDS, **more)
    assert len(set(made)) == 2


def test_hidream_in_process_pictures_may_be_oblong(tiny: Tiny) -> None:
    fields = {**FIELDS, "width": 128, "steps": 2}
    assert images(with_models(tiny, lambda models: collect(models, "hidream", **fields))) == directly(tiny, **fields)


def test_hidream_in_process_requests_share_batches(tiny: Tiny) -> None:
    others = [{**FIELDS, "steps": 8 + n, "guidance_scale": 3.0 + n, "scheduler": name}
              for n, name in enumerate(["flow_euler", "flow_unipc", "flow_flash"])]  # fmt: skip

    async def work(models: InProcess) -> tuple[list[Any], tuple[int, int]]:
        found = await asyncio.gather(*(collect(models, "hidream", **other) for other in others))
        return found, models.counts(TRANSFORMER)

    answers, (rows, batches) = with_models(tiny, work)
    assert [len(images(answer)) for answer in answers] == [1, 1, 1]
    assert rows == 2 * (8 + 9 + 10)
    assert batches <= 18, "27 steps: at best 10 batches"


def test_hidream_in_process_stops_within_a_step(tiny: Tiny) -> None:
    async def work(models: InProcess) -> int:
        async with aclosing(models.stream("hidream", {**FIELDS, "steps": 100})) as responses:
            async for response in responses:
                if response["progress"][0] == 2:
                    break
        _, at_leaving = models.counts(TRANSFORMER)
        await models.finished()
        return models.counts(TRANSFORMER)[1] - at_leaving

    assert with_models(tiny, work) <= 1


def test_hidream_in_process_error_of_a_network_reaches_its_own_request_only(tiny: Tiny) -> None:
    """Embeddings as those of another checkpoint's encoders."""
    random = np.random.default_rng(0)
    shapes = {"hidden_states": (16, 8, 8), "timesteps": (1,), "encoder_hidden_states_t5": (16, 32),
              "encoder_hidden_states_llama3": (3, 16, 32), "pooled_embeds": (7,)}  # fmt: skip
    inputs = {name: random.normal(size=(1, *shape)).astype(np.float32) for name, shape in shapes.items()}

    async def work(models: InProcess) -> list[Any]:
        calls = (collect(models, TRANSFORMER, **inputs), collect(models, "hidream", **FIELDS, steps=2))
        return await asyncio.gather(*calls, return_exceptions=True)

    bad, good = with_models(tiny, work)
    assert isinstance(bad, NetworkError)
    assert bad.message.startswith(f"network {TRANSFORMER}: RuntimeError: ")
    assert images(good) == directly(tiny, **FIELDS, steps=2)
