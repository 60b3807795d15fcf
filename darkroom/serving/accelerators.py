"""What networks run on, in one process, where the repository places them on the CPU: DirectML, CoreML, MPS.

The repository knows CPUs and NVIDIA's GPUs, as Triton does. Other accelerators are tried, proven by one small
inference, and given up for the CPU with a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from darkroom.serving.batching import NetworkCall
from darkroom.serving.network_queue import Executable

log = logging.getLogger(__name__)

DIRECTML, COREML, MPS = "DirectML", "CoreML", "MPS"
"""Kinds of devices beside Triton's "CPU" and "GPU"."""
PROVIDERS = {DIRECTML: "DmlExecutionProvider", COREML: "CoreMLExecutionProvider"}
"""The names of their execution providers in ONNX Runtime."""


@dataclass(frozen=True, kw_only=True)
class Accelerators:
    """The kind of device to try for networks of each engine; "" for none.

    :param onnx: for ONNX Runtime: DIRECTML or COREML.
    :param torch: for networks in Python: MPS.
    """

    onnx: str = ""
    torch: str = ""

    @classmethod
    def found(cls) -> Accelerators:
        """Those of this machine, as ONNX Runtime and torch report them."""
        import onnxruntime as ort

        return cls(onnx=_onnx_kind(ort.get_available_providers()), torch=_torch_kind())


def _onnx_kind(available: Collection[str]) -> str:
    return next((kind for kind, provider in PROVIDERS.items() if provider in available), "")


def _torch_kind() -> str:
    try:
        import torch
    except ImportError:
        return ""
    return MPS if torch.backends.mps.is_available() else ""


def proven(
    name: str,
    build: Callable[[str, int], Executable],
    accelerator: str,
    canary: Callable[[], NetworkCall] | None,
    kind: str,
    device: int,
) -> Executable:
    """Open an instance of a network, on an accelerator in place of the CPU if it works there.

    :param name: of the model, for the log.
    :param build: opens the network on a kind of device with a number.
    :param accelerator: the kind to try; "" for none.
    :param canary: makes a small call, which has to give finite numbers there; None where there is none.
    :param kind, device: where the repository places the instance.
    :raises Exception: what `build` raises.
    """
    if not accelerator or kind != "CPU":
        return build(kind, device)
    try:
        network = build(accelerator, device)
        if canary is not None:
            _prove(network, canary())
    except Exception as error:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        log.warning("%s does not work on %s (%s); it runs on the CPU", name, accelerator, why)
        return build(kind, device)
    log.info("%s runs on %s", name, accelerator)
    return network


def _prove(network: Executable, call: NetworkCall) -> None:
    """Run one call.

    :raises Exception: it failed, or an output has numbers that are not finite.
    """
    (answer,) = network.execute([call])
    if isinstance(answer, Exception):
        raise answer
    for name, array in answer.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"the output {name} is not finite")
