"""Work whose request comes again, and images behind URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from darkroom.errors import Gone, InvalidInput, NotFound, QueueFull
from proxy.openai import once
from proxy.openai.once import Identity, Send, SharedWork, Works
from proxy.openai.published import PublishedImages

FIRST = Identity(key="ann /v1/images/generations body 1", digest="1", named=False, again=False)
AGAIN = replace(FIRST, again=True)


async def whole(work: SharedWork) -> bytes:
    async with aclosing(work.follow()) as parts:
        return b"".join([part async for part in parts])


class Counted:
    """Work in two parts, of which the second one waits for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.stopped = 0

    async def __call__(self, send: Send) -> None:
        self.begun += 1
        send(b"one ")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        send(b"two")


def scenario(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))  # type: ignore[arg-type]


def test_request_that_comes_again_gets_the_work_that_runs() -> None:
    async def run() -> None:
        works, work = Works(), Counted()
        assert works.find(FIRST) is None
        made = works.begin(FIRST, work, streamed=False)
        assert works.find(FIRST) is None, "the same request once more is a new one"
        assert works.find(AGAIN) is made
        assert works.find(replace(AGAIN, key="ben /v1/images/generations body 1")) is None, "of another client"
        both = asyncio.gather(whole(made), whole(made))
        work.go.set()
        assert await both == [b"one two", b"one two"]
        assert work.begun == 1
        assert works.find(AGAIN) is made, "the answer may have been lost on its way"
        assert await whole(made) == b"one two"

    scenario(run)


def test_work_goes_on_for_a_while_without_its_client() -> None:
    async def run() -> None:
        works, work = Works(linger=3600), Counted()
        made = works.begin(FIRST, work, streamed=True)
        async with aclosing(made.follow()) as parts:
            assert await anext(parts) == b"one "
        assert not made.task.done()
        found = works.find(AGAIN)
        assert found is made
        work.go.set()
        assert await whole(found) == b"one two"
        assert (work.begun, work.stopped) == (1, 0)

    scenario(run)


@pytest.mark.parametrize("identity", [None, FIRST])
def test_work_that_nobody_waits_for_ends(identity: Identity | None) -> None:
    async def run() -> None:
        works, work = Works(linger=0.01), Counted()
        made = works.begin(identity, work, streamed=False)
        async with aclosing(made.follow()) as parts:
            await anext(parts)
        await asyncio.wait([made.task])
        assert work.stopped == 1
        assert works.find(AGAIN) is None

    scenario(run)


def test_work_that_failed_is_done_again() -> None:
    async def run() -> None:
        async def fail(send: Send) -> None:
            raise QueueFull("The queue is full.")

        works = Works()
        made = works.begin(FIRST, fail, streamed=False)
        with pytest.raises(QueueFull):
            await whole(made)
        assert works.find(AGAIN) is None

    scenario(run)


def test_retry_takes_the_work_that_nobody_waits_for() -> None:
    async def run() -> None:
        works, one, two = Works(linger=3600), Counted(), Counted()
        first, second = works.begin(FIRST, one, streamed=False), works.begin(FIRST, two, streamed=False)
        waiting = asyncio.ensure_future(whole(second))
        await asyncio.sleep(0)
        assert works.find(AGAIN) is first
        one.go.set()
        two.go.set()
        await waiting
        assert works.find(AGAIN) is second, "the newest of those that wait for nobody"

    scenario(run)


def test_idempotency_key_stands_for_one_request() -> None:
    async def run() -> None:
        works, work = Works(), Counted()
        named = replace(FIRST, key="ann key 7", named=True)
        made = works.begin(named, work, streamed=False)
        assert works.find(named) is made
        with pytest.raises(InvalidInput, match="Idempotency-Key"):
            works.find(replace(named, digest="2"))
        work.go.set()
        await whole(made)

    scenario(run)


def test_answers_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_MOST_BYTES", 10)

    async def run() -> None:
        works = Works(kept_seconds=3600)
        for name in "ab":
            work = Counted()
            work.go.set()
            await whole(works.begin(replace(FIRST, key=name), work, streamed=False))
            await asyncio.sleep(0)  # the callbacks of the task
        assert works.find(replace(AGAIN, key="a")) is None, "both are over the limit"
        assert works.find(replace(AGAIN, key="b")) is not None
        short, work = Works(kept_seconds=0), Counted()
        work.go.set()
        await whole(short.begin(FIRST, work, streamed=False))
        await asyncio.sleep(0.001)
        assert short.find(AGAIN) is None

    scenario(run)


def test_url_is_good_for_an_hour(tmp_path: Path) -> None:
    now = [1_000_000.0]
    published = PublishedImages(tmp_path, clock=lambda: now[0])
    name = published.put(b"image", "webp")
    assert name.endswith(".webp")
    assert len(name) > 32
    now[0] += 3599
    published.sweep()
    assert published.find(name)[0].read_bytes() == b"image"
    now[0] += 2
    with pytest.raises(Gone):
        published.find(name)
    now[0] += 3600
    published.sweep()
    with pytest.raises(NotFound):
        published.find(name)
    assert not list((tmp_path / "published").iterdir())


@pytest.mark.parametrize("name", ["../darkroom.db", "x.png", "A" * 32 + ".svg", "A" * 32 + ".png", ""])
def test_url_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "darkroom.db").write_bytes(b"secret")
    with pytest.raises(NotFound):
        PublishedImages(tmp_path).find(name)
