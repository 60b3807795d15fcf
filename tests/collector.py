"""A collector of OpenTelemetry on loopback: takes OTLP over HTTP as JSON, and keeps the spans."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto_json.collector.trace.v1.trace_service import ExportTraceServiceRequest

from tests.waiting import until


@dataclass(frozen=True, kw_only=True)
class CollectedSpan:
    """A span as it came.

    :param process: the attributes of its process, by name.
    :param began, ended: nanoseconds since the epoch.
    """

    trace: str
    id: str
    parent: str
    name: str
    began: int
    ended: int
    failed: bool
    attributes: dict[str, Any]
    events: list[str]
    process: dict[str, Any]

    def own(self, name: str) -> Any:
        """An attribute of ours."""
        return self.attributes.get(f"darkroom.{name}")


@dataclass
class Trace:
    """The spans of one trace."""

    spans: Sequence[CollectedSpan]

    def named(self, name: str) -> list[CollectedSpan]:
        """Those of a name, in the order in which they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began)

    def one(self, name: str) -> CollectedSpan:
        """The only one of a name."""
        (found,) = self.named(name)
        return found

    def below(self, parent: CollectedSpan) -> list[CollectedSpan]:
        """Those whose parent is this one, in the order in which they began."""
        return sorted((span for span in self.spans if span.parent == parent.id), key=lambda span: span.began)


@dataclass
class Collector:
    """What has come so far.

    :ivar url: where it listens.
    :ivar headers: of the last request.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    _spans: list[CollectedSpan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: bytes) -> None:
        """Keep the spans of a request."""
        found = list(_spans_of(ExportTraceServiceRequest.from_json(body.decode())))
        with self._lock:
            self._spans += found

    @property
    def spans(self) -> list[CollectedSpan]:
        """All of them."""
        with self._lock:
            return list(self._spans)

    def trace(self, id: str) -> Trace:
        """What has come of a trace so far."""
        return Trace([span for span in self.spans if span.trace == id])

    def whole(self, id: str, *, seconds: float = 60, **counts: int) -> Trace:
        """The trace, once it has at least so many spans of each name."""

        def found() -> Trace | None:
            trace = self.trace(id)
            return trace if all(len(trace.named(name)) >= count for name, count in counts.items()) else None

        trace: Trace = until(found, seconds)
        return trace


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[CollectedSpan]:
    for resource in request.resource_spans:
        process = _values(resource.resource.attributes if resource.resource else ())
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield CollectedSpan(
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    began=span.start_time_unix_nano,
                    ended=span.end_time_unix_nano,
                    failed=span.status is not None and int(span.status.code) == 2,
                    attributes=_values(span.attributes),
                    events=[event.name for event in span.events],
                    process=process,
                )


def _values(attributes: Any) -> dict[str, Any]:
    found = {}
    for attribute in attributes:
        kinds = ("string_value", "bool_value", "int_value", "double_value")
        found[attribute.key] = next((v for k in kinds if (v := getattr(attribute.value, k)) is not None), None)
    return found


@contextlib.contextmanager
def running_collector() -> Iterator[Collector]:
    """Listen on a free port of 127.0.0.1 until the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            known = self.path == "/v1/traces" and self.headers["content-type"] == "application/json"
            if known:
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                collector.take(body)
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield collector
        finally:
            server.shutdown()
            serving.join()
