"""One family served twice on a real Triton: a pipeline calls the networks of its own label."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tritonclient.utils import InferenceServerException

from darkroom.errors import from_wire
from darkroom.serving.in_process import InProcess
from tests import toy_family
from tests.conftest import RunningTriton, running_triton
from tests.triton.streams import Stream, rows_and_executions

FIELDS: dict[str, Any] = {"text": "où", "value": 0.5, "steps": 3}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same models twice; what differs is the weights, and a note beside the pipeline."""
    folder = tmp_path_factory.mktemp("models")
    toy_family.write_repository(folder, weight=1)
    return toy_family.write_repository(folder, label="photos", weight=10)


@pytest.fixture(scope="module")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    with running_triton(repository, tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.mark.parametrize(("model", "value"), [("toy", 3.5), ("toy.photos", 30.5)])
def test_labelled_pipeline_calls_the_network_of_its_label(triton: RunningTriton, model: str, value: float) -> None:
    network = model.replace("toy", toy_family.NETWORK.name)
    before = rows_and_executions(triton, network)
    *steps, last = Stream(triton, model, **FIELDS).all()
    assert [step["progress"].tolist() for step in steps] == [[1], [2], [3]]
    assert last["value"].tolist() == [[[value, value]] * 2]
    after = rows_and_executions(triton, network)
    assert (after[0] - before[0], after[1] - before[1]) == (3, 3)


@pytest.mark.parametrize("model", ["toy", "toy.photos"])
def test_labelled_pipeline_answers_in_this_process_as_on_triton(
    triton: RunningTriton, repository: Path, model: str
) -> None:
    async def here() -> list[dict[str, Any]]:
        async with InProcess(repository, toy_family.SPECS) as models:
            return [outputs async for outputs in models.stream(model, FIELDS)]

    there = Stream(triton, model, **FIELDS).all()
    assert [_plain(outputs) for outputs in asyncio.run(here())] == [_plain(outputs) for outputs in there]


def _plain(outputs: dict[str, Any]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in sorted(outputs.items())}


def test_labelled_pipeline_has_neighbours_of_its_label_only(tmp_path: Path) -> None:
    toy_family.write_repository(tmp_path / "models", label="photos")
    (tmp_path / "models" / f"{toy_family.NETWORK.name}.photos").rename(tmp_path / "aside")
    with running_triton(tmp_path / "models", tmp_path / "work") as triton:
        stream = Stream(triton, "toy.photos", **{**FIELDS, "steps": 0})
        assert b"photos|False|False|False" in stream.all()[-1]["facts"][0]
        stream = Stream(triton, "toy.photos", **FIELDS)
        with pytest.raises(InferenceServerException) as caught:
            stream.all()
        stream.close()
    error = from_wire(caught.value.message())
    assert error is not None
    assert error.code == "network_error"
    assert error.message.startswith("network toy_network.photos: ")


def test_error_of_a_python_network_is_its_first_line(triton: RunningTriton) -> None:
    stream = Stream(triton, "toy.photos", **{**FIELDS, "value": -1.0})
    with pytest.raises(InferenceServerException) as caught:
        stream.all()
    stream.close()
    error = from_wire(caught.value.message())
    assert error is not None
    assert error.message == "network toy_network.photos: ValueError: negative"


def test_memory_that_runs_out_in_a_python_network_is_told_apart(triton: RunningTriton) -> None:
    stream = Stream(triton, "toy", **{**FIELDS, "value": 2000.0})
    with pytest.raises(InferenceServerException) as caught:
        stream.all()
    stream.close()
    error = from_wire(caught.value.message())
    assert error is not None
    assert error.code == "out_of_memory"


def test_device_of_a_python_network_is_published(triton: RunningTriton) -> None:
    text = httpx.get(triton.metrics, timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("darkroom_network_provider{")]
    for name in ("toy_network", "toy_network.photos"):
        assert any(f'model="{name}"' in line and 'provider="CPU 0 of 1"' in line for line in lines), lines
