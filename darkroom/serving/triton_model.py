"""What makes a model.py one line. For pipelines: tensors <-> fields, streaming, errors, cancellation, BLS calls; for
networks that run in Python: batches.

Runs inside Triton's Python stub only. The stub binds the names of `triton_python_backend_utils` after it has
imported model.py, so the module is imported, never a name from it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from darkroom.errors import Cancelled, DarkroomError, InvalidInput, NetworkError, OutOfMemory, to_wire
from darkroom.serving.batching import Job, groups, run_together
from darkroom.serving.calls import CALL, CLIENT, STOP
from darkroom.serving.model_config import instances, on_cpu, read_config
from darkroom.serving.networks import Array, ModelSpec, RowCaps, RowSize, Tensors
from darkroom.serving.triton_metrics import Gauges
from darkroom.serving.turns import MEMBER, Member, Turns

# How engines say that memory ran out: our backend's prefix, then ONNX Runtime's, CUDA's, cuDNN's and torch's own words.
_OUT_OF_MEMORY = (
    "OUT_OF_MEMORY",
    "Failed to allocate memory",
    "bad_alloc",
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC",
    "smaller than requested bytes",
)
# asyncio's default of 6 threads on 2 cores would be the limit of concurrent BLS calls.
_THREADS = 64


class BlsNetwork:
    """A network model of the same server, called through Triton's dynamic batcher.

    :param spec: the called model; its output names are asked for.
    :param most: rows that one request may have; more go in several requests at once. None = any number.
    :param caps: the same, by the size of an input.
    :param instances: batches that run side by side.
    :param room: the part of what may be at the network at once that a call takes; by default two batches for each
        instance may be there, one that runs and one that is gathered meanwhile.
    :param each: see `Turns`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        most: int | None = None,
        caps: RowCaps | None = None,
        instances: int = 1,
        room: Callable[[Tensors], float] | None = None,
        each: float = 1.0,
    ) -> None:
        self._name = spec.name
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._most = most
        self._caps = caps
        self._instances = instances
        self._room = room or self._part_of_batches
        self.turns = Turns(each=each)

    async def __call__(self, inputs: Tensors) -> dict[str, Array]:
        rows, most = _rows(inputs), self._batch(inputs)
        if rows <= most:
            return await self._call(inputs)
        parts = [{name: value[at : at + most] for name, value in inputs.items()} for at in range(0, rows, most)]
        answers = await asyncio.gather(*(self._call(part) for part in parts))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in self._outputs}

    def _batch(self, inputs: Tensors) -> int:
        """Rows that may run together with those of `inputs`."""
        return min(self._most or sys.maxsize, self._caps.most(inputs) if self._caps else sys.maxsize)

    def _part_of_batches(self, inputs: Tensors) -> float:
        return _rows(inputs) / (2 * self._batch(inputs) * self._instances)

    async def _call(self, inputs: Tensors) -> dict[str, Array]:
        """One BLS call, in its request's turn: what Triton has queued cannot be taken back or overtaken."""
        member = MEMBER.get() or Member()
        async with self.turns.turn(member, room=self._room(inputs), work=_work(inputs)):
            if member.stopped():
                raise Cancelled("The client cancelled the request.")
            return await self._execute(inputs)

    async def _execute(self, inputs: Tensors) -> dict[str, Array]:
        request = pb_utils.InferenceRequest(
            model_name=self._name,
            requested_output_names=self._outputs,
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in inputs.items()],
        )
        response = await request.async_exec()
        if response.has_error():
            message = response.error().message()
            kind = OutOfMemory if any(words in message for words in _OUT_OF_MEMORY) else NetworkError
            raise kind(f"network {self._name}: {message}")
        return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in self._outputs}


def _rows(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))


def _work(inputs: Tensors) -> int:
    """What a call costs, about: the elements of its first input, which is the one that the network is large for."""
    return int(next(iter(inputs.values())).size)


def _caps(text: str, size: RowSize | None) -> RowCaps | None:
    caps = RowCaps.parse(text) if text else None
    return caps if caps is None or size is None else replace(caps, size=size)


