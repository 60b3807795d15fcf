"""`darkroom lora` against a real loopback server: what it prints, writes and sends, and its exit codes."""

from __future__ import annotations

import base64
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.clients import darkroom, names
from tests.conftest import stopped_by
from tests.unit.loopback import Answer, as_json, failure, in_turn, loopback

FILE = {"name": "styles/[b]ink", "digest": "ab" * 32, "size": 1_234_567, "modified": "2026-01-02T03:04:05+00:00"}
READ = {"applied": 190, "total": 192, "rank": 16, "unused": ["x"], "trigger_words": ["inky", "style\x1b"]}
READ |= {"warnings": ["Two tensors of 3x3 convolutions were left out."]}
FOUND = {**FILE, "models": {"toy": READ}, "refused": {"other": "It is of another base."}}
NO_TRAINING: dict[str, Any] = {"status": "none", "progress": 0}
RUNNING: dict[str, Any] = {"status": "in-progress", "progress": 0, "task_id": "t-1", "step": 0, "total_steps": 40}
COMPLETED: dict[str, Any] = {"status": "completed", "progress": 100, "task_id": "t-1", "lora": "lora_2.safetensors"}
LORA = {"session_id": "1", "lora_filename": "lora_2.safetensors", "lora_base64": base64.b64encode(b"trained").decode()}
OK = as_json({"status": "success"})


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks again soon."""
    monkeypatch.setattr("darkroom_client.client_loras.POLL_SECONDS", 0.01)


# --- the library ----------------------------------------------------------------------------------------------


def test_list_is_two_tables() -> None:
    training = {**RUNNING, "progress": 42}
    sessions = [
        {"session_id": "7", "latest_lora": "lora_2.safetensors", "image_groups": 20, "training": training},
        {"session_id": "old", "latest_lora": None, "image_groups": 0, "training": NO_TRAINING},
    ]
    answers = as_json({"loras": [FILE]}), as_json({"sessions": sessions})
    with loopback(in_turn(*answers, *answers)) as server:
        table, raw = darkroom(server.url, "lora", "list"), darkroom(server.url, "lora", "list", "--json")
    assert table.exit_code == 0, table.output
    for text in ("styles/[b]ink", "1.2 MB", "2026-01-02T03:04:05", "ababababab", "lora_2.safetensors", "20"):
        assert text in table.stdout
    assert "in-progress (42 %)" in table.stdout
    assert "none" in table.stdout
    assert "\x1b" not in table.stdout
    assert json.loads(raw.stdout) == {"loras": [FILE], "sessions": sessions}


def test_list_of_nothing() -> None:
    with loopback(in_turn(as_json({"loras": []}), as_json({"sessions": []}))) as server:
        assert darkroom(server.url, "lora", "list").stdout == "The library has no files.\n"


def test_upload_says_what_was_read(here: Path) -> None:
    (here / "ink.safetensors").write_bytes(b"ink")
    with loopback(lambda _: as_json(FOUND)) as server:
        result = darkroom(server.url, "lora", "upload", "ink.safetensors", "--name", "my ink")
        unnamed = darkroom(server.url, "lora", "upload", "ink.safetensors", "--json")
        shown = darkroom(server.url, "lora", "show", "styles/[b]ink")
    assert result.stdout.splitlines() == [
        f"styles/[b]ink: 1.2 MB, sha256 {FILE['digest']}",
        "  toy: 190 of 192 tensors act, rank 16",
        "    trigger words: inky, style\N{REPLACEMENT CHARACTER}",
        "    warning: Two tensors of 3x3 convolutions were left out.",
        "  other: does not fit: It is of another base.",
    ]
    assert shown.stdout == result.stdout
    assert json.loads(unnamed.stdout) == FOUND
    first, second, _ = server.received
    assert first.parts() == [("name", None, b"my ink"), ("file", "ink.safetensors", b"ink")]
    assert second.parts() == [("file", "ink.safetensors", b"ink")]


def test_upload_that_is_refused(here: Path) -> None:
    (here / "ink.safetensors").write_bytes(b"ink")
    with loopback(lambda _: failure(422, "invalid_input", "file is no safetensors file.", "file")) as server:
        result = darkroom(server.url, "lora", "upload", "ink.safetensors")
        assert darkroom(server.url, "lora", "upload", "absent.safetensors").exit_code == 2
    assert (result.exit_code, result.stderr) == (1, "Error: file is no safetensors file.\n")
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["styles/ink"], "ink.safetensors"),
        (["styles/ink.safetensors"], "ink.safetensors"),
        (["ink", "-o", "out"], "out/ink.safetensors"),
        (["ink", "-o", "sub/it.safetensors"], "sub/it.safetensors"),
        (["--session", "1"], "lora_2.safetensors"),
        (["--session", "1", "--iteration", "2", "-o", "out/"], "out/lora_2.safetensors"),
    ],
)
def test_where_a_download_goes(here: Path, words: list[str], output: str) -> None:
    data = b"trained" if "--session" in words else b"ink"
    answer = as_json(LORA) if "--session" in words else Answer(body=b"ink")
    with loopback(lambda _: answer) as server:
        result = darkroom(server.url, "lora", "download", *words)
        assert (result.exit_code, result.stdout) == (0, f"{output}\n"), result.output
        assert names(here) == {output}
        assert (here / output).read_bytes() == data
        (here / output).write_bytes(b"mine")
        refused = darkroom(server.url, "lora", "download", *words)
        assert (refused.exit_code, "is there already (--overwrite" in refused.stderr) == (1, True)
        assert (here / output).read_bytes() == b"mine"
        assert darkroom(server.url, "lora", "download", *words, "--overwrite").exit_code == 0
    assert (here / output).read_bytes() == data
    if "--iteration" in words:
        assert server.received[0].json() == {"session_id": "1", "iteration": 2}


def test_a_download_that_breaks_off_leaves_nothing(here: Path) -> None:
    with loopback(lambda _: Answer(body=b"in", cut=True)) as server:
        assert darkroom(server.url, "lora", "download", "ink").exit_code == 1
    assert names(here) == set()


def test_a_name_from_the_service_is_no_path(here: Path) -> None:
    (here / "in").mkdir()
    with loopback(lambda _: as_json({**LORA, "lora_filename": "../../up.safetensors"})) as server:
        assert darkroom(server.url, "lora", "download", "--session", "1", "-o", "in").exit_code == 0
    assert names(here) == {"in/up.safetensors"}


def test_delete() -> None:
    deleted = as_json({"status": "deleted", "name": "ink"})
    with loopback(lambda _: deleted) as server:
        assert darkroom(server.url, "lora", "delete", "ink").stdout == "ink: deleted\n"
        assert darkroom(server.url, "lora", "delete", "--session", "1").stdout == "session 1: deleted\n"
    assert [(request.method, request.path) for request in server.received] == [
        ("DELETE", "/loras/ink"),
        ("POST", "/delete_session"),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["delete"],
        ["delete", "ink", "--session", "1"],
        ["download"],
        ["download", "ink", "--session", "1"],
        ["download", "ink", "--iteration", "1"],
        ["download", "--session", "1", "--iteration", "0"],
        ["show"],
        ["train"],
        ["add", "1"],
    ],
)
def test_commands_with_wrong_arguments(words: list[str]) -> None:
    assert darkroom("http://127.0.0.1:1", "lora", *words).exit_code == 2


# --- sessions -------------------------------------------------------------------------------------------------


def write_images(here: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        (here / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "photos" / name).write_bytes(name.encode())
        (here / "photos" / name).with_suffix(".txt").write_text(f"\ufeffa cat of {name}\n")
    (here / "photos" / "notes.md").write_text("no image")


def test_images_are_added_with_the_texts_beside_them(here: Path) -> None:
    write_images(here)
    with loopback(lambda _: OK) as server:
        result = darkroom(server.url, "lora", "add", "1", "photos/b.png", "photos", "photos/./b.png")
    assert result.exit_code == 0, result.output
    assert [request.json() for request in server.received] == [
        {"session_id": "1", "image_base64": base64.b64encode(name.encode()).decode(), "prompt": f"a cat of {name}"}
        for name in ("b.png", "a.JPG", "sub/c.webp")
    ]
    assert "photos/a.JPG -> session 1 (a cat of a.JPG)" in result.stderr
    assert "3 done" in result.stderr


def test_a_prompt_of_all_images_comes_before_the_texts(here: Path) -> None:
    write_images(here)
    (here / "photos" / "d.png").write_bytes(b"without a text")
    with loopback(lambda _: OK) as server:
        assert darkroom(server.url, "lora", "add", "1", "photos", "--prompt", "a cat").exit_code == 0
    assert [request.json()["prompt"] for request in server.received] == ["a cat"] * 4


def test_nothing_is_sent_if_an_image_has_no_prompt(here: Path) -> None:
    write_images(here)
    bad = {"empty": b" \n", "other": b"\xff\xfe\xfd"}
    (here / "nothing").mkdir()
    for name, text in bad.items():
        (here / f"{name}.png").write_bytes(b"")
        (here / f"{name}.txt").write_bytes(text)
    (here / "photos" / "d.png").write_bytes(b"without a text")
    wrong = {"photos": "photos/d.txt", "empty.png": "is empty", "other.png": "no UTF-8", "nothing": "no images below"}
    with loopback(lambda _: OK) as server:
        for word, message in wrong.items():
            result = darkroom(server.url, "lora", "add", "1", "photos/b.png", word)
            assert result.exit_code == 2
            assert message in " ".join(result.stderr.split()).replace("- ", "-"), result.stderr
        assert darkroom(server.url, "lora", "add", "1", "absent.png", "--prompt", "a").exit_code == 2
    assert server.received == []


def test_an_image_that_is_refused_does_not_lose_the_others(here: Path) -> None:
    write_images(here)
    refused = failure(415, "not_an_image", "image_base64: not an image.", "image_base64")
    with loopback(in_turn(OK, refused, OK)) as server:
        result = darkroom(server.url, "lora", "add", "1", "photos")
    assert (result.exit_code, len(server.received)) == (1, 3)
    assert "photos/b.png: failed: image_base64: not an image." in result.stderr
    assert "2 done, 1 failed" in result.stderr


def test_images_for_an_unknown_session_are_not_all_sent(here: Path) -> None:
    write_images(here)
    with loopback(lambda _: failure(404, "not_found", "There is no session '1'.", "session_id")) as server:
        result = darkroom(server.url, "lora", "add", "1", "photos")
    assert (result.exit_code, len(server.received)) == (1, 1)
    assert "There is no session '1'." in result.stderr


def test_create_prints_the_id() -> None:
    with loopback(lambda _: as_json({"session_id": 12})) as server:
        assert darkroom(server.url, "lora", "create").stdout == "12\n"


def test_train_sends_its_options() -> None:
    words = ("--steps=9", "--epochs=2", "--batch-size=3", "--rank=8", "--alpha=4.5", "--learning-rate=2e-4")
    with loopback(lambda _: as_json({"status": "started", "task_id": "t-1"})) as server:
        result = darkroom(server.url, "lora", "train", "1", *words, "--resolution=128", "--seed=5")
        assert darkroom(server.url, "lora", "train", "1").stdout == "t-1\n"
    assert (result.exit_code, result.stdout) == (0, "t-1\n")
    assert [request.json() for request in server.received] == [
        {
            "session_id": "1",
            "steps": 9,
            "epochs": 2,
            "batch_size": 3,
            "rank": 8,
            "alpha": 4.5,
            "learning_rate": 2e-4,
            "resolution": 128,
            "seed": 5,
        },
        {"session_id": "1"},
    ]


def test_train_sends_prompts_as_lists() -> None:
    words = ("--prior-images=4", "--prior-prompt=a dog", "--prior-prompt=a cat", "--sample-prompt=a zork")
    with loopback(lambda _: as_json({"status": "started", "task_id": "t-1"})) as server:
        assert darkroom(server.url, "lora", "train", "1", *words).exit_code == 0
    assert server.received[0].json() == {
        "session_id": "1",
        "prior_images": 4,
        "prior_prompts": ["a dog", "a cat"],
        "sample_prompts": ["a zork"],
    }


@pytest.mark.parametrize(("word", "state"), [("pause", "paused"), ("resume", "queued")])
def test_pause_and_resume_find_the_task_of_the_session(word: str, state: str) -> None:
    task = {"task_id": "t-1", "operation": "train", "status": state, "step": 3, "total_steps": 40, "results": []}
    task |= {"estimated_time": 1.0, "created_at": "2026-01-02T03:04:05+00:00"}
    with loopback(in_turn(as_json(RUNNING), as_json(task), as_json(NO_TRAINING))) as server:
        result = darkroom(server.url, "lora", word, "1")
        none = darkroom(server.url, "lora", word, "1")
    assert (result.exit_code, result.stdout) == (0, f"session 1: {state}\n")
    assert [request.path for request in server.received] == ["/train_status", f"/tasks/t-1/{word}", "/train_status"]
    assert (none.exit_code, none.stderr) == (1, "Error: There was no training of the session 1.\n")


@pytest.mark.usefixtures("hurried")
def test_watch_waits_for_a_training_that_is_paused() -> None:
    states = [{**RUNNING, "step": 4, "progress": 10, "paused": True}, COMPLETED]
    with loopback(in_turn(*map(as_json, states))) as server:
        result = darkroom(server.url, "lora", "watch", "1")
    assert (result.exit_code, result.stdout) == (0, "lora_2.safetensors\n")
    assert result.stderr.splitlines() == ["step 4 of 40, paused"]


@pytest.mark.usefixtures("hurried")
def test_watch_tells_progress_and_loss() -> None:
    states = [RUNNING, RUNNING, *({**RUNNING, "step": k, "progress": k * 5 // 2, "loss": 1 / k} for k in (1, 3, 4, 5))]
    answers = in_turn(*(as_json(state) for state in states), as_json(COMPLETED))
    with loopback(answers) as server:
        result = darkroom(server.url, "lora", "watch", "1")
    assert (result.exit_code, result.stdout) == (0, "lora_2.safetensors\n")
    assert result.stderr.splitlines() == ["step 0 of 40", "step 4 of 40, loss 0.2500"]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("end", "message"),
    [
        ({"status": "error", "progress": 5, "message": "1/1.png: damaged"}, "The training failed: 1/1.png: damaged"),
        (NO_TRAINING, "There was no training of the session 1."),
    ],
)
def test_watch_of_a_training_that_gives_no_lora(end: dict[str, Any], message: str) -> None:
    with loopback(in_turn(as_json({"status": "started", "task_id": "t-1"}), as_json(RUNNING), as_json(end))) as server:
        result = darkroom(server.url, "lora", "train", "1", "--watch")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == ["task t-1", "step 0 of 40", message]


def test_ctrl_c_stops_the_watching_and_not_the_training() -> None:
    reached = threading.Event()

    def respond(_: object) -> Answer:
        reached.set()
        return as_json(RUNNING)

    with loopback(respond) as server:
        program = [sys.executable, "-m", "darkroom_client", "--url", server.url, "lora", "watch", "1"]
        code, said = stopped_by(signal.SIGINT, program, reached)
    assert code == 130
    assert "The training goes on; `darkroom lora watch 1` looks at it again." in said
    assert {request.path for request in server.received} == {"/train_status"}
