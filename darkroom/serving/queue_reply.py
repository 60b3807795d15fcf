"""The responses of one request to a pipeline, as a queue between the pipeline and its caller in the same process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from darkroom.errors import DarkroomError, from_wire, to_wire
from darkroom.serving.networks import Array, Tensors
from darkroom.serving.pipeline_host import PipelineHost
from darkroom.serving.wire import as_bytes

log = logging.getLogger(__name__)


class QueueReply:
    """A queue of the responses; a `darkroom.serving.host.Reply`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[dict[str, Array] | DarkroomError | None] = asyncio.Queue()
        self._stopped = False

    def cancelled(self) -> bool:
        """Whether the caller has left."""
        return self._stopped

    def stop(self) -> None:
        """Ask the pipeline to stop at its next step."""
        self._stopped = True

    def send(self, outputs: Mapping[str, Array], final: bool = False) -> None:
        """Queue one response."""
        self._queue.put_nowait({name: as_bytes(array) for name, array in outputs.items()})
        if final:
            self.end()

    def fail(self, error: BaseException) -> None:
        """Queue an error as a client of Triton gets it: an unexpected one without its text."""
        if not isinstance(error, DarkroomError | asyncio.CancelledError):
            log.error("a pipeline failed", exc_info=error)
        self._queue.put_nowait(from_wire(to_wire(error)) or DarkroomError("unexpected error in the model"))

    def end(self) -> None:
        """Mark the end of the responses."""
        self._queue.put_nowait(None)

    async def next(self) -> dict[str, Array] | None:
        """Return the next response; None at the end.

        :raises DarkroomError: the request failed.
        """
        one = await self._queue.get()
        if isinstance(one, DarkroomError):
            raise one
        return one


async def serve(pipeline: PipelineHost, inputs: Tensors, reply: QueueReply, client: str, traceparent: str) -> None:
    """Answer one request; its errors go into the reply.

    :raises BaseException: the task was cancelled.
    """
    try:
        with pipeline.span(traceparent) as span:
            try:
                await pipeline.serve(inputs, reply, client=client)
            except BaseException as error:
                span.failed(error)
                reply.fail(error)
                if not isinstance(error, Exception):  # the task was cancelled
                    raise
    finally:
        reply.end()
