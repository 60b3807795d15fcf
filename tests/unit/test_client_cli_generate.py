"""`darkroom generate` against a real loopback server: options, names, files, resuming, failing."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from darkroom_client.cli_generate import generate as command
from darkroom_client.models import GenerateOptions
from PIL import Image

from benchmarks.processes import free_port
from tests.clients import colour, generate, names
from tests.unit.loopback import (
    HEALTHY,
    Answer,
    Loopback,
    Received,
    failure,
    seeds,
    sent,
    studio,
)


def test_one_picture(server: Loopback, here: Path) -> None:
    result = generate(server.url, "a cat on a blue background", "--seed", "42")
    assert result.exit_code == 0, result.output
    assert names(here) == {"a-cat-on-a-blue-background-42.png"}
    assert colour(here / "a-cat-on-a-blue-background-42.png") == (42, 0, 0)
    assert sent(server) == [
        {"prompt": "a cat on a blue background", "seed": 42, "num_images": 1, "format": "png"},
    ]
    assert result.stdout == ""
    assert result.stderr.startswith("a cat on a blue background -> a-cat-on-a-blue-background-42.png (seed 42, 8x6, 0.")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


def test_every_option_reaches_the_service(server: Loopback, here: Path) -> None:
    (here / "in.jpg").write_bytes(b"drawing")
    picture = ("--seed=3", "--steps=9", "-g", "3.5", "--negative-prompt=text", "--size=64x128", "--scheduler=lcm")
    control = ("--control=in.jpg", "--control-type=canny", "--low-threshold=50", "--high-threshold=150")
    more_control = ("--no-control-preprocess", "--control-scale=0.5", "--control-start=0.25", "--control-end=0.75")
    output = ("--format=webp", "--quality=70", "--preview-every=2", "-n", "2")
    other = ("--model=toy", "--max-sequence-length=64", "--refiner-start=0.7", "--aesthetic-score=7")
    told = ("--original-width=80", "--original-height=160", "--crop-top=1", "--crop-left=2")
    told += ("--target-width=72", "--target-height=144")
    (here / "mask.png").write_bytes(b"hole")
    told += ("--init=in.jpg", "--mask=mask.png", "--strength=0.6", "--lora=styles/my ink:0.5", "--lora=session:1")
    assert generate(server.url, "a cat", *picture, *control, *more_control, *output, *other, *told).exit_code == 0
    body = sent(server)[0]
    assert body == {
        "prompt": "a cat",
        "negative_prompt": "text",
        "steps": 9,
        "guidance_scale": 3.5,
        "seed": 3,
        "width": 64,
        "height": 128,
        "num_images": 2,
        "scheduler": "lcm",
        "init_image": base64.b64encode(b"drawing").decode(),
        "mask": base64.b64encode(b"hole").decode(),
        "strength": 0.6,
        "loras": [{"name": "styles/my ink", "weight": 0.5}, {"session_id": "1"}],
        "control_image": base64.b64encode(b"drawing").decode(),
        "control_type": "canny",
        "control_preprocess": False,
        "low_threshold": 50,
        "high_threshold": 150,
        "controlnet_conditioning_scale": 0.5,
        "control_guidance_start": 0.25,
        "control_guidance_end": 0.75,
        "preview_every": 2,
        "format": "webp",
        "quality": 70,
        "model": "toy",
        "max_sequence_length": 64,
        "refiner_start": 0.7,
        "aesthetic_score": 7,
        "original_width": 80,
        "original_height": 160,
        "crop_top": 1,
        "crop_left": 2,
        "target_width": 72,
        "target_height": 144,
    }
    assert body.keys() == GenerateOptions.__annotations__.keys() | {"prompt"}
    assert names(here) == {"in.jpg", "mask.png", "a-cat-3.webp", "a-cat-4.webp"}


@pytest.mark.parametrize("option", ["--mask=in.jpg", "--strength=0.5"])
def test_options_of_an_image_that_is_changed_need_one(server: Loopback, here: Path, option: str) -> None:
    (here / "in.jpg").write_bytes(b"drawing")
    result = generate(server.url, "a cat", option)
    assert result.exit_code == 2
    assert f"{option.partition('=')[0]} needs an --init image." in result.output


@pytest.mark.parametrize(("words", "size"), [(["--size", "96"], (96, 96)), (["--height", "64"], (None, 64))])
def test_other_ways_to_give_the_size(server: Loopback, here: Path, words: list[str], size: tuple[Any, Any]) -> None:
    assert generate(server.url, "a cat", *words).exit_code == 0
    assert (sent(server)[0].get("width"), sent(server)[0].get("height")) == size


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ([], "a-cat-5.png"),
        (["-o", "out/"], "out/a-cat-5.png"),
        (["-o", "out"], "out/a-cat-5.png"),
        (["-o", "new.folder/"], "new.folder/a-cat-5.png"),
        (["-o", "there.jpg"], "there.jpg/a-cat-5.png"),
        (["-o", "sub/it.JPG"], "sub/it.JPG"),
        (["--format", "jpeg"], "a-cat-5.jpg"),
    ],
)
def test_where_a_picture_goes(server: Loopback, here: Path, words: list[str], output: str) -> None:
    (here / "there.jpg").mkdir()
    assert generate(server.url, "a cat", "--seed", "5", *words).exit_code == 0
    assert names(here) == {output}
    with Image.open(here / output) as image:
        assert image.format == ("JPEG" if output.lower().endswith(".jpg") else "PNG")


def test_several_pictures_have_consecutive_seeds(server: Loopback, here: Path) -> None:
    result = generate(server.url, "a cat", "-n", "3", "--seed", "42", "-o", "out/")
    assert result.exit_code == 0
    assert seeds(server) == [(42, 3)]
    for seed in (42, 43, 44):
        assert colour(here / f"out/a-cat-{seed}.png") == (seed, 0, 0)
    assert "3 done" in result.stderr
    assert " s for 3)" in result.stderr


def test_a_seed_is_drawn_once_for_all_prompts(server: Loopback, here: Path) -> None:
    assert generate(server.url, "a cat", "a dog", "-o", "out").exit_code == 0
    first, second = sent(server)
    assert first["seed"] == second["seed"]
    assert generate(server.url, "a cat", "-o", "out").exit_code == 0
    assert sent(server)[2]["seed"] != first["seed"]
    assert len(names(here / "out")) == 3


def test_more_pictures_than_the_service_takes_go_in_several_requests(server: Loopback, here: Path) -> None:
    refusal = failure(422, "invalid_input", "num_images must be from 1 to 3; got more.", "num_images")

    def at_most_three(request: Received) -> Answer:
        if request.method == "POST" and request.json()["num_images"] > 3:
            return refusal
        return studio(request)

    assert generate(server.url, "a cat", "-n", "20", "--seed", "100", "-o", "a").exit_code == 0
    assert seeds(server) == [(100, 8), (108, 8), (116, 4)]
    server.respond = at_most_three
    server.received.clear()
    assert generate(server.url, "a cat", "-n", "5", "--seed", "100", "-o", "b").exit_code == 0
    assert seeds(server) == [(100, 2), (100, 5), (102, 3)]
    assert {colour(here / f"b/a-cat-{seed}.png") for seed in range(100, 105)} == {(n, 0, 0) for n in range(100, 105)}
    server.respond = lambda request: HEALTHY if request.method == "GET" else refusal
    result = generate(server.url, "a cat", "-n", "2", "-o", "c")
    assert result.exit_code == 1
    assert result.stderr.count("failed: num_images must be") == 4  # each of the two, and again in the summary


def test_prompts_of_a_file_and_of_standard_input(server: Loopback, here: Path) -> None:
    text = "\ufeff# animals\na dog\n\n  ein Vögelchen  \r\na cat\n"
    (here / "prompts.txt").write_text(text, encoding="utf-8")
    assert generate(server.url, "a cat", "--prompts-file", "prompts.txt", "--seed", "1", "-o", "a").exit_code == 0
    assert names(here / "a") == {"a-cat-1.png", "a-dog-1.png", "ein-vögelchen-1.png"}
    assert generate(server.url, "--prompts-file", "-", "--seed", "1", "-o", "b", stdin="a dog\n貓").exit_code == 0
    assert names(here / "b") == {"a-dog-1.png", "貓-1.png"}
    assert {body["prompt"] for body in sent(server)} == {"a cat", "a dog", "ein Vögelchen", "貓"}
    (here / "prompts.txt").write_bytes(b"caf\xe9")
    result = generate(server.url, "--prompts-file", "prompts.txt")
    assert (result.exit_code, "'prompts.txt' is no UTF-8 text" in result.stderr) == (2, True)


def test_several_requests_at_a_time(server: Loopback, here: Path) -> None:
    together = threading.Barrier(3)

    def wait_for_the_others(request: Received) -> Answer:
        if request.method == "POST":
            together.wait(20)
        return studio(request)

    server.respond = wait_for_the_others
    assert generate(server.url, "a cat", "a dog", "a pizza", "--jobs", "3", "-o", "out").exit_code == 0


def test_standard_output(server: Loopback, here: Path) -> None:
    result = generate(server.url, "a cat", "--seed", "7", "-o", "-")
    assert result.exit_code == 0
    assert result.stdout_bytes.startswith(b"\x89PNG")
    assert "a cat -> stdout (seed 7" in result.stderr
    assert names(here) == set()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "Say what to show"),
        (["--prompts-file", "empty.txt"], "Say what to show"),
        (["--prompts-file", "missing.txt"], "No such file"),
        (["a cat", "-n", "2", "-o", "a.png"], "2 images need a folder"),
        (["a cat", "a dog", "-o", "-"], "2 images need a folder"),
        (["a cat", "-o", "a.gif"], "an output ends in .png"),
        (["a cat", "-o", "a.png", "--format", "webp"], "is the name of a png file"),
        (["a cat", "-o", "a.png", "--grid"], "--grid-only writes the grid alone"),
        (["a cat", "-n", "2", "-o", "-", "--grid"], "--grid-only writes the grid alone"),
        (["a cat", "-o", "file"], "'file' is a file"),
        (["a cat", "--size", "64*64"], "is no size"),
        (["a cat", "--size", "64", "--width", "64"], "either with --size"),
        (["a cat", "--control", "missing.png"], "does not exist"),
        (["a cat", "--control-map", "edges.png"], "needs a --control image"),
        (["a cat", "-o", "-", "--json"], "cannot hold both"),
        (["a cat", "-o", "-", "--preview"], "--preview needs files"),
        (["a cat", "-n", "2", "--grid-only", "--preview"], "--preview needs files"),
        (["a cat", "-n", "0"], "--num-images"),
        (["a cat", "--seed", "-1"], "--seed"),
    ],
)
def test_commands_that_make_no_sense_send_nothing(server: Loopback, here: Path, words: list[str], reason: str) -> None:
    (here / "empty.txt").write_text("# nothing\n")
    (here / "file").write_text("no folder")
    result = generate(server.url, *words)
    assert result.exit_code == 2, result.output
    assert reason in " ".join(result.stderr.split())
    assert (server.received, names(here)) == ([], {"empty.txt", "file"})


def test_json_lines(server: Loopback, here: Path) -> None:
    bad = failure(422, "invalid_input", "prompt must have at most 5 characters; got 9.", "prompt")
    server.respond = lambda request: (
        bad if request.method == "POST" and request.json()["prompt"] == "too much!" else studio(request)
    )
    assert generate(server.url, "a cat", "--seed", "2", "-o", "out").exit_code == 0
    words = ("a cat", "too much!", "-n", "2", "--seed", "1", "-o", "out", "--json", "--jobs", "1")
    result = generate(server.url, *words)
    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"prompt": "a cat", "seed": 2, "file": "out/a-cat-2.png", "state": "skipped"},
        {"prompt": "a cat", "seed": 1, "file": "out/a-cat-1.png", "state": "done"},
        *(
            {
                "prompt": "too much!",
                "seed": seed,
                "file": f"out/too-much-{seed}.png",
                "state": "failed",
                "error": "prompt must have at most 5 characters; got 9.",
            }
            for seed in (1, 2)
        ),
    ]
    assert "too much! (2 images): failed: prompt must" in result.stderr
    assert "1 done, 1 skipped, 2 failed" in result.stderr


def test_a_wrong_field_is_tried_once_and_named_as_on_the_command_line(server: Loopback, here: Path) -> None:
    (here / "in.jpg").write_bytes(b"drawing")
    message = "controlnet_conditioning_scale must be from 0 to 2; got 9."
    refusal = failure(422, "invalid_input", message, "controlnet_conditioning_scale")
    server.respond = lambda request: HEALTHY if request.method == "GET" else refusal
    words = ("--control", "in.jpg", "--control-scale", "9", "--jobs", "1", "-o", "out")
    result = generate(server.url, "a", "b", "c", *words)
    assert result.exit_code == 1
    assert len(server.posts()) == 1
    assert f"a: failed: {message} (--control-scale)" in result.stderr
    assert "0 done, 1 failed, 2 not finished" in result.stderr
    assert not (here / "out").exists()


def test_a_service_that_makes_no_pictures_is_asked_once(server: Loopback, here: Path) -> None:
    unknown = failure(404, "not_found", "This installation has no text to image model.")
    server.respond = lambda request: HEALTHY if request.method == "GET" else unknown
    result = generate(server.url, "a", "b", "c", "--jobs", "1")
    assert (result.exit_code, len(server.posts())) == (1, 1)
    assert "no text to image model" in result.stderr
    assert "0 done, 1 failed, 2 not finished" in result.stderr


def test_without_a_service_the_command_fails_at_once(here: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    result = generate(url, "a cat", "-o", "out")
    assert time.monotonic() - started < 5
    assert result.exit_code == 1
    assert f"No Darkroom service answers at {url}" in result.stderr
    assert not (here / "out").exists()


def test_prompts_cannot_write_control_codes(server: Loopback, here: Path) -> None:
    result = generate(server.url, "a \x1b[31mcat[red]\n" + "x" * 100, "--seed", "1")
    assert result.exit_code == 0
    assert "\x1b" not in result.stderr
    assert "a \N{REPLACEMENT CHARACTER}[31mcat[red]\N{REPLACEMENT CHARACTER}xxx" in result.stderr
    assert result.stderr.count("x" * 60) == 1  # in the file's name


def test_every_option_has_a_help_text() -> None:
    for param in command.params:
        if param.param_type_name == "option":
            assert getattr(param, "help", None), param.name
