"""Spans of one process, sent to a collector, and what there is without the setting."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult

from darkroom import tracing
from darkroom.errors import DarkroomError, NetworkError
from darkroom.otlp import encoded
from darkroom.record_settings import RecordSettings
from darkroom.serving.batching import NetworkCall, run_calls
from darkroom.serving.in_process import InProcess
from darkroom.serving.networks import Array, ModelSpec, Tensors
from darkroom.serving.shared_network import SharedNetwork
from supervisor.preflight import tracing_problems
from tests import toy_family
from tests.collector import Trace, running_collector
from tests.in_process import used

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ZERO = ("code", 0)
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Trace]]:
    """Traces this process; what is returned ends that, and gives all spans."""
    with running_collector() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        tracing.start("test")

        def end() -> Trace:
            tracing.close()
            return Trace(collector.spans)

        yield end
        tracing.close()


def in_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)


def test_without_the_setting_nothing_of_the_sdk_is_imported() -> None:
    code = """
import sys
from darkroom import tracing
from darkroom.serving import batching, pipeline_host
tracing.start("sd15")
with tracing.span("a", parent=tracing.ROOT, x=1) as span:
    tracing.note(x=1), tracing.event("b"), span.note(x=2)
    assert (span.traceparent, tracing.traceparent(), tracing.ids(), tracing.provider()) == ("", "", None, None)
tracing.close()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
import proxy.app
assert "opentelemetry.sdk" not in sys.modules
"""
    done = in_python(code, **{ENDPOINT: ""})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {ENDPOINT: ""}])
def test_variables_of_opentelemetry_that_switch_it_off(monkeypatch: pytest.MonkeyPatch, off: dict[str, str]) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    assert tracing.is_wanted()
    for name, value in off.items():
        monkeypatch.setenv(name, value)
    assert not tracing.is_wanted()


def test_missing_packages_are_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_EXPORTER", "opentelemetry.not.there")
    monkeypatch.delenv(ENDPOINT, raising=False)
    assert tracing_problems() == []
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    (problem,) = tracing_problems()
    assert problem.startswith(f"{ENDPOINT} needs OpenTelemetry: pip install 'darkroom[traces]'")
    tracing.start("test")
    assert tracing.provider() is None


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "ftp://x", "http://"])
def test_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as"):
        RecordSettings(otel_exporter_otlp_endpoint=endpoint)


def test_variables_in_the_file_go_behind_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.setenv(name, "mine")  # so that they are put back at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    file = tmp_path / ".env"
    file.write_text("OTEL_SERVICE_NAME=file\nOTEL_TRACES_SAMPLER=always_off\nOTEL_EXPORTER_OTLP_HEADERS=\nPORT=1\n")
    tracing.read(file)
    tracing.read(tmp_path / "none")
    assert (os.environ["OTEL_SERVICE_NAME"], os.environ["OTEL_TRACES_SAMPLER"]) == ("mine", "always_off")
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in os.environ


def test_spans_below_each_other(sent: Callable[[], Trace]) -> None:
    with tracing.span("outer", parent=TRACEPARENT, model="sd15", nothing=None) as outer:
        assert (tracing.ids() or ("",))[0] == TRACE
        with tracing.span("inner"):
            tracing.note(rows=2)
            tracing.event("turn", waited_seconds=0.5)
        with tracing.span("beside", parent=outer, current=False, began=1.5) as beside:
            assert tracing.traceparent() == outer.traceparent != beside.traceparent
    assert tracing.traceparent() == ""
    trace = sent()
    assert {span.trace for span in trace.spans} == {TRACE}
    found = trace.one("outer")
    assert (found.parent, found.attributes) == (PARENT, {"darkroom.model": "sd15"})
    assert {span.name for span in trace.below(found)} == {"inner", "beside"}
    assert (trace.one("inner").own("rows"), trace.one("inner").events) == (2, ["turn"])
    assert trace.one("beside").began == 1_500_000_000


def test_spans_need_a_trace_to_belong_to(sent: Callable[[], Trace]) -> None:
    for parent in (None, "", "00-nonsense", tracing.OFF):
        assert tracing.span("lost", parent=parent) is tracing.OFF
    with tracing.span("first", parent=tracing.ROOT), tracing.span("second"):
        pass
    assert [span.name for span in sorted(sent().spans, key=lambda span: span.began)] == ["first", "second"]


def test_spans_say_how_they_failed(sent: Callable[[], Trace]) -> None:
    for error in (NetworkError("it broke"), KeyError("x")):
        with pytest.raises(type(error)), tracing.span("failed", parent=tracing.ROOT):
            raise error
    said = [(span.failed, span.attributes["error.type"]) for span in sent().named("failed")]
    assert said == [(True, "network_error"), (True, "KeyError")]


class Kept:
    """An exporter that keeps spans as the SDK has them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to free."""


def spans_of_every_kind() -> list[Any]:
    """Spans with whatever ours and FastAPI's hold."""
    kept = Kept()
    tracing.provider().add_span_processor(SimpleSpanProcessor(kept))  # type: ignore[arg-type]
    other = tracing.provider().get_tracer("fastapi", "1.0")
    with tracing.span("first", parent=tracing.ROOT, kind="server"), other.start_as_current_span("other"):
        with suppress(NetworkError), tracing.span("inner", kind="client", text='ü"\n\u2028', number=-3, yes=True):
            tracing.event("turn", waited_seconds=1e-9)
            tracing.event("preview")
            raise NetworkError("it broke")
        with tracing.span("remote", parent=TRACEPARENT, began=1.5, share=0.25, whole=2.0):
            pass
    return kept.spans


