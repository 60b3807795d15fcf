"""A Python network in a host: it merges calls of equal shapes, and words errors for its callers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from darkroom.serving.batching import NetworkCall, RequestError, run_calls
from darkroom.serving.host import Gauge, NetworkModel, provider_gauge
from darkroom.serving.loras import RowLoras
from darkroom.serving.model_config import row_caps
from darkroom.serving.networks import Array, Tensors


class PythonNetwork:
    """One loaded instance. Not thread safe.

    :param folder, kind, device, instances: see `NetworkModel.setup`.
    :param rows_by_size: the model parameter of that name; "" if the config does not have it.
    """

    def __init__(
        self, model: NetworkModel, folder: Path, *, kind: str, device: int, instances: int, rows_by_size: str
    ) -> None:
        self._model = model
        model.setup(folder, kind, device, instances)
        self._caps = row_caps(rows_by_size, model.row_size())
        self._device = str(device)

    def execute(self, calls: Sequence[NetworkCall]) -> list[Tensors | Exception]:
        """Return the outputs or the error of each call, in order. Calls with equal shapes run together."""
        return run_calls(self._run, calls, batching=True, caps=self._caps)

    def error_text(self, error: Exception) -> str:
        """The text that a caller receives for an error from `execute`.

        Only the first line: torch describes memory at length, and tracebacks name files of this machine.
        """
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

    def gauges(self) -> list[Gauge]:
        """The gauges to publish; the first one is the provider gauge, which ONNX networks also have."""
        return [provider_gauge(self._model.device(), self._device), *self._model.gauges()]

    def close(self) -> None:
        """Free the memory of the network; it is not used again."""
        self._model.close()

    def _run(self, outputs: Sequence[str], inputs: Tensors) -> list[Array]:
        own, loras = RowLoras.taken_from(inputs)
        if loras is not None and loras.act:
            raise RequestError("this network takes no LoRAs")
        answer = self._model.run(own)
        return [answer[name] for name in outputs]
