"""Traces of the real service, sent to a collector, and its logs as objects."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from darkroom.pipelines.sd15 import networks
from tests.collector import CollectedSpan, Collector, Trace, running_collector
from tests.contract.conftest import SD15, SharedService
from tests.contract.generating import QUICK
from tests.contract.tasks import finished, submit
from tests.pictures import encoded, photo
from tests.service import RunningService, link_models, running_service
from tests.waiting import until

STEPS = 3
SAMPLER = {"scheduler": "ddim"}
"""One call of the network for each step; the default one makes one more."""
UNET = networks.UNET.name
SECONDS = 120
UPSCALER = ("upscale", "realesrgan_animevideov3_x2")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(shared: SharedService, collector: Collector) -> Iterator[RunningService]:
    """A service that sends its traces, and writes its logs as objects."""

    def start(folder: Path) -> AbstractContextManager[RunningService]:
        return running_service(
            folder,
            model_repository=link_models(folder / "models", *SD15, *UPSCALER),
            canary_interval=3600,
            otel_exporter_otlp_endpoint=collector.url,
            otel_exporter_otlp_headers="x-tenant=studio",
            otel_resource_attributes="deployment.environment.name=tests",
            otel_bsp_schedule_delay=100,
            log_format="json",
        )

    yield shared.get("traced", start)
    shared.stop()  # nobody else can use it: the collector goes


@pytest.fixture(scope="module")
def client(traced: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=traced.url, timeout=300) as client:
        yield client


def caller(sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """A trace that a client has begun: its id, the id of the client's span, and the header."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, {"traceparent": f"00-{trace}-{span}-0{int(sampled)}"}


