"""`darkroom generate` against a real loopback server: grids, previews and control maps."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.clients import generate, names
from tests.unit.loopback import HEALTHY, Answer, Loopback, Received, failure, generation, studio


def _grid_colours(data: bytes) -> list[list[int]]:
    """The seeds that a grid of 8x6 images shows, row by row; 255 where it is white."""
    with Image.open(io.BytesIO(data)) as image:
        columns, rows = (image.width + 4) // 12, (image.height + 4) // 10
        return [[image.getpixel((12 * x, 10 * y))[0] for x in range(columns)] for y in range(rows)]


def test_a_grid_beside_the_pictures(server: Loopback, here: Path) -> None:
    words = ("a cat", "-n", "3", "--seed", "42", "--grid", "-o", "out", "--json")
    result = generate(server.url, *words)
    assert result.exit_code == 0, result.output
    assert names(here / "out") == {*(f"a-cat-{seed}.png" for seed in (42, 43, 44)), "a-cat-42-grid.png"}
    assert _grid_colours((here / "out/a-cat-42-grid.png").read_bytes()) == [[42, 43], [44, 255]]
    assert "grid -> out/a-cat-42-grid.png (3 images)" in result.stderr
    assert "3 done\n" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"grid": "out/a-cat-42-grid.png", "state": "done"}
    (here / "out/a-cat-42-grid.png").unlink()
    assert generate(server.url, *words).exit_code == 0
    assert len(server.posts()) == 1
    assert "grid: skipped" in generate(server.url, *words).stderr


def test_a_grid_alone(server: Loopback, here: Path) -> None:
    words = ("a cat", "a dog", "-n", "3", "--seed", "42", "--grid-only")
    assert generate(server.url, *words, "-o", "grid.png").exit_code == 0
    assert _grid_colours((here / "grid.png").read_bytes()) == [[42, 43, 44], [42, 43, 44]]
    again = generate(server.url, *words, "-o", "grid.png")
    assert (again.exit_code, "grid: skipped, grid.png is there" in again.stderr) == (0, True)
    assert len(server.posts()) == 2
    assert generate(server.url, *words, "-o", "out/").exit_code == 0
    assert names(here / "out") == {"a-cat-and-1-more-42-grid.png"}
    piped = generate(server.url, *words, "-o", "-")
    assert _grid_colours(piped.stdout_bytes) == [[42, 43, 44], [42, 43, 44]]
    assert generate(server.url, *words, "-o", "grid.jpg", "--quality", "50").exit_code == 0
    with Image.open(here / "grid.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (32, 16))


def test_a_grid_with_a_hole_is_not_made(server: Loopback, here: Path) -> None:
    bad = failure(422, "invalid_input", "prompt: no.", "prompt")
    server.respond = lambda request: (
        bad if request.method == "POST" and request.json()["prompt"] == "no" else studio(request)
    )
    result = generate(server.url, "a cat", "no", "--seed", "1", "--grid")
    assert result.exit_code == 1
    assert names(here) == {"a-cat-1.png"}
    assert "grid: failed: some of its images are missing" in result.stderr


def test_a_picture_that_cannot_be_read_spoils_the_grid_only(server: Loopback, here: Path) -> None:
    (here / "a-cat-1.png").write_bytes(b"no image")
    result = generate(server.url, "a cat", "-n", "2", "--seed", "1", "--grid")
    assert result.exit_code == 1
    assert "grid: failed: cannot identify image file" in result.stderr
    assert names(here) == {"a-cat-1.png", "a-cat-2.png"}


def test_a_grid_without_pillow(server: Loopback, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    result = generate(server.url, "a cat", "-n", "2", "--grid")
    assert result.exit_code == 1
    assert "pip install 'darkroom-client[pillow]'" in result.stderr
    assert server.received == []


def test_a_preview_stands_beside_the_output_while_it_is_made(server: Loopback, here: Path) -> None:
    beside, seen = here / "out" / "a-cat-42.preview.png", list[str]()

    def watched(answer: Answer) -> Iterator[bytes]:
        """A next state comes when the last one has been seen."""
        for piece in answer.body:
            yield piece
            if piece.startswith(b"event: preview"):
                deadline = time.monotonic() + 30
                while not beside.exists() or (state := beside.read_text()) in seen:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                seen.append(state)

    def respond(request: Received) -> Answer:
        if request.method == "GET":
            return HEALTHY
        answer = generation(request, previews=True)
        return Answer(headers=answer.headers, body=watched(answer))

    server.respond = respond
    assert generate(server.url, "a cat", "--seed", "42", "-o", "out", "--preview").exit_code == 0
    assert seen == [f"state {step}" for step in range(1, 5)]
    assert names(here) == {"out/a-cat-42.png"}


def test_the_control_map_is_written_once(server: Loopback, here: Path) -> None:
    (here / "in.jpg").write_bytes(b"drawing")
    words = ("--control", "in.jpg", "--control-map", "edges.png", "--seed", "1", "-o", "out")
    result = generate(server.url, "a cat", "a dog", *words)
    assert result.exit_code == 0
    assert (here / "edges.png").read_bytes() == b"edges of drawing"
    assert result.stderr.count("control map -> edges.png (what steered)") == 1
    (here / "edges.png").write_bytes(b"mine")
    again = generate(server.url, "a pizza", *words)
    assert "control map: skipped, edges.png is there" in again.stderr
    assert (here / "edges.png").read_bytes() == b"mine"


def test_a_control_map_that_cannot_be_written_fails_alone(server: Loopback, here: Path) -> None:
    (here / "in.jpg").write_bytes(b"drawing")
    (here / "edges").mkdir()
    (here / "edges/map.png").mkdir()
    words = ("--control", "in.jpg", "--seed", "1", "--grid", "-o", "out")
    refused = generate(server.url, "a cat", *words, "--control-map", "edges/map.png")
    assert (refused.exit_code, server.received) == (2, [])
    (here / "file").write_text("no folder")
    result = generate(server.url, "a cat", *words, "--control-map", "file/map.png")
    assert result.exit_code == 1
    assert "control map: failed: " in result.stderr
    assert names(here / "out") == {"a-cat-1.png", "a-cat-1-grid.png"}
