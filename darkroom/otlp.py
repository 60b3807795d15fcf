"""OpenTelemetry's exporter of OTLP as JSON, with a faster encoder.

Its own encoder makes dozens of objects for each span, which took most of the time that traces cost (docs/decisions/
0038-traces.md). This one writes the same text for what our spans hold, and leaves everything else to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from json import dumps
from typing import Any

from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

_HAS_REMOTE, _IS_REMOTE = 0x100, 0x200
"""Flags of a span: it is known whether its parent is of another process, and it is so."""


class Unusual(Exception):
    """A span holds what this encoder does not know."""


class FastExporter(OTLPSpanExporter):
    """Sends spans as the exporter that it is does."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; what cannot be sent is dropped, and logged."""
        try:
            body = encoded(spans)
        except Unusual:
            return super().export(spans)
        return SpanExportResult.SUCCESS if self._client.export(body).success else SpanExportResult.FAILURE


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """The spans of a process as ExportTraceServiceRequest.

    :raises Unusual: a span holds something else than ours do.
    """
    scopes: dict[Any, list[str]] = {}
    for span in spans:
        scopes.setdefault(span.instrumentation_scope, []).append(_span(span))
    parts = (f'{{"scope":{_scope(scope)},"spans":[{",".join(texts)}]}}' for scope, texts in scopes.items())
    resource = _attributes(spans[0].resource.attributes)
    return f'{{"resourceSpans":[{{"resource":{{{resource}}},"scopeSpans":[{",".join(parts)}]}}]}}'.encode()


def _scope(scope: Any) -> str:
    if scope is None or scope.attributes or scope.schema_url:
        raise Unusual
    return f'{{"name":{dumps(scope.name)},"version":{dumps(scope.version)}}}'


def _span(span: ReadableSpan) -> str:
    context, parent, status = span.context, span.parent, span.status
    dropped = span.dropped_attributes or span.dropped_events or span.dropped_links
    if context is None or context.trace_state or span.links or dropped or status.description:
        raise Unusual
    flags, above = _HAS_REMOTE, ""
    if parent is not None:
        flags |= _IS_REMOTE if parent.is_remote else 0
        above = f'"parentSpanId":"{parent.span_id:016x}",'
    events = ",".join(
        f'{{"timeUnixNano":"{event.timestamp}","name":{dumps(event.name)},{_attributes(event.attributes)}}}'
        for event in span.events
    )
    return (
        f'{{"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}",{above}"flags":{flags},'
        f'"name":{dumps(span.name)},"kind":{span.kind.value + 1},"startTimeUnixNano":"{span.start_time}",'
        f'"endTimeUnixNano":"{span.end_time}",{_attributes(span.attributes)},"events":[{events}],'
        f'"status":{{"code":{status.status_code.value}}}}}'
    )


def _attributes(attributes: Mapping[str, Any] | None) -> str:
    found = ",".join(f'{{"key":{dumps(key)},"value":{{{_value(value)}}}}}' for key, value in (attributes or {}).items())
    return f'"attributes":[{found}]'


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f'"stringValue":{dumps(value)}'
    if isinstance(value, bool):
        return f'"boolValue":{dumps(value)}'
    if isinstance(value, int):
        return f'"intValue":"{value}"'
    if isinstance(value, float) and math.isfinite(value):
        return f'"doubleValue":{value!r}'
    raise Unusual
