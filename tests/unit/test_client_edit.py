"""Editing with the client and on the command line, against a server of the tests: what is sent, and what becomes of it.
The real service is asked in tests/families/qwen_edit."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from darkroom_client import Client, InvalidRequest

from darkroom.edit_modes.modes import MODES
from tests.clients import Call, darkroom
from tests.unit.loopback import (
    HEALTHY,
    Answer,
    Loopback,
    Received,
    as_json,
    drawing,
    failure,
    generation,
    in_turn,
    sent,
)
from tests.unit.loopback import loopback as served

ONE, TWO = drawing(1), drawing(2)


def editor(request: Received) -> Answer:
    if request.method == "GET":
        return HEALTHY if request.path != "/edit-modes" else as_json([mode.to_json() for mode in MODES.values()])
    return generation(request)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with served(editor) as running:
        yield running


@pytest.fixture
def pictures(here: Path) -> Path:
    """The current folder, with two images in it."""
    (here / "one.png").write_bytes(ONE)
    (here / "two.png").write_bytes(TWO)
    return here


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def test_edit_sends_images_and_options(server: Loopback, call: Call) -> None:
    result = call(
        server.url, "edit", [ONE, io.BytesIO(TWO)], "shake hands", mode=1, seed=5, num_images=2, mask=ONE, steps=None
    )
    assert [(image.seed, image.index) for image in result.images] == [(5, 0), (6, 1)]
    assert server.posts()[0].path == "/edit"
    assert sent(server) == [
        {
            "prompt": "shake hands",
            "images": [text_of(ONE), text_of(TWO)],
            "mode": 1,
            "seed": 5,
            "num_images": 2,
            "mask": text_of(ONE),
        }
    ]


def test_edit_sends_what_modes_read(server: Loopback, call: Call) -> None:
    call(server.url, "edit", ONE, "go", mode=13, control=TWO, text={"old_text": "a"}, additional={"style": "flat"})
    (body,) = sent(server)
    assert body["images"] == [text_of(ONE)]
    assert body["controlnet_image"] == text_of(TWO)
    assert body["text_params_json"] == {"old_text": "a"}
    assert body["additional_params_json"] == {"style": "flat"}


def test_edit_reports_progress(server: Loopback) -> None:
    seen: list[int] = []
    with Client(server.url) as client:
        client.edit(ONE, "go", on_progress=lambda progress: seen.append(progress.done))
    assert seen == [1, 2, 3, 4]
    assert server.posts()[0].headers["accept"] == "text/event-stream"


def test_edit_refuses_before_it_sends(server: Loopback) -> None:
    with Client(server.url) as client:
        with pytest.raises(TypeError, match="no option 'colour'"):
            client.edit(ONE, "go", colour="red")  # type: ignore[call-arg]
        with pytest.raises(InvalidRequest, match="images is empty"):
            client.edit(b"", "go")
    assert server.posts() == []


def test_edit_raises_the_error_of_the_service(call: Call) -> None:
    off = failure(409, "conflict", "USE_PLUS_PIPELINE is off", "images")
    with served(in_turn(off)) as server, pytest.raises(InvalidRequest, match="USE_PLUS_PIPELINE is off") as refused:
        call(server.url, "edit", [ONE, TWO], "go")
    assert (refused.value.status, refused.value.param) == (409, "images")


def test_edit_modes_are_read(server: Loopback, call: Call) -> None:
    modes = call(server.url, "edit_modes")
    assert [mode.raw for mode in modes] == [mode.to_json() for mode in MODES.values()]
    assert (modes[0].name, modes[0].max_images, modes[12].requires_controlnet) == ("人物 + 人物", 5, True)


def test_submit_takes_a_list_of_images(call: Call) -> None:
    with served(in_turn(failure(409, "conflict", "no"))) as server, pytest.raises(InvalidRequest):
        call(server.url, "submit", "edit", prompt="go", images=[ONE, io.BytesIO(TWO)], loras=[{"name": "a"}])
    assert sent(server)[0]["images"] == [text_of(ONE), text_of(TWO)]
    assert sent(server)[0]["loras"] == [{"name": "a"}]


def test_edit_command_writes_a_file(server: Loopback, pictures: Path) -> None:
    result = darkroom(server.url, "edit", "one.png", "make it red", "-o", "out/red.png", "--seed", "3")
    assert (result.exit_code, result.stdout) == (0, "out/red.png\n"), result.output
    assert (pictures / "out" / "red.png").read_bytes().startswith(b"\x89PNG")
    (body,) = sent(server)
    expected = {"prompt": "make it red", "images": [text_of(ONE)], "seed": 3, "num_images": 1, "format": "png"}
    assert body == expected


def test_edit_command_sends_modes_and_images(server: Loopback, pictures: Path) -> None:
    words = ["edit", "one.png", "two.png", "go", "--mode", "1", "--at", "left", "--at", "right", "--style", "flat"]
    words += ["--keep", "face", "--mask", "two.png", "--control", "one.png", "--no-align", "-g", "3"]
    words += ["--old-text", "a", "--new-text", "b", "--text-position", "top", "--font", "Arial", "--color", "red"]
    result = darkroom(server.url, *words)
    assert (result.exit_code, result.stdout) == (0, "one-edited.png\n"), result.output
    (body,) = sent(server)
    assert body["images"] == [text_of(ONE), text_of(TWO)]
    assert (body["mode"], body["align"], body["true_guidance_scale"]) == (1, False, 3.0)
    assert (body["mask"], body["controlnet_image"]) == (text_of(TWO), text_of(ONE))
    assert body["text_params_json"] == {
        "old_text": "a",
        "new_text": "b",
        "position": "top",
        "font_type": "Arial",
        "color": "red",
    }
    assert body["additional_params_json"] == {
        "positions": ["left", "right"],
        "preserve_features": ["face"],
        "style": "flat",
    }


def test_edit_command_names_several_results_by_their_seeds(server: Loopback, pictures: Path) -> None:
    result = darkroom(
        server.url, "edit", "one.png", "go", "-n", "2", "--seed", "7", "-o", "out", "-f", "webp", "--json"
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["file"], line["seed"]) for line in lines] == [
        ("out/one-edited-7.webp", 7),
        ("out/one-edited-8.webp", 8),
    ]
    assert sorted(path.name for path in (pictures / "out").iterdir()) == ["one-edited-7.webp", "one-edited-8.webp"]


def test_edit_command_skips_what_is_there(server: Loopback, pictures: Path) -> None:
    (pictures / "red.png").write_bytes(b"mine")
    result = darkroom(server.url, "edit", "one.png", "go", "-o", "red.png")
    assert (result.exit_code, server.posts()) == (0, [])
    assert "skipped" in result.stderr
    assert (pictures / "red.png").read_bytes() == b"mine"
    assert darkroom(server.url, "edit", "one.png", "go", "-o", "red.png", "--overwrite").exit_code == 0
    assert (pictures / "red.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one.png"], "Missing argument"),
        (["nowhere.png", "go"], "nowhere.png"),
        (["one.png", "go", "-o", "one.png"], "is the image itself"),
        (["one.png", "go", "-o", "out.png", "-n", "2"], "is one file"),
        (["one.png", "go", "-o", "-", "-n", "2"], "takes one image"),
        (["one.png", "go", "-o", "out.png", "-f", "webp"], "is a name for png"),
        (["one.png", "go", "-o", "-", "--json"], "for the image alone"),
    ],
)
def test_edit_command_refuses(server: Loopback, pictures: Path, words: list[str], said: str) -> None:
    result = darkroom(server.url, "edit", *words)
    assert (result.exit_code, server.posts()) == (2, [])
    assert said in result.stderr


def test_edit_command_says_what_the_service_says(pictures: Path) -> None:
    with served(in_turn(failure(422, "invalid_input", "mode must be from 1 to 16; got 17.", "mode"))) as server:
        result = darkroom(server.url, "edit", "one.png", "go", "--mode", "17")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "mode must be from 1 to 16; got 17." in result.stderr


def test_edit_modes_command(server: Loopback) -> None:
    result, raw = darkroom(server.url, "edit-modes"), darkroom(server.url, "edit-modes", "--json")
    assert result.exit_code == 0
    rows: list[Any] = json.loads(raw.stdout)
    assert [row["mode"] for row in rows] == list(range(1, 17))
    for row in rows:
        assert row["name"] in result.stdout
        assert row["description"] in result.stdout
    assert "2 to 5" in result.stdout
    assert "--control" in result.stdout