def generate(client: httpx.Client, headers: dict[str, str], status: int = 200, **fields: Any) -> httpx.Response:
    answer = client.post("/generate", json={**QUICK, **SAMPLER, "steps": STEPS, **fields}, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


def within(inner: CollectedSpan, outer: CollectedSpan) -> bool:
    return outer.began <= inner.began <= inner.ended <= outer.ended


def check_pipeline(trace: Trace, call: CollectedSpan, *, model: str = "sd15", rows: int = 2) -> None:
    """What is below the call of a pipeline that has made one image."""
    (pipeline,) = trace.below(call)
    assert (pipeline.name, pipeline.own("model"), call.own("model")) == ("pipeline", model, model)
    encode, denoise, decode, write = trace.below(pipeline)
    assert [span.name for span in (encode, denoise, decode, write)] == ["encode", "denoise", "decode", "write"]
    assert all(within(stage, pipeline) for stage in (encode, denoise, decode, write))
    assert encode.own("width") == QUICK["width"]
    steps = trace.below(denoise)
    assert [(step.name, step.own("step")) for step in steps] == [("step", k) for k in range(1, STEPS + 1)]
    timesteps = [step.own("timestep") for step in steps]
    assert timesteps == sorted(timesteps, reverse=True)
    assert (denoise.own("steps"), denoise.own("images")) == (STEPS, 1)
    for step in steps:
        (execution,) = trace.below(step)
        assert (execution.name, execution.own("network"), execution.own("rows")) == ("execute", UNET, rows)
        assert execution.own("batch_rows") >= rows
        assert within(execution, step)
    executed = {execution.own("network") for stage in (encode, decode) for execution in trace.below(stage)}
    assert executed == {"sd15_text_encoder", "sd15_vae_decoder"}


def test_trace_of_a_direct_request(client: httpx.Client, collector: Collector) -> None:
    id, parent, headers = caller()
    answer = generate(client, {**headers, "x-request-id": "of-the-trace"})
    assert answer.headers["x-request-id"] == "of-the-trace"
    trace = collector.whole(id, seconds=SECONDS, result=1, write=1, execute=STEPS + 2)
    request = trace.one("POST /generate")
    assert request.parent == parent
    assert request.attributes["http.response.status_code"] == 200
    said = {name: request.own(name) for name in ("request_id", "surface", "operation", "model")}
    assert said == {"request_id": "of-the-trace", "surface": "native", "operation": "generate", "model": "sd15"}
    queue, call, result = trace.below(request)
    assert [span.name for span in (queue, call, result)] == ["queue", "call", "result"]
    assert result.own("bytes") == len(answer.content)
    check_pipeline(trace, call)
    assert len(trace.spans) == 1 + 3 + 1 + 4 + 2 * STEPS + 2
    assert not any(span.failed for span in trace.spans)


def test_processes_have_names_and_the_attributes_that_the_environment_gives(
    client: httpx.Client, collector: Collector
) -> None:
    id, _, headers = caller()
    generate(client, headers)
    trace = collector.whole(id, seconds=SECONDS, result=1, write=1, execute=STEPS + 2)
    assert {span.process["service.name"] for span in trace.spans} == {"darkroom"}
    assert {span.process["deployment.environment.name"] for span in trace.spans} == {"tests"}
    assert trace.one("POST /generate").process["darkroom.part"] == "proxy"
    if os.environ.get("ENGINE") != "local":
        parts = {span.process["darkroom.part"] for span in trace.spans}
        assert parts == {"proxy", "sd15", UNET, "sd15_text_encoder", "sd15_vae_decoder"}
        assert len({span.process["process.pid"] for span in trace.spans}) == len(parts)
    assert collector.headers["x-tenant"] == "studio"


def test_trace_of_a_task_continues_that_of_its_request(client: httpx.Client, collector: Collector) -> None:
    id, _, headers = caller()
    task = submit(client, headers, **SAMPLER, steps=STEPS)["task_id"]
    finished(client, task)
    trace = collector.whole(id, seconds=SECONDS, task=1, write=1, execute=STEPS + 2)
    request, run = trace.one("POST /tasks"), trace.one("task")
    assert run.parent == request.id
    assert (run.own("task_id"), run.own("operation"), run.own("attempt")) == (task, "generate", 1)
    queue, call, result = trace.below(run)
    assert [span.name for span in (queue, call, result)] == ["queue", "call", "result"]
    assert queue.began == run.began, "it waits since it was accepted"
    check_pipeline(trace, call)


def test_steps_that_share_an_execution_say_how_many_rows_it_had(client: httpx.Client, collector: Collector) -> None:
    def shared() -> list[CollectedSpan]:
        given = [caller() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: generate(client, one[2], steps=12), given))
        traces = [collector.whole(id, seconds=SECONDS, result=1, write=1, execute=14) for id, _, _ in given]
        executions = [span for trace in traces for span in trace.named("execute") if span.own("network") == UNET]
        assert len(executions) == 4 * 12
        return [span for span in executions if span.own("batch_rows") > span.own("rows")]

    found = until(shared, SECONDS)
    for span in found:
        assert span.own("rows") == 2, "guided"
        assert span.own("batch_rows") in (4, 6, 8)
        same = [other for other in found if (other.began, other.process) == (span.began, span.process)]
        assert len({other.trace for other in same}) == len(same)


def test_trace_of_an_upscale(client: httpx.Client, collector: Collector) -> None:
    id, _, headers = caller()
    picture = {"file": ("in.png", encoded(photo(100, 60, 48, 40)))}
    client.post("/api/upscale", files=picture, data={"model": "animevideov3-x2"}, headers=headers).raise_for_status()
    trace = collector.whole(id, seconds=SECONDS, result=1, write=1, execute=1)
    (pipeline,) = trace.below(trace.one("call"))
    stages = trace.below(pipeline)
    assert [span.name for span in stages] == ["read", "enlarge", "write"]
    (tile,) = trace.below(stages[1])
    (execution,) = trace.below(tile)
    assert (tile.name, execution.own("network")) == ("tile", UPSCALER[1])


