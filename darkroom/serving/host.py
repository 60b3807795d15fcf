"""The interface between pipelines and Python networks on one side, and the host that runs them on the other.

The pipeline and the Python networks of a family depend on this file alone. `darkroom.serving.triton_pipeline` and
`darkroom.serving.triton_network` run them in Triton's Python stub, `darkroom.serving.in_process` in a plain process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from darkroom.serving.lora_cache import BaseLoras
from darkroom.serving.networks import Array, ModelSpec, Network, RowSize, Tensors


class Host(Protocol):
    """What a host offers a pipeline while the pipeline is set up."""

    @property
    def folder(self) -> Path:
        """The version folder of the pipeline, which holds its files."""

    @property
    def label(self) -> str:
        """The label of the checkpoint that the pipeline serves; "" for the checkpoint without one."""

    def network(
        self,
        spec: ModelSpec,
        *,
        size: RowSize | None = None,
        room: Callable[[Tensors], float] | None = None,
        each: float = 1.0,
    ) -> Network:
        """Return a network of the pipeline's label, with the limits that its config sets.

        :param size: the family's own rule for the size of a row, in place of the one in the config.
        :param room: the share (0..1) of the network's capacity that a call takes. By default the capacity is two
            batches for each instance: one that runs, and one that is collected meanwhile.
        :param each: the share of the capacity that one request may take, see `darkroom.serving.turns.Turns`.
        """

    def has_neighbour(self, spec: ModelSpec) -> bool:
        """Whether the repository holds this model under the pipeline's label."""

    def on_cpu(self, spec: ModelSpec) -> bool:
        """Whether the repository places this network, under the pipeline's label, on the CPU."""

    def loras(self, specs: Iterable[ModelSpec]) -> BaseLoras | None:
        """Return the LoRAs for these networks, under the pipeline's label; None if one of them takes no LoRAs."""


class Reply(Protocol):
    """Sends the answer to one request, in one or several responses."""

    def cancelled(self) -> bool:
        """Whether the client has cancelled or disconnected."""

    def send(self, outputs: Mapping[str, Array], final: bool = False) -> None:
        """Send one response; `final` ends the answer with it."""


class PipelineModel(ABC):
    """One pipeline: subclasses set `spec` and implement `setup` and `answer`."""

    spec: ModelSpec

    @abstractmethod
    def setup(self, host: Host) -> None:
        """Build what `answer` needs; called once, before the first request."""

    @abstractmethod
    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        """Serve one request: send responses, the last one with `final=True`, or raise.

        :param fields: the inputs by name: arrays for tensors, str, int, float or bool for inputs of one element.
        """


@dataclass(frozen=True)
class Gauge:
    """One number that a host publishes in its metrics.

    :param help: a description in one line.
    """

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def provider_gauge(provider: str, device: str) -> Gauge:
    """The gauge that says what an instance of a network runs on; every host publishes it.

    :param device: the number of the GPU, as Triton gives it.
    """
    text = "1 for the ONNX Runtime execution provider that a network runs on"
    return Gauge("darkroom_network_provider", text, 1, {"provider": provider, "device": device})


class NetworkModel(ABC):
    """One network that runs in Python: subclasses set `spec` and implement `setup`, `run`, `device` and `close`.

    The host merges calls of equal shapes, and never calls `run` twice at once.
    """

    spec: ModelSpec

    @abstractmethod
    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        """Load the weights; called once, before anything else.

        :param folder: the version folder, where the weights are.
        :param kind: Triton's instance kind, "CPU" or "GPU", or `darkroom.serving.accelerators.MPS`. An error for the
            last one makes the host take the CPU.
        :param device: the number of the GPU.
        :param instances: the number of instances in the config, including this one.
        """

    @abstractmethod
    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run one batch, with rows of one or several requests. The first dimension of every array is the batch."""

    @abstractmethod
    def device(self) -> str:
        """What the network runs on, as people read it: "torch cuda:0"."""

    @abstractmethod
    def close(self) -> None:
        """Free all memory; the network is not used again."""

    def row_size(self) -> RowSize | None:
        """The family's own rule for the size of a row, in place of the one in the config; asked after `setup`."""
        return None

    def gauges(self) -> Sequence[Gauge]:
        """Return the gauges to publish beside `device`."""
        return ()

    def watch(self, changed: Callable[[], None]) -> None:  # noqa: B027  # most networks stay as they are
        """Call `changed`, from any thread, whenever the result of `device` or `gauges` has changed."""
