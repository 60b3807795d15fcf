"""The part that all hosts of a pipeline share: it gets networks of its repository, and its requests are served.

Each host decides how a call reaches a network, and how a response reaches its client.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from darkroom import tracing
from darkroom.serving.host import PipelineModel, Reply
from darkroom.serving.lora_cache import BaseLoras, LoraCache
from darkroom.serving.lora_layout import NATIVE, LoraLayout
from darkroom.serving.measures import CALL, RECORDER, Company
from darkroom.serving.model_config import on_cpu, read_config
from darkroom.serving.networks import Array, ModelSpec, RowSize, Tensors, split_label
from darkroom.serving.shared_network import Execute, SharedNetwork, shared_network
from darkroom.serving.turns import MEMBER, Member


class PipelineHost:
    """A pipeline of a model repository; a `darkroom.serving.host.Host`.

    :param model: the pipeline's folder in the repository. Its name is that of the model, with its label.
    :param execute: calls a network once.
    """

    def __init__(self, pipeline: PipelineModel, model: Path, version: str, execute: Execute) -> None:
        self._pipeline = pipeline
        self._repository = model.parent
        self._execute = execute
        self._company = Company()
        self._networks: list[SharedNetwork] = []
        self.name = model.name
        self.folder = model / version
        self.label = split_label(model.name)[1]
        pipeline.setup(self)

    def network(
        self,
        spec: ModelSpec,
        *,
        size: RowSize | None = None,
        room: Callable[[Tensors], float] | None = None,
        each: float = 1.0,
    ) -> SharedNetwork:
        """See `Host`."""
        own = spec.labelled(self.label)
        network = shared_network(own, self._call, self._repository, size=size, room=room, each=each)
        self._networks.append(network)
        return network

    def has_neighbour(self, spec: ModelSpec) -> bool:
        """See `Host`."""
        return any((self._repository / spec.labelled(self.label).name).glob("1/*"))

    def on_cpu(self, spec: ModelSpec) -> bool:
        """See `Host`."""
        return on_cpu(read_config(self._repository / spec.labelled(self.label).name))

    def loras(self, specs: Iterable[ModelSpec]) -> BaseLoras | None:
        """See `Host`."""
        layouts = [_layout(self._repository / spec.labelled(self.label).name) for spec in specs]
        known = [layout for layout in layouts if layout is not None]
        if NATIVE in os.environ or len(known) != len(layouts):
            return None
        from darkroom.settings import Settings  # imported here, because few pipelines need it

        return BaseLoras(cache=LoraCache.of(Settings()), layouts=known)

    async def serve(self, inputs: Mapping[str, Array], reply: Reply, *, client: str) -> None:
        """Answer one request; raises what the pipeline raises. Needs its own context (contextvars), as every task has.

        :param client: the client that sent the request; "" for a client of its own.
        """
        member = Member(client=client, stopped=reply.cancelled)
        MEMBER.set(member)
        try:
            await self._pipeline.answer(self._fields(inputs), reply)
        finally:
            for network in self._networks:
                network.turns.leave(member)

    def span(self, traceparent: str) -> tracing.Span:
        """The span of one request, below the one of the process that sent it."""
        return tracing.span("pipeline", parent=traceparent, kind="server", model=self.name)

    async def _call(self, spec: ModelSpec, inputs: Tensors) -> dict[str, Array]:
        with self._company.joined(spec.name, inputs), RECORDER.timed(CALL, network=spec.name):
            return await self._execute(spec, inputs)

    def _fields(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        return {
            tensor.name: plain(inputs[tensor.name]) if tensor.dims == (1,) else inputs[tensor.name]
            for tensor in self._pipeline.spec.inputs
            if tensor.name in inputs
        }


def _layout(folder: Path) -> LoraLayout | None:
    """The layout of a network that takes LoRAs; None where it takes none, for example a TensorRT engine."""
    config = read_config(folder)
    if config is None or config.backend != "onnxruntime":
        return None
    found = (LoraLayout.read(version) for version in sorted(folder.glob("*/")))
    return next((layout for layout in found if layout is not None), None)


def plain(value: Array) -> Any:
    """The one element of an array as str, int, float or bool."""
    item = value.reshape(-1)[0]
    if isinstance(item, np.float32):
        return float(str(item))  # 7.3, where item() would give 7.300000190734863
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item.item()
