"""What the client gets back: answers, events and failures, read by plain functions into plain data."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, SSEError

from .calls import Settings
from .errors import DarkroomError, InvalidRequest, ServerError, TimedOut, Unavailable, error_class
from .models import BatchItem, Health, Info, ModelInfo, Progress, UpscaleResult


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
        return _bad_answer(reason)
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
    """The error that a JSON body `{"detail": ..., "error": {"code", "message", "param"}}` tells of.

    Whatever of it is missing or of another kind is made up for from the status.
    """
    body = body if isinstance(body, Mapping) else {}
    inner = body.get("error")
    inner = inner if isinstance(inner, Mapping) else {}
    code = inner.get("code")
    code = code if isinstance(code, str) else f"http_{status}"
    param = inner.get("param")
    message = inner.get("message") or body.get("detail") or f"The service answered with status {status}"
    return error_class(status, code)(
        message if isinstance(message, str) else json.dumps(message, ensure_ascii=False),
        status=status,
        code=code,
        param=param if isinstance(param, str) else None,
        request_id=request_id,
        retry_after=retry_after,
    )


def read_upscale(response: httpx.Response) -> UpscaleResult:
    """The picture of a successful `POST /api/upscale` that was not streamed."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    if not media_type.startswith("image/") or not response.content:
        raise _bad_answer(f"expected a picture, got {len(response.content)} bytes of {media_type or 'no type'}")
    try:
        scale = float(response.headers.get("x-upscale-scale", ""))
    except ValueError:
        raise _bad_answer("the header X-Upscale-Scale is missing or no number") from None
    return UpscaleResult(
        image=response.content,
        media_type=media_type,
        request_id=response.headers.get("x-request-id", ""),
        model=response.headers.get("x-upscale-model", ""),
        scale=scale,
    )


class UpscaleEvents:
    """Follows the events of a streamed upscale: `feed` each one, then take `result`."""

    def __init__(self, on_progress: Callable[[Progress], None], request_id: str) -> None:
        self._on_progress = on_progress
        self._request_id = request_id
        self._result: UpscaleResult | None = None

    def feed(self, event: ServerSentEvent) -> None:
        """Take one event in. Kinds that this version does not know are passed over.

        :raises DarkroomError: it is an error event, or its data makes no sense.
        """
        if event.event not in ("progress", "image", "error"):
            return
        body = _parsed(event.data)
        if event.event == "progress":
            self._on_progress(Progress(done=_get(body, "done", int), total=_get(body, "total", int)))
        elif event.event == "error":
            raise error_from(body, status=_get(body, "status", int), request_id=self._request_id or None)
        else:
            media_type, image = decode_data_url(_get(body, "image", str))
            self._result = UpscaleResult(
                image=image,
                media_type=media_type,
                request_id=self._request_id,
                model=_get(body, "model", str),
                scale=_number(body, "scale"),
            )

    def result(self) -> UpscaleResult:
        """The picture.

        :raises Unavailable: the stream ended before it came.
        """
        if self._result is None:
            problem = "The event stream ended before the picture came; sending the request again is safe"
            raise Unavailable(problem, code="connection_lost", request_id=self._request_id or None)
        return self._result


def is_event_stream(response: httpx.Response) -> bool:
    """Whether the answer is a stream of events, and not an error or a picture in one piece."""
    kind: str = response.headers.get("content-type", "")
    return response.is_success and kind.partition(";")[0].strip() == "text/event-stream"


def read_batch(response: httpx.Response, sent: int) -> list[BatchItem]:
    """The items of a successful `POST /api/upscale-batch`, one for each of the `sent` pictures, in their order."""
    results = _get(_parsed(response.content), "results", list)
    if len(results) != sent:
        raise _bad_answer(f"{sent} pictures were sent and {len(results)} results came")
    return [_read_item(item) for item in results]


def _read_item(item: object) -> BatchItem:
    filename = _get(item, "filename", str)
    if not _get(item, "success", bool):
        return BatchItem(filename=filename, error=error_from(item, status=None))
    media_type, image = decode_data_url(_get(item, "image", str))
    return BatchItem(filename=filename, image=image, media_type=media_type)


def read_health(response: httpx.Response) -> Health:
    """The answer of `GET /api/health`; it may come with 503 while models load, and is no error then.

    :raises DarkroomError: the answer is an error, and no statement about health.
    """
    try:
        body = _parsed(response.content)
        device = body.get("device") if isinstance(body, dict) else None
        device = device if isinstance(device, dict) else {}
        return Health(
            status=_get(body, "status", str),
            model_loaded=_get(body, "model_loaded", bool),
            device_type=str(device.get("type", "")),
            device_name=str(device.get("name", "")),
        )
    except ServerError:
        checked(response)
        raise


def read_info(response: httpx.Response) -> Info:
    """The answer of a successful `GET /api/info`."""
    body = _parsed(response.content)
    models = tuple(
        ModelInfo(
            name=_get(model, "name", str),
            title=_get(model, "title", str),
            scales=tuple(float(scale) for scale in _get(model, "scales", list)),
        )
        for model in _get(body, "models", list)
    )
    return Info(
        models=models,
        default_model=_get(body, "default_model", str),
        limits=_get(body, "limits", dict),
        raw=body,
    )


def decode_data_url(text: str) -> tuple[str, bytes]:
    """Media type and bytes of `data:image/png;base64,...`."""
    head, comma, payload = text.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise _bad_answer(f"a picture should begin with data:image/...;base64, and begins with {text[:30]!r}")
    try:
        return head[len("data:") : -len(";base64")], base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_answer(f"a picture's base64 is damaged ({error})") from None


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _bad_answer(f"expected JSON: {error}") from None


def _get(body: object, name: str, kind: type[Any]) -> Any:
    """The member `name` of a JSON object, which must be of the given type."""
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, kind):
        raise _bad_answer(f'"{name}" should be of type {kind.__name__}, and is {type(value).__name__}')
    return value


def _number(body: object, name: str) -> float:
    value = body.get(name) if isinstance(body, dict) else None
    return float(value if isinstance(value, int) else _get(body, name, float))


def _bad_answer(problem: str) -> ServerError:
    hint = "is it a Darkroom service, of the version this client was made for?"
    return ServerError(f"The answer of the service cannot be understood ({problem}); {hint}", code="bad_answer")
