"""The watch over a trainer that says nothing: one that computes is alive, one that only waits is not."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from proxy.operations import trainer_process


@pytest.mark.parametrize(("code", "computes"), [("while True: pass", True), ("import time; time.sleep(60)", False)])
def test_trainer_counts_as_alive_while_it_computes(monkeypatch: pytest.MonkeyPatch, code: str, computes: bool) -> None:
    monkeypatch.setattr(trainer_process, "_LOOK_SECONDS", 0.2)
    calls: list[float] = []

    async def scenario(pid: int) -> None:
        await asyncio.sleep(1)  # until Python has started, which is computing
        watch = asyncio.ensure_future(trainer_process._watch(pid, lambda: calls.append(0)))
        await asyncio.sleep(2)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            asyncio.run(scenario(process.pid))
        finally:
            process.kill()
    assert (len(calls) > 3) == computes, len(calls)


def test_trainer_that_ends_ends_its_watch() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    asyncio.run(asyncio.wait_for(trainer_process._watch(process.pid, lambda: None), 5))
