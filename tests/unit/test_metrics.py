"""Metrics: the registry, the middleware, what pipelines and networks measure, restarts, and who may read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from darkroom.errors import InvalidInput
from darkroom.restarts import Tally, read_restarts
from darkroom.serving.batching import NetworkCall, run_calls
from darkroom.serving.measures import (
    COMPANY,
    RECORDER,
    ROWS,
    STAGE,
    UNBATCHED,
    Company,
    Recorder,
    side_of,
    stage,
)
from darkroom.serving.networks import Array, RowCaps, Tensors
from proxy import errors
from proxy.audit.notes import note_request
from proxy.http.requests import RequestIds
from proxy.metrics.current import note_preview
from proxy.metrics.exposition import exposition
from proxy.metrics.measures import Measures
from proxy.metrics.middleware import Measured
from proxy.streams import EventResponse, SendEvent, event


def value(measures: Measures, name: str, **labels: str) -> float | None:
    return measures.registry.get_sample_value(name, labels)


def app_of(measures: Measures) -> FastAPI:
    """An app with a route for each kind of answer."""
    app = FastAPI()
    errors.install(app)

    @app.post("/things/{name}")
    async def make(name: str) -> Response:
        await note_request("generate", "painter", {})
        note_preview()
        note_preview()
        if name == "bad":
            raise InvalidInput("No.", param="name")
        return JSONResponse({}, 202 if name == "task" else 200)

    @app.post("/broken")
    async def broken() -> Response:
        await note_request("generate", "painter", {})
        raise KeyError("unexpected")

    @app.post("/v1/stream")
    async def stream(fails: bool = False) -> Response:
        await note_request("edit", "painter", {})

        async def events(send: SendEvent) -> None:
            send(event("progress", {}))
            if fails:
                raise InvalidInput("No.", param="x")

        return EventResponse(events)

    app.add_middleware(Measured, measures=measures)
    app.add_middleware(RequestIds)
    return app


def ask(app: FastAPI, *requests: tuple[str, str]) -> list[int]:
    async def scenario() -> list[int]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return [(await http.request(method, path)).status_code for method, path in requests]

    return asyncio.run(scenario())


def test_requests_are_counted_by_surface_operation_model_and_outcome() -> None:
    measures = Measures()
    wanted = ["/things/a", "/things/b", "/things/task", "/things/bad", "/broken", "/v1/stream", "/v1/stream?fails=1"]
    assert ask(app_of(measures), *(("POST", path) for path in wanted)) == [200, 200, 202, 422, 500, 200, 200]

    def counted(outcome: str, surface: str = "native", operation: str = "generate") -> float | None:
        labels = {"surface": surface, "operation": operation, "model": "painter", "outcome": outcome}
        return value(measures, "darkroom_requests_total", **labels)

    assert (counted("done"), counted("accepted"), counted("invalid_input"), counted("internal_error")) == (2, 1, 1, 1)
    assert counted("done", "openai", "edit") == counted("invalid_input", "openai", "edit") == 1
    done = {"surface": "native", "operation": "generate", "model": "painter"}
    assert value(measures, "darkroom_request_seconds_count", **done) == 2, "only those that were done have a time"
    previews = value(measures, "darkroom_first_preview_seconds_count", operation="generate", model="painter")
    assert previews == 4, "the first one of each request"


def test_labels_of_unknown_paths_and_methods_are_few() -> None:
    measures = Measures()
    ask(app_of(measures), ("GET", "/secret/1"), ("GET", "/secret/2"), ("BREW", "/things/a"), ("POST", "/things/a"))
    (family,) = [one for one in measures.registry.collect() if one.name == "darkroom_http_requests"]
    found = {(sample.labels["method"], sample.labels["route"]) for sample in family.samples}
    assert found == {("GET", "unknown"), ("other", "/things/{name}"), ("POST", "/things/{name}")}


def test_request_whose_client_goes_away_is_cancelled() -> None:
    measures = Measures()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await note_request("generate", "painter", {})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def nothing(*_: Any) -> Any:
        return None

    scope = {"type": "http", "method": "POST", "path": "/"}
    asyncio.run(Measured(endless, measures=measures)(scope, nothing, nothing))
    labels = {"surface": "native", "operation": "generate", "model": "painter", "outcome": "cancelled"}
    assert value(measures, "darkroom_requests_total", **labels) == 1


def test_apps_do_not_share_counters() -> None:
    first, second = Measures(), Measures()
    first.waited("direct", 0.2)
    assert value(first, "darkroom_queue_wait_seconds_count", kind="direct") == 1
    assert value(second, "darkroom_queue_wait_seconds_count", kind="direct") is None


def test_decisions_of_the_policy_name_the_rule() -> None:
    measures = Measures()
    measures.decided("generate", refused=False, rules=[])
    measures.decided("generate", refused=False, rules=["a", "b"])
    measures.decided("generate", refused=True, rules=["a", "b"])
    (family,) = [one for one in measures.registry.collect() if one.name == "darkroom_policy_decisions"]
    found = {
        (sample.labels["decision"], sample.labels["rule"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert found == {("passed", ""): 1, ("changed", "a"): 1, ("changed", "b"): 1, ("refused", "b"): 1}


def test_exposition_joins_both_texts_and_drops_half_a_line() -> None:
    measures = Measures()
    measures.trained(3, 0.25)
    triton = '# HELP nv_x Of Triton\n# TYPE nv_x counter\nnv_x{model="unet"} 4\nnv_half{mod'
    text = exposition(measures.registry, triton).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["nv_x"].samples[0].value == 4
    assert families["darkroom_training_steps"].samples[0].value == 3
    assert families["darkroom_training_loss"].samples[0].value == 0.25
    assert "nv_half" not in text
    assert exposition(measures.registry, "") == generate_latest(measures.registry)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    RECORDER.start()
    yield RECORDER
    RECORDER.stop()


def call(rows: int, width: int) -> NetworkCall:
    return NetworkCall({"x": np.zeros((rows, width), np.float32)}, ["y"])


def same(outputs: Any, inputs: Tensors) -> list[Array]:
    return [inputs["x"]]


def counts(recorder: Recorder, name: str) -> dict[str, float]:
    """What was counted for each value of a label, of measures with one label."""
    found, _ = recorder.take()
    return {dict(labels)[name]: times for (_, labels), times in found.items() if name in dict(labels)}


@pytest.mark.parametrize(
    ("calls", "batching", "caps", "reasons", "rows"),
    [
        ([call(2, 4)], True, None, {"alone": 1}, [2]),
        ([call(2, 4), call(2, 4)], True, None, {}, [4]),
        ([call(2, 4), call(2, 4), call(1, 8)], True, None, {"other_shapes": 1}, [4, 1]),
        ([call(2, 4), call(2, 4)], True, RowCaps("x", ((4, 2),)), {"row_limit": 2}, [2, 2]),
        ([call(2, 4), call(2, 4)], False, None, {"no_batching": 2}, [1, 1]),
    ],
)
def test_why_calls_ran_alone(
    recorder: Recorder, calls: list[NetworkCall], batching: bool, caps: Any, reasons: dict[str, int], rows: list[int]
) -> None:
    run_calls(same, calls, batching=batching, caps=caps)
    found, observed = recorder.take()
    assert {dict(labels)["reason"]: times for (measure, labels), times in found.items()} == reasons
    assert all(measure is UNBATCHED for measure, _ in found)
    assert observed[ROWS, ()] == rows


def test_calls_of_a_failed_batch_run_alone(recorder: Recorder) -> None:
    def fails_together(outputs: Any, inputs: Tensors) -> list[Array]:
        if len(inputs["x"]) > 1:
            raise MemoryError
        return [inputs["x"]]

    run_calls(fails_together, [call(1, 4), call(1, 4)], batching=True)
    assert counts(recorder, "reason") == {"failed_together": 2}


def test_company_of_calls(recorder: Recorder) -> None:
    company, small, large = Company(), call(1, 4).inputs, call(1, 8).inputs
    with company.joined("unet", small), company.joined("unet", large), company.joined("unet", small):
        company.joined("vae", small).__enter__()
    with company.joined("unet", small):
        pass
    found, _ = recorder.take()
    told = {(dict(labels)["network"], dict(labels)["company"]): times for (_, labels), times in found.items()}
    expected = {("unet", "none"): 2, ("unet", "other_shapes"): 1, ("unet", "same_shapes"): 1, ("vae", "none"): 1}
    assert told == expected
    assert {measure for measure, _ in found} == {COMPANY}


def test_recorder_collects_only_when_started_and_forgets_what_was_taken(recorder: Recorder) -> None:
    with stage("decode", 512, 512):
        pass
    _, observed = recorder.take()
    assert [len(values) for values in observed.values()] == [1]
    assert next(iter(observed)) == (STAGE, (("stage", "decode"), ("size", "512")))
    assert recorder.take() == ({}, {})
    off = Recorder()
    off.count(UNBATCHED, reason="alone")
    off.observe(ROWS, 1)
    assert off.take() == ({}, {})


def test_stage_that_fails_has_no_time(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="no"), stage("decode", 64, 64):
        raise ValueError("no")
    assert recorder.take() == ({}, {})


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [(64, 64, "256"), (512, 512, "512"), (513, 512, "768"), (8192, 8192, "larger"), (None, 4, "unknown")],
)
def test_side_of_images(width: int | None, height: int, side: str) -> None:
    assert side_of(width, height) == side


def test_restarts_are_counted_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "8000.json"
    assert read_restarts(file) == {}
    tally = Tally(file, ("triton", "proxy", "model"))
    tally.begin()
    assert read_restarts(file)["kinds"] == {"triton": 0, "proxy": 0, "model": 0}
    tally.restarted("proxy")
    tally.reloaded({"unet": "lost its process", "vae": "does not answer"})
    assert read_restarts(file) == {
        "kinds": {"triton": 0, "proxy": 1, "model": 2},
        "models": {"unet": 1, "vae": 1},
    }
    file.write_text("[broken")
    assert read_restarts(file) == {}


def test_tally_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Tally(tmp_path / "file" / "8000.json", ("triton",)).begin()
