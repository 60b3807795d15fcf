"""`darkroom.serving.in_process`: pipelines and networks of a repository in this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from darkroom.errors import DarkroomError, InvalidInput, NetworkError, NotReady, OutOfMemory
from darkroom.serving.in_process import InProcess
from tests import toy_family
from tests.in_process import used
from tests.triton import onnx_models

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _forget_runs() -> Iterator[None]:
    toy_family.ROWS.clear()
    yield
    toy_family.HOOK.clear()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    toy_family.write_repository(tmp_path, weight=1)
    return toy_family.write_repository(tmp_path, label="photos", weight=10)


def with_models(repository: Path, work: Callable[[InProcess], Awaitable[T]]) -> T:
    return used(InProcess(repository, toy_family.SPECS), work)


async def collect(models: InProcess, model: str = "toy", /, **inputs: Any) -> list[dict[str, Any]]:
    given = {"text": "a", "value": 0.0, **inputs}
    return [outputs async for outputs in models.stream(model, given)]


async def last(models: InProcess, model: str = "toy", /, **inputs: Any) -> float:
    return float((await collect(models, model, **inputs))[-1]["value"].max())


async def result_or_error(models: InProcess, **inputs: Any) -> float | DarkroomError:
    try:
        return await last(models, **inputs)
    except DarkroomError as error:
        return error


def test_in_process_pipeline_sends_its_responses_in_order(repository: Path) -> None:
    *steps, final = with_models(repository, lambda models: collect(models, text="où", value=0.5, steps=3))
    assert [step["progress"].tolist() for step in steps] == [[1], [2], [3]]
    assert final["value"].tolist() == [[[3.5, 3.5], [3.5, 3.5]]]
    assert final["facts"].tolist() == ["où|a note of none||True|False|True".encode()]


def test_in_process_pipeline_calls_the_networks_of_its_label(repository: Path) -> None:
    async def both(models: InProcess) -> list[Any]:
        return [(await collect(models, name, steps=2))[-1] for name in ("toy", "toy.photos")]

    plain, photos = with_models(repository, both)
    assert (plain["value"].max(), photos["value"].max()) == (2, 20)
    assert photos["facts"].tolist() == [b"a|a note of photos|photos|True|False|True"]


def test_in_process_models_that_fail_to_load_are_not_ready(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    (repository / "toy_network.photos" / "1" / "weight.txt").unlink()
    onnx_models.add_model(repository, "empty", onnx_models.config([], []), None)

    async def look(models: InProcess) -> dict[str, bool]:
        with pytest.raises(NotReady, match="empty is not loaded"):
            await collect(models, "empty")
        with pytest.raises(NetworkError, match=r"network toy_network\.photos: it is not loaded"):
            await collect(models, "toy.photos")
        return await models.models()

    found = with_models(repository, look)
    assert found == {"empty": False, "toy": True, "toy.photos": True, "toy_network": True, "toy_network.photos": False}
    assert "this network has not been exported" in caplog.text


def test_in_process_requests_share_batches(repository: Path) -> None:
    async def four(models: InProcess) -> tuple[list[float], tuple[int, int]]:
        values = await asyncio.gather(*(last(models, value=float(n), steps=20) for n in range(4)))
        return values, models.counts("toy_network")

    values, (rows, batches) = with_models(repository, four)
    assert values == [20, 21, 22, 23]
    assert rows == sum(toy_family.ROWS) == 80
    assert batches <= 30, "20 batches of four, if no request is ever late"


def test_in_process_batches_keep_the_rows_of_their_size(repository: Path) -> None:
    async def many(models: InProcess) -> list[float]:
        return await asyncio.gather(*(last(models, value=float(n)) for n in range(9)))

    assert with_models(repository, many) == [n + 1 for n in range(9)]
    assert max(toy_family.ROWS) == 4


def test_in_process_call_with_many_rows_is_divided(repository: Path) -> None:
    (final,) = (one for one in with_models(repository, lambda models: collect(models, rows=11)) if "value" in one)
    assert final["value"].shape == (11, 2, 2)
    assert sum(toy_family.ROWS) == 11
    assert max(toy_family.ROWS) == 4


def test_in_process_instances_run_side_by_side(tmp_path: Path) -> None:
    toy_family.write_repository(tmp_path, instances=2)
    meeting = threading.Barrier(2, timeout=30)  # breaks if no second batch comes while the first one runs
    toy_family.HOOK.append(meeting.wait)

    async def two(models: InProcess) -> list[Any]:
        return await asyncio.gather(collect(models, rows=8), collect(models, rows=8))  # two full batches

    assert len(with_models(tmp_path, two)) == 2


def test_in_process_request_stops_when_its_caller_leaves(repository: Path) -> None:
    async def leave(models: InProcess) -> int:
        async with aclosing(models.stream("toy", {"text": "a", "value": 0.0, "steps": 100_000})) as responses:
            async for outputs in responses:
                if outputs["progress"][0] == 3:
                    break
        at_leaving = len(toy_family.ROWS)
        await models.finished()
        return len(toy_family.ROWS) - at_leaving

    assert with_models(repository, leave) <= 1


def test_in_process_request_stops_when_the_task_of_its_caller_is_cancelled(repository: Path) -> None:
    async def cancel(models: InProcess) -> int:
        started = threading.Event()
        toy_family.HOOK.append(started.set)
        task = asyncio.create_task(collect(models, steps=100_000))
        assert await asyncio.to_thread(started.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        at_leaving = len(toy_family.ROWS)
        await models.finished()
        return len(toy_family.ROWS) - at_leaving

    assert with_models(repository, cancel) <= 1


def test_in_process_error_of_a_network_reaches_its_own_request_only(repository: Path) -> None:
    async def three(models: InProcess) -> list[Any]:
        return await asyncio.gather(*(result_or_error(models, value=value) for value in (1.0, -1.0, 3.0)))

    first, bad, third = with_models(repository, three)
    assert (first, third) == (2, 4)
    assert type(bad) is NetworkError
    assert bad.message == "network toy_network: ValueError: negative"
    assert toy_family.ROWS == [3, 1, 1, 1], "together, and then each alone"


def test_in_process_memory_that_runs_out_is_told_apart(repository: Path) -> None:
    error = with_models(repository, lambda models: result_or_error(models, value=2000.0))
    assert isinstance(error, OutOfMemory)


def test_in_process_unexpected_error_is_logged_and_its_text_withheld(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        error = with_models(repository, lambda models: result_or_error(models, text="planted"))
    assert type(error) is DarkroomError
    assert error.message == "unexpected ZeroDivisionError in the model; the log has the details"
    assert "planted; /secret/path" in caplog.text


@pytest.mark.parametrize(
    ("inputs", "param", "words"),
    [
        ({"colour": 1}, "colour", "colour is no input of this model; it has: text, value, steps, rows."),
        ({"text": None}, "text", "text is missing."),
        ({"value": 1}, "value", "value must be FP32; got int32."),
        ({"steps": np.zeros(2, np.int32)}, "steps", "steps must have shape [1] (-1: any size); got [2]."),
    ],
)
def test_in_process_inputs_are_checked(repository: Path, inputs: dict[str, Any], param: str, words: str) -> None:
    error = with_models(repository, lambda models: result_or_error(models, **inputs))
    assert isinstance(error, InvalidInput)
    assert (error.param, error.message) == (param, words)


def test_in_process_onnx_network_serves_anybody(tmp_path: Path) -> None:
    x, doubled, rows = (onnx_models.port(*port) for port in (("x", "FP32", [-1]), ("doubled", "FP32", [-1]),
                                                             ("rows", "INT64", [1])))  # fmt: skip
    text = onnx_models.config([x], [doubled, rows], max_batch_size=4, extra="dynamic_batching { }")
    onnx_models.add_model(tmp_path, "batch", text, onnx_models.batch_size())
    completed = onnx_models.config([], [])
    onnx_models.add_model(tmp_path, "text", completed, onnx_models.identity(("x", ["batch", 1]), dtype="BYTES"))

    async def calls(models: InProcess) -> list[Any]:
        numbers = [collect_plain(models, "batch", x=np.full((rows, 3), rows, np.float32)) for rows in (1, 3, 2)]
        strings = [[b"fine"], [b"\xff"]]
        texts = [collect_plain(models, "text", x=np.array([one], np.object_)) for one in strings]
        return await asyncio.gather(*numbers, *texts, return_exceptions=True)

    one, three, two, fine, bad = with_models(tmp_path, calls)
    assert [found["rows"].tolist() for found in (one, three, two)] == [[[4]], [[4]] * 3, [[2]] * 2]
    assert three["doubled"].tolist() == [[6, 6, 6]] * 3
    assert fine["x_out"].tolist() == [[b"fine"]]
    assert isinstance(bad, NetworkError)
    assert "not valid UTF-8" in bad.message
    with pytest.raises(InvalidInput, match="same 1 to 4 rows"):
        with_models(tmp_path, lambda models: collect_plain(models, "batch", x=np.zeros((5, 3), np.float32)))


async def collect_plain(models: InProcess, model: str, **inputs: Any) -> dict[str, Any]:
    (outputs,) = [outputs async for outputs in models.stream(model, inputs, can_stop=False)]
    return outputs
