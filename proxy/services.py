"""What every route needs, made once per app."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from darkroom import tracing
from darkroom.errors import Cancelled, NotFound, NotReady, TaskTimeout
from darkroom.registry import family_of, is_chosen
from darkroom.request.request import Request as ModelRequest
from darkroom.serving.networks import Array
from darkroom.settings import Settings
from proxy.audit.notes import end_stream
from proxy.callers import CALLER
from proxy.fleet import Fleet
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.keys import ledger
from proxy.load import CURRENT
from proxy.loras.files import LoraFiles
from proxy.metrics.measures import Measures
from proxy.observability import REQUEST_ID
from proxy.policy.reload import PolicyFile
from proxy.provenance import Provenance
from proxy.readiness import Monitor
from proxy.sdapi.works import Works
from proxy.sources import SOURCE, source_of
from proxy.swapping.swapper import Swapper
from proxy.tritons import Tritons
from proxy.waiting import at_most

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Services:
    """Settings, the way to Triton, its state, the door for work, and, where they are on, signing and measuring."""

    settings: Settings
    gateway: Gateway | Tritons
    monitor: Monitor | Fleet
    gate: Gate
    started: float = field(default_factory=time.monotonic)
    provenance: Provenance | None = None
    measures: Measures | None = None
    swapper: Swapper | None = None

    @cached_property
    def loras(self) -> LoraFiles:
        """The LoRA files of this installation."""
        return LoraFiles(self.settings)

    @cached_property
    def works(self) -> Works:
        """What callers of the web UIs' API have under way."""
        return Works()

    @cached_property
    def policy(self) -> PolicyFile | None:
        """The content policy; None without POLICY_FILE."""
        path = self.settings.policy_file
        return None if path is None else PolicyFile(path)

    async def run_model(self, model: str, inputs: Mapping[str, Any]) -> AsyncGenerator[dict[str, Array], None]:
        """`Gateway.stream` with the id of the current request, for the client that sent it. Where the model is unloaded
        for the memory of others, it waits until it is loaded, and keeps it loaded until its end.

        :raises InvalidInput, NotReady: see `Swapper.using`, and `Gateway.stream`.
        """
        self.gate.load.calls(model)
        async with contextlib.nullcontext() if self.swapper is None else self.swapper.using(model):
            call = self.gateway.stream(model, inputs, request_id=REQUEST_ID.get(), client=SOURCE.get())
            async with contextlib.aclosing(call) as responses:
                async for outputs in responses:
                    yield outputs

    def near(self, model: str | None) -> AbstractAsyncContextManager[None]:
        """Wait for a model before a slot, so that requests of others can have the slot; see `Swapper.near`."""
        return contextlib.nullcontext() if self.swapper is None or model is None else self.swapper.near(model)

    def is_swapped_out(self, model: str | None) -> bool:
        """Whether requests of a model wait until it is loaded."""
        return self.swapper is not None and model is not None and self.swapper.is_swapped_out(model)

    def _has_to_wait(self, model: str | None) -> bool:
        return self.swapper is not None and model is not None and not self.swapper.is_open(model)

    def fits(self, model: str) -> bool:
        """Whether the budget of memory allows a model at all."""
        return self.swapper is None or self.swapper.fits(model)

    def seconds_until_loaded(self, model: str | None) -> float:
        """Expected seconds until requests of a model run, if it is unloaded; else 0."""
        return 0.0 if self.swapper is None or model is None else self.swapper.seconds_until_open(model)

    def waits_for(self, request: str) -> str | None:
        """The model whose loading a request or a task waits for; None if it waits for none."""
        return None if self.swapper is None else self.swapper.waits(request)

    def may_begin_again(self, model: str) -> bool:
        """Whether a direct request, whose Triton has ended, may begin again on another one.

        A task may not: its attempts are counted, so that one that kills servers does not kill all of them.
        """
        job = CURRENT.get()
        if (job and job.id) or not self.gateway.has_another(model):
            return False
        log.warning("%s has ended during a request; it begins again on another one", model)
        return True

    def require_chosen(self, model: str) -> None:
        """:raises NotFound: FAMILIES leaves the family of a model out."""
        if not is_chosen(model, self.settings):
            raise NotFound(f"The family {family_of(model)} is not served here: FAMILIES does not name it.")

    async def admitted(self, work: Callable[[], Coroutine[Any, Any, Result]], model: str | None = None) -> Result:
        """Wait for a place at the gate, then do the work, all within TASK_TIMEOUT. The key of the request is charged
        for the images that `take` has noted.

        :param model: what the work calls first: it is waited for before the place.
        :raises QueueFull, NotReady: the gate admits no request.
        :raises RateLimited: the key may not use that much.
        :raises TaskTimeout: it took too long.
        :raises NotReady: the end of a stream of events cannot be written to the audit trail.
        """
        async with ledger.charged() as charge:
            arrived = time.monotonic()

            async def wait_and_work() -> Result:
                async with AsyncExitStack() as slot:
                    with tracing.span("queue"):
                        admitted = self.gate.admit(SOURCE.get(), self.near(model), waits=self._has_to_wait(model))
                        await slot.enter_async_context(admitted)
                    charge.began = True
                    if self.measures is not None:
                        self.measures.waited("direct", time.monotonic() - arrived)
                    result = await work()
                await end_stream()  # before the last event, which has the result
                return result

            return await within(self.settings.task_timeout, wait_and_work())

    async def check(self, model: str | None = None) -> None:
        """Refuse a direct request before its answer begins: that of a stream has the status 200 whatever comes then.

        :param model: see `admitted`.
        :raises QueueFull, NotReady, RateLimited: as `admitted` would.
        """
        self.gate.check(SOURCE.get(), waits=self._has_to_wait(model))
        await ledger.check()

    async def signed(
        self, image: bytes | memoryview, media_type: str, model: str, request: ModelRequest
    ) -> bytes | memoryview:
        """The image as it is sent; see `Provenance.signed`."""
        if self.provenance is None:
            return image
        return await self.provenance.signed(image, media_type, model, request)

    @contextmanager
    def taken_before_the_end(self) -> Iterator[None]:
        """For requests that take no slot: the service waits some seconds for them when it is stopped, and cancels them
        then.

        :raises NotReady: the service is shutting down.
        """
        problem = "The service is shutting down and takes no new work."
        if self.gate.draining:
            raise NotReady(problem, retry_after=self.gate.retry_after())
        try:
            yield
        except asyncio.CancelledError:
            if self.gate.draining:
                raise NotReady(problem, retry_after=self.gate.retry_after()) from None
            raise


async def of(request: Request) -> Services:
    """The app's services, for `Depends`; notes where the request comes from."""
    # Which a thread, where FastAPI would call a plain function, could not.
    SOURCE.set(CALLER.get().source or source_of(request))
    services: Services = request.app.state.services
    return services


Use = Annotated[Services, Depends(of)]


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; cancel it when it takes longer than `seconds`.

    :raises TaskTimeout: it did.
    """
    try:
        return await at_most(seconds, work)
    except asyncio.TimeoutError:
        raise TaskTimeout(f"The task took longer than TASK_TIMEOUT = {seconds:g} s and was stopped.") from None


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; cancel it when the client goes away.

    :raises Cancelled: it did.
    """
    job = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((job, watcher), return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return job.result()
        raise Cancelled("The client went away.")
    finally:
        for task in (job, watcher):
            task.cancel()
        await asyncio.gather(job, watcher, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
