"""Processes that have stopped working are told from those that work: real ones, which sleep, compute, or read."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from supervisor.standstill import Standstill

SECONDS = 1.0
SLEEPS = "import time; print(flush=True); time.sleep(600)"
COMPUTES = "print(flush=True)\nwhile True: pass"
READS = """
import pathlib, sys, time
print(flush=True)
while True:
    pathlib.Path(sys.argv[1]).read_bytes()
    time.sleep(0.1)
"""
HAS_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(flush=True)
child.wait()
"""

Start = Callable[..., psutil.Process]


def end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        for one in (*process.children(recursive=True), process):
            one.kill()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program, and returns once it has said a line."""
    with ExitStack() as stack:

        def begin(*arguments: str) -> psutil.Process:
            process = subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(end, psutil.Process(process.pid))
            assert process.stdout is not None
            process.stdout.readline()
            return psutil.Process(process.pid)

        yield begin


def standing(groups: dict[str, list[psutil.Process]], *, descendants: bool = True) -> set[str]:
    """The groups that stand still after a while."""
    standstill: Standstill[str] = Standstill(SECONDS, share=0.005, descendants=descendants)
    begun = time.monotonic()
    while time.monotonic() - begun < 3 * SECONDS:
        found = standstill.look(groups)
        assert not found or time.monotonic() - begun >= SECONDS
        time.sleep(SECONDS / 10)
    return found


def test_standstill_is_a_process_that_neither_computes_nor_reads(start: Start, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(100_000))
    groups = {
        "sleeps": [start(SLEEPS)],
        "computes": [start(COMPUTES)],
        "reads": [start(READS, str(tmp_path / "weights"))],
        "one of two computes": [start(SLEEPS), start(COMPUTES)],
        "has a child that computes": [start(HAS_A_CHILD, COMPUTES)],
        "has a child that sleeps": [start(HAS_A_CHILD, SLEEPS)],
    }
    assert standing(groups) == {"sleeps", "has a child that sleeps"}


def test_standstill_leaves_descendants_out(start: Start) -> None:
    assert standing({"parent": [start(HAS_A_CHILD, COMPUTES)]}, descendants=False) == {"parent"}


def test_standstill_begins_anew_with_other_processes(start: Start) -> None:
    standstill: Standstill[str] = Standstill(SECONDS, share=0.005, descendants=True)
    first, second = start(SLEEPS), start(SLEEPS)
    standstill.look({"model": [first]})
    time.sleep(SECONDS)
    assert standstill.look({"model": [second]}) == set()
    time.sleep(SECONDS)
    assert standstill.look({"model": [second]}) == {"model"}
    standstill.forget()
    assert standstill.look({"model": [second]}) == set()


def test_standstill_of_a_process_that_has_ended_is_nothing_to_end(start: Start) -> None:
    standstill: Standstill[str] = Standstill(SECONDS, share=0.005, descendants=True)
    process = start(SLEEPS)
    process.kill()
    process.wait()
    standstill.look({"model": [process]})
    assert standstill.look({}) == set()
