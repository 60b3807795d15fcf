"""A family of two small models, written against the host protocol alone: a pipeline that calls a network in steps.

Each host runs it, so that what hosts promise can be tested on both without weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.errors import Cancelled
from darkroom.serving.host import Host, NetworkModel, PipelineModel, Reply
from darkroom.serving.networks import Array, ModelSpec, Tensors, TensorSpec
from exporters.config import Placement, model_code, render

ROWS: list[int] = []
"""The rows of every batch that the network has run in this process."""
HOOK: list[Callable[[], Any]] = []
"""Called at the start of every batch."""


class ToyNetwork(NetworkModel):
    """y = x + weight, where the weight is in a file; rows below zero fail, those above 1000 need too much memory."""

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        self._weight = float((folder / "weight.txt").read_text())
        self._device = f"{kind} {device} of {instances}"

    def run(self, inputs: Tensors) -> dict[str, Array]:
        for hook in HOOK:
            hook()
        ROWS.append(len(inputs["x"]))
        if inputs["x"].min() < 0:
            raise ValueError("negative\nand a second line with /secret/path")
        if inputs["x"].max() > 1000:
            raise MemoryError
        return {"y": inputs["x"] + np.float32(self._weight)}

    def device(self) -> str:
        return self._device

    def close(self) -> None:
        self._weight = float("nan")


class ToyPipeline(PipelineModel):
    """Sends a number through the network in steps; every step is a response."""

    def setup(self, host: Host) -> None:
        self._network = host.network(NETWORK)
        self._facts = f"{host.label}|{host.has_neighbour(NETWORK)}|{host.has_neighbour(OTHER)}|{host.on_cpu(NETWORK)}"
        self._note = (host.folder / "note.txt").read_text()

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        if fields["text"] == "planted":
            raise ZeroDivisionError("planted; /secret/path")
        value = np.full((fields.get("rows", 1), 2, 2), fields["value"], np.float32)
        for step in range(fields.get("steps", 1)):
            if reply.cancelled():
                raise Cancelled("The client cancelled the request.")
            value = (await self._network({"x": value}))["y"]
            reply.send({"progress": np.array([step + 1], np.int32)})
        facts = np.array([f"{fields['text']}|{self._note}|{self._facts}"], np.object_)
        reply.send({"value": value, "facts": facts}, final=True)


def _scalar(name: str, dtype: Any, optional: bool = True) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, dims=(1,), optional=optional)


NETWORK = ModelSpec(
    name="toy_network",
    backend="python",
    implementation="tests.toy_family:ToyNetwork",
    inputs=(TensorSpec(name="x", dtype="FP32", dims=(-1, -1)),),
    outputs=(TensorSpec(name="y", dtype="FP32", dims=(-1, -1)),),
    max_batch_size=8,
    parameters={"rows_by_size": "x 16:4"},
)
PIPELINE = ModelSpec(
    name="toy",
    backend="python",
    implementation="tests.toy_family:ToyPipeline",
    decoupled=True,
    inputs=(
        _scalar("text", "STRING", optional=False),
        _scalar("value", "FP32", optional=False),
        _scalar("steps", "INT32"),
        _scalar("rows", "INT32"),
    ),
    outputs=(
        TensorSpec(name="progress", dtype="INT32", dims=(1,)),
        TensorSpec(name="value", dtype="FP32", dims=(-1, 2, 2)),
        TensorSpec(name="facts", dtype="STRING", dims=(1,)),
    ),
)
OTHER = ModelSpec(name="toy_other", backend="onnxruntime", inputs=(), outputs=(), max_batch_size=1)
"""One that no repository of `write_repository` has."""
ToyNetwork.spec, ToyPipeline.spec = NETWORK, PIPELINE
SPECS = (NETWORK, PIPELINE, OTHER)


def write_repository(repository: Path, *, label: str = "", weight: float = 1, instances: int = 1) -> Path:
    """Add both models under a label, with the code that Triton runs; returns the repository."""
    header = f"import sys\n\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n\n\n"
    files = {NETWORK.name: ("weight.txt", str(weight)), PIPELINE.name: ("note.txt", f"a note of {label or 'none'}")}
    for spec in (NETWORK, PIPELINE):
        labelled = spec.labelled(label)
        version = repository / labelled.name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(render(labelled, Placement(instances=instances)))
        (version / "model.py").write_text(header + model_code(labelled))
        name, text = files[spec.name]
        (version / name).write_text(text)
    return repository
