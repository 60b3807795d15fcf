"""Runs the pipelines and networks of a model repository in this process, without Triton.

The same pipelines, networks, configs, batching and turns as under Triton. Networks run on threads of their own with
ONNX Runtime or as Python classes; pipelines run in the caller's event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.errors import DarkroomError, NotReady, from_wire, to_wire
from darkroom.registry import all_specs
from darkroom.serving.batching import NetworkCall
from darkroom.serving.host import NetworkModel
from darkroom.serving.loras import RowLoras
from darkroom.serving.model_config import as_dict, placements, read_config
from darkroom.serving.network_queue import Executable, Instance, NetworkQueue
from darkroom.serving.networks import Array, ModelSpec, Tensors, split_label
from darkroom.serving.onnx.network import OnnxNetwork, completed_config
from darkroom.serving.onnx.session import LoadError, parameter
from darkroom.serving.pipeline_host import PipelineHost
from darkroom.serving.python_network import PythonNetwork
from darkroom.serving.shared_network import network_error
from darkroom.serving.wire import as_array, as_bytes, check_inputs

log = logging.getLogger(__name__)

_Build = Callable[[str, int], Executable]
"""Opens one instance of a network, given Triton's instance kind and the number of the GPU."""


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """A model that can be called: a network with its queue, or a pipeline.

    :param config: complete, as parsed JSON.
    """

    config: Mapping[str, Any]
    queue: NetworkQueue | None = None
    pipeline: PipelineHost | None = None


class InProcess:
    """The models of one repository, as `proxy.gateway.Gateway` shows those of Triton.

    Bound to the event loop in which `load` is called. Use it as a context manager, or call `load` and `close`:

        async with InProcess(repository) as models:
            async for outputs in models.stream("upscale", {"image": data}):
                ...

    :param specs: the models whose Python code is known, without labels; by default those of all families.
    """

    def __init__(self, repository: Path, specs: Iterable[ModelSpec] | None = None) -> None:
        self._repository = repository
        self._specs = {spec.name: spec for spec in (all_specs() if specs is None else specs)}
        self._names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
        self._loaded: dict[str, _Loaded] = {}
        self._running: dict[asyncio.Task[None], _QueueReply] = {}

    async def __aenter__(self) -> InProcess:
        await self.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def load(self) -> None:
        """Load every model, networks first. A model that fails to load is logged, and is not ready."""
        for name in sorted(self._names, key=lambda name: self._is_pipeline(name)):
            try:
                self._loaded[name] = await self._load(name)
            except Exception:
                log.exception("model %s cannot be loaded", name)

    async def close(self) -> None:
        """Stop running requests at their next step, and free the models."""
        for reply in self._running.values():
            reply.stop()
        await self.finished()
        loaded, self._loaded = self._loaded, {}
        await asyncio.gather(*(model.queue.close() for model in loaded.values() if model.queue is not None))

    async def finished(self) -> None:
        """Wait for the end of every request, including those whose caller has left."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def models(self) -> dict[str, bool]:
        """Return the models of the repository, and whether each of them is loaded."""
        return {name: name in self._loaded for name in self._names}

    def counts(self, network: str) -> tuple[int, int]:
        """Return the number of rows that a network has run so far, and of batches.

        :raises NotReady: the model is not loaded, or is not a network.
        """
        queue = self._find(network).queue
        if queue is None:
            raise NotReady(f"{network} is a pipeline, which has no batches.")
        return queue.rows, queue.executions

    async def stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        request_id: str = "",
        client: str = "",
        can_stop: bool = True,
    ) -> AsyncGenerator[dict[str, Array], None]:
        """Run a model; yields the outputs of each response by name, with strings as bytes.

        Leaving the iteration early, or cancelling the task that runs it, stops the request at its next step.

        :param inputs: arrays, or plain str/int/float for one-element inputs; None is left out.
        :param request_id, can_stop: as for `Gateway.stream`; they change nothing here.
        :param client: the client that sent the request: clients take turns. Empty for a client of its own.
        :raises DarkroomError: the error that the model raised, or NotReady when it is not loaded.
        """
        loaded = self._find(model)
        arrays = {name: as_bytes(as_array(value)) for name, value in inputs.items() if value is not None}
        check_inputs(loaded.config["input"], arrays, loaded.config["max_batch_size"])
        if loaded.pipeline is None:
            outputs = await self._run(model, arrays, [entry["name"] for entry in loaded.config["output"]])
            yield {name: as_bytes(array) for name, array in outputs.items()}
            return
        reply = _QueueReply()
        task = asyncio.create_task(_serve(loaded.pipeline, arrays, reply, client))
        self._running[task] = reply
        task.add_done_callback(self._running.pop)
        try:
            while (response := await reply.next()) is not None:
                yield response
        finally:
            reply.stop()

    def _find(self, model: str) -> _Loaded:
        if model not in self._loaded:
            known = ", ".join(self._loaded) or "none"
            raise NotReady(f"The model {model} is not loaded; loaded are: {known}.", retry_after=5)
        return self._loaded[model]

    def _known(self, name: str) -> ModelSpec | None:
        """The spec of a model without its label; None for a model of no family."""
        return self._specs.get(split_label(name)[0])

    def _is_pipeline(self, name: str) -> bool:
        spec = self._known(name)
        return spec is not None and not spec.is_network

    async def _load(self, name: str) -> _Loaded:
        folder = self._repository / name
        placed: Any = read_config(folder)
        config, version = {**as_dict(placed), "name": name}, _latest_version(folder)
        if self._is_pipeline(name):
            pipeline = await asyncio.to_thread(lambda: PipelineHost(self._code(name), folder, version, self._execute))
            return _Loaded(config=config, pipeline=pipeline)
        build: _Build
        if config.get("backend") == "onnxruntime":
            await asyncio.to_thread(completed_config, config, folder, version, log.warning)
            build = partial(_onnx_network, config, folder, version)
        elif config.get("backend") == "python":
            build = partial(
                _python_network, partial(self._code, name), config, folder / version, len(placements(placed))
            )
        else:
            raise LoadError(f"the backend of {name} is {config.get('backend')!r}, which does not run in this process")
        instances = await _open(build, placements(placed))
        delay = placed.dynamic_batching.max_queue_delay_microseconds / 1e6
        return _Loaded(config=config, queue=NetworkQueue(instances, max_rows=config["max_batch_size"], delay=delay))

    def _code(self, name: str) -> Any:
        """Create an object of the class that implements a Python model: a `PipelineModel` or a `NetworkModel`.

        :raises LoadError: no family has such a model.
        """
        spec = self._known(name)
        if spec is None:
            raise LoadError(f"no family has a model {name}")
        module, _, cls = spec.implementation.partition(":")
        return getattr(importlib.import_module(module), cls)()

    async def _execute(self, spec: ModelSpec, inputs: Tensors) -> dict[str, Array]:
        """One call of a network by a pipeline."""
        return await self._run(spec.name, inputs, [tensor.name for tensor in spec.outputs])

    async def _run(self, name: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """One call of a network.

        :raises NetworkError: the network failed; with its message.
        """
        loaded = self._loaded.get(name)
        if loaded is None or loaded.queue is None:
            raise network_error(name, "it is not loaded")
        own, loras = RowLoras.taken_from(inputs)
        text = loras.to_text() if loras is not None else ""
        call = NetworkCall({key: np.ascontiguousarray(value) for key, value in own.items()}, outputs, text)
        try:
            return dict(await loaded.queue.run(call))
        except Exception as error:
            log.error("network %s failed", name, exc_info=error)
            raise network_error(name, loaded.queue.error_text(error)) from error


class _QueueReply:
    """A queue of the responses of one request to the caller of `stream`; a `darkroom.serving.host.Reply`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[dict[str, Array] | DarkroomError | None] = asyncio.Queue()
        self._stopped = False

    def cancelled(self) -> bool:
        """Whether the caller has left."""
        return self._stopped

    def stop(self) -> None:
        """Ask the pipeline to stop at its next step."""
        self._stopped = True

    def send(self, outputs: Mapping[str, Array], final: bool = False) -> None:
        """Queue one response."""
        self._queue.put_nowait({name: as_bytes(array) for name, array in outputs.items()})
        if final:
            self.end()

    def fail(self, error: BaseException) -> None:
        """Queue an error as a client of Triton gets it: an unexpected one without its text."""
        if not isinstance(error, DarkroomError | asyncio.CancelledError):
            log.error("a pipeline failed", exc_info=error)
        self._queue.put_nowait(from_wire(to_wire(error)) or DarkroomError("unexpected error in the model"))

    def end(self) -> None:
        """Mark the end of the responses."""
        self._queue.put_nowait(None)

    async def next(self) -> dict[str, Array] | None:
        """Return the next response; None at the end.

        :raises DarkroomError: the request failed.
        """
        one = await self._queue.get()
        if isinstance(one, DarkroomError):
            raise one
        return one


