"""The closed loop: a number of clients that each send their next request when they have the answer to the last one."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from httpx_sse import EventSource

from ..answers import is_event_stream
from ..errors import DarkroomError
from .apis import Api, BadAnswer, Options, Received, check_images, error_kind
from .figures import Level, Sample
from .prompts import PROMPTS, SEED, Shot, shot

_WARM_UP_SEED = 1_000_000
"""Added to the seeds of the warm-up, so that no cache of the server knows a measured request."""
_PAUSE = 1.0
"""Seconds that a client waits after a failure. A server that refuses is not to be measured by its refusals."""
_HOPELESS = 20
"""Failures in a row after which a level is given up."""


class NothingWorks(DarkroomError):
    """No request of the warm-up was answered with an image."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    :param levels: numbers of clients, one level after the other.
    :param requests: requests of a level; None = as many as fit into `seconds`.
    :param seconds: how long a level starts new requests. Those that run then are finished and counted.
    :param warm_up: requests of each client before a level, which are not counted.
    :param pause: seconds that a client waits after a failure.
    """

    levels: Sequence[int] = (1, 2, 4, 8)
    requests: int | None = None
    seconds: float = 30.0
    warm_up: int = 1
    prompts: Sequence[str] = PROMPTS
    seed: int = SEED
    pause: float = _PAUSE


@asynccontextmanager
async def connection(url: str, *, timeout: float, headers: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client without retries, because each failure counts, and without a limit of connections.

    :param timeout: seconds that the server may stay silent.
    """
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=httpx.Timeout(timeout, connect=10.0), limits=limits, trust_env=False
    ) as http:
        yield http


async def run(
    http: httpx.AsyncClient,
    api: Api,
    options: Options,
    plan: Plan,
    levels: list[Level],
    on_sample: Callable[[Level], None] = lambda level: None,
) -> None:
    """Measure all levels of a plan.

    :param levels: gets the levels as they are measured. What is in it when this is cancelled stays usable.
    :param on_sample: called after each measured request.
    :raises NothingWorks: the first warm-up brought no image.
    """
    for number in plan.levels:
        await _warm_up(http, api, options, plan, clients=number, first=not levels)
        level = Level(concurrency=number)
        levels.append(level)
        await _measure(http, api, options, plan, level, on_sample)


async def _warm_up(
    http: httpx.AsyncClient, api: Api, options: Options, plan: Plan, *, clients: int, first: bool
) -> None:
    began = time.perf_counter()
    samples: list[Sample] = []

    async def client(index: int) -> None:
        for turn in range(plan.warm_up):
            one = shot(index * plan.warm_up + turn, plan.prompts, plan.seed + _WARM_UP_SEED)
            samples.append(await send(http, api, one, options, began))

    await asyncio.gather(*(client(index) for index in range(clients)))
    if first and samples and all(sample.error for sample in samples):
        raise NothingWorks(f"{api.path} of {http.base_url} made no image: {samples[0].error}", code="no_image")


async def _measure(
    http: httpx.AsyncClient,
    api: Api,
    options: Options,
    plan: Plan,
    level: Level,
    on_sample: Callable[[Level], None],
) -> None:
    began = time.perf_counter()
    numbers = itertools.count() if plan.requests is None else iter(range(plan.requests))
    failed_in_a_row = 0

    async def client() -> None:
        nonlocal failed_in_a_row
        while plan.requests is not None or time.perf_counter() - began < plan.seconds:
            number = next(numbers, None)
            if number is None or failed_in_a_row >= _HOPELESS:
                return
            sample = await send(http, api, shot(number, plan.prompts, plan.seed), options, began)
            level.samples.append(sample)
            failed_in_a_row = failed_in_a_row + 1 if sample.error else 0
            on_sample(level)
            if sample.error:
                await asyncio.sleep(plan.pause)

    await asyncio.gather(*(client() for _ in range(level.concurrency)))
    level.complete = failed_in_a_row < _HOPELESS


async def send(http: httpx.AsyncClient, api: Api, one: Shot, options: Options, began: float) -> Sample:
    """Send one request and measure it; a failure is a sample, too.

    :param began: start of the level, by `time.perf_counter`.
    """
    body, accept = api.request(one, options)
    started = time.perf_counter()
    received, preview, error = Received(), None, None
    try:
        async with http.stream("POST", api.path, json=body, headers={"Accept": accept}) as answer:
            if not answer.is_success:
                error = error_kind(answer.status_code, (await answer.aread()).decode(errors="replace"))
            elif is_event_stream(answer):
                preview = await _follow(api, answer, received, started)
            else:
                await answer.aread()
        ended = time.perf_counter()
        if error is None:
            if not received.done and not is_event_stream(answer):
                received.images = api.images(_json(answer))
            check_images(received.images, options.images)
    except BadAnswer as problem:
        ended, error = time.perf_counter(), f"bad answer: {problem}"
    except httpx.TimeoutException:
        ended, error = time.perf_counter(), "timeout"
    except httpx.TransportError as problem:
        ended, error = time.perf_counter(), f"connection: {type(problem).__name__}"
    return Sample(
        started=started - began,
        seconds=ended - started,
        images=0 if error else len(received.images),
        first_preview=preview,
        error=error,
    )


async def _follow(api: Api, answer: httpx.Response, received: Received, started: float) -> float | None:
    """Read events to the end of the stream; returns the seconds to the first preview."""
    preview: float | None = None
    async for event in EventSource(answer).aiter_sse():
        if api.take(event, received) and preview is None:
            preview = time.perf_counter() - started
    if not received.done:
        raise BadAnswer("the stream ended before its result came")
    return preview


def _json(answer: httpx.Response) -> object:
    try:
        return answer.json()
    except ValueError:
        raise BadAnswer("the answer is no JSON") from None
