"""Triton's inference protocol (KServe v2 over gRPC) for models in this process.

What clients of Triton see is the same: messages, names of states, and the texts of errors. Not offered: shared memory,
sequences, tracing, and loading over the network, because the repository is polled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import json_format  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc

from darkroom import __version__
from darkroom.errors import Cancelled, DarkroomError, InvalidInput, NotReady, to_wire
from darkroom.local.repository import Repository
from darkroom.local.tensors import add_outputs, empty_response, flag_parameter, inputs_of, text_parameter
from darkroom.serving.calls import CALL, CLIENT, LORAS, STOP, TRACEPARENT
from darkroom.serving.in_process import InProcess
from darkroom.serving.loading import Loaded

log = logging.getLogger(__name__)

SERVER = "darkroom-local"
_EXTENSIONS = ("model_repository", "model_configuration", "statistics", "model_repository(unload_dependents)")
_FINAL = "triton_final_response"
_WANTS_FINAL = "triton_enable_empty_final_response"
_CODES = (
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotReady, grpc.StatusCode.UNAVAILABLE),
    (Cancelled, grpc.StatusCode.CANCELLED),
    (BaseException, grpc.StatusCode.INTERNAL),
)
"""The gRPC status of an error: the first that fits."""


class Protocol(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient is untyped
    """The service of gRPC. The names of its methods are those of the protocol.

    :param models: what it serves.
    :param repository: which of them there are, and in which state.
    """

    def __init__(self, models: InProcess, repository: Repository) -> None:
        self._models = models
        self._repository = repository

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=not self._repository.waiting)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=request.name in self._models.loaded)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(name=SERVER, version=__version__, extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        loaded = await self._found(request.name, context)
        rows = [-1] if loaded.config["max_batch_size"] else []
        answer = service_pb2.ModelMetadataResponse(
            name=request.name, versions=[loaded.version], platform=loaded.config.get("backend", "")
        )
        for entries, tensors in ((loaded.config["input"], answer.inputs), (loaded.config["output"], answer.outputs)):
            for entry in entries:
                shape = [*rows, *map(int, entry["dims"])]
                tensors.add(name=entry["name"], datatype=_datatype(entry), shape=shape)
        return answer

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        loaded = await self._found(request.name, context)
        answer = service_pb2.ModelConfigResponse()
        json_format.ParseDict(dict(loaded.config), answer.config, ignore_unknown_fields=True)
        return answer

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name:
            await self._found(request.name, context)
        answer = service_pb2.ModelStatisticsResponse()
        for name, loaded in self._models.loaded.items():
            if request.name in ("", name):
                work, one = loaded.work, answer.model_stats.add(name=name, version=loaded.version)
                one.inference_count, one.execution_count = work.rows, work.executions
                one.inference_stats.success.count, one.inference_stats.fail.count = work.requests, work.failures
                one.inference_stats.success.ns = round(work.seconds["request"] * 1e9)
                one.inference_stats.queue.ns = round(work.seconds["queue"] * 1e9)
                one.inference_stats.compute_infer.ns = round(work.seconds["compute_infer"] * 1e9)
        return answer

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.RepositoryIndexResponse()
        for name, state, reason in self._repository.index():
            if state == "READY" or not request.ready:
                loaded = self._models.loaded.get(name)
                version = loaded.version if loaded is not None else "1"
                answer.models.add(name=name, version=version, state=state, reason=reason)
        return answer

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        await _refuse_loading(context)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        await _refuse_loading(context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        loaded = await self._found(request.model_name, context)
        if loaded.config.get("model_transaction_policy", {}).get("decoupled"):
            why = "ModelInfer RPC doesn't support models with decoupled transaction policy"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, why)
        try:
            answers = [answer async for answer in self._answers(request)]
        except Exception as error:
            _log(error)
            code = next(status for kind, status in _CODES if isinstance(error, kind))
            await context.abort(code, to_wire(error))
        return answers[-1]

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Answer the requests of a stream, side by side. When the client leaves, they stop at their next step."""
        answers: asyncio.Queue[Any] = asyncio.Queue()
        running: set[asyncio.Task[None]] = set()

        async def read() -> None:
            try:
                async for request in requests:
                    task = asyncio.create_task(self._answer(request, answers))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.gather(*running)
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            for task in (reader, *running):
                task.cancel()
            await asyncio.gather(reader, *running, return_exceptions=True)

    async def _answer(self, request: Any, answers: asyncio.Queue[Any]) -> None:
        """Put the answers to one request of a stream into a queue; an error is the last one."""
        try:
            async for answer in self._answers(request):
                answers.put_nowait(service_pb2.ModelStreamInferResponse(infer_response=answer))
        except Exception as error:
            _log(error)
            named = service_pb2.ModelInferResponse(id=request.id, model_name=request.model_name)
            text = to_wire(error)
            answers.put_nowait(service_pb2.ModelStreamInferResponse(error_message=text, infer_response=named))

    async def _answers(self, request: Any) -> AsyncIterator[Any]:
        """The answers to one request.

        :raises DarkroomError: the error of the model; NotReady when it is not loaded.
        """
        if STOP in request.parameters:
            self._models.stop(text_parameter(request, STOP))
            yield _ended(empty_response(request))
            return
        loaded = self._models.find(request.model_name)
        wanted = _wanted(request, loaded)
        stream = self._models.stream(
            request.model_name,
            inputs_of(request),
            client=text_parameter(request, CLIENT),
            call=text_parameter(request, CALL),
            loras=text_parameter(request, LORAS),
            traceparent=text_parameter(request, TRACEPARENT),
        )
        try:
            async for outputs in stream:
                answer = empty_response(request)
                add_outputs(answer, {name: array for name, array in outputs.items() if name in wanted})
                yield answer
        finally:
            await stream.aclose()
        if flag_parameter(request, _WANTS_FINAL):
            yield _ended(empty_response(request))

    async def _found(self, name: str, context: Any) -> Loaded:
        if name not in self._models.loaded:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return self._models.loaded[name]


def _wanted(request: Any, loaded: Loaded) -> set[str]:
    """The outputs that a request asks for; all where it names none.

    :raises InvalidInput: the model has no such version or output.
    """
    known = {entry["name"] for entry in loaded.config["output"]}
    wanted = {output.name for output in request.outputs}
    if request.model_version not in ("", loaded.version):
        raise InvalidInput(f"{request.model_name} has version {loaded.version}; got {request.model_version}.")
    for name in wanted - known:
        raise InvalidInput(f"{name} is no output of this model; it has: {', '.join(sorted(known))}.", param=name)
    return wanted or known


def _ended(response: Any) -> Any:
    response.parameters[_FINAL].bool_param = True
    return response


def _datatype(entry: Any) -> str:
    """The protocol's name of a type, from that of a config."""
    name = str(entry["data_type"]).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _log(error: Exception) -> None:
    """Log an error that clients do not see the text of."""
    if not isinstance(error, DarkroomError):
        log.error("a request failed", exc_info=error)


async def _refuse_loading(context: Any) -> None:
    why = "explicit model load / unload is not allowed if polling is enabled"
    await context.abort(grpc.StatusCode.UNAVAILABLE, why)
