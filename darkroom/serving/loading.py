"""Loads the models of a repository into this process: networks with their queues, and pipelines."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from darkroom.serving.accelerators import Accelerators, proven
from darkroom.serving.batching import NetworkCall
from darkroom.serving.host import Gauge, NetworkModel, provider_gauge
from darkroom.serving.model_config import as_dict, placements, read_config
from darkroom.serving.network_queue import Executable, Instance, NetworkQueue, Work
from darkroom.serving.networks import ModelSpec, split_label
from darkroom.serving.onnx.network import OnnxNetwork, completed_config
from darkroom.serving.onnx.session import LoadError, parameter
from darkroom.serving.pipeline_host import PipelineHost
from darkroom.serving.python_network import PythonNetwork
from darkroom.serving.shared_network import Execute
from darkroom.serving.wire import as_array, as_bytes

log = logging.getLogger(__name__)

_Build = Callable[[str, int], Executable]
"""Opens one instance of a network, given the kind of its device and the number of the device."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that can be called: a network with its queue, or a pipeline.

    :param config: complete, as parsed JSON.
    :param version: the served one.
    """

    config: Mapping[str, Any]
    version: str
    queue: NetworkQueue | None = None
    pipeline: PipelineHost | None = None
    answered: Work = field(default_factory=Work)

    @property
    def work(self) -> Work:
        """What it has done so far; of a pipeline, its requests."""
        return self.queue.work if self.queue is not None else self.answered

    def gauges(self) -> list[Gauge]:
        """What the instances of a network publish; nothing of a pipeline."""
        networks: list[Any] = list(self.queue.networks) if self.queue is not None else []
        return [gauge for network in networks for gauge in network.gauges()]


class Loader:
    """Loads models of one repository.

    :param specs: the models whose Python code is known, without labels.
    :param execute: one call of a network by a pipeline.
    :param accelerators: what networks that are placed on the CPU may run on instead.
    """

    def __init__(
        self, repository: Path, specs: Iterable[ModelSpec], execute: Execute, accelerators: Accelerators
    ) -> None:
        self._repository = repository
        self._specs = {spec.name: spec for spec in specs}
        self._execute = execute
        self._accelerators = accelerators

    def is_pipeline(self, name: str) -> bool:
        """Whether a model is a pipeline of a known family."""
        spec = self._known(name)
        return spec is not None and not spec.is_network

    async def load(self, name: str) -> Loaded:
        """Load one model.

        :raises Exception: it cannot be loaded.
        """
        folder = self._repository / name
        placed: Any = read_config(folder)
        config, version = {**as_dict(placed), "name": name}, _latest_version(folder)
        if self.is_pipeline(name):
            pipeline = await asyncio.to_thread(lambda: PipelineHost(self._code(name), folder, version, self._execute))
            return Loaded(config=config, version=version, pipeline=pipeline)
        build: _Build
        if config.get("backend") == "onnxruntime":
            await asyncio.to_thread(completed_config, config, folder, version, log.warning)
            build, faster = partial(_onnx_network, config, folder, version), self._accelerators.onnx
        elif config.get("backend") == "python":
            code = partial(self._code, name)
            build = partial(_python_network, code, config, folder / version, len(placements(placed)))
            faster = self._accelerators.torch
        else:
            raise LoadError(f"the backend of {name} is {config.get('backend')!r}, which does not run in this process")
        canary = _canary_of(self._known(name), config)
        instances = await _open(partial(proven, name, build, faster, canary), placements(placed))
        delay = placed.dynamic_batching.max_queue_delay_microseconds / 1e6
        queue = NetworkQueue(instances, max_rows=config["max_batch_size"], delay=delay)
        return Loaded(config=config, version=version, queue=queue)

    def _known(self, name: str) -> ModelSpec | None:
        """The spec of a model without its label; None for a model of no family."""
        return self._specs.get(split_label(name)[0])

    def _code(self, name: str) -> Any:
        """Create an object of the class that implements a Python model: a `PipelineModel` or a `NetworkModel`.

        :raises LoadError: no family has such a model.
        """
        spec = self._known(name)
        if spec is None:
            raise LoadError(f"no family has a model {name}")
        module, _, cls = spec.implementation.partition(":")
        return getattr(importlib.import_module(module), cls)()


def _canary_of(spec: ModelSpec | None, config: Mapping[str, Any]) -> Callable[[], NetworkCall] | None:
    """What makes the call of a network's canary; None if it has none of its own."""
    if spec is None or spec.canary is None or spec.canary_model:
        return None
    make, outputs = spec.canary, [entry["name"] for entry in config["output"]]
    return lambda: NetworkCall({name: as_bytes(as_array(value)) for name, value in make().items()}, outputs)


class _OnnxNetwork(OnnxNetwork):
    """One that publishes what it runs on."""

    def __init__(self, config: Mapping[str, Any], folder: Path, version: str, kind: str, device: int) -> None:
        super().__init__(config, folder, version, kind=kind, device=device, warn=log.warning)
        self._device = str(device)

    def gauges(self) -> list[Gauge]:
        """The gauge that says which execution provider it runs on."""
        return [provider_gauge(self.provider, self._device)]


def _onnx_network(config: Mapping[str, Any], folder: Path, version: str, kind: str, device: int) -> Executable:
    return _OnnxNetwork(config, folder, version, kind, device)


def _python_network(
    code: Callable[[], NetworkModel], config: Mapping[str, Any], folder: Path, instances: int, kind: str, device: int
) -> Executable:
    rows = parameter(config, "rows_by_size")
    return PythonNetwork(code(), folder, kind=kind, device=device, instances=instances, rows_by_size=rows)


def _latest_version(folder: Path) -> str:
    """Return the version that Triton serves by default: the highest one.

    :raises LoadError: there is no version folder.
    """
    versions = [path.name for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    if not versions:
        raise LoadError(f"the model {folder.name} has no version folder")
    return max(versions, key=int)


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
