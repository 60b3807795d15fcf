"""LoRAs of the Python client: what its words mean, what it sends, and which images it takes for done."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from darkroom_client import InvalidRequest, ServerError
from darkroom_client.lora_choice import are_others, parse_choice, without_tags

from benchmarks.processes import free_port
from darkroom.client_types import TARGET, render
from darkroom.diffusion.lora.tags import parse_tags
from darkroom.request.loras import parse_loras
from tests.clients import Call, generate, names
from tests.unit.loopback import HEALTHY, Answer, Loopback, Received, as_json, failure, generation, loopback, sent

INK, INK_2, SESSION = (hashlib.sha256(data).hexdigest() for data in (b"ink", b"another ink", b"trained"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ink", {"name": "ink"}),
        ("ink:0.8", {"name": "ink", "weight": 0.8}),
        ("ink:1.0", {"name": "ink"}),
        ("ink:-.5", {"name": "ink", "weight": -0.5}),
        ("styles/my ink:2", {"name": "styles/my ink", "weight": 2.0}),
        ("a:b:1", {"name": "a:b"}),
        ("session", {"name": "session"}),
        ("session:1", {"session_id": "1"}),
        ("session:1:0.8", {"session_id": "1", "weight": 0.8}),
        (f"sha256:{INK}", {"digest": INK}),
        (f"sha256:{'1' * 64}", {"digest": "1" * 64}),
        (f"sha256:{INK}:0", {"digest": INK, "weight": 0.0}),
    ],
)
def test_words_of_a_lora(word: str, expected: dict[str, Any]) -> None:
    assert parse_choice(word) == expected
    parse_loras([expected])  # the service takes it


@pytest.mark.parametrize(
    "word", ["", ":0.8", "session:", "sha256:", "ink:strong", "ink:", "ink:nan", "ink:inf", "a:1_0"]
)
def test_words_that_name_no_lora(word: str, server: Loopback) -> None:
    with pytest.raises(ValueError, match=r"write .*:0\.8"):
        parse_choice(word)
    assert generate(server.url, "a cat", "--lora", word).exit_code == 2
    assert server.received == []


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "a cat <lora:ink:0.8> on a mat",
        "<LORA: ink >a<lyco:other:-1>",
        "<lora:ink:0.25><lora:ink:0.5>",
        "<lora:ink",
        "a <lora:a<lora:ink>> b",
    ],
)
def test_tags_are_read_as_the_service_reads_them(prompt: str) -> None:
    text, tags = parse_tags(prompt)
    assert without_tags(prompt) == (text, [{"name": name, "weight": weight} for name, weight in tags])


@pytest.mark.parametrize("prompt", ["<lora:>", "<lora:ink:1:2>", "<lora:ink:strong>"])
def test_tags_that_the_service_refuses_stay_in_the_text(prompt: str) -> None:
    assert without_tags(prompt) == (prompt, [])


RECORDED = [{"name": "ink", "digest": INK, "weight": 0.8}]


@pytest.mark.parametrize(
    ("wanted", "known", "expected"),
    [
        ({"name": "ink", "weight": 0.8}, INK, False),
        ({"name": "ink", "weight": 0.8}, INK_2, True),
        ({"name": "ink", "weight": 0.8}, None, False),
        ({"name": "styles/ink.safetensors", "weight": 0.8}, None, False),
        ({"name": "red", "weight": 0.8}, None, True),
        ({"name": "red", "weight": 0.8}, INK, False),
        ({"name": "ink"}, INK, True),
        ({"name": "ink", "weight": 0.8, "end": 0.5}, INK, True),
        ({"name": "ink", "weight": 0.8, "start": 0.0, "end": 1}, INK, False),
        ({"session_id": "1", "weight": 0.8}, None, False),
        ({"session_id": "1", "weight": 0.8}, SESSION, True),
        ({"digest": INK.upper(), "weight": 0.8}, None, False),
        ({"digest": INK_2, "weight": 0.8}, None, True),
    ],
)
def test_loras_of_an_image(wanted: dict[str, Any], known: str | None, expected: bool) -> None:
    assert are_others([wanted], RECORDED, lambda _: known) is expected


def test_loras_of_an_image_that_has_more_or_none() -> None:
    for wanted, recorded in (([], RECORDED), (RECORDED, None), (RECORDED * 2, RECORDED), (RECORDED, ["ink"])):
        assert are_others(wanted, recorded, lambda _: INK)
    assert not are_others([], None, lambda _: INK)


def test_the_types_are_those_of_the_service() -> None:
    assert TARGET.read_text() == render()
    assert "loras: Sequence[Mapping[str, Any]] | str | None" in render()


# --- what is sent ---------------------------------------------------------------------------------------------

LISTED = {"name": "my ink", "digest": INK, "size": 3, "modified": "2026-01-01T00:00:00+00:00"}
READ = {"applied": 2, "total": 3, "rank": 4, "trigger_words": ["inky"], "warnings": ["odd"], "unused": ["x"]}
SHOWN = {**LISTED, "models": {"toy": READ}, "refused": {"other": "It is of another base."}}


@pytest.mark.parametrize("loras", [({"name": "ink"},), [MappingProxyType({"name": "ink"})], [{"name": "ink"}]])
def test_loras_are_sent_as_a_list(call: Call, server: Loopback, loras: Any) -> None:
    call(server.url, "generate", "a cat", loras=loras)
    assert sent(server)[0]["loras"] == [{"name": "ink"}]


def test_loras_as_text_stay_text(call: Call, server: Loopback) -> None:
    call(server.url, "generate", "a cat", loras='[{"name": "ink"}]')
    assert sent(server)[0]["loras"] == '[{"name": "ink"}]'


def test_names_of_loras_are_quoted(call: Call) -> None:
    with loopback(lambda _: as_json(SHOWN)) as server:
        found = call(server.url, "lora", "a b/ü?#%.safetensors")
        call(server.url, "delete_lora", "a b")
        call(server.url, "download_lora", "a b")
    paths = [(request.method, request.path) for request in server.received]
    assert paths == [
        ("GET", "/loras/a%20b/%C3%BC%3F%23%25"),
        ("DELETE", "/loras/a%20b"),
        ("GET", "/loras/a%20b.safetensors"),
    ]
    read = found.models["toy"]
    assert (read.applied, read.total, read.rank, read.trigger_words, read.warnings) == (2, 3, 4, ("inky",), ("odd",))
    assert found.refused == {"other": "It is of another base."}


@pytest.mark.parametrize("name", ["", "..", "../health", "a/../../health", "/health", "a//b", ".safetensors"])
def test_names_that_lead_elsewhere_are_not_sent(call: Call, name: str) -> None:
    for method in ("lora", "delete_lora", "download_lora"):
        with pytest.raises(InvalidRequest, match="name must be the name of a LoRA"):
            call("http://127.0.0.1:1", method, name)


def test_upload_of_a_lora_is_a_form_and_is_sent_again(call: Call) -> None:
    lost = [ConnectionResetError()]

    def respond(_: object) -> Answer:
        if lost:
            raise lost.pop()
        return as_json(SHOWN)

    with loopback(respond) as server:
        assert call(server.url, "upload_lora", b"ink", name="my ink", retries=3).digest == INK
    assert [(request.file(), request.fields()) for request in server.received] == [(b"ink", {"name": "my ink"})] * 2


def test_a_training_that_was_begun_is_not_begun_again(call: Call) -> None:
    def respond(_: object) -> Answer:
        raise ConnectionResetError

    with loopback(respond) as server, pytest.raises(Exception, match="broke before the answer"):
        call(server.url, "train_lora", 1, steps=5, rank=None, retries=3)
    assert [request.json() for request in server.received] == [{"session_id": "1", "steps": 5}]


def test_an_unknown_option_of_a_training_is_named(call: Call) -> None:
    with pytest.raises(TypeError, match="no option 'epoch'; there are steps, epochs"):
        call("http://127.0.0.1:1", "train_lora", 1, epoch=2)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("training", {"status": "paused", "progress": 1}),
        ("training", {"status": "error"}),
        ("session_lora", {"lora_filename": "a", "lora_base64": "?!"}),
        ("session_lora", {"lora_base64": ""}),
    ],
)
def test_answers_that_break_the_contract(call: Call, method: str, answer: dict[str, Any]) -> None:
    with loopback(lambda _: as_json(answer)) as server, pytest.raises(ServerError, match="cannot be understood"):
        call(server.url, method, 1)


def test_watching_a_training_outlives_a_restart(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom_client.client_tasks.RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr("darkroom_client.client_loras.POLL_SECONDS", 0.01)
    running = {"status": "in-progress", "progress": 50, "task_id": "t", "step": 1, "total_steps": 2, "loss": 0.5}
    answers = [
        as_json(running),
        failure(503, "not_ready", "Not yet."),
        Answer(status=502, body=b"<html>bad gateway</html>"),
        as_json({"status": "completed", "progress": 100, "task_id": "t", "lora": "lora_1.safetensors"}),
    ]
    seen: list[Any] = []
    with loopback(lambda _: answers.pop(0)) as server:
        found = call(server.url, "watch_training", 1, on_progress=seen.append)
    assert (found.state, found.lora, found.loss) == ("completed", "lora_1.safetensors", None)
    assert [(one.step, one.total_steps, one.loss) for one in seen] == [(1, 2, 0.5)]


# --- a second run of `darkroom generate` ----------------------------------------------------------------------


class Studio:
    """A service with a library and a session, which records LoRAs as the real one does."""

    def __init__(self) -> None:
        self.files = {"ink": INK, "styles/red": INK_2}
        self.trained = b"trained"

    def __call__(self, request: Received) -> Answer:
        if request.path == "/loras":
            listed = [{**LISTED, "name": name, "digest": digest} for name, digest in self.files.items()]
            return as_json({"loras": listed})
        if request.path == "/get_lora":
            text = base64.b64encode(self.trained).decode()
            return as_json({"session_id": "1", "lora_filename": "lora_1.safetensors", "lora_base64": text})
        if request.method == "GET":
            return HEALTHY
        body = request.json()
        prompt, tags = without_tags(body["prompt"])
        loras = [self.recorded(one) for one in [*body.pop("loras", []), *tags]]
        body |= {"prompt": prompt, **({"loras": loras} if loras else {})}
        changed = Received(method="POST", path="", headers=request.headers, body=json.dumps(body).encode())
        return generation(changed)

    def recorded(self, choice: dict[str, Any]) -> dict[str, Any]:
        weight = {} if choice.get("weight", 1) == 1 else {"weight": choice["weight"]}
        if "session_id" in choice:
            return {"name": "lora_1", "digest": hashlib.sha256(self.trained).hexdigest(), **weight}
        if "digest" in choice:
            return {"digest": choice["digest"], **weight}
        digest = next(value for name, value in self.files.items() if name.endswith(choice["name"]))
        return {"name": choice["name"].rpartition("/")[2], "digest": digest, **weight}


def made(server: Loopback) -> int:
    return sum(request.path == "/generate" for request in server.received)


def test_other_loras_are_other_images(here: Path) -> None:
    variants: list[list[str]] = [
        ["a cat"],
        ["a cat", "--lora", "ink"],
        ["a cat", "--lora", "ink:0.5"],
        ["a cat", "--lora", "styles/red"],
        ["a cat", "--lora", "ink", "--lora", "red"],
        ["a cat", "--lora", "session:1:0.5"],
    ]
    with loopback(Studio()) as server:
        for _ in range(2):
            for words in variants:
                assert generate(server.url, *words, "--seed", "1", "-o", "out").exit_code == 0
            assert made(server) == len(variants)
    assert names(here / "out") == {"a-cat-1.png", *(f"a-cat-1-{number}.png" for number in range(2, 7))}


@pytest.mark.parametrize(
    "words",
    [
        ["a cat", "--lora", "ink:0.5"],
        ["a cat", "--lora", "red"],
        ["a cat", "--lora", "session:1"],
        ["a cat <lora:ink:0.5>"],
    ],
)
def test_a_file_that_has_changed_makes_another_image(here: Path, words: list[str]) -> None:
    studio = Studio()
    with loopback(studio) as server:
        for _ in range(2):
            assert generate(server.url, *words, "--seed", "1", "-o", "a.png").exit_code == 0
        assert made(server) == 1
        studio.files, studio.trained = {"ink": INK_2, "styles/red": INK}, b"trained again"
        assert generate(server.url, *words, "--seed", "1", "-o", "a.png").exit_code == 2
        assert made(server) == 1


def test_images_with_loras_are_done_without_a_service(here: Path) -> None:
    words = ("a cat", "--lora", "ink:0.5", "--seed", "1", "-o", "a.png")
    with loopback(Studio()) as server:
        assert generate(server.url, *words).exit_code == 0
    result = generate(f"http://127.0.0.1:{free_port()}", *words)
    assert (result.exit_code, "skipped" in result.stderr) == (0, True)


def test_a_lora_that_is_refused_is_not_tried_again(here: Path) -> None:
    def respond(request: Received) -> Answer:
        message = "loras[0].weight must be from -10 to 10; got 11."
        return HEALTHY if request.method == "GET" else failure(422, "invalid_input", message, "loras[0].weight")

    with loopback(respond) as server:
        result = generate(server.url, "a", "b", "c", "--lora", "ink:11", "--jobs", "1", "-o", "out")
    assert (result.exit_code, len(server.posts())) == (1, 1)
    assert "loras[0].weight must be from -10 to 10; got 11. (--lora)" in result.stderr
