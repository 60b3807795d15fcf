"""Triton's host for networks in Python: models that are not decoupled, behind Triton's dynamic batcher.

Runs inside Triton's Python stub only.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from darkroom import tracing
from darkroom.serving.host import NetworkModel
from darkroom.serving.networks import Tensors
from darkroom.serving.python_network import PythonNetwork
from darkroom.serving.triton_calls import call_of
from darkroom.serving.triton_metrics import Gauges, Publisher


class TritonNetwork:
    """The object that `TritonPythonModel()` returns to Triton for a network."""

    def __init__(self, model: NetworkModel) -> None:
        self._model = model

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's hook."""
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")  # into the server's log
        config, version = json.loads(args["model_config"]), args["model_version"]
        labels = {"model": config["name"], "version": version, "process": str(os.getpid())}
        self._gauges, self._publisher = Gauges(labels), Publisher(labels)
        self._publishing = threading.Lock()
        self._name = str(config["name"])
        tracing.start(self._name)
        self._network = PythonNetwork(
            self._model,
            Path(args["model_repository"]) / version,
            kind=args["model_instance_kind"],
            device=int(args["model_instance_device_id"]),
            instances=sum(int(group["count"]) * max(1, len(group["gpus"])) for group in config["instance_group"]),
            rows_by_size=config["parameters"].get("rows_by_size", {}).get("string_value", ""),
        )
        self._model.watch(self._publish)
        self._publish()
        self._publisher.start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's hook: runs requests of equal shapes together, and answers each failed request with its own error."""
        answers = self._network.execute([call_of(request, self._name) for request in requests])
        return [self._respond(answer) for answer in answers]

    def finalize(self) -> None:
        """Triton's hook."""
        self._publisher.close()
        tracing.close()
        self._network.close()
        self._gauges.close()

    def _respond(self, answer: Tensors | Exception) -> Any:
        if not isinstance(answer, Exception):
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])
        pb_utils.Logger.log_error("".join(traceback.format_exception(answer)))
        reason = self._network.error_text(answer)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INTERNAL))

    def _publish(self) -> None:
        """Publish the present gauges of the network on Triton's metrics endpoint. Thread safe."""
        with self._publishing:  # reading and publishing, so that an older value never replaces a newer one
            for gauge in self._network.gauges():
                self._gauges.show(gauge)
