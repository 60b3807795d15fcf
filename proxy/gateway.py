"""Calls models in Triton: one gRPC stream per call, which is always read to its end.

Everything goes through ModelStreamInfer, also single-response models: early cancels of unary calls crash
Triton 2.51. And a gRPC call that is cancelled while its last response is on the way leaks that response in tritonserver
(measured: docs/decisions/0021-streams-are-read-to-their-end.md). So a caller that no longer needs a call asks the
model to stop, with a request of its own, and the stream is read on in the background until it ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import grpc
import tritonclient.grpc.aio as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from darkroom import tracing
from darkroom.errors import Cancelled, DarkroomError, NetworkError, NotReady, from_wire
from darkroom.serving.calls import CALL, CLIENT, STOP, TRACEPARENT
from darkroom.serving.networks import Array
from darkroom.serving.wire import as_array

log = logging.getLogger(__name__)

_TritonError: TypeAlias = InferenceServerException | grpc.aio.AioRpcError
_RESTARTING = "The inference server is starting or restarting; try again in a moment."
_BROKEN_OFF = "The call to the inference server was broken off; try again in a moment."
_RETRY_AFTER = 5
_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
"""Without the last one a server that was away for long would be seen up to two minutes after it is back."""
_STOP_SECONDS = 30.0
"""Seconds that a cancelled call may take to end by itself: a step, or a few tiles on a slow CPU."""
_END_SECONDS = 0.02
"""After an error the stream ends at once, and there is nothing to stop."""
_ASK_SECONDS = 1.0
"""Seconds between two requests to stop: the first one may have arrived before the call itself."""


class Gateway:
    """A connection to one Triton server.

    :param address: host:port of its gRPC endpoint.

    `proxy.tritons.Tritons` has the same methods for several. `retry_after` returns the expected seconds until an
    unavailable model is back; the readiness monitor sets it.

    :ivar answered: calls of each model that ended without an error.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = grpcclient.InferenceServerClient(address, channel_args=_CHANNEL)
        self._stopping: set[asyncio.Task[None]] = set()
        self._calls: dict[str, set[_Call]] = {}
        self.retry_after: Callable[[str], int] = lambda model: _RETRY_AFTER
        self.answered: Counter[str] = Counter()

    async def close(self) -> None:
        """Close the channel and the running calls."""
        for task in self._stopping:
            task.cancel()
        await asyncio.gather(*self._stopping, return_exceptions=True)
        await self._client.close()

    async def models(self) -> dict[str, bool]:
        """Return whether each model of the repository is loaded.

        :raises NotReady: Triton does not answer.
        """
        try:
            index = await self._client.get_model_repository_index(client_timeout=5)
        except InferenceServerException as error:
            raise translate(error) from error
        return {model.name: model.state == "READY" for model in index.models}

    async def is_loaded(self, model: str) -> bool:
        """Whether a model is still loaded that the repository does not have any more.

        :raises NotReady: Triton does not answer.
        """
        try:
            return bool(await self._client.is_model_ready(model, client_timeout=5))
        except InferenceServerException as error:
            raise translate(error) from error

    def break_off(self, model: str) -> None:
        """End the calls of a model whose process has died with NotReady: Triton would never answer them."""
        for call in self._calls.get(model, ()):
            call.fail(NotReady(_RESTARTING, retry_after=self.retry_after(model)))

    def break_off_all(self) -> None:
        """`break_off` for all models: the server does not answer any more."""
        for model in self._calls:
            self.break_off(model)

    def each(self, model: str) -> Sequence[Gateway]:
        """The servers that may run a model."""
        return [self]

    def has_another(self, model: str) -> bool:
        """Whether another server could run a model of which this one has just ended a call."""
        return False

    async def stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        request_id: str = "",
        client: str = "",
        can_stop: bool = True,
    ) -> AsyncGenerator[dict[str, Array], None]:
        """Run a model; yields the outputs of each response by name.

        Leaving the iteration early, or cancelling the task that runs it, stops the request in Triton at its next step.

        :param inputs: arrays, or plain str/int/float for one-element inputs; None is left out.
        :param client: the client: in the pipelines clients take turns. Empty: the call counts as a client of its own.
        :param can_stop: the model is a pipeline, which can be asked to stop; the call of another one is cancelled.
        :raises DarkroomError: the error that the model raised, or NotReady when Triton is unavailable.
        """
        arrays = {name: as_array(value) for name, value in inputs.items() if value is not None}
        tensors = [_tensor(name, array) for name, array in arrays.items()]
        calls = self._calls.setdefault(model, set())
        with tracing.span("call", current=False, kind="client", model=model, server=self.address) as span:
            parameters = {CLIENT: client, **({TRACEPARENT: span.traceparent} if span.traceparent else {})}
            request = {"model_name": model, "inputs": tensors, "request_id": request_id, "parameters": parameters}
            call = _Call(self._client, request, partial(self._translate, model))
            calls.add(call)
            try:
                while (outputs := await call.next()) is not None:
                    yield outputs
                self.answered[model] += 1
            finally:
                calls.discard(call)
                if not can_stop:
                    call.cancel()
                elif not call.ended:
                    stop = [_tensor(name, array[:1]) for name, array in arrays.items()]
                    task = asyncio.create_task(self._stop(call, {"model_name": model, "inputs": stop}))
                    self._stopping.add(task)
                    task.add_done_callback(self._stopping.discard)

    async def _stop(self, call: _Call, request: Mapping[str, Any]) -> None:
        """Ask the model to stop a call until it has ended; cancel it if that takes too long.

        :param request: to the same model, with the least inputs that Triton accepts.
        """
        asked = {**request, "parameters": {STOP: call.name}}
        try:
            if await call.wait(_END_SECONDS):
                return
            for _ in range(round(_STOP_SECONDS / _ASK_SECONDS)):
                with contextlib.suppress(InferenceServerException, grpc.aio.AioRpcError):
                    async for _ in self._client.stream_infer(_single(dict(asked)), stream_timeout=_STOP_SECONDS):
                        pass
                if await call.wait(_ASK_SECONDS):
                    return
        finally:
            call.cancel()

    def _translate(self, model: str, error: _TritonError) -> DarkroomError:
        return translate(error, self.retry_after(model))


