"""`darkroom.local`: Triton's protocol in front of models in this process, as the proxy and tritonclient see it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as blocking
import tritonclient.grpc.aio as grpcclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from benchmarks.processes import free_port
from darkroom.errors import InvalidInput, NotReady, OutOfMemory
from darkroom.local.metrics import MetricsServer, metrics_text
from darkroom.local.protocol import Protocol
from darkroom.local.repository import Repository
from darkroom.serving.in_process import InProcess
from proxy.gateway import Gateway
from proxy.network_metrics import providers_of, successes_of
from tests import toy_family
from tests.service import ROOT
from tests.triton import onnx_models
from tests.waiting import until

T = TypeVar("T")


class Engine:
    """A running engine over toy models."""

    def __init__(self, models: InProcess, repository: Repository, folder: Path, address: str) -> None:
        self.models, self.repository, self.folder, self.address = models, repository, folder, address
        self.gateway = Gateway(address)


@pytest.fixture(autouse=True)
def _forget_runs() -> Iterator[None]:
    toy_family.ROWS.clear()
    yield
    toy_family.HOOK.clear()


def with_engine(folder: Path, work: Callable[[Engine], Awaitable[T]]) -> T:
    """Start the engine over toy models with weight 1, do the work, and stop it."""

    async def run() -> T:
        toy_family.write_repository(folder)
        models = InProcess(folder, toy_family.SPECS)
        repository = Repository(folder, models)
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Protocol(models, repository), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await repository.look()
        engine = Engine(models, repository, folder, f"127.0.0.1:{port}")
        try:
            return await work(engine)
        finally:
            await engine.gateway.close()
            await server.stop(0)
            await models.close()

    return asyncio.run(run())


async def collect(engine: Engine, model: str = "toy", /, **inputs: Any) -> list[dict[str, Any]]:
    given = {"text": "a", "value": 0.0, **inputs}
    return [outputs async for outputs in engine.gateway.stream(model, given)]


def test_local_engine_answers_the_gateway_as_triton_does(tmp_path: Path) -> None:
    *steps, final = with_engine(tmp_path, lambda engine: collect(engine, text="où", value=0.5, steps=3))
    assert [step["progress"].tolist() for step in steps] == [[1], [2], [3]]
    assert final["value"].tolist() == [[[3.5, 3.5], [3.5, 3.5]]]
    assert final["facts"].tolist() == ["où|a note of none||True|False|True".encode()]


def test_local_engine_errors_keep_their_class(tmp_path: Path) -> None:
    async def errors(engine: Engine) -> list[Any]:
        calls = (collect(engine, value=2000.0), collect(engine, value="word"), collect(engine, "unknown"))
        return await asyncio.gather(*calls, return_exceptions=True)

    memory, wrong, unknown = with_engine(tmp_path, errors)
    assert isinstance(memory, OutOfMemory)
    assert isinstance(wrong, InvalidInput)
    assert wrong.param == "value"
    assert isinstance(unknown, NotReady)


def test_local_engine_hides_the_text_of_unexpected_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Exception, match="unexpected ZeroDivisionError") as caught:
        with_engine(tmp_path, lambda engine: collect(engine, text="planted"))
    assert "secret" not in str(caught.value)
    assert "/secret/path" in caplog.text


def test_local_engine_requests_share_batches(tmp_path: Path) -> None:
    async def four(engine: Engine) -> tuple[int, int]:
        await asyncio.gather(*(collect(engine, value=float(n), steps=20) for n in range(4)))
        return engine.models.counts("toy_network")

    rows, batches = with_engine(tmp_path, four)
    assert rows == sum(toy_family.ROWS) == 80
    assert batches <= 60, "80 without any batch of two"


def test_local_engine_request_stops_when_the_client_leaves(tmp_path: Path) -> None:
    async def leave(engine: Engine) -> int:
        async with aclosing(engine.gateway.stream("toy", {"text": "a", "value": 0.0, "steps": 1_000_000})) as responses:
            async for outputs in responses:
                if outputs["progress"][0] == 3:
                    break
        await engine.models.finished()  # which would take minutes
        return len(toy_family.ROWS)

    assert with_engine(tmp_path, leave) < 1_000_000


def test_local_engine_request_stops_when_the_call_is_cancelled(tmp_path: Path) -> None:
    async def cancel(engine: Engine) -> int:
        async with grpcclient.InferenceServerClient(engine.address) as client:
            inputs = _inputs(text=np.array([b"a"], np.object_), value=np.zeros(1, np.float32))
            inputs += _inputs(steps=np.array([1_000_000], np.int32))

            async def requests() -> Any:
                yield {"model_name": "toy", "inputs": inputs}

            responses = client.stream_infer(requests())
            async for _ in responses:
                break
            responses.cancel()
            await engine.models.finished()
        return len(toy_family.ROWS)

    assert with_engine(tmp_path, cancel) < 1_000_000


def test_local_engine_serves_tritonclient(tmp_path: Path) -> None:
    async def ask(engine: Engine) -> dict[str, Any]:
        async with grpcclient.InferenceServerClient(engine.address) as client:
            answer = await client.infer("toy_network", _inputs(x=np.ones((2, 2, 2), np.float32)), request_id="mine")
            config = (await client.get_model_config("toy_network")).config
            metadata = await client.get_model_metadata("toy_network")
            statistics = (await client.get_inference_statistics("toy_network")).model_stats[0]
            with pytest.raises(InferenceServerException, match="decoupled") as decoupled:
                await client.infer("toy", _inputs(text=np.array([b"a"], np.object_), value=np.zeros(1, np.float32)))
            with pytest.raises(InferenceServerException, match="polling is enabled"):
                await client.load_model("toy")
            with pytest.raises(InferenceServerException, match="unknown model: 'no'"):
                await client.get_model_config("no")
            return {
                "live": await client.is_server_live(),
                "ready": await client.is_server_ready(),
                "models": [await client.is_model_ready(name) for name in ("toy", "no")],
                "index": {one.name: one.state for one in (await client.get_model_repository_index()).models},
                "y": answer.as_numpy("y").tolist(),
                "id": answer.get_response().id,
                "rows": config.max_batch_size,
                "inputs": [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs],
                "counted": (statistics.inference_count, statistics.execution_count),
                "status": decoupled.value.status(),
            }

    assert with_engine(tmp_path, ask) == {
        "live": True,
        "ready": True,
        "models": [True, False],
        "index": {"toy": "READY", "toy_network": "READY"},
        "y": [[[2, 2], [2, 2]]] * 2,
        "id": "mine",
        "rows": 8,
        "inputs": [("x", "FP32", [-1, -1, -1])],
        "counted": (2, 1),
        "status": "StatusCode.UNIMPLEMENTED",
    }


def _inputs(**arrays: np.ndarray[Any, Any]) -> list[Any]:
    found = []
    for name, array in arrays.items():
        kind = {"O": "BYTES", "f": "FP32", "i": "INT32"}[array.dtype.kind]
        tensor = grpcclient.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        found.append(tensor)
    return found


def test_local_engine_refuses_values_that_do_not_fit_their_shape(tmp_path: Path) -> None:
    async def ask(engine: Engine) -> str:
        async with grpcclient.InferenceServerClient(engine.address) as client:
            (tensor,) = _inputs(x=np.ones((2, 2, 2), np.float32))
            tensor._raw_content = b"123"
            with pytest.raises(InferenceServerException) as caught:
                await client.infer("toy_network", [tensor])
        return f"{caught.value.status()} {caught.value.message()}"

    said = with_engine(tmp_path, ask)
    assert said.startswith("StatusCode.INVALID_ARGUMENT")
    assert "x does not have the values of the shape [2, 2, 2]" in said


def test_local_engine_follows_its_repository(tmp_path: Path) -> None:
    """A changed model is loaded again, a removed one unloaded, and one that does not load is said to be unavailable."""

    async def change(engine: Engine) -> list[Any]:
        weight = tmp_path / "toy_network" / "1" / "weight.txt"
        weight.write_text("100")
        await engine.repository.look()
        seen: list[Any] = [(await collect(engine))[-1]["value"].max()]
        shutil.rmtree(tmp_path / "toy")
        weight.unlink()
        await engine.repository.look()
        seen.append(dict(await engine.gateway.models()))
        toy_family.write_repository(tmp_path, label="new", weight=5)
        weight.write_text("7")
        await engine.repository.look()
        return [*seen, dict(await engine.gateway.models())]

    value, broken, mended = with_engine(tmp_path, change)
    assert value == 100
    assert broken == {"toy_network": True}, "what was loaded before goes on"
    assert mended == {"toy_network": True, "toy.new": True, "toy_network.new": True}


def test_local_engine_names_models_that_do_not_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def look(engine: Engine) -> list[Any]:
        toy_family.write_repository(tmp_path, label="bad")
        (tmp_path / "toy_network.bad" / "1" / "weight.txt").unlink()
        await engine.repository.look()
        return list(engine.repository.index())

    found = {name: (state, reason) for name, state, reason in with_engine(tmp_path, look)}
    assert found["toy_network.bad"][0] == "UNAVAILABLE"
    assert "FileNotFoundError" in found["toy_network.bad"][1]
    assert "failed to load 'toy_network.bad' version 1: FileNotFoundError" in caplog.text


def test_local_engine_metrics(tmp_path: Path) -> None:
    async def scrape(engine: Engine) -> str:
        await collect(engine, steps=3)
        port = free_port()
        server = MetricsServer(engine.models, port)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
        server.should_exit = True
        await serving
        assert answer.text == metrics_text(engine.models)
        return answer.text

    text = with_engine(tmp_path, scrape)
    assert successes_of(text) == {"toy": 1, "toy_network": 3}
    assert providers_of(text) == {"toy_network": "CPU 0 of 1"}


def test_local_engine_as_a_process(tmp_path: Path) -> None:
    """It serves a model of nobody's family with every type of tensor, keeps its port to itself, and ends in order."""
    (tmp_path / "models").mkdir()
    onnx_models.add_model(tmp_path / "models", "types", onnx_models.config([], []), onnx_models.all_types())
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "darkroom.local", "--repository", str(tmp_path / "models")]
    command += ["--grpc", f"127.0.0.1:{port}", "--metrics-port", str(metrics), "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            with blocking.InferenceServerClient(f"127.0.0.1:{port}") as client:
                until(lambda: _is_ready(client, "types"), 120)
                _send_every_type(client)
            text = httpx.get(f"http://127.0.0.1:{metrics}/metrics", trust_env=False).text
            assert providers_of(text) == {"types": "CPUExecutionProvider"}
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
            assert second.returncode == 1
            assert f"127.0.0.1:{port} cannot be opened" in second.stderr
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def _send_every_type(client: blocking.InferenceServerClient) -> None:
    sent, inputs = {}, []
    for name, (_, values) in onnx_models.TYPES.items():
        sent[name] = np.array([values], triton_to_np_dtype(name))
        tensor = blocking.InferInput(name, sent[name].shape, name)
        tensor.set_data_from_numpy(sent[name])
        inputs.append(tensor)
    answer = client.infer("types", inputs)
    for name, array in sent.items():
        assert answer.as_numpy(f"{name}_out").tolist() == array.tolist()


def _is_ready(client: blocking.InferenceServerClient, model: str) -> bool:
    with contextlib.suppress(InferenceServerException):  # nothing listens yet
        return bool(client.is_server_ready() and client.is_model_ready(model))
    return False


def _toy_request() -> Any:
    request = service_pb2.ModelInferRequest(model_name="toy_network")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2, 2])
    return request


