"""What the models have done, on HTTP in Prometheus' text format, under the names that Triton gives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import uvicorn

from darkroom.serving.in_process import InProcess
from darkroom.serving.network_queue import Work

_COUNTERS: Mapping[str, tuple[str, Callable[[Work], float]]] = {
    "nv_inference_request_success": ("Number of successful inference requests", lambda work: work.requests),
    "nv_inference_request_failure": ("Number of failed inference requests", lambda work: work.failures),
    "nv_inference_count": ("Number of inferences performed", lambda work: work.rows),
    "nv_inference_exec_count": ("Number of model executions performed", lambda work: work.executions),
    "nv_inference_request_duration_us": ("Cumulative request duration", lambda work: work.seconds["request"] * 1e6),
    "nv_inference_queue_duration_us": ("Cumulative queuing duration", lambda work: work.seconds["queue"] * 1e6),
    "nv_inference_compute_input_duration_us": ("Part of compute_infer here", lambda work: 0),
    "nv_inference_compute_infer_duration_us": (
        "Cumulative compute duration",
        lambda work: work.seconds["compute_infer"] * 1e6,
    ),
    "nv_inference_compute_output_duration_us": ("Part of compute_infer here", lambda work: 0),
}


def metrics_text(models: InProcess) -> str:
    """The metrics of all loaded models."""
    return "\n".join(_lines(models)) + "\n"


def _lines(models: InProcess) -> Iterator[str]:
    loaded = dict(models.loaded)
    for name, (text, value) in _COUNTERS.items():
        samples = ((_labels(name=n, version=one.version), value(one.work)) for n, one in loaded.items())
        yield from _family(name, "counter", text, samples)
    gauges: dict[str, tuple[str, list[tuple[str, float]]]] = {}
    for model, one in loaded.items():
        for instance, gauge in enumerate(one.gauges()):
            labels = _labels(name=model, version=one.version, instance=str(instance), **gauge.labels)
            gauges.setdefault(gauge.name, (gauge.help, []))[1].append((labels, gauge.value))
    for name, (text, found) in gauges.items():
        yield from _family(name, "gauge", text, found)


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{{{labels}}} {value:.17g}"


def _labels(*, name: str, **labels: str) -> str:
    found = {"model": name, **labels}
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in found.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsServer(uvicorn.Server):
    """Serves `/metrics` of models in the present event loop, on 127.0.0.1: `await serve()`, until `should_exit`."""

    def __init__(self, models: InProcess, port: int) -> None:
        self._models = models
        super().__init__(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                host="127.0.0.1",
                port=port,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                lifespan="off",
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the engine's."""
        yield

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        found = scope["type"] == "http" and scope["path"] == "/metrics"
        body = metrics_text(self._models).encode() if found else b"not found\n"
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})
