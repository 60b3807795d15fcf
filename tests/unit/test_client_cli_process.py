"""The command `darkroom` as a process of its own, against a real loopback server: signals and terminals."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import stopped_by
from tests.unit.loopback import (
    HEALTHY,
    Answer,
    Loopback,
    Received,
    event,
    events,
    generation,
    loopback,
    studio,
    upscaler,
)

DARKROOM = [sys.executable, "-m", "darkroom_client"]


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback(upscaler) as running:
        yield running


def photos(folder: Path, names: str) -> None:
    """Images a.jpg, b.jpg and so on, with their letter as their content."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.jpg").write_text(name)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_ctrl_c_leaves_nothing_half_written_and_the_run_can_go_on(server: Loopback, here: Path) -> None:
    reached, over = threading.Event(), threading.Event()

    def stall_on_b(request: Received) -> Answer:
        if request.method == "POST" and request.file() == b"b":
            reached.set()
            over.wait(120)
        return upscaler(request)

    server.respond = stall_on_b
    photos(here / "photos", "abc")
    command = [*DARKROOM, "--url", server.url, "upscale", "photos", "out", "--jobs", "1"]
    stopped, said = stopped_by(signal.SIGINT, command, reached)
    over.set()
    assert stopped == 130
    assert "Stopped: 1 done, 2 not finished" in said
    assert "give the same command again" in said
    assert tree(here / "out") == {"a.png": "large a"}

    server.respond = upscaler
    server.received.clear()
    assert subprocess.run(command, stderr=subprocess.PIPE, check=False).returncode == 0
    assert [post.file() for post in server.posts()] == [b"b", b"c"]
    assert tree(here / "out") == {"a.png": "large a", "b.png": "large b", "c.png": "large c"}


def test_a_terminal_shows_bars(server: Loopback, here: Path) -> None:
    def slowly(request: Received) -> Answer:
        if request.method == "GET":
            return HEALTHY
        steps = [event("progress", {"done": done, "total": 16}) for done in range(17)]
        image = {"image": "data:image/png;base64,bGFyZ2U=", "media_type": "image/png", "model": "x4plus", "scale": 4}
        answer = events(event("image", image))
        assert isinstance(answer.body, tuple)
        return Answer(headers=answer.headers, body=_paced(steps, answer.body[0]))

    server.respond = slowly
    photos(here / "photos", "ab")
    shown = _on_a_terminal([*DARKROOM, "--url", server.url, "upscale", "photos", "out"])
    assert tree(here / "out") == {"a.png": "large", "b.png": "large"}
    assert "\x1b[?25l" in shown  # the cursor is hidden while bars move
    assert "\x1b[?25h" in shown
    assert "/16" in shown
    assert "all files" in shown
    assert "2 done" in shown


def _paced(steps: list[bytes], last: bytes) -> Iterator[bytes]:
    for step in steps:
        yield step
        time.sleep(0.05)
    yield last


def _on_a_terminal(command: list[str]) -> str:
    """Run a command whose standard error is a terminal; what the terminal received."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(command, stderr=theirs, env=environment)
    os.close(theirs)
    received = b""
    try:
        while piece := os.read(ours, 65_536):
            received += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(30) == 0
    return received.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_generation_stops_cleanly_and_can_go_on(
    server: Loopback, here: Path, number: signal.Signals, code: int
) -> None:
    reached, over = threading.Event(), threading.Event()

    def stall_on_the_dog(request: Received) -> Answer:
        if request.method == "POST" and request.json()["prompt"] == "a dog":
            reached.set()
            over.wait(120)
        return studio(request)

    server.respond = stall_on_the_dog
    words = [*DARKROOM, "--url", server.url, "generate", "a cat", "a dog", "a pizza", "-o", "out", "--jobs", "1"]
    stopped, said = stopped_by(number, words, reached)
    over.set()
    assert stopped == code
    assert "Stopped: 1 done, 2 not finished" in said
    hint = re.search(r"give the same command again with (--seed \d+): what is done will be skipped", said)
    assert hint is not None
    assert len(list((here / "out").iterdir())) == 1

    server.respond = studio
    server.received.clear()
    again = [*words, *hint[1].split()]
    assert subprocess.run(again, stderr=subprocess.PIPE, check=False).returncode == 0
    assert [post.json()["prompt"] for post in server.posts()] == ["a dog", "a pizza"]
    assert len(list((here / "out").iterdir())) == 3


def test_ctrl_c_is_told_to_the_service_and_takes_the_preview_away(server: Loopback, here: Path) -> None:
    reached, left = threading.Event(), threading.Event()
    state = {"image": "data:image/png;base64,bGFyZ2U=", "done": 1, "total": 9}

    def endless(request: Received) -> Answer:
        def pieces() -> Iterator[bytes]:
            try:
                yield event("preview", state)
                while True:
                    if (here / "a-cat-1.preview.png").exists():
                        reached.set()
                    yield event("progress", {"done": 1, "total": 9})
                    time.sleep(0.01)
            finally:
                left.set()

        return HEALTHY if request.method == "GET" else Answer(headers=events().headers, body=pieces())

    server.respond = endless
    command = [*DARKROOM, "--url", server.url, "generate", "a cat", "--seed", "1", "--preview"]
    stopped, said = stopped_by(signal.SIGINT, command, reached)
    assert stopped == 130
    assert "Stopped: 0 done, 1 not finished" in said
    assert left.wait(60)
    assert tree(here) == {}


def test_a_terminal_shows_a_bar_for_each_prompt(server: Loopback, here: Path) -> None:
    server.respond = lambda request: HEALTHY if request.method == "GET" else generation(request, steps=16, pause=0.2)
    prompt = "a [red]cat[/red] " + "on a mat " * 9
    command = [*DARKROOM, "--url", server.url, "generate", prompt, "a dog", "-n", "10", "--seed", "7", "-o", "out"]
    shown = _on_a_terminal(command)
    assert len(list((here / "out").iterdir())) == 20
    assert "/16" in shown
    assert "all images" in shown
    assert "a dog [7..14]" in shown
    assert "a [red]cat[/red]" in shown
    assert "left" in shown
    assert "20 done" in shown
    assert "\x1b[?25h" in shown
