"""The way to Triton: one gRPC stream per call, so that a cancelled call cancels the work.

Everything goes through ModelStreamInfer, also single-response models: early cancels of unary calls crash
Triton 2.51.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc.aio as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from darkroom.errors import Cancelled, DarkroomError, NetworkError, NotReady, from_wire
from darkroom.networks import Array

_RESTARTING = "The inference server is starting or restarting; try again in a moment."
_RETRY_AFTER = 5


class Gateway:
    """A connection to one Triton server.

    :param address: host:port of its gRPC.

    `retry_after` gives the seconds that a server which is away will still be so; whoever knows them sets it.
    """

    def __init__(self, address: str) -> None:
        self._client = grpcclient.InferenceServerClient(address)
        self.retry_after: Callable[[], int] = lambda: _RETRY_AFTER

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def models(self) -> dict[str, bool]:
        """The models of the repository and whether each one is loaded.

        :raises NotReady: Triton does not answer.
        """
        try:
            index = await self._client.get_model_repository_index(client_timeout=5)
        except InferenceServerException as error:
            raise self._translate(error) from error
        return {model.name: model.state == "READY" for model in index.models}

    async def stream(
        self, model: str, inputs: Mapping[str, Any], *, request_id: str = ""
    ) -> AsyncGenerator[dict[str, Array], None]:
        """Run a model; yields the outputs of each response by name.

        Leaving the iteration early, or cancelling the task that runs it, cancels the request in Triton.

        :param inputs: arrays, or plain str/int/float for one-element inputs; None is left out.
        :raises DarkroomError: the error that the model raised, or NotReady when Triton is away.
        """
        # Outside of `one`: what is raised in there only cancels the call.
        tensors = [_tensor(name, value) for name, value in inputs.items() if value is not None]

        async def one() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": model, "inputs": tensors, "request_id": request_id}

        responses = self._client.stream_infer(one())
        try:
            async for result, error in responses:
                if error is not None:
                    raise self._translate(error)
                names = [output.name for output in result.get_response().outputs]
                yield {name: result.as_numpy(name) for name in names}
        except (InferenceServerException, grpc.aio.AioRpcError) as error:
            raise self._translate(error) from error
        except asyncio.CancelledError:
            # gRPC also cancels a call by itself, when it breaks while it is being sent. Python 3.10 cannot tell.
            task = asyncio.current_task()
            if sys.version_info >= (3, 11) and task is not None and not task.cancelling():
                raise NetworkError("The call to the inference server was broken off.") from None
            raise
        finally:
            responses.cancel()

    def _translate(self, error: InferenceServerException | grpc.aio.AioRpcError) -> DarkroomError:
        return translate(error, self.retry_after())


def _tensor(name: str, value: Any) -> Any:
    scalars = {str: np.object_, int: np.int32, float: np.float32}
    array = value if isinstance(value, np.ndarray) else np.array([value], scalars[type(value)])
    tensor = grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def translate(error: InferenceServerException | grpc.aio.AioRpcError, retry_after: int = _RETRY_AFTER) -> DarkroomError:
    """An error of Triton's, or of the connection to it, as one of ours; `retry_after` if the server is away."""
    if isinstance(error, grpc.aio.AioRpcError):
        text, status = error.details() or "", error.code().name
    else:
        text, status = error.message() or "", error.status() or ""
    ours = from_wire(text)
    if ours is not None:
        return ours
    if "CANCELLED" in status:
        return Cancelled("The request was cancelled.")
    if "UNAVAILABLE" in status or "unknown model" in text or "not ready" in text:
        return NotReady(_RESTARTING, retry_after=retry_after)
    return NetworkError(f"Triton: {status} {text}")