def test_refused_request_and_failed_work_are_marked(client: httpx.Client, collector: Collector) -> None:
    id, _, headers = caller()
    generate(client, headers, 422, steps=-1)
    request = collector.whole(id, result=1, **{"POST /generate": 1}).one("POST /generate")
    assert (request.own("error"), request.failed) == ("invalid_input", False)
    id, _, headers = caller()
    picture = {"file": ("in.png", encoded(photo(100, 60, 48, 40))[:-200])}
    answer = client.post("/api/upscale", files=picture, data={"model": "animevideov3-x2"}, headers=headers)
    assert answer.status_code == 415, answer.text
    trace = collector.whole(id, result=1, pipeline=1, read=1)
    for name in ("call", "pipeline", "read"):
        span = trace.one(name)
        assert (span.failed, span.attributes["error.type"]) == (True, "not_an_image"), name


def test_trace_that_its_client_does_not_sample_is_not_recorded(client: httpx.Client, collector: Collector) -> None:
    unsampled, _, headers = caller(sampled=False)
    task = submit(client, headers, **SAMPLER, steps=STEPS)["task_id"]
    finished(client, task)
    generate(client, headers)
    sampled, _, headers = caller()
    generate(client, headers)
    collector.whole(sampled, seconds=SECONDS, result=1, write=1)
    assert collector.trace(unsampled).spans == []
    assert task not in {span.own("task_id") for span in collector.spans}


def test_health_checks_and_canaries_are_not_traced(client: httpx.Client, collector: Collector) -> None:
    assert client.get("/health").status_code == 200
    assert client.get("/metrics").status_code == 200
    id, _, headers = caller()
    client.get("/models", headers=headers).raise_for_status()
    collector.whole(id, result=1, **{"GET /models": 1})
    assert not any("/health" in span.name or "/metrics" in span.name for span in collector.spans)
    known = {span.trace for span in collector.spans if span.attributes.get("http.request.method")}
    assert {span.trace for span in collector.spans if span.name == "execute"} <= known


def lines(service: RunningService, name: str) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in (service.folder / "logs" / name).read_text().splitlines()]


def test_logs_are_objects_with_the_ids_of_request_and_trace(client: httpx.Client, traced: RunningService) -> None:
    id, _, headers = caller()
    generate(client, {**headers, "x-request-id": "of-the-log"})

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(traced, "proxy.log") if line.get("request_id") == "of-the-log"]

    (line,) = until(found)
    assert (line["trace_id"], line["level"], line["logger"]) == (id, "INFO", "proxy.access")
    assert line["message"].startswith("POST /generate 200 ")
    assert len(line["span_id"]) == 16
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


def test_log_lines_of_a_task_have_its_id_and_its_trace(client: httpx.Client, traced: RunningService) -> None:
    id, _, headers = caller()
    task = submit(client, headers, **SAMPLER, steps=STEPS)["task_id"]
    finished(client, task)
    line = until(lambda: next((one for one in lines(traced, "proxy.log") if one.get("task_id") == task), None))
    assert (line["trace_id"], line["request_id"]) == (id, task)


def test_supervisor_and_engine_write_objects_as_well(traced: RunningService) -> None:
    engine = "local" if os.environ.get("ENGINE") == "local" else "triton"
    assert {line["logger"] for line in lines(traced, "darkroom.log")} >= {"darkroom", engine}
    assert {line["logger"] for line in lines(traced, f"{engine}.log")} == {engine}
    output = [json.loads(line) for line in traced.log().splitlines()]
    assert {line["logger"] for line in output} >= {"darkroom", "proxy.access", "uvicorn.error", engine}


def test_task_after_a_restart_stays_in_its_trace(
    client: httpx.Client, traced: RunningService, collector: Collector
) -> None:
    id, _, headers = caller()
    task = submit(client, headers, **SAMPLER, steps=150, width=96, height=96)["task_id"]
    until(lambda: collector.trace(id).named("step"), SECONDS)
    (proxy,) = traced.find("-m proxy")
    proxy.kill()
    runs = collector.whole(id, seconds=4 * SECONDS, task=1, decode=1).named("task")
    assert [(run.own("task_id"), run.own("attempt")) for run in runs] == [(task, 2)], "the first one died unsent"
    assert runs[0].parent == collector.trace(id).one("POST /tasks").id
