"""A Python-based Triton backend that serves the configurations of NVIDIA's native `onnxruntime` backend.

For installs that have no native library: every model whose config.pbtxt says `backend: "onnxruntime"` is
served by this file, unchanged. Behaviour follows triton-inference-server/onnxruntime_backend (26.06); see the
sibling modules for configuration, validation and batching. What differs from native:

- Memory: tensors travel through the CPU; BF16 tensors, sequence batching, ragged and batch inputs,
  `cc_model_filenames` and the server options of native (`--backend-config=onnxruntime,...`) are not supported;
  a configuration that needs them fails to load.
- Providers: one that does not work is logged and the next is tried (TensorRT, CUDA, CPU), where native fails to
  load. With no `instance_group` at all Triton runs Python-based backends on the CPU; a group that says no kind
  runs on the GPUs where there are any, as with native.
- Defaults: intra-op spinning off, `cudnn_conv_algo_search` HEURISTIC; any `session.*` parameter reaches
  ONNX Runtime.
- Errors: when a batch fails, its requests are run again one by one, so that each gets its own answer.
- The parameter `rows_by_size` ("latents 1024:16 4096:8") limits what runs together by the size of an input; native
  knows `max_batch_size` only. With `fill_above` ("2") batches of more rows are filled up to that limit, and `engines`
  ("2") opens the network so often: both spare GPUs the planning of new shapes.
- Outputs that nobody asked for are not fetched (ONNX Runtime still computes the whole graph).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from ort_backend_session import (
    CPU,
    LoadError,
    Provider,
    count,
    error_text,
    model_file,
    open_session,
    parameter,
    run_options,
    session_options,
    wanted_providers,
)
from ort_backend_signature import check_config, complete_config, graph_signature, scalar_outputs

from darkroom.serving.batching import Engines, Job, RequestError, Run, decode_strings, filled, groups, run_together
from darkroom.serving.networks import Array, RowCaps, Tensors


class TritonPythonModel:
    """One instance of one model: sessions of its own, on the provider that its metric names."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in a configuration whose inputs or outputs are missing, from the graph.

        :raises LoadError: the file is missing, or max_batch_size does not fit the graph.
        """
        # The dictionary itself: the setters refuse the `reshape` that a batch of scalars needs.
        config = auto_complete_model_config.as_dict()
        if config.get("input") and config.get("output"):
            return auto_complete_model_config
        version = Path(pb_utils.get_model_dir())
        path = model_file(config, version.parent, version.name)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # only its signature is read
        session = _load(path, options, (Provider(CPU),), config["name"], version.parent)
        complete_config(config, graph_signature(session))
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the sessions, compare them with the configuration, and publish the provider.

        :raises LoadError: the model cannot be served as configured; Triton shows the message.
        """
        config = json.loads(args["model_config"])
        folder, version = Path(args["model_repository"]), args["model_version"]
        self._name = f"{config['name']} version {version}"
        self._batching = int(config["max_batch_size"]) > 0
        path = model_file(config, folder, version)
        wanted = wanted_providers(config, args["model_instance_kind"], int(args["model_instance_device_id"]))
        options = session_options(config)
        sessions = [_load(path, options, wanted, self._name, folder)]
        given_up = sessions[0].get_providers()[0] != wanted[0].name  # a CPU, say, which plans nothing
        for _ in range(0 if given_up else count(config, "engines") - 1):
            another = _load(path, options, wanted, self._name, folder)
            if another.get_providers()[0] == wanted[0].name:  # not where the memory of the GPU was enough for one only
                sessions.append(another)
        graph = graph_signature(sessions[0])
        check_config(config, graph)
        self._scalar_inputs = {name for name, tensor in {**graph.inputs, **graph.optional}.items() if not tensor.dims}
        self._scalar_outputs = scalar_outputs(config, graph)
        self._run_options = run_options(config)
        self._caps = _row_caps(config)
        self._run: Run = Engines([partial(self._run_session, session) for session in sessions])
        if self._caps and not given_up and (above := count(config, "fill_above")):
            self._run = filled(self._run, self._caps, above, int(config["max_batch_size"]))
        self._publish_provider(sessions[0], config["name"], version, args["model_instance_device_id"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order: merged runs of equal shapes, and to each failed request its own error."""
        answers: dict[int, Tensors | Exception] = {}
        jobs: dict[int, Job] = {}
        for index, request in enumerate(requests):
            try:
                jobs[index] = _read(request)
            except RequestError as error:
                answers[index] = error
        places = list(jobs)
        for group in groups(list(jobs.values()), batching=self._batching, caps=self._caps):
            results = run_together(self._run, [jobs[places[i]] for i in group], batching=self._batching)
            for i, result in zip(group, results, strict=True):
                answers[places[i]] = result
        return [self._respond(answers[index]) for index in range(len(requests))]

    def finalize(self) -> None:
        """Give the sessions' memory back, and the metric before its family, as Triton asks."""
        del self._metric
        del self._metric_family
        del self._run

    def _run_session(self, session: Any, outputs: Sequence[str], inputs: Tensors) -> Sequence[Array]:
        # Triton has no scalars: they come as dims of all 1, and go back as such.
        feed = {name: array.reshape(()) if name in self._scalar_inputs else array for name, array in inputs.items()}
        values = session.run(list(outputs), feed, self._run_options)
        return [
            array.reshape(self._scalar_outputs[name]) if name in self._scalar_outputs else array
            for name, array in zip(outputs, values, strict=True)
        ]

    def _respond(self, answer: Tensors | Exception) -> Any:
        if isinstance(answer, Exception):
            return pb_utils.InferenceResponse(error=_triton_error(self._name, answer))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])

    def _publish_provider(self, session: Any, name: str, version: str, device: str) -> None:
        provider = session.get_providers()[0]
        pb_utils.Logger.log_info(f"{self._name} runs on {provider}, device {device}")
        self._metric_family = pb_utils.MetricFamily(
            name="darkroom_network_provider",
            description="1 for the ONNX Runtime execution provider that a network runs on",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        labels = {"model": name, "version": version, "provider": provider, "device": device}
        # Series of equal labels are one gauge, which goes when its first owner goes: the old instance of a
        # reload, or one of two instances, would take the others' along.
        labels["process"] = str(os.getpid())
        self._metric = self._metric_family.Metric(labels=labels)
        self._metric.set(1)


def _load(path: Path, options: ort.SessionOptions, wanted: Sequence[Provider], name: str, folder: Path) -> Any:
    def warn(message: str) -> None:
        pb_utils.Logger.log_warn(f"{name}: {message}")

    try:
        return open_session(path, options, wanted, warn)
    except Exception as error:
        # Where the repository lies is the operator's business, and readers of this message may be clients.
        raise LoadError(error_text(name, error).replace(f"{folder.parent}/", "")) from error


def _row_caps(config: Any) -> RowCaps | None:
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


def _read(request: Any) -> Job:
    inputs = {}
    for tensor in request.inputs():
        name, array = tensor.name(), tensor.as_numpy()
        inputs[name] = decode_strings(name, array) if array.dtype == np.object_ else array
    return Job(inputs, request.requested_output_names())


def _triton_error(name: str, error: Exception) -> Any:
    # These two are the sender's fault for certain; native calls everything internal.
    invalid = isinstance(error, RequestError) or type(error).__name__ == "InvalidArgument"
    code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
    return pb_utils.TritonError(error_text(name, error), code)
