"""What pipelines and Python networks are to whatever runs them, and what they may ask of it.

A family writes its pipeline and its Python networks against this file alone. `darkroom.serving.triton_pipeline` and
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
    """What a pipeline may ask of its host while it is set up."""

    @property
    def folder(self) -> Path:
        """The version folder of the pipeline, where its files are."""

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
        """A network of the pipeline's label, with the limits that its config sets.

        :param size: the family's own rule for the size of a row, in place of the one in the config.
        :param room: the part of what may be at the network at once that a call takes; by default two batches for each
            instance may be there, one that runs and one that is gathered meanwhile.
        :param each: the part of that which one request may take, see `darkroom.serving.turns.Turns`.
        """

    def has_neighbour(self, spec: ModelSpec) -> bool:
        """Whether the repository holds this model under the pipeline's label."""

    def on_cpu(self, spec: ModelSpec) -> bool:
        """Whether the repository places this network, under the pipeline's label, on the CPU."""

    def loras(self, specs: Iterable[ModelSpec]) -> BaseLoras | None:
        """Return the LoRAs that these networks, under the pipeline's label, can use; None if one takes none."""


class Reply(Protocol):
    """The answer to one request, in one or several responses."""

    def cancelled(self) -> bool:
        """Whether the client has cancelled or gone away."""

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

    :param help: one line for people.
    """

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def provider_gauge(provider: str, device: str) -> Gauge:
    """What an instance of a network runs on, as every host publishes it.

    :param device: the number of the GPU, as Triton gives it.
    """
    text = "1 for the ONNX Runtime execution provider that a network runs on"
    return Gauge("darkroom_network_provider", text, 1, {"provider": provider, "device": device})


class NetworkModel(ABC):
    """One network that runs in Python: subclasses set `spec` and implement `setup`, `run`, `device` and `close`.

    The host merges calls of equal shapes, and never runs two at once.
    """

    spec: ModelSpec

    @abstractmethod
    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        """Load the weights; called once, before anything else.

        :param folder: the version folder, where the weights are.
        :param kind: Triton's instance kind, "CPU" or "GPU".
        :param device: the number of the GPU.
        :param instances: that the config asks for, this one included.
        """

    @abstractmethod
    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One batch, with rows of one or several requests; the first dimension of every array is the batch."""

    @abstractmethod
    def device(self) -> str:
        """What it runs on, for people: "torch cuda:0"."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; it is not used again."""

    def row_size(self) -> RowSize | None:
        """The family's own rule for the size of a row, in place of the one in the config; asked after `setup`."""
        return None

    def gauges(self) -> Sequence[Gauge]:
        """What is published beside `device`."""
        return ()

    def watch(self, changed: Callable[[], None]) -> None:  # noqa: B027  # most networks stay as they are
        """Call `changed`, from any thread, whenever `device` or `gauges` give something else than before."""
