"""The pipeline `upscale` in one process, on a tiny graph that ONNX Runtime runs: pictures, batches, cancelling, errors.

The graph doubles pixels, so that every result is known. It fails for tiles with a pixel of 255.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from darkroom.errors import NetworkError
from darkroom.pipelines.upscale import networks
from darkroom.serving.in_process import InProcess
from tests.in_process import used
from tests.pictures import encoded, pixels
from tests.served_networks import add_model, collect

T = TypeVar("T")
NETWORK = next(network for network in networks.NETWORKS if network.scale == 2)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("upscale")
    add_model(repository, networks.PIPELINE)
    onnx.save(_doubling(), str(add_model(repository, NETWORK.spec()) / "model.onnx"))
    return repository


def _doubling() -> onnx.ModelProto:
    """Every pixel twice along each axis, by way of a table that has no entry for 255."""
    constants = [
        numpy_helper.from_array(np.arange(255, dtype=np.uint8), "table"),
        numpy_helper.from_array(np.array([1, 2, 2, 1], np.float32), "scales"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["read"]),
        helper.make_node("Resize", ["read", "", "scales"], ["upscaled"], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]  # fmt: skip
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    made = helper.make_tensor_value_info("upscaled", TensorProto.UINT8, ["batch", "height_2", "width_2", 3])
    graph = helper.make_graph(nodes, "doubling", [given], [made], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def with_models(repository: Path, work: Callable[[InProcess], Awaitable[T]]) -> T:
    return used(InProcess(repository), work)


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def request(image: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    data = np.frombuffer(encoded(Image.fromarray(image)), np.uint8)
    return {"image": data, "model": NETWORK.label, "tile": 32, **more}


def doubled(image: NDArray[np.uint8]) -> list[Any]:
    result: list[Any] = image.repeat(2, axis=0).repeat(2, axis=1).tolist()
    return result


def test_upscale_in_process_assembles_the_tiles(repository: Path) -> None:
    image = picture(100, 60)
    *steps, last = with_models(repository, lambda models: collect(models, "upscale", **request(image)))
    assert [step["progress"].tolist() for step in [*steps, last]] == [[n, 8] for n in range(1, 9)]
    assert pixels(last["upscaled"].tobytes()).tolist() == doubled(image)
    assert json.loads(last["details"][0])["network"] == NETWORK.model_name


def test_upscale_in_process_requests_share_batches(repository: Path) -> None:
    shapes = [picture(128, 128, seed) for seed in range(2)]

    async def work(models: InProcess) -> tuple[list[Any], tuple[int, int]]:
        answers = await asyncio.gather(*(collect(models, "upscale", **request(image)) for image in shapes))
        return answers, models.counts(NETWORK.model_name)

    answers, (rows, batches) = with_models(repository, work)
    for image, answer in zip(shapes, answers, strict=True):
        assert pixels(answer[-1]["upscaled"].tobytes()).tolist() == doubled(image)
    assert rows == 32
    assert batches <= 24, "16 batches of two, if no tile is ever late"


def test_upscale_in_process_stops_within_the_tiles_at_work(repository: Path) -> None:
    async def work(models: InProcess) -> int:
        async with aclosing(models.stream("upscale", request(picture(512, 512)))) as responses:  # 256 tiles
            await anext(responses)
        at_leaving, _ = models.counts(NETWORK.model_name)
        await models.finished()
        return models.counts(NETWORK.model_name)[0] - at_leaving

    assert with_models(repository, work) <= 8


def test_upscale_in_process_error_of_a_network_reaches_its_own_request_only(repository: Path) -> None:
    good, bad = picture(64, 64), picture(64, 64)
    bad[40, 40] = 255

    async def work(models: InProcess) -> list[Any]:
        calls = (collect(models, "upscale", **request(image)) for image in (good, bad, good))
        return await asyncio.gather(*calls, return_exceptions=True)

    first, error, third = with_models(repository, work)
    assert isinstance(error, NetworkError)
    assert error.message.startswith(f"network {NETWORK.model_name}: {NETWORK.model_name} version 1: ")
    assert "idx=255 must be within" in error.message
    for answer in (first, third):
        assert pixels(answer[-1]["upscaled"].tobytes()).tolist() == doubled(good)
