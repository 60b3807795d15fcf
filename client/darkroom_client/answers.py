"""What the client gets back, read by plain functions: what all answers have in common, and failures.

What is particular to a task is in `answers_upscale`, `answers_generate` and `answers_service`.
"""

from __future__ import annotations

import base64
import binascii
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

import httpx
from httpx_sse import ServerSentEvent, SSEError

from .calls import Settings
from .errors import DarkroomError, InvalidRequest, ServerError, TimedOut, Unavailable, error_class

Result = TypeVar("Result")


@contextmanager
def translated_errors(settings: Settings) -> Iterator[None]:
    """Raise what httpx raises as an error of our tree."""
    try:
        yield
    except httpx.RequestError as error:
        raise connection_error(error, settings) from error


def connection_error(error: httpx.RequestError, settings: Settings) -> DarkroomError:
    """The error to raise when a request came to no complete answer."""
    reason = str(error) or type(error).__name__
    url = settings.base_url
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        hint = "start one with ./start.sh, or say where it is with --url or DARKROOM_URL"
        return Unavailable(f"No Darkroom service answers at {url} ({reason}); {hint}", code="cannot_connect")
    if isinstance(error, httpx.TimeoutException):
        waited = f"{settings.timeout.read:g} s" if settings.timeout.read else "the time allowed"
        return TimedOut(
            f"{url} did not answer within {waited}; it is busy or hangs, and a longer timeout may help",
            code="no_answer",
        )
    if isinstance(error, httpx.LocalProtocolError):
        return InvalidRequest(f"The request cannot be sent: {reason}", code="invalid_input")
    if isinstance(error, (SSEError, httpx.DecodingError)):
        return bad_answer(reason)
    again = "the service may have restarted; sending the request again is safe"
    return Unavailable(
        f"The connection to {url} broke before the answer came ({reason}); {again}", code="connection_lost"
    )


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if it is a success.

    :raises DarkroomError: it is not; the class says what can be done.
    """
    if response.is_success:
        return response
    status = response.status_code
    if response.has_redirect_location:
        where = response.headers["location"]
        raise DarkroomError(f"The service has moved to {where}; use that address", status=status, code=f"http_{status}")
    try:
        body = response.json()
    except ValueError:  # a reverse proxy's own page, say; also bytes that are not UTF-8
        body = None
    retry_after = response.headers.get("retry-after", "")
    raise error_from(
        body,
        status=status,
        request_id=response.headers.get("x-request-id"),
        retry_after=float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None,
    )


def error_from(
    body: object,
    *,
    status: int | None,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> DarkroomError:
    """The error that a JSON body `{"detail": ..., "error": {"code", "message", "param"}}` describes.

    Whatever of it is missing or of another kind is made up for from the status.
    """
    body = body if isinstance(body, Mapping) else {}
    inner = body.get("error")
    inner = inner if isinstance(inner, Mapping) else {}
    code = inner.get("code")
    code = code if isinstance(code, str) else f"http_{status}"
    param, rule = inner.get("param"), inner.get("rule")
    message = inner.get("message") or body.get("detail") or f"The service answered with status {status}"
    return error_class(status, code)(
        message if isinstance(message, str) else json.dumps(message, ensure_ascii=False),
        status=status,
        code=code,
        param=param if isinstance(param, str) else None,
        request_id=request_id,
        retry_after=retry_after,
        rule=rule if isinstance(rule, str) else None,
    )


def is_event_stream(response: httpx.Response) -> bool:
    """Whether the answer is a stream of events, and not an error or an image in one piece."""
    kind: str = response.headers.get("content-type", "")
    return response.is_success and kind.partition(";")[0].strip() == "text/event-stream"


class Events(ABC, Generic[Result]):
    """Follows the answer of one request, streamed or in one piece.

    A stream is `feed` event by event, and then gives its `result`; an answer in one piece goes to `whole`.
    Kinds of events that are not in `kinds` are passed over: a later version of the service may send more.

    :ivar request_id: the X-Request-ID of the answer, "" without; to be set before the first event.
    """

    kinds: ClassVar[frozenset[str]]

    def __init__(self) -> None:
        self.request_id = ""

    def feed(self, event: ServerSentEvent) -> None:
        """Take one event in.

        :raises DarkroomError: it is an error event, or its data makes no sense.
        """
        if event.event == "error":
            body = parsed(event.data)
            raise error_from(body, status=member(body, "status", int), request_id=self.request_id or None)
        if event.event in self.kinds:
            self.take(event.event, parsed(event.data))

    def result(self) -> Result:
        """What the stream gave.

        :raises Unavailable: it ended before that came.
        """
        finished = self.finished()
        if finished is None:
            problem = "The event stream ended before its result came; sending the request again is safe"
            raise Unavailable(problem, code="connection_lost", request_id=self.request_id or None)
        return finished

    @abstractmethod
    def take(self, kind: str, body: Any) -> None:
        """Take in the parsed data of an event whose kind is one of `kinds`."""

    @abstractmethod
    def finished(self) -> Result | None:
        """The result, if all of it has come."""

    @abstractmethod
    def whole(self, response: httpx.Response) -> Result:
        """The result out of a successful answer that was not streamed."""


def decode_data_url(text: str) -> tuple[str, bytes]:
    """Media type and bytes of `data:image/png;base64,...`."""
    head, comma, payload = text.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise bad_answer(f"an image should begin with data:image/...;base64, and begins with {text[:30]!r}")
    try:
        return head[len("data:") : -len(";base64")], base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_answer(f"an image's base64 is damaged ({error})") from None


def parsed(text: str | bytes) -> Any:
    """The content of a JSON text."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise bad_answer(f"expected JSON: {error}") from None


def member(body: object, name: str, kind: type[Any]) -> Any:
    """The member `name` of a JSON object, which must be of the given type."""
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, kind):
        raise bad_answer(f'"{name}" should be of type {kind.__name__}, and is {type(value).__name__}')
    return value


def number(body: object, name: str) -> float:
    """The member `name` of a JSON object, which must be a number."""
    value = body.get(name) if isinstance(body, dict) else None
    return float(value if isinstance(value, int) else member(body, name, float))


def bad_answer(problem: str) -> ServerError:
    """The error for an answer that breaks the contract; `problem` says how."""
    hint = "is it a Darkroom service, of the version this client was made for?"
    return ServerError(f"The answer of the service cannot be understood ({problem}); {hint}", code="bad_answer")
