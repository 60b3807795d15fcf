"""Networks on a CPU in bfloat16: a session of OpenVINO with those methods of ONNX Runtime's that networks use.

Which networks may run so is data: the model parameter `PARAMETER`, which a family gives to those whose images stay
within 45 dB of fp32 (docs/decisions/0045-bfloat16-on-cpus.md). Whether they do is the setting CPU_PRECISION.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROVIDER = "OpenVINO (bf16)"
PARAMETER = "bf16_on_cpu"
_TYPES = {
    "boolean": "bool",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "f32": "float",
    "f64": "double",
    "string": "string",
}


@dataclass(frozen=True)
class Argument:
    """An input or output, described as ONNX Runtime does: dynamic dimensions are None."""

    name: str
    shape: tuple[int | None, ...]
    type: str


def reason_against() -> str:
    """Say why this machine does not run networks in bfloat16; "" if it does."""
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed (pip install 'darkroom[openvino]')"
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU has no instructions for bfloat16"
    return ""


class Bf16Session:
    """A network that computes in bfloat16. Its inputs and outputs keep their types. Not thread safe.

    :param path: the .onnx file.
    :param threads: of one run; 0 = one per core.
    :param frugal: free the memory of a run after it, at the cost of allocating it again.
    :raises RuntimeError: OpenVINO cannot read or compile the network.
    """

    def __init__(self, path: Path, *, threads: int = 0, frugal: bool = False) -> None:
        import openvino

        core = openvino.Core()
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
        self._network = core.compile_model(core.read_model(str(path)), "CPU", options)
        self._frugal = frugal

    def get_providers(self) -> list[str]:
        """Return what it runs on."""
        return [PROVIDER]

    def get_inputs(self) -> list[Argument]:
        """Return the inputs."""
        return [_described(port) for port in self._network.inputs]

    def get_outputs(self) -> list[Argument]:
        """Return the outputs."""
        return [_described(port) for port in self._network.outputs]

    def get_overridable_initializers(self) -> list[Argument]:
        """Return the optional inputs: there are none."""
        return []

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any], options: object = None) -> list[Any]:
        """Compute outputs by name. `options`, ONNX Runtime's, are not read."""
        found = self._network(dict(inputs), share_inputs=True)
        values = [found[name] for name in outputs]
        if self._frugal:
            del found
            self._network.release_memory()
        return values


def _described(port: Any) -> Argument:
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    kind = port.element_type.get_type_name()
    return Argument(port.any_name, shape, f"tensor({_TYPES.get(kind, kind)})")
