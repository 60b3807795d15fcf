"""Streams of events, and the way of a call to Triton before there is a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from darkroom.errors import NotReady, QueueFull, TooLarge
from proxy.gateway import Gateway
from proxy.keys import store as table
from proxy.keys.keyring import Keyring
from proxy.keys.ledger import LEDGER, Charges, Ledger
from proxy.keys.models import Limits, NewKey
from proxy.streams import EventResponse, SendEvent, event
from proxy.tasks.store import Store


def sent_by(work: Callable[[SendEvent], Awaitable[None]]) -> str:
    """Everything that the response's body has."""

    async def collect() -> bytes:
        return b"".join([bytes(part) async for part in EventResponse(work).body_iterator])  # type: ignore[arg-type]

    return asyncio.run(collect()).decode()


def test_stream_sends_events_in_order() -> None:
    async def work(tell: SendEvent) -> None:
        for n in range(3):
            tell(event("progress", {"done": n}))
            await asyncio.sleep(0)

    assert sent_by(work) == "".join(f'event: progress\ndata: {{"done": {n}}}\n\n' for n in range(3))


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [(TooLarge("No.", param="x"), 413, "too_large"), (KeyError("secret"), 500, "internal_error")],
)
def test_stream_ends_with_an_error_event(raised: Exception, status: int, code: str) -> None:
    async def work(tell: SendEvent) -> None:
        tell(event("progress", {}))
        raise raised

    first, last, rest = sent_by(work).split("\n\n")
    assert (first, rest) == ("event: progress\ndata: {}", "")
    body = json.loads(last.removeprefix("event: error\ndata: "))
    assert (body["status"], body["error"]["code"]) == (status, code)
    assert "secret" not in last


def test_stream_of_a_revoked_key_ends_with_an_error(store: Store) -> None:
    key, _ = table.create(store, NewKey(name="short-lived", limits=Limits()))
    ended = []

    async def work(tell: SendEvent) -> None:
        tell(event("progress", {"done": 1}))
        try:
            while True:  # a client that is behind has more waiting than it gets
                await asyncio.sleep(0.01)
                tell(event("progress", {"done": 2}))
        finally:
            ended.append(True)

    async def follow() -> list[bytes]:
        ring = Keyring(store)
        await ring.load()
        LEDGER.set(Ledger(key=key, charges=Charges(store), ring=ring))
        found: list[bytes] = []
        async for part in EventResponse(work).body_iterator:
            found.append(bytes(part))  # type: ignore[arg-type]
            if len(found) == 1:
                await store.call(table.revoke, store, key.id)
        return found

    first, *_, last = asyncio.run(follow())
    assert first == b'event: progress\ndata: {"done": 1}\n\n'
    body = json.loads(last.decode().removeprefix("event: error\ndata: "))
    assert (body["status"], body["error"]["code"], body["error"]["message"]) == (
        401,
        "unauthorized",
        "The key was revoked.",
    )
    assert ended == [True]


def test_stream_that_the_client_leaves_cancels_its_work() -> None:
    cancelled = []

    async def work(tell: SendEvent) -> None:
        tell(event("progress", {}))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def leave() -> None:
        async with aclosing(EventResponse(work).body_iterator) as events:  # type: ignore[type-var]
            await anext(events)
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert cancelled == [True]


def test_stream_does_its_work_without_a_reader() -> None:
    """A client that stops reading its stream holds a place for as long as its work takes, and no longer."""

    async def scenario() -> None:
        finished = asyncio.Event()

        async def work(tell: SendEvent) -> None:
            for _ in range(100):
                tell(event("progress", {"data": "x" * 100_000}))
                await asyncio.sleep(0)
            finished.set()

        async def send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # as uvicorn's does once the connection's buffers are full

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        answer = asyncio.ensure_future(EventResponse(work)({"type": "http"}, receive, send))
        await asyncio.wait_for(finished.wait(), 10)
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)

    asyncio.run(scenario())


def test_stream_with_inputs_that_cannot_be_sent_fails() -> None:
    async def call() -> None:
        gateway = Gateway("127.0.0.1:1")
        try:
            async with aclosing(gateway.stream("model", {"text": "\ud800"})) as responses:
                await anext(responses)
        finally:
            await gateway.close()

    with pytest.raises(UnicodeEncodeError):
        asyncio.run(call())


def test_stream_without_events_sends_keep_alives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.streams._KEEP_ALIVE_SECONDS", 0.01)

    async def scenario() -> list[bytes]:
        go_on = asyncio.Event()

        async def work(tell: SendEvent) -> None:
            await go_on.wait()
            tell(event("done", {}))

        came = []
        async with aclosing(EventResponse(work).body_iterator) as events:  # type: ignore[type-var]
            async for one in events:
                came.append(bytes(one))  # type: ignore[arg-type]
                if len(came) == 3:
                    go_on.set()
        return came

    *quiet, last = asyncio.run(scenario())
    assert set(quiet) == {b": keep-alive\n\n"}
    assert len(quiet) >= 3
    assert last == event("done", {})


@pytest.mark.parametrize("error", [NotReady("Later.", retry_after=7), QueueFull("Full.", retry_after=7)])
def test_stream_error_that_is_transient_has_retry_after(error: QueueFull) -> None:
    async def work(tell: SendEvent) -> None:
        raise error

    kind, retry, data, *_ = sent_by(work).split("\n")
    assert (kind, retry) == ("event: error", "retry: 7000")
    body = json.loads(data.removeprefix("data: "))
    assert (body["retry_after"], body["error"]["code"]) == (7, error.code)