class Reply:
    """The response stream of one request.

    :param stopped: whether the client has asked for the end, with `darkroom.serving.calls.STOP`.
    """

    def __init__(self, sender: Any, stopped: Callable[[], bool]) -> None:
        self._sender = sender
        self._stopped = stopped

    def cancelled(self) -> bool:
        """Whether the client has cancelled or gone away."""
        return self._stopped() or bool(self._sender.is_cancelled())

    def send(self, outputs: Mapping[str, Array], final: bool = False) -> None:
        """Send one response; `final` closes the stream with it."""
        tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items()]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(pb_utils.InferenceResponse(output_tensors=tensors), flags=flags)

    def fail(self, error: BaseException) -> None:
        """Close the stream with an error; the client would wait for ever for one that is only logged."""
        if not isinstance(error, DarkroomError):
            pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
        response = pb_utils.InferenceResponse(output_tensors=[], error=_triton_error(error))
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


# What gRPC clients see as the status: the first that fits; anything outside the tree is INTERNAL.
_TRITON_CODES = ((InvalidInput, "INVALID_ARG"), (Cancelled, "CANCELLED"), (BaseException, "INTERNAL"))


def _triton_error(error: BaseException) -> Any:
    code = next(name for kind, name in _TRITON_CODES if isinstance(error, kind))
    return pb_utils.TritonError(to_wire(error), getattr(pb_utils.TritonError, code))


