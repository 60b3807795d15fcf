"""`darkroom bench` against loopback servers that speak each API, refuse, stall, and break off."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from darkroom_client.bench import load
from darkroom_client.bench.apis import APIS, Options
from darkroom_client.bench.figures import Level
from darkroom_client.bench.load import NothingWorks, Plan
from darkroom_client.cli import main

from benchmarks.processes import free_port
from tests.conftest import stopped_by
from tests.unit.loopback import Answer, Loopback, Received, in_turn, loopback

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream"}


def as_json(body: Any, status: int = 200) -> Answer:
    return Answer(status=status, headers=JSON, body=json.dumps(body).encode())


def events(*them: tuple[str, dict[str, Any]]) -> Answer:
    return Answer(headers=EVENTS, body=[f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode() for kind, data in them])


def native(request: Received) -> Answer:
    if request.path == "/health":
        return as_json({"status": "healthy", "families": {}, "pipeline_ready": True})
    assert request.path == "/generate"
    if "event-stream" in request.headers["accept"]:
        image = {"index": 0, "image": f"data:image/png;base64,{PNG}", "seed": 1}
        return events(("progress", {"done": 1}), ("preview", {"image": "x"}), ("image", image), ("done", {}))
    return as_json({"images": [f"data:image/png;base64,{PNG}"] * request.json()["num_images"]})


def openai(request: Received) -> Answer:
    if request.path == "/v1/models":
        return as_json({"object": "list", "data": []})
    if request.method == "GET":
        return as_json({"error": {"message": "unknown"}}, 404)
    assert request.path == "/v1/images/generations"
    body = request.json()
    if body.get("stream"):
        partial = {"type": "image_generation.partial_image", "b64_json": PNG, "partial_image_index": 0}
        completed = {"type": "image_generation.completed", "b64_json": PNG, "usage": {}}
        return events((partial["type"], partial), (completed["type"], completed))
    return as_json({"created": 1, "data": [{"b64_json": PNG}] * body["n"]})


def a1111(request: Received) -> Answer:
    if request.path == "/sdapi/v1/options":
        return as_json({"sd_model_checkpoint": "m"})
    if request.method == "GET":
        return as_json({"detail": "Not Found"}, 404)
    assert request.path == "/sdapi/v1/txt2img"
    return as_json({"images": [PNG] * request.json()["batch_size"], "info": "{}"})


SERVERS: dict[str, Callable[[Received], Answer]] = {"native": native, "openai": openai, "a1111": a1111}


def bench(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def measure(server: Loopback, api: str = "native", options: Options | None = None, **plan: Any) -> list[Level]:
    """What the closed loop measures of a server."""
    levels: list[Level] = []

    async def work() -> None:
        async with load.connection(server.url, timeout=60, headers={}) as http:
            await load.run(http, APIS[api], options or Options(), Plan(**{"pause": 0.0, "warm_up": 0, **plan}), levels)

    asyncio.run(work())
    return levels


@pytest.mark.parametrize("api", SERVERS)
def test_api_is_found_and_measured(api: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with loopback(SERVERS[api]) as server:
        result = bench(server.url, "-c", "1,3", "-n", "6", "--images", "2", "--json", file)
    assert result.exit_code == 0, result.output
    assert f"{api} API of {server.url}" in result.output
    made = json.loads(file.read_text())
    assert made["api"] == api
    assert [level["clients"] for level in made["levels"]] == [1, 3]
    for level in made["levels"]:
        assert (level["requests"], level["images"], level["errors"], level["complete"]) == (6, 12, {}, True)
    assert len(server.posts()) == 1 + 6 + 3 + 6, "with the warm-up"


@pytest.mark.parametrize("api", ["native", "openai"])
def test_streams_have_a_first_preview(api: str) -> None:
    with loopback(SERVERS[api]) as server:
        result = bench(server.url, "-c", "1", "-n", "3", "--stream", "--json", "-")
    assert result.exit_code == 0, result.output
    level = json.loads(result.stdout)["levels"][0]
    assert level["first_preview"]["count"] == 3
    assert all(0 < one["first_preview"] <= one["seconds"] for one in level["samples"])


def test_a1111_has_no_events() -> None:
    with loopback(a1111) as server:
        for words in ([server.url], [f"{server.url}/sdapi/v1"], [server.url, "--api", "a1111"]):
            result = bench(*words, "--stream", "-n", "1")
            assert result.exit_code == 2
            assert "has no events" in result.output
        assert server.posts() == []


def test_every_level_gets_the_same_requests() -> None:
    with loopback(native) as server:
        measure(server, levels=(1, 2), requests=5)
        sent = [request.json() for request in server.posts()]
    keys = [(one["seed"], one["prompt"]) for one in sent]
    assert sorted(keys[:5]) == sorted(keys[5:])
    assert len(set(keys)) == 5


def test_as_many_requests_run_at_a_time_as_there_are_clients() -> None:
    together = threading.Barrier(3, timeout=60)

    def respond(request: Received) -> Answer:
        together.wait()  # breaks, and fails the request, unless three are here
        return native(request)

    with loopback(respond) as server:
        (level,) = measure(server, levels=(3,), requests=9)
    assert level.errors == {}
    assert level.images == 9


def test_errors_are_counted_by_kind_and_not_retried() -> None:
    full = as_json({"error": {"code": "queue_full"}}, 429)
    page = Answer(headers={"Content-Type": "text/html"}, body=b"<html>")
    cut = Answer(headers=JSON, body=b"{", cut=True)
    unfinished = events(("progress", {"done": 1}))
    failed = events(("error", {"status": 500, "error": {"code": "inference_failed"}}))
    none = as_json({"images": []})
    good = as_json({"images": [PNG]})
    with loopback(in_turn(full, page, cut, unfinished, failed, none, good)) as server:
        (level,) = measure(server, levels=(1,), requests=8)
        assert len(server.posts()) == 8
    assert level.errors == {
        "429 queue_full": 1,
        "bad answer: the answer is no JSON": 1,
        "connection: RemoteProtocolError": 1,
        "bad answer: the stream ended before its result came": 1,
        "bad answer: error event inference_failed": 1,
        "bad answer: 0 images came, and 1 were asked for": 1,
    }
    assert level.images == 2


def test_server_that_only_refuses_is_given_up() -> None:
    with loopback(in_turn(as_json({}, 503))) as server:
        levels = measure(server, levels=(2,), seconds=3600.0)
    assert not levels[0].complete
    assert 20 <= len(levels[0].samples) <= 21
    assert levels[0].errors == {"503": len(levels[0].samples)}


def test_warm_up_that_fails_ends_the_run() -> None:
    with loopback(in_turn(as_json({"error": {"code": "unauthorized"}}, 401))) as server:
        with pytest.raises(NothingWorks, match="401 unauthorized"):
            measure(server, warm_up=1)
        result = bench(server.url, "--api", "native", "-n", "1")
    assert result.exit_code == 1
    assert "401 unauthorized" in result.output


def test_time_limit_ends_a_level() -> None:
    with loopback(native) as server:
        (level,) = measure(server, levels=(2,), seconds=0.2)
    assert level.complete
    assert level.images >= 2
    assert all(one.started <= 0.2 for one in level.samples)


def test_silent_server_is_a_timeout() -> None:
    release = threading.Event()

    def respond(request: Received) -> Answer:
        release.wait(60)
        return native(request)

    async def work(server: Loopback) -> Level:
        levels: list[Level] = []
        async with load.connection(server.url, timeout=0.2, headers={}) as http:
            await load.run(http, APIS["native"], Options(), Plan(levels=(1,), requests=1, warm_up=0, pause=0), levels)
        return levels[0]

    with loopback(respond) as server:
        level = asyncio.run(work(server))
        release.set()
    assert level.errors == {"timeout": 1}


def test_ctrl_c_shows_what_is_measured_so_far(tmp_path: Path) -> None:
    reached, release = threading.Event(), threading.Event()

    def respond(request: Received) -> Answer:
        if len(server.posts()) == 5:
            reached.set()
            release.wait(60)
        return native(request)

    file = tmp_path / "run.json"
    with loopback(native) as server:
        server.respond = respond
        words = [server.url, "--api", "native", "-c", "1", "-n", "100", "--warmup", "0", "--json", str(file)]
        try:
            code, _ = stopped_by(signal.SIGINT, [sys.executable, "-m", "darkroom_client", "bench", *words], reached)
        finally:
            release.set()
    assert code == 130
    made = json.loads(file.read_text())
    assert made["stopped"] is True
    assert made["levels"][0]["requests"] == 4
    assert made["levels"][0]["complete"] is False


def test_no_server_is_one_sentence() -> None:
    result = bench(f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == 1
    assert "No server answers" in result.output
    with loopback(in_turn(as_json({"hello": 1}))) as server:
        result = bench(server.url)
    assert result.exit_code == 1
    assert "speaks none of the APIs native, openai, a1111" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-c", "0"), "numbers from 1 to 1000"),
        (("-c", "1,x"), "numbers from 1 to 1000"),
        (("--size", "64"), "such as 512x512"),
        (("--size", "²x²"), "such as 512x512"),
        (("--field", "x"), "NAME=VALUE"),
        (("-n", "0"), "1<=x<=1000000"),
        (("--plot", "x.gif"), "plot must end in .png, .svg, .pdf"),
        (("--prompts", "/dev/null"), "no prompts"),
    ],
)
def test_wrong_option_is_refused_before_anything_is_sent(words: tuple[str, ...], said: str) -> None:
    with loopback(native) as server:
        result = bench(server.url, *words)
        assert server.received == []
    assert result.exit_code != 0
    assert said in result.output


def test_options_reach_the_server(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\n two \n")
    words = ["--size", "64x32", "--steps", "3", "--model", "m", "--seed", "5", "--field", "a=[1]", "--field", "b=text"]
    with loopback(native) as server:
        result = bench(server.url, "-c", "1", "-n", "2", "--warmup", "0", *words, "--prompts", tmp_path / "prompts.txt")
        assert result.exit_code == 0, result.output
        first, second = (request.json() for request in server.posts())
    assert first | {"seed": 6, "prompt": "two"} == second
    assert first == {
        "prompt": "one", "seed": 5, "model": "m", "width": 64, "height": 32, "steps": 3, "num_images": 1,
        "a": [1], "b": "text",
    }  # fmt: skip


def test_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_API_KEY", "secret")
    with loopback(openai) as server:
        assert bench(server.url, "-c", "1", "-n", "1").exit_code == 0
        assert {request.headers["authorization"] for request in server.received} == {"Bearer secret"}


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_plot_shows_every_level(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"run.{ending}"
    with loopback(native) as server:
        result = bench(server.url, "-c", "1,2", "-n", "4", "--stream", "--plot", file)
    assert result.exit_code == 0, result.output
    if ending == "png":
        assert file.read_bytes().startswith(b"\x89PNG")
        return
    root = ElementTree.parse(file).getroot()
    marks = [node for node in root.iter() if node.tag.endswith("use")]
    assert len(marks) >= 2 * 3, "images/s, P50 and previews at two numbers of clients"
