"""Requests to decoupled models over plain tritonclient, and what Triton counts of them."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningTriton


class Stream:
    """One streaming request: what comes back, in order.

    :param sent_by: the client that the pipeline is told of; empty for none.
    """

    def __init__(self, triton: RunningTriton, model_name: str, /, *, sent_by: str = "", **inputs: Any) -> None:
        self.answers: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
        self.ended = False
        self.client = triton.client()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))
        self.client.async_stream_infer(
            model_name,
            [_tensor(name, value) for name, value in inputs.items()],
            enable_empty_final_response=True,
            parameters={"client": sent_by} if sent_by else None,
        )

    def next(self) -> dict[str, Any]:
        """The next response; `ended` tells afterwards whether it was the last one."""
        result, error = self.answers.get(timeout=60)
        if error is not None:
            raise error
        response = result.get_response()
        self.ended = response.parameters["triton_final_response"].bool_param
        return {output.name: result.as_numpy(output.name) for output in response.outputs}

    def all(self) -> list[dict[str, Any]]:
        """Every response."""
        found = []
        while not self.ended:
            found.append(self.next())
        self.close()
        return found

    def close(self, *, cancel: bool = False) -> None:
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


def _tensor(name: str, value: Any) -> Any:
    """One input; a list is one of several images."""
    kinds = {
        str: ("BYTES", np.object_),
        list: ("BYTES", np.object_),
        bool: ("BOOL", np.bool_),
        int: ("INT32", np.int32),
        float: ("FP32", np.float32),
        bytes: ("UINT8", np.uint8),
        np.int64: ("INT64", np.int64),
    }
    kind, dtype = kinds[type(value)]
    several = value if isinstance(value, list) else [value]
    array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.array(several, dtype)
    tensor = grpcclient.InferInput(name, array.shape, kind)
    tensor.set_data_from_numpy(array)
    return tensor


def rows_and_executions(triton: RunningTriton, model: str) -> tuple[int, int]:
    """How many rows a model has run, and in how many batches."""
    with triton.client() as client:
        found = client.get_inference_statistics(model).model_stats[0]
    return int(found.inference_count), int(found.execution_count)


def executions(triton: RunningTriton, model: str) -> int:
    """How many batches a model has run."""
    return rows_and_executions(triton, model)[1]


def stubs_of(triton: RunningTriton, model: str) -> list[psutil.Process]:
    """The processes that run a model, one per instance."""
    return [
        child
        for child in psutil.Process(triton.process.pid).children(recursive=True)
        if child.cmdline() and "stub" in child.cmdline()[0] and f"/{model}/" in " ".join(child.cmdline())
    ]


def stub_of(triton: RunningTriton, model: str) -> psutil.Process:
    """The process of a model with one instance."""
    (found,) = stubs_of(triton, model)
    return found