async def _sent(engine: Engine, request: Any) -> Any:
    async with grpc.aio.insecure_channel(engine.address) as channel:
        return await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)


def _in_shared_memory(request: Any) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda request: setattr(request, "model_version", "7"), "toy_network has version 1; got 7"),
        (lambda request: request.outputs.add(name="z"), "z is no output of this model; it has: y"),
        (lambda request: setattr(request.inputs[0], "datatype", "BF16"), "x has the type 'BF16'"),
        (lambda request: setattr(request.inputs[0], "datatype", "INT32"), "x must be FP32"),
        (lambda request: request.raw_input_contents.append(b""), "1 inputs, but 2 raw contents"),
        (_in_shared_memory, "Shared memory is not offered"),
    ],
)
def test_local_engine_says_what_is_wrong_with_a_request(
    change: Callable[[Any], Any], words: str, tmp_path: Path
) -> None:
    async def ask(engine: Engine) -> str:
        request = _toy_request()
        request.raw_input_contents.append(np.ones(4, np.float32).tobytes())
        change(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _sent(engine, request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        return str(caught.value.details())

    assert words in with_engine(tmp_path, ask)


def test_local_engine_takes_values_that_are_not_raw(tmp_path: Path) -> None:
    async def ask(engine: Engine) -> Any:
        request = _toy_request()
        request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
        return await _sent(engine, request)

    answer = with_engine(tmp_path, ask)
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 3, 4, 5]
