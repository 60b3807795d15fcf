"""Files of `darkroom generate`: their names, and a second run that finds them. Against a real loopback server."""

from __future__ import annotations

from pathlib import Path

import pytest
from darkroom_client.shots import LONGEST_SLUG, slug
from PIL import Image

from benchmarks.processes import free_port
from tests.clients import colour, generate, names
from tests.unit.loopback import (
    Answer,
    Loopback,
    Received,
    as_json,
    drawing,
    generation,
    loopback,
    seeds,
    sent,
    studio,
)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A cat, on a (blue:1.3) background!", "a-cat-on-a-blue-1-3-background"),
        ("../../etc/passwd", "etc-passwd"),
        ("Cafe\u0301 Übergröße", "café-übergröße"),
        ("一隻貓, 藍色背景", "一隻貓-藍色背景"),
        ("\x1b[31m\x00\udcff", "31m"),
        ("🐈 ... !", "picture"),
        ("", "picture"),
        (".", "picture"),
    ],
)
def test_slugs(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_long_prompts_give_names_that_file_systems_take(here: Path) -> None:
    for prompt in ("a cat on a mat " * 100, "貓" * 500, "x" * 500):
        name = slug(prompt)
        assert LONGEST_SLUG // 2 < len(name.encode()) <= LONGEST_SLUG
        assert not name.endswith("-")
        (here / f".{name}-{2**63}-99.png.123456.part").touch()


def test_a_second_run_goes_on_where_the_first_ended(server: Loopback, here: Path) -> None:
    words = ("a cat", "-n", "4", "--seed", "42", "-o", "out")
    assert generate(server.url, *words).exit_code == 0
    (here / "out/a-cat-43.png").unlink()
    (here / "out/a-cat-45.png").write_bytes(b"")  # of no use, whatever wrote it
    server.received.clear()
    result = generate(server.url, *words)
    assert result.exit_code == 0
    assert seeds(server) == [(43, 1), (45, 1)]
    assert "a cat: skipped, out/a-cat-42.png is there" in result.stderr
    assert "2 done, 2 skipped" in result.stderr
    server.received.clear()
    assert generate(server.url, *words, "--overwrite").exit_code == 0
    assert seeds(server) == [(42, 4)]
    assert len(names(here)) == 4


def test_with_everything_done_no_service_is_needed(server: Loopback, here: Path) -> None:
    words = ("a cat", "--seed", "42", "-o", "a.png")
    assert generate(server.url, *words).exit_code == 0
    assert generate(f"http://127.0.0.1:{free_port()}", *words).exit_code == 0


def test_other_settings_never_replace_a_picture_nor_pass_for_it(server: Loopback, here: Path) -> None:
    (here / "in.jpg").write_bytes(b"drawing")
    variants = [  # the service's own values come after others, and must not pass for them
        ["--steps", "21"],
        [],
        ["--steps", "30"],
        ["--negative-prompt", "text"],
        ["--scheduler", "euler_a"],
        ["--control", "in.jpg", "--control-scale", "0.5"],
        ["--control", "in.jpg"],
        ["--size", "64x96"],
    ]
    for _ in range(2):  # the second time, each finds its own
        for options in variants:
            assert generate(server.url, "a cat", "--seed", "42", "-o", "out", *options).exit_code == 0
        assert generate(server.url, "A cat?", "--seed", "42", "-o", "out").exit_code == 0
        assert len(server.posts()) == 9
    assert names(here / "out") == {"a-cat-42.png", *(f"a-cat-42-{number}.png" for number in range(2, 10))}
    same = generate(server.url, "a cat", "--seed", "42", "-o", "out", "--scheduler", "Euler a")
    assert "skipped, out/a-cat-42-5.png is there" in same.stderr
    steps = generate(server.url, "a cat", "--seed", "42", "-o", "out", "--steps", "20", "--overwrite")
    assert "-> out/a-cat-42.png" in steps.stderr


def test_an_explicit_file_of_other_settings_is_not_replaced(server: Loopback, here: Path) -> None:
    assert generate(server.url, "a cat", "--seed", "1", "-o", "a.png").exit_code == 0
    before = (here / "a.png").read_bytes()
    result = generate(server.url, "a cat", "--seed", "1", "--steps", "30", "-o", "a.png")
    assert result.exit_code == 2
    assert "'a.png' is there, made with other settings (--overwrite replaces it)" in " ".join(result.stderr.split())
    assert generate(server.url, "a cat", "--seed", "2", "-o", "a.png").exit_code == 2
    assert (here / "a.png").read_bytes() == before
    assert "a cat: skipped" in generate(server.url, "a cat", "-o", "a.png").stderr  # any seed will do
    assert len(server.posts()) == 1
    assert generate(server.url, "a cat", "--seed", "2", "-o", "a.png", "--overwrite").exit_code == 0
    assert colour(here / "a.png") == (2, 0, 0)


def test_prompts_of_the_same_name_get_files_of_their_own(server: Loopback, here: Path) -> None:
    words = ("a cat", "A cat!", "a cat", "--seed", "1", "-o", "out")
    assert generate(server.url, *words).exit_code == 0
    assert names(here) == {"out/a-cat-1.png", "out/a-cat-1-2.png"}
    assert generate(server.url, *words).exit_code == 0
    assert len(server.posts()) == 2


def test_a_picture_that_cannot_be_written_does_not_lose_the_others(server: Loopback, here: Path) -> None:
    (here / "out/a-cat-2.png").mkdir(parents=True)
    result = generate(server.url, "a cat", "-n", "3", "--seed", "1", "-o", "out")
    assert result.exit_code == 1
    assert "a cat: failed: Is a directory" in result.stderr
    assert names(here) == {"out/a-cat-1.png", "out/a-cat-3.png"}


def test_files_of_others_are_taken_for_the_picture_itself(server: Loopback, here: Path) -> None:
    (here / "a-cat-1.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffnonsense")
    (here / "a-cat-2.png").write_bytes(drawing(2)[:60])
    Image.new("RGB", (8, 6)).save(here / "a-cat-3.png")
    assert generate(server.url, "a cat", "-n", "3", "--seed", "1").exit_code == 0
    assert server.posts() == []


def test_steps_of_a_service_with_a_lower_limit_are_its_default(here: Path) -> None:
    """It makes ten steps where nothing is said, and the same command finds its image again."""
    counts = ("active_workers", "task_queue_size", "result_queue_size", "pending_tasks", "total_gpus")
    status = {"generate": {"limits": {"max_steps": 10}}, "gpu_info": [], **dict.fromkeys(counts, 0)}

    def limited(request: Received) -> Answer:
        if request.method == "GET":
            return as_json(status)
        return generation(request, default_steps=10)

    with loopback(limited) as server:
        for _ in range(3):
            assert generate(server.url, "a cat", "--seed", "1", "-o", "out").exit_code == 0
        assert (names(here / "out"), len(server.posts())) == ({"a-cat-1.png"}, 1)
        assert generate(server.url, "a cat", "--seed", "1", "-o", "out", "--steps", "5").exit_code == 0
        assert names(here / "out") == {"a-cat-1.png", "a-cat-1-2.png"}
    with loopback(studio) as usual:  # which would make twenty
        assert generate(usual.url, "a cat", "--seed", "1", "-o", "out").exit_code == 0
    assert names(here / "out") == {"a-cat-1.png", "a-cat-1-2.png", "a-cat-1-3.png"}


def test_a_control_map_of_ones_own(server: Loopback, here: Path) -> None:
    (here / "in.png").write_bytes(b"edges")
    words = ("a cat", "--seed", "1", "-o", "out", "--control", "in.png")
    for _ in range(2):
        assert generate(server.url, *words).exit_code == 0
        assert generate(server.url, *words, "--no-control-preprocess").exit_code == 0
    assert [body.get("control_preprocess") for body in sent(server)] == [None, False]
    assert names(here / "out") == {"a-cat-1.png", "a-cat-1-2.png"}