async def _serve(pipeline: PipelineHost, inputs: Tensors, reply: _QueueReply, client: str) -> None:
    try:
        await pipeline.serve(inputs, reply, client=client)
    except BaseException as error:
        reply.fail(error)
        if not isinstance(error, Exception):  # the task was cancelled
            raise
    finally:
        reply.end()


def _latest_version(folder: Path) -> str:
    """Return the version that Triton serves by default: the highest one.

    :raises LoadError: there is no version folder.
    """
    versions = [path.name for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    if not versions:
        raise LoadError(f"the model {folder.name} has no version folder")
    return max(versions, key=int)


def _onnx_network(config: Mapping[str, Any], folder: Path, version: str, kind: str, device: int) -> Executable:
    return OnnxNetwork(config, folder, version, kind=kind, device=device, warn=log.warning)


def _python_network(
    code: Callable[[], NetworkModel], config: Mapping[str, Any], folder: Path, instances: int, kind: str, device: int
) -> Executable:
    rows = parameter(config, "rows_by_size")
    return PythonNetwork(code(), folder, kind=kind, device=device, instances=instances, rows_by_size=rows)


async def _open(build: _Build, places: Sequence[tuple[str, int]]) -> list[Instance]:
    """Open all instances of a network, or none of them.

    :raises Exception: what `build` raises.
    """
    instances: list[Instance] = []
    try:
        for kind, device in places:
            instances.append(await Instance.open(partial(build, kind, device)))
    except BaseException:
        await asyncio.gather(*(instance.close() for instance in instances))
        raise
    return instances