class PipelineModel(ABC):
    """Base of the decoupled pipeline models: subclasses set `spec` and implement `setup` and `answer`."""

    spec: ModelSpec
    folder: Path
    """The version folder of this model, where its files lie."""

    @abstractmethod
    def setup(self) -> None:
        """Build what `answer` needs; called once, when the model loads."""

    @abstractmethod
    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        """Serve one request: send responses, the last one with `final=True`, or raise.

        :param fields: what came, by input name: arrays for tensors, str/int/float for one-element inputs.
        """

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's hook."""
        self._model = Path(args["model_repository"])
        self.folder = self._model / args["model_version"]
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pipeline")
        self._running: set[str] = set()
        self._stopped: set[str] = set()
        self._called: list[BlsNetwork] = []
        self.setup()

    def has_neighbour(self, spec: ModelSpec) -> bool:
        """Whether the repository that this model is in holds that one, too."""
        return any((self._model.parent / spec.name).glob("1/*"))

    def network(
        self,
        spec: ModelSpec,
        *,
        size: RowSize | None = None,
        room: Callable[[Tensors], float] | None = None,
        each: float = 1.0,
    ) -> BlsNetwork:
        """A network of this repository, with the limits that its config sets; for `room` and `each` see
        `BlsNetwork`.

        :param size: the family's own rule for the size of a row, in place of the one in the config.
        """
        config = read_config(self._model.parent / spec.name)
        if config is None:
            network = BlsNetwork(spec, room=room, each=each)
        else:
            caps = _caps(config.parameters["rows_by_size"].string_value, size)
            most = config.max_batch_size or None
            network = BlsNetwork(spec, most=most, caps=caps, instances=instances(config), room=room, each=each)
        self._called.append(network)
        return network

    def on_cpu(self, spec: ModelSpec) -> bool:
        """Whether this repository has a network on the CPU."""
        return on_cpu(read_config(self._model.parent / spec.name))

    async def execute(self, requests: list[Any]) -> None:
        """Triton's hook. Being a coroutine of a decoupled model, it overlaps with itself."""
        asyncio.get_running_loop().set_default_executor(self._threads)
        await asyncio.gather(*(self._serve(request) for request in requests))

    async def _serve(self, request: Any) -> None:
        parameters = json.loads(request.parameters() or "{}")
        call = str(parameters.get(CALL, ""))
        reply = Reply(request.get_response_sender(), lambda: call in self._stopped)
        if STOP in parameters:
            self._stopped |= {str(parameters[STOP])} & self._running
            reply.send({}, final=True)
            return
        member = Member(client=str(parameters.get(CLIENT, "")), stopped=reply.cancelled)
        MEMBER.set(member)  # `execute` gives every request a context of its own
        self._running.add(call)
        try:
            await self.answer(self._fields(request), reply)
        except BaseException as error:  # an exception that leaves `execute` would hang the client
            reply.fail(error)
        finally:
            self._running.discard(call)
            self._stopped.discard(call)
            for network in self._called:
                network.turns.leave(member)

    def _fields(self, request: Any) -> dict[str, Any]:
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return {
            tensor.name: plain(given[tensor.name]) if tensor.dims == (1,) else given[tensor.name]
            for tensor in self.spec.inputs
            if tensor.name in given
        }

    def finalize(self) -> None:
        """Triton's hook."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class NetworkModel(ABC):
    """Base of the networks that run in Triton's Python backend: not decoupled, behind its dynamic batcher.

    Subclasses set `spec` and implement `setup`, `run`, `device` and `close`.
    """

    spec: ModelSpec
    folder: Path
    """The version folder of this model, where its weights lie."""
    instances: int
    """That the config asks for, this one included."""

    @abstractmethod
    def setup(self, kind: str, device: int) -> None:
        """Load the weights; called once.

        :param kind: Triton's instance kind, "CPU" or "GPU".
        :param device: the number of the GPU.
        """

    @abstractmethod
    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One batch: rows of one or several requests; the first dimension of every array is the batch."""

    def row_size(self) -> RowSize | None:
        """The family's own rule for the size of a row, in place of the one in the config; asked after `setup`."""
        return None

    @abstractmethod
    def device(self) -> str:
        """What it runs on, for people: "torch cuda:0"."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's hook."""
        self.folder = Path(args["model_repository"]) / args["model_version"]
        config = json.loads(args["model_config"])
        self._name = config["name"]
        caps = config["parameters"].get("rows_by_size", {}).get("string_value", "")
        self.instances = sum(int(group["count"]) * max(1, len(group["gpus"])) for group in config["instance_group"])
        labels = {"model": self._name, "version": args["model_version"], "process": str(os.getpid())}
        self._device, self._gauges = args["model_instance_device_id"], Gauges(labels)
        self._publishing = threading.Lock()
        self.setup(args["model_instance_kind"], int(self._device))
        self._caps = _caps(caps, self.row_size())
        self.publish()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's hook: merged runs of equal shapes, and to each failed request its own error."""
        jobs = [
            Job(
                {tensor.name(): tensor.as_numpy() for tensor in request.inputs()},
                request.requested_output_names(),
            )
            for request in requests
        ]
        answers: dict[int, Tensors | Exception] = {}
        for group in groups(jobs, batching=True, caps=self._caps):
            results = run_together(self._run, [jobs[index] for index in group], batching=True)
            answers.update(zip(group, results, strict=True))
        return [self._respond(answers[index]) for index in range(len(jobs))]

    def _run(self, outputs: Sequence[str], inputs: Tensors) -> list[Array]:
        answer = self.run(inputs)
        return [answer[name] for name in outputs]

    def _respond(self, answer: Tensors | Exception) -> Any:
        if not isinstance(answer, Exception):
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])
        pb_utils.Logger.log_error("".join(traceback.format_exception(answer)))
        # The first line only: torch tells of memory at length, and traces name files of this machine.
        reason = (str(answer).splitlines() or [""])[0]
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(f"{type(answer).__name__}: {reason}", pb_utils.TritonError.INTERNAL)
        )

    def publish(self) -> None:
        """Show on Triton's metrics endpoint how it runs now. Thread safe."""
        with self._publishing:  # also what is read, so that the last one to show it is the last one that read it
            self.show(self._gauges)

    def show(self, gauges: Gauges) -> None:
        """Set the gauges; this one is the one that backends/onnxruntime has for the networks that it runs."""
        text = "1 for the ONNX Runtime execution provider that a network runs on"
        gauges.show("darkroom_network_provider", text, 1, provider=self.device(), device=self._device)

    def finalize(self) -> None:
        """Triton's hook."""
        self.close()
        self._gauges.close()


def plain(value: Array) -> Any:
    """The one element of an array as str, int, float or bool."""
    item = value.reshape(-1)[0]
    if isinstance(item, np.float32):
        return float(str(item))  # 7.3, where item() would give 7.300000190734863
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item.item()
