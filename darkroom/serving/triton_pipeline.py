"""Triton's host for pipelines: decoupled models whose requests overlap, with networks called through BLS.

Runs inside Triton's Python stub only. The stub binds the names of `triton_python_backend_utils` after it has
imported model.py, so the module is imported, never a name from it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from darkroom import tracing
from darkroom.errors import Cancelled, DarkroomError, InvalidInput, to_wire
from darkroom.serving.calls import CALL, CLIENT, LORAS, STOP, TRACEPARENT
from darkroom.serving.host import PipelineModel
from darkroom.serving.loras import RowLoras
from darkroom.serving.networks import Array, ModelSpec, Tensors
from darkroom.serving.pipeline_host import PipelineHost
from darkroom.serving.shared_network import network_error
from darkroom.serving.triton_metrics import Publisher

# asyncio's default of 6 threads on 2 cores would be the limit of concurrent BLS calls.
_THREADS = 64


class TritonPipeline:
    """The object that `TritonPythonModel()` returns to Triton for a pipeline."""

    def __init__(self, pipeline: PipelineModel) -> None:
        self._pipeline = pipeline

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's hook."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pipeline")
        self._running: set[str] = set()
        self._stopped: set[str] = set()
        _prepare_torch()
        name = json.loads(args["model_config"])["name"]
        tracing.start(name)
        self._host = PipelineHost(self._pipeline, Path(args["model_repository"]), args["model_version"], _execute)
        self._publisher = Publisher({"model": name, "version": args["model_version"], "process": str(os.getpid())})
        self._publisher.start()

    async def execute(self, requests: list[Any]) -> None:
        """Triton's hook. As a coroutine of a decoupled model it runs several times at once."""
        asyncio.get_running_loop().set_default_executor(self._threads)
        await asyncio.gather(*(self._serve(request) for request in requests))

    async def _serve(self, request: Any) -> None:
        parameters = json.loads(request.parameters() or "{}")
        call = str(parameters.get(CALL, ""))
        reply = TritonReply(request.get_response_sender(), lambda: call in self._stopped)
        if STOP in parameters:
            self._stopped |= {str(parameters[STOP])} & self._running
            reply.send({}, final=True)
            return
        self._running.add(call)
        try:
            with self._host.span(str(parameters.get(TRACEPARENT, ""))) as span:
                try:
                    inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
                    await self._host.serve(inputs, reply, client=str(parameters.get(CLIENT, "")))
                except BaseException as error:  # an exception that leaves `execute` would hang the client
                    span.failed(error)
                    reply.fail(error)
        finally:
            self._running.discard(call)
            self._stopped.discard(call)

    def finalize(self) -> None:
        """Triton's hook."""
        self._publisher.close()
        tracing.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class TritonReply:
    """The response stream of one request.

    :param stopped: whether the client has asked the request to stop, with `darkroom.serving.calls.STOP`.
    """

    def __init__(self, sender: Any, stopped: Callable[[], bool]) -> None:
        self._sender = sender
        self._stopped = stopped
        self._closed = False
        self._lock = Lock()

    def cancelled(self) -> bool:
        """Whether the client has cancelled or disconnected, or the stream is closed.

        Triton forgets a request at its last response: `is_cancelled()` after it ends the server with SIGSEGV. What
        still runs for a request that has failed asks here, too.
        """
        with self._lock:
            return self._closed or self._stopped() or bool(self._sender.is_cancelled())

    def send(self, outputs: Mapping[str, Array], final: bool = False) -> None:
        """Send one response; `final` closes the stream with it."""
        tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items()]
        self._send(pb_utils.InferenceResponse(output_tensors=tensors), final)

    def fail(self, error: BaseException) -> None:
        """Close the stream with an error; if it were only logged, the client would wait for ever."""
        if not isinstance(error, DarkroomError):
            trace = tracing.ids()
            told = f"trace {trace[0]}: " if trace else ""
            pb_utils.Logger.log_error(told + "".join(traceback.format_exception(error)))
        response = pb_utils.InferenceResponse(output_tensors=[], error=_triton_error(error))
        self._send(response, final=True)

    def _send(self, response: Any, final: bool) -> None:
        with self._lock:
            self._closed = self._closed or final
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)


# The gRPC status that clients see: the first that fits; INTERNAL for errors outside our tree.
_TRITON_CODES = ((InvalidInput, "INVALID_ARG"), (Cancelled, "CANCELLED"), (BaseException, "INTERNAL"))


def _triton_error(error: BaseException) -> Any:
    code = next(name for kind, name in _TRITON_CODES if isinstance(error, kind))
    return pb_utils.TritonError(to_wire(error), getattr(pb_utils.TritonError, code))


async def _execute(spec: ModelSpec, inputs: Tensors) -> dict[str, Array]:
    """One BLS call of a network of the same server, through Triton's dynamic batcher."""
    outputs = [tensor.name for tensor in spec.outputs]
    own, loras = RowLoras.taken_from(inputs)
    text = loras.to_text() if loras is not None else ""
    parameters = {LORAS: text, TRACEPARENT: tracing.traceparent(recorded=True)}
    parameters = {name: value for name, value in parameters.items() if value}
    request = pb_utils.InferenceRequest(
        model_name=spec.name,
        requested_output_names=outputs,
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in own.items()],
        **({"parameters": parameters} if parameters else {}),
    )
    response = await request.async_exec()
    if response.has_error():
        raise network_error(spec.name, response.error().message())
    return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in outputs}


def _prepare_torch() -> None:
    """Keep torch on one core: a step's arithmetic is tiny, and the cores are for the networks' processes.

    diffusers imports torch's compiler for a decorator that it can do without. Nothing is compiled here, so that a start
    is more than a second shorter and the process 70 MB smaller without it.
    """
    torch = sys.modules.get("torch")  # imported with the pipeline, by families that need it
    if torch is None:
        return
    torch.set_num_threads(1)
    compiler = "torch._dynamo"
    if compiler not in sys.modules:
        sys.modules[compiler] = None  # type: ignore[assignment]  # its import fails at once
        try:
            importlib.import_module("diffusers.utils.torch_utils")
        finally:
            del sys.modules[compiler]
