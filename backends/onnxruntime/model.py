"""A Python-based Triton backend that serves the configurations of NVIDIA's native `onnxruntime` backend.

For installs that have no native library: every model whose config.pbtxt says `backend: "onnxruntime"` is
served by this file, unchanged. Behaviour follows triton-inference-server/onnxruntime_backend (26.06); see
`darkroom.serving.onnx` for configuration, validation and batching. What differs from native:

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
  ("2") is the number of sessions of the network: both save GPUs the planning of new shapes.
- Where lora.json and lora.onnx lie beside the weights, the request parameter `loras` names the LoRAs of each row
  (`darkroom.serving.loras`).
- Outputs that were not requested are not fetched (ONNX Runtime still computes the whole graph).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from darkroom import tracing
from darkroom.errors import InvalidInput
from darkroom.serving.batching import RequestError
from darkroom.serving.networks import Tensors
from darkroom.serving.onnx.network import OnnxNetwork, completed_config
from darkroom.serving.triton_calls import call_of
from darkroom.serving.triton_metrics import Publisher


class TritonPythonModel:
    """One instance of one model: sessions of its own, on the provider that its metric names."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in a configuration whose inputs or outputs are missing, from the graph.

        :raises LoadError: the file is missing, or max_batch_size does not fit the graph.
        """
        version = Path(pb_utils.get_model_dir())
        # The dictionary itself: the setters refuse the `reshape` that a batch of scalars needs.
        completed_config(auto_complete_model_config.as_dict(), version.parent, version.name, pb_utils.Logger.log_warn)
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the sessions, compare them with the configuration, and publish the provider.

        :raises LoadError: the model cannot be served as configured; Triton shows the message.
        """
        config, version = json.loads(args["model_config"]), args["model_version"]
        self._name = str(config["name"])
        tracing.start(self._name)
        self._network = OnnxNetwork(
            config,
            Path(args["model_repository"]),
            version,
            kind=args["model_instance_kind"],
            device=int(args["model_instance_device_id"]),
            warn=pb_utils.Logger.log_warn,
        )
        device, provider = args["model_instance_device_id"], self._network.provider
        pb_utils.Logger.log_info(f"{self._name} version {version} runs on {provider}, device {device}")
        labels = {"model": self._name, "version": version, "process": str(os.getpid())}
        self._publisher = Publisher(labels, self._network.gauges)
        self._publisher.start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order: merged runs of equal shapes, and to each failed request its own error."""
        answers = self._network.execute([call_of(request, self._name) for request in requests])
        return [self._respond(answer) for answer in answers]

    def finalize(self) -> None:
        """Give the sessions' memory back, and the metric."""
        self._publisher.close()
        tracing.close()
        self._network.close()

    def _respond(self, answer: Tensors | Exception) -> Any:
        if not isinstance(answer, Exception):
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])
        # These are the sender's fault for certain; native calls everything internal.
        invalid = isinstance(answer, RequestError | InvalidInput) or type(answer).__name__ == "InvalidArgument"
        code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(self._network.error_text(answer), code))