def test_spans_are_encoded_as_opentelemetry_does(sent: Callable[[], Trace]) -> None:
    spans = spans_of_every_kind()
    assert len(spans) == 4
    ours, theirs = json.loads(encoded(spans)), json.loads(encode_spans(spans).to_json())
    assert without_defaults(ours) == without_defaults(theirs)


def without_defaults(value: Any) -> Any:
    """What is left when empty lists and objects and zeros, which mean the same as nothing, are taken out."""
    if isinstance(value, dict):
        members = {name: without_defaults(member) for name, member in value.items()}
        return {name: member for name, member in members.items() if member not in ([], {}) and (name, member) != ZERO}
    return [without_defaults(member) for member in value] if isinstance(value, list) else value


@pytest.mark.parametrize("odd", [["a", "b"], float("nan"), b"bytes"])
def test_spans_with_unusual_attributes_are_sent_all_the_same(sent: Callable[[], Trace], odd: Any) -> None:
    with tracing.span("odd", parent=tracing.ROOT, odd=odd):
        pass
    assert sent().one("odd").name == "odd"


def test_generator_that_is_left_early_has_not_failed(sent: Callable[[], Trace]) -> None:
    async def numbers() -> AsyncIterator[int]:
        with tracing.span("numbers", current=False, parent=tracing.ROOT):
            for number in range(3):
                assert tracing.traceparent() == ""
                yield number

    async def use() -> None:
        generator = numbers()
        assert await anext(generator) == 0
        await generator.aclose()  # type: ignore[attr-defined]

    asyncio.run(use())
    assert not sent().one("numbers").failed


def test_executions_are_in_the_trace_of_each_call(sent: Callable[[], Trace]) -> None:
    with tracing.span("a", parent=tracing.ROOT) as a, tracing.span("b", parent=tracing.ROOT) as b:
        calls = [
            NetworkCall({"x": np.zeros((rows, 4), np.float32)}, ["y"], network="net", traceparent=span.traceparent)
            for rows, span in ((2, a), (3, b))
        ]
        untraced = NetworkCall({"x": np.zeros((1, 4), np.float32)}, ["y"])
        run_calls(lambda outputs, inputs: [inputs["x"]], [*calls, untraced], batching=True)
    trace = sent()
    for name, rows in (("a", 2), ("b", 3)):
        (execution,) = trace.below(trace.one(name))
        said = {key: execution.own(key) for key in ("network", "rows", "batch_rows")}
        assert said == {"network": "net", "rows": rows, "batch_rows": 6}


def test_call_that_waits_for_its_turn_says_so(sent: Callable[[], Trace]) -> None:
    async def execute(spec: ModelSpec, inputs: Tensors) -> dict[str, Array]:
        await asyncio.sleep(0.01)
        return dict(inputs)

    network = SharedNetwork(toy_family.NETWORK, execute, room=lambda inputs: 1.0)

    async def step(number: int) -> None:
        with tracing.span("step", parent=tracing.ROOT, step=number):
            await network({"x": np.zeros((1, 2), np.float32)})

    async def steps() -> None:
        await asyncio.gather(step(1), step(2))

    asyncio.run(steps())
    assert {span.own("step"): span.events for span in sent().named("step")}[2] == ["turn"]


def test_trace_goes_through_a_pipeline_to_its_network(sent: Callable[[], Trace], tmp_path: Path) -> None:
    toy_family.write_repository(tmp_path)

    async def ask(models: InProcess, traceparent: str, **inputs: Any) -> None:
        given = {"text": "a", "value": 0.0, "steps": 2, **inputs}
        with suppress(DarkroomError):
            async for _ in models.stream("toy", given, traceparent=traceparent):
                pass

    async def work(models: InProcess) -> None:
        await ask(models, "")
        await ask(models, TRACEPARENT)
        await ask(models, TRACEPARENT, value=-1.0)

    used(InProcess(tmp_path, toy_family.SPECS), work)
    done, failed = (trace := sent()).named("pipeline")
    for pipeline in (done, failed):
        assert (pipeline.trace, pipeline.parent, pipeline.own("model")) == (TRACE, PARENT, "toy")
    assert [span.own("network") for span in trace.below(done)] == ["toy_network"] * 2
    (execution,) = trace.below(failed)
    for span, kind in ((execution, "ValueError"), (failed, "network_error")):
        assert (span.failed, span.attributes["error.type"]) == (True, kind)


def test_collector_that_does_not_answer_does_not_hold_the_end_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = """
from darkroom import tracing
tracing.start("test")
with tracing.span("a", parent=tracing.ROOT):
    pass
tracing.close()
"""
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = in_python(code, **{ENDPOINT: url, "OTEL_EXPORTER_OTLP_TIMEOUT": "3600"})
    assert (done.returncode, done.stderr) == (0, "")