class _Call:
    """One running call. A separate task reads the stream, so that reading continues when the caller is cancelled.

    :param request: with its parameters, to which the name of the call is added.
    :param translate: turns Triton's errors into ours.
    :ivar name: id with which the model can be asked to stop the call.
    """

    def __init__(
        self,
        triton: grpcclient.InferenceServerClient,
        request: Mapping[str, Any],
        translate: Callable[[_TritonError], DarkroomError],
    ) -> None:
        self.name = uuid.uuid4().hex
        self._translate = translate
        parameters = {CALL: self.name, **request["parameters"]}
        self._responses = triton.stream_infer(_single({**request, "parameters": parameters}))
        self._queue: asyncio.Queue[dict[str, Array] | DarkroomError | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    @property
    def ended(self) -> bool:
        """Whether the stream has been read to its end."""
        return self._reader.done()

    async def next(self) -> dict[str, Array] | None:
        """Return the outputs of the next response; None at the end.

        :raises DarkroomError: the response is an error.
        """
        one = await self._queue.get()
        if isinstance(one, DarkroomError):
            raise one
        return one

    async def wait(self, seconds: float) -> bool:
        """Wait for the end for at most that long; return whether it has come."""
        await asyncio.wait({self._reader}, timeout=seconds)
        return self.ended

    def fail(self, error: DarkroomError) -> None:
        """Give the reader an error in place of further responses, and cancel the call."""
        self._queue.put_nowait(error)
        self.cancel()

    def cancel(self) -> None:
        """Cancel the call; does nothing if it has ended."""
        self._responses.cancel()

    async def _read(self) -> None:
        try:
            async for result, error in self._responses:
                self._queue.put_nowait(_outputs(result) if error is None else self._translate(error))
        except (InferenceServerException, grpc.aio.AioRpcError) as error:
            self._queue.put_nowait(self._translate(error))
        except asyncio.CancelledError:  # by `cancel`, or by gRPC, when a call breaks while it is being sent
            self._queue.put_nowait(NotReady(_BROKEN_OFF, retry_after=_RETRY_AFTER))
        except Exception as error:
            log.exception("an answer of the inference server cannot be read")
            self._queue.put_nowait(NetworkError(f"An answer cannot be read: {type(error).__name__}"))
        finally:
            self._queue.put_nowait(None)


def _outputs(result: Any) -> dict[str, Array]:
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


async def _single(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield request


def _tensor(name: str, array: Array) -> Any:
    tensor = grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def translate(error: _TritonError, retry_after: int = _RETRY_AFTER) -> DarkroomError:
    """Return our error for an error of Triton or of the connection; with `retry_after` if the server is unavailable."""
    if isinstance(error, grpc.aio.AioRpcError):
        text, status = error.details() or "", error.code().name
    else:
        text, status = error.message() or "", error.status() or ""
    ours = from_wire(text)
    if ours is not None and not (isinstance(ours, NetworkError) and _is_gone(text)):
        return ours
    if "CANCELLED" in status:
        return Cancelled("The request was cancelled.")
    if "UNAVAILABLE" in status or _is_gone(text):
        return NotReady(_RESTARTING, retry_after=retry_after)
    return NetworkError(f"Triton: {status} {text}")


def _is_gone(text: str) -> bool:
    """Whether a message of Triton means that the model's process has died or that it is being loaded again."""
    return any(words in text for words in ("unknown model", "not ready", "is not healthy"))
