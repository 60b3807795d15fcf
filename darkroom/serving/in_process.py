"""Runs the pipelines and networks of a model repository in this process, without Triton.

The same pipelines, networks, configs, batching and turns as under Triton. Networks run on threads of their own with
ONNX Runtime or as Python classes; pipelines run in the caller's event loop. `darkroom.local` serves it over gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from darkroom import tracing
from darkroom.errors import NotReady
from darkroom.registry import all_specs
from darkroom.serving.accelerators import Accelerators
from darkroom.serving.batching import NetworkCall
from darkroom.serving.loading import Loaded, Loader
from darkroom.serving.loras import RowLoras
from darkroom.serving.networks import Array, ModelSpec, Tensors
from darkroom.serving.queue_reply import QueueReply, serve
from darkroom.serving.shared_network import network_error
from darkroom.serving.wire import as_array, as_bytes, check_inputs

log = logging.getLogger(__name__)


class InProcess:
    """The models of one repository, as `proxy.gateway.Gateway` shows those of Triton.

    Bound to the event loop in which `load` is called. Use it as a context manager, or call `load` and `close`:

        async with InProcess(repository) as models:
            async for outputs in models.stream("upscale", {"image": data}):
                ...

    :param specs: the models whose Python code is known, without labels; by default those of all families.
    :param accelerators: what networks that are placed on the CPU may run on instead; by default nothing.
    """

    def __init__(
        self,
        repository: Path,
        specs: Iterable[ModelSpec] | None = None,
        accelerators: Accelerators | None = None,
    ) -> None:
        self._repository = repository
        known = all_specs() if specs is None else specs
        self._loader = Loader(repository, known, self._execute, accelerators or Accelerators())
        self._loaded: dict[str, Loaded] = {}
        self._running: dict[asyncio.Task[None], QueueReply] = {}
        self._calls: dict[str, QueueReply] = {}

    async def __aenter__(self) -> InProcess:
        await self.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def load(self) -> None:
        """Load every model, networks first. A model that fails to load is logged, and is not ready."""
        for name in self.in_order(self.names()):
            try:
                await self.load_one(name)
            except Exception:
                log.exception("model %s cannot be loaded", name)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Sort models as they have to be loaded: a pipeline looks for its networks when it loads."""
        return sorted(names, key=lambda name: (self._loader.is_pipeline(name), name))

    async def load_one(self, name: str) -> None:
        """Load a model of the repository, in place of the one that was loaded under this name.

        :raises Exception: it cannot be loaded; one that was loaded before goes on.
        """
        before, self._loaded[name] = self._loaded.get(name), await self._loader.load(name)
        await _free(before)

    async def unload_one(self, name: str) -> None:
        """Free a model. Running requests to a pipeline go on; waiting calls of a network are refused."""
        await _free(self._loaded.pop(name, None))

    async def close(self) -> None:
        """Stop running requests at their next step, and free the models."""
        for reply in self._running.values():
            reply.stop()
        await self.finished()
        loaded, self._loaded = self._loaded, {}
        await asyncio.gather(*map(_free, loaded.values()))

    async def finished(self) -> None:
        """Wait for the end of every request, including those whose caller has left."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def names(self) -> list[str]:
        """The models of the repository as it is now."""
        return sorted(path.parent.name for path in self._repository.glob("*/config.pbtxt"))

    async def models(self) -> dict[str, bool]:
        """Return the models of the repository, and whether each of them is loaded."""
        return {name: name in self._loaded for name in self.names()}

    @property
    def loaded(self) -> Mapping[str, Loaded]:
        """The models that can be called, by name."""
        return self._loaded

    def counts(self, network: str) -> tuple[int, int]:
        """Return the number of rows that a network has run so far, and of batches.

        :raises NotReady: the model is not loaded, or is not a network.
        """
        queue = self.find(network).queue
        if queue is None:
            raise NotReady(f"{network} is a pipeline, which has no batches.")
        return queue.work.rows, queue.work.executions

    def stop(self, call: str) -> None:
        """Ask the request to a pipeline that has this name to stop at its next step; nothing if it has ended."""
        if call and call in self._calls:
            self._calls[call].stop()

    async def stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        request_id: str = "",
        client: str = "",
        can_stop: bool = True,
        call: str = "",
        loras: str = "",
        traceparent: str = "",
    ) -> AsyncGenerator[dict[str, Array], None]:
        """Run a model; yields the outputs of each response by name, with strings as bytes.

        Leaving the iteration early, or cancelling the task that runs it, stops the request at its next step.

        :param inputs: arrays, or plain str/int/float for one-element inputs; None is left out.
        :param request_id, can_stop: as for `Gateway.stream`; they change nothing here.
        :param client: the client that sent the request: clients take turns. Empty for a client of its own.
        :param call: a unique name of the request, for `stop`.
        :param loras: of a network's rows, as `RowLoras.to_text` writes them.
        :param traceparent: the span that the work belongs to; "" where it is not traced.
        :raises DarkroomError: the error that the model raised, or NotReady when it is not loaded.
        """
        loaded = self.find(model)
        arrays = {name: as_bytes(as_array(value)) for name, value in inputs.items() if value is not None}
        check_inputs(loaded.config["input"], arrays, loaded.config["max_batch_size"])
        if loaded.pipeline is None:
            names = [entry["name"] for entry in loaded.config["output"]]
            outputs = await self._run(model, NetworkCall(arrays, names, loras, model, traceparent))
            yield {name: as_bytes(array) for name, array in outputs.items()}
            return
        reply = QueueReply()
        task = asyncio.create_task(serve(loaded.pipeline, arrays, reply, client, traceparent))
        self._running[task] = self._calls[call] = reply
        task.add_done_callback(self._running.pop)
        task.add_done_callback(lambda _: self._calls.pop(call, None))
        try:
            while (response := await reply.next()) is not None:
                yield response
            loaded.answered.requests += 1
        finally:
            reply.stop()

    def find(self, model: str) -> Loaded:
        """Return a loaded model. :raises NotReady: it is not loaded."""
        if model not in self._loaded:
            known = ", ".join(self._loaded) or "none"
            raise NotReady(f"The model {model} is not loaded; loaded are: {known}.", retry_after=5)
        return self._loaded[model]

    async def _execute(self, spec: ModelSpec, inputs: Tensors) -> dict[str, Array]:
        """One call of a network by a pipeline."""
        own, loras = RowLoras.taken_from(inputs)
        text = loras.to_text() if loras is not None else ""
        trace = tracing.traceparent(recorded=True)
        return await self._run(spec.name, NetworkCall(own, _names_of(spec), text, spec.name, trace))

    async def _run(self, name: str, call: NetworkCall) -> dict[str, Array]:
        """One call of a network.

        :raises NetworkError: the network failed; with its message.
        """
        loaded = self._loaded.get(name)
        if loaded is None or loaded.queue is None:
            raise network_error(name, "it is not loaded, and not ready")
        inputs = {key: np.ascontiguousarray(value) for key, value in call.inputs.items()}
        try:
            return dict(await loaded.queue.run(replace(call, inputs=inputs)))
        except Exception as error:
            log.error("network %s failed", name, exc_info=error)
            raise network_error(name, loaded.queue.error_text(error)) from error


def _names_of(spec: ModelSpec) -> Sequence[str]:
    return [tensor.name for tensor in spec.outputs]


async def _free(loaded: Loaded | None) -> None:
    if loaded is not None and loaded.queue is not None:
        await loaded.queue.close()
