"""Spans of OpenTelemetry: what each process says of a request, from the call of the client to the last byte.

Off unless the environment names an endpoint (docs/monitoring.md). While it is off nothing of OpenTelemetry is imported,
and the functions return at once. A span is recorded where a trace has reached only: below the current span, below one
whose `traceparent` came with a message, or where `ROOT` says that a trace may begin.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from dotenv import dotenv_values
from typing_extensions import Self

from darkroom import __version__

ROOT = "root"
"""For `span`, as the parent: a new trace may begin."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER = "opentelemetry.exporter.otlp.json.http"
_SERVICE = "darkroom"
_CLOSE_SECONDS = 2.0
"""What the last spans get to be sent. Triton gives its models five seconds to end."""


class Span:
    """A span. `with` makes it the current one, unless that was not wanted, and ends it."""

    __slots__ = ("_current", "_sdk", "_span", "_token")

    def __init__(self, sdk: Any, span: Any, current: bool) -> None:
        self._sdk = sdk
        self._span = span
        self._current = current

    def __enter__(self) -> Self:
        if self._current:
            self._token = self._sdk.attach(self._sdk.within(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._current:
            self._sdk.detach(self._token)
        # A generator that is left early has not failed.
        if error is not None and not isinstance(error, GeneratorExit):
            self.failed(error)
        self._span.end()

    @property
    def traceparent(self) -> str:
        """What other processes continue the trace with, as W3C writes it; "" where nothing is traced."""
        return _text(self._span)

    def failed(self, error: BaseException) -> None:
        """Say that the work ended with an error: its code, or for an unexpected one its class."""
        self._span.set_attribute("error.type", getattr(error, "code", None) or type(error).__name__)
        self._span.set_status(self._sdk.error)

    def note(self, **attributes: Any) -> None:
        """Add attributes; None is left out."""
        self._span.set_attributes(_named(attributes))


class _NoSpan(Span):
    """What there is instead of a span while nothing is traced."""

    def __init__(self) -> None:
        super().__init__(None, None, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def traceparent(self) -> str:
        return ""

    def failed(self, error: BaseException) -> None:
        pass

    def note(self, **attributes: Any) -> None:
        pass


OFF: Span = _NoSpan()
"""The one that is always used."""


class _Sdk:
    """OpenTelemetry's SDK with an exporter; made by `start`."""

    def __init__(self, part: str) -> None:
        from opentelemetry import context, trace
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from darkroom.otlp import FastExporter

        usual = Resource({SERVICE_NAME: _SERVICE, SERVICE_VERSION: __version__})
        own = Resource({"darkroom.part": part, "process.pid": os.getpid()})
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before the usual; without them the service of
        # the SDK's resource is "unknown_service".
        given = Resource.create()
        unnamed = str(given.attributes[SERVICE_NAME]).startswith("unknown_service")
        resource = given.merge(usual) if unnamed else usual.merge(given)
        # Not the global provider: libraries that use that one would add spans of their own.
        self.provider = TracerProvider(resource=resource.merge(own), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(FastExporter()))
        self.tracer = self.provider.get_tracer("darkroom", __version__)
        self.attach, self.detach = context.attach, context.detach
        self.within, self.current = trace.set_span_in_context, trace.get_current_span
        self.present, self.nothing = context.get_current, context.Context()
        self.propagator = TraceContextTextMapPropagator()
        self.kinds = {kind.name.lower(): kind for kind in trace.SpanKind}
        self.error = trace.StatusCode.ERROR

    def context_of(self, parent: Span | str | None) -> Any:
        """The context that a span begins in; None where there is no parent."""
        if parent == ROOT:
            return self.nothing
        if isinstance(parent, Span):
            return None if parent is OFF else self.within(parent._span)
        found = self.present() if parent is None else self.propagator.extract({"traceparent": parent}, self.nothing)
        return found if self.current(found).get_span_context().is_valid else None


_sdk: Any = None


def read(env_file: Path | None) -> None:
    """Put the variables of OpenTelemetry that stand in `.env` into the environment, where the SDK reads them."""
    given = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    for name, value in given.items():
        if name.startswith("OTEL_") and value:
            os.environ.setdefault(name, value)


def is_wanted() -> bool:
    """Whether the environment names an endpoint, and nothing in it switches tracing off."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(os.environ.get(name) for name in _ENDPOINTS)


def problem() -> str | None:
    """Say in a sentence what is missing for the traces that the environment asks for; None if nothing is."""
    if not is_wanted() or is_installed():
        return None
    return f"{_ENDPOINTS[0]} needs OpenTelemetry: pip install 'darkroom[traces]' (or empty the setting)."


def is_installed() -> bool:
    """Whether the packages of the extra `traces` are there."""
    try:
        return importlib.util.find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def start(part: str) -> None:
    """Trace from now on, if the environment asks for it and the packages are there.

    :param part: what this process is: "proxy", or the name of its model.
    """
    global _sdk
    if _sdk is None and is_wanted() and is_installed():
        _sdk = _Sdk(part)


def close() -> None:
    """Send the last spans, within a few seconds, and trace nothing more."""
    global _sdk
    sdk, _sdk = _sdk, None
    if sdk is not None:
        ending = threading.Thread(target=sdk.provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_CLOSE_SECONDS)


def provider() -> Any:
    """The SDK's provider of tracers; None while nothing is traced."""
    return None if _sdk is None else _sdk.provider


def span(
    name: str,
    *,
    parent: Span | str | None = None,
    current: bool = True,
    kind: str = "internal",
    began: float | None = None,
    **attributes: Any,
) -> Span:
    """Begin a span; to be used with `with`.

    :param parent: a span, a traceparent, or ROOT; None: the current span. Without a parent nothing is recorded.
    :param current: False for generators: what is current in them is so for their callers as well.
    :param kind: "internal", "server", "client", "producer" or "consumer".
    :param began: seconds since the epoch; None: now.
    :param attributes: named darkroom.*; None is left out.
    """
    if _sdk is None:
        return OFF
    context = _sdk.context_of(parent)
    if context is None:
        return OFF
    made = _sdk.tracer.start_span(
        name,
        context,
        kind=_sdk.kinds[kind],
        attributes=_named(attributes),
        start_time=None if began is None else int(began * 1e9),
    )
    return Span(_sdk, made, current)


def note(**attributes: Any) -> None:
    """Add attributes to the current span; None is left out."""
    if _sdk is not None:
        _sdk.current().set_attributes(_named(attributes))


def event(name: str, **attributes: Any) -> None:
    """Add a moment to the current span."""
    if _sdk is not None and (now := _sdk.current()).is_recording():
        now.add_event(name, _named(attributes))


def traceparent(*, recorded: bool = False) -> str:
    """The `Span.traceparent` of the current span.

    :param recorded: "" for a trace that is not sampled, as well.
    """
    if _sdk is None:
        return ""
    now = _sdk.current()
    return "" if recorded and not now.is_recording() else _text(now)


def ids() -> tuple[str, str] | None:
    """The ids of the current trace and span, in hexadecimal; None where nothing is traced."""
    text = traceparent()
    return (text[3:35], text[36:52]) if text else None


def _text(span: Any) -> str:
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"darkroom.{name}": value for name, value in attributes.items() if value is not None}
