"""One network of a model repository, opened with ONNX Runtime: sessions, batches, and errors.

Configurations are the parsed JSON of a ModelConfig, with the meaning that they have for NVIDIA's native backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from darkroom.errors import DarkroomError, to_wire
from darkroom.serving.accelerators import DIRECTML
from darkroom.serving.batching import (
    NetworkCall,
    RequestError,
    Run,
    SessionsByShape,
    decode_strings,
    pad_to_cap,
    run_calls,
)
from darkroom.serving.host import Gauge, provider_gauge
from darkroom.serving.lora_cache import LoraCache
from darkroom.serving.lora_layout import LoraLayout
from darkroom.serving.networks import Array, RowCaps, Tensors
from darkroom.serving.onnx import bf16
from darkroom.serving.onnx.lora_graph import LoraGraph, Open, with_loras
from darkroom.serving.onnx.session import (
    CPU,
    SHRINK,
    Config,
    LoadError,
    Provider,
    Warn,
    count,
    error_text,
    model_file,
    open_session,
    parameter,
    run_options,
    session_options,
    wanted_providers,
)
from darkroom.serving.onnx.signature import check_config, complete_config, graph_signature, scalar_outputs


class OnnxNetwork:
    """One instance of a network, with sessions of its own. Not thread safe.

    :param config: a complete one, see `completed_config`.
    :param folder: the folder of the model, which contains the folder `version`.
    :param kind: Triton's instance kind, "CPU" or "GPU", or one of `darkroom.serving.accelerators`.
    :param device: the number of the GPU.
    :param warn: called with a sentence for every execution provider that does not work here.
    :raises LoadError: the model cannot be served as configured.
    """

    def __init__(self, config: Config, folder: Path, version: str, *, kind: str, device: int, warn: Warn) -> None:
        self._name = f"{config['name']} version {version}"
        self._batching = int(config["max_batch_size"]) > 0
        path = model_file(config, folder, version)
        wanted = wanted_providers(config, kind, device)
        options = session_options(config)
        if kind == DIRECTML:
            options.enable_mem_pattern = False  # which this provider does not support
        session = _bf16_session(path, config, kind, partial(_warn, warn, self._name))
        sessions = [session or _load(path, options, wanted, self._name, folder, warn)]
        given_up = sessions[0].get_providers()[0] != wanted[0].name  # a CPU needs no plan for each shape
        for _ in range(0 if given_up else count(config, "engines") - 1):
            another = _load(path, options, wanted, self._name, folder, warn)
            if another.get_providers()[0] == wanted[0].name:  # not if the GPU had memory for one session only
                sessions.append(another)
        graph = graph_signature(sessions[0])
        check_config(config, graph)
        self._scalar_inputs = {name for name, tensor in {**graph.inputs, **graph.optional}.items() if not tensor.dims}
        self._scalar_outputs = scalar_outputs(config, graph)
        self._run_options = run_options(config)
        self._caps = _row_caps(config)
        plain = SessionsByShape([partial(self._run_session, session) for session in sessions])
        reopen = partial(_load, options=options, wanted=wanted, name=self._name, folder=folder, warn=warn)
        self._loras = _lora_graph(path.parent, reopen, device, self._run_options)
        self._run: Run = with_loras(plain, self._loras)
        if self._caps and not given_up and (above := count(config, "fill_above")):
            self._run = pad_to_cap(self._run, self._caps, above, int(config["max_batch_size"]))
        self._provider = str(sessions[0].get_providers()[0])
        self._device = str(device)

    @property
    def provider(self) -> str:
        """The execution provider that the network runs on."""
        return self._provider

    def gauges(self) -> list[Gauge]:
        """The gauges to publish. Thread safe."""
        found = [provider_gauge(self._provider, self._device)]
        if self._loras is not None:
            slots, size = self._loras.bank.used, self._loras.bank.size
            found.append(Gauge("darkroom_network_lora_slots", "LoRA slots that are in use", slots))
            found.append(Gauge("darkroom_network_lora_bytes", "Memory of the LoRA slots", size))
        return found

    def execute(self, calls: Sequence[NetworkCall]) -> list[Tensors | Exception]:
        """Return the outputs or the error of each call, in order. Calls with equal shapes run together."""
        answers: dict[int, Tensors | Exception] = {}
        readable: dict[int, NetworkCall] = {}
        for index, call in enumerate(calls):
            try:
                readable[index] = _decoded(call)
            except RequestError as error:
                answers[index] = error
        results = run_calls(self._run, list(readable.values()), batching=self._batching, caps=self._caps)
        answers.update(zip(readable, results, strict=True))
        return [answers[index] for index in range(len(calls))]

    def error_text(self, error: Exception) -> str:
        """The text that a caller receives for an error from `execute`."""
        return to_wire(error) if isinstance(error, DarkroomError) else error_text(self._name, error)

    def close(self) -> None:
        """Free the memory of the sessions; the network is not used again."""
        del self._run, self._loras

    def _run_session(self, session: Any, outputs: Sequence[str], inputs: Tensors) -> Sequence[Array]:
        # Triton has no scalars: inputs and outputs have dims of all 1 instead.
        feed = {name: array.reshape(()) if name in self._scalar_inputs else array for name, array in inputs.items()}
        values = session.run(list(outputs), feed, self._run_options)
        return [
            array.reshape(self._scalar_outputs[name]) if name in self._scalar_outputs else array
            for name, array in zip(outputs, values, strict=True)
        ]


def completed_config(config: dict[str, Any], folder: Path, version: str, warn: Warn) -> None:
    """Add missing inputs and outputs to a configuration, in place, from the graph.

    :raises LoadError: the file is missing, or max_batch_size does not fit the graph.
    """
    if config.get("input") and config.get("output"):
        return
    path = model_file(config, folder, version)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # only its signature is read
    complete_config(config, graph_signature(_load(path, options, (Provider(CPU),), config["name"], folder, warn)))


def _bf16_session(path: Path, config: Config, kind: str, warn: Warn) -> bf16.Bf16Session | None:
    """Return a session in bfloat16 for a network on a CPU that may have one; None where fp32 is to be used."""
    if kind != "CPU" or not parameter(config, bf16.PARAMETER):
        return None
    from darkroom.settings import Settings  # imported here, because few networks may

    if Settings().cpu_precision != "auto":
        return None
    if reason := bf16.reason_against():
        warn(f"bfloat16 is not used: {reason}; fp32 is used instead")
        return None
    try:
        frugal = bool(parameter(config, SHRINK))
        return bf16.Bf16Session(path, threads=count(config, "intra_op_thread_count"), frugal=frugal)
    except RuntimeError as error:
        warn(f"bfloat16 is not used: {error}; fp32 is used instead")
        return None


def _warn(warn: Warn, name: str, message: str) -> None:
    warn(f"{name}: {message}")


def _load(
    path: Path, options: ort.SessionOptions, wanted: Sequence[Provider], name: str, folder: Path, warn: Warn
) -> Any:
    try:
        return open_session(path, options, wanted, partial(_warn, warn, name))
    except Exception as error:
        # Clients may read this message, and should not see the path of the repository.
        raise LoadError(error_text(name, error).replace(f"{folder.parent}/", "")) from error


def _lora_graph(folder: Path, open: Open, device: int, options: ort.RunOptions) -> LoraGraph | None:
    """Return the second graph in a version folder; None where the network takes no LoRAs.

    :raises LoadError: lora.json is damaged.
    """
    try:
        layout = LoraLayout.read(folder)
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"lora.json is damaged: {error!r}") from error
    if layout is None:
        return None
    from darkroom.settings import Settings  # imported here, because few networks take LoRAs

    settings = Settings()
    cache, limit = LoraCache.of(settings), settings.lora_memory_gb * 1e9
    return LoraGraph(layout, folder, cache, limit=limit, open=open, device=device, run_options=options)


def _row_caps(config: Config) -> RowCaps | None:
    text = parameter(config, "rows_by_size")
    if not text:
        return None
    try:
        caps = RowCaps.parse(text)
    except ValueError:
        raise LoadError(f"parameter rows_by_size is {text!r}; it must be like 'latents 1024:16 4096:8'") from None
    if caps.input not in {tensor["name"] for tensor in config["input"]}:
        raise LoadError(f"parameter rows_by_size names {caps.input!r}, which is no input of the model")
    return caps


def _decoded(call: NetworkCall) -> NetworkCall:
    inputs = {
        name: decode_strings(name, array) if array.dtype == np.object_ else array for name, array in call.inputs.items()
    }
    return replace(call, inputs=inputs)
