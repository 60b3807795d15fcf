"""A model repository whose networks are functions that a test has, for `darkroom.serving.in_process`: no export."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from darkroom.serving.host import NetworkModel
from darkroom.serving.in_process import InProcess
from darkroom.serving.networks import Array, ModelSpec, Network, Tensors
from exporters.config import Placement, render

_SERVED: dict[str, Network] = {}
"""By the folder of the model."""


class ServedNetwork(NetworkModel):
    """Runs the function that `add_network` was given."""

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        self._network = _SERVED[str(folder.parent)]

    def run(self, inputs: Tensors) -> dict[str, Array]:
        return asyncio.run(_call(self._network, inputs))

    def device(self) -> str:
        return "a function"

    def close(self) -> None:
        pass


async def _call(network: Network, inputs: Tensors) -> dict[str, Array]:
    return await network(inputs)


def add_model(repository: Path, spec: ModelSpec) -> Path:
    """Add the config of a model; returns its version folder."""
    version = repository / spec.name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(render(spec, Placement()))
    return version


def add_network(repository: Path, spec: ModelSpec, network: Network) -> ModelSpec:
    """Add a network that runs `network`; returns what `InProcess` has to know of it."""
    implementation = f"{ServedNetwork.__module__}:{ServedNetwork.__name__}"
    served = replace(spec, backend="python", implementation=implementation, tensors_from_graph=False)
    version = add_model(repository, served)
    (version / "weights").touch()  # a pipeline looks for any file, to see that the network is there
    _SERVED[str(version.parent)] = network
    return served


async def collect(models: InProcess, model: str, /, **inputs: Any) -> list[dict[str, Any]]:
    """Every response of one request."""
    return [outputs async for outputs in models.stream(model, inputs)]
