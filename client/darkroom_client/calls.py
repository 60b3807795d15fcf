"""What the client sends: settings and requests, built by plain functions and without input or output.

Together with `answers` this is everything that `Client` and `AsyncClient` have in common.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from httpx_retries import Retry

from .errors import InvalidRequest
from .fields import GENERATE_IMAGES
from .models import GenerateOptions, ImageInput, UpscaleOptions

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT = 10.0  # seconds
PREVIEW_EVERY = 5  # steps, for those who want previews and do not say how often

# uvicorn drops an idle connection after 5 s, httpx keeps one for 5 s: a request sent in that instant would die.
# No bound on connections: how many requests run at a time is the caller's choice.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=2.0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The address and options of the connection, from the constructor's arguments and the environment."""

    base_url: str
    headers: Mapping[str, str]
    timeout: httpx.Timeout
    retry: Retry
    retry_repeatable: Retry

    def arguments(self, call: Call) -> dict[str, Any]:
        """A call's arguments of httpx' `request`, with how to try it again."""
        return {**call.arguments, "extensions": {"retry": self.retry_repeatable if call.repeatable else self.retry}}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request: the arguments of httpx' `request` and `stream`.

    :param repeatable: whether the service does it once however often it is sent.
    """

    method: str
    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    repeatable: bool = False


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image in memory. All of it, so that a retry can send it again."""

    filename: str
    data: bytes


def make_settings(
    base_url: str | None, timeout: float, retries: int, headers: Mapping[str, str] | None, api_key: str | None
) -> Settings:
    """Settings from the arguments of a client; see `Client` for their meaning.

    :raises InvalidRequest: base_url is no http address, or timeout or retries is out of range.
    """
    base_url = base_url or os.environ.get("DARKROOM_URL") or DEFAULT_URL
    api_key = api_key or os.environ.get("DARKROOM_API_KEY")
    if not base_url.startswith(("http://", "https://")):
        raise _invalid("base_url", f"must start with http:// or https://, got {base_url!r}")
    try:
        httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise _invalid("base_url", f"{base_url!r} is no address: {error}") from None
    if not timeout > 0:
        raise _invalid("timeout", f"must be above 0 seconds, got {timeout}")
    if retries < 0:
        raise _invalid("retries", f"must be 0 or more, got {retries}")
    fixed = {"User-Agent": f"darkroom-client/{version('darkroom-client')}"}
    if api_key:
        require_ascii("api_key", api_key)
        fixed["Authorization"] = f"Bearer {api_key}"
    return Settings(
        base_url=base_url.rstrip("/"),
        headers={**fixed, **(headers or {})},
        timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        retry=_retry(retries, httpx.ConnectError, httpx.ConnectTimeout),
        retry_repeatable=_retry(retries, httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError),
    )


def _invalid(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {problem}", code="invalid_input", param=param)


def require_ascii(param: str, text: str) -> None:
    """:raises InvalidRequest: no header can carry the text."""
    if not text.isascii() or not text.isprintable():
        raise _invalid(param, "must consist of printable ASCII characters")


def _retry(retries: int, *failures: type[httpx.HTTPError]) -> Retry:
    """Try again what the service certainly did not begin: it refused (429, 503), or no connection was made.

    A connection that breaks or stays silent later is not tried again by itself, unless the call is repeatable: the work
    may be running or may be what brought the service down, and sending it once more would double the load at the worst
    time.
    """
    return Retry(
        total=retries,
        allowed_methods=["POST"],  # health and info are asked for the state as it is now
        status_forcelist=[429, 503],
        retry_on_exceptions=failures,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        max_backoff_wait=60.0,
    )


def load_image(image: ImageInput) -> Upload:
    """Read an image into memory.

    :raises OSError: the path cannot be read.
    :raises TypeError: it is none of bytes, a path, or a file opened for reading bytes.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return Upload(filename="image", data=bytes(image))
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return Upload(filename=_sendable(path.name), data=path.read_bytes())
    data = image.read() if hasattr(image, "read") else None
    if not isinstance(data, bytes):
        raise TypeError(f"image must be bytes, a path or a file opened in binary mode, got {type(image).__name__}")
    name = getattr(image, "name", None)
    return Upload(filename=_sendable(Path(name).name) if isinstance(name, str) else "image", data=data)


def _sendable(name: str) -> str:
    """A file name of this machine may hold bytes that are not UTF-8 (as surrogates), which no header can carry."""
    return name.encode("utf-8", "replace").decode("utf-8")


def upscale_call(upload: Upload, options: UpscaleOptions, *, stream: bool) -> Call:
    """`POST /api/upscale`; `stream` asks for progress events instead of the bare image."""
    arguments = {
        "files": {"file": (upload.filename, upload.data)},
        "data": form_fields(options),
        "headers": {"Accept": "text/event-stream" if stream else "image/*, application/json"},
    }
    return Call(method="POST", path="/api/upscale", arguments=arguments)


def batch_call(uploads: Sequence[Upload], options: UpscaleOptions) -> Call:
    """`POST /api/upscale-batch`, answered as JSON."""
    arguments = {
        "files": [("files", (upload.filename, upload.data)) for upload in uploads],
        "data": form_fields(options),
        "headers": {"Accept": "application/json"},
    }
    return Call(method="POST", path="/api/upscale-batch", arguments=arguments)


def form_fields(options: UpscaleOptions) -> dict[str, str]:
    """The options as form fields. What is None is left out, so that the service's default holds."""
    return {name: str(value) for name, value in options.items() if value is not None}


def generate_call(prompt: str, options: GenerateOptions, *, stream: bool, preview: bool) -> Call:
    """`POST /generate`; `stream` asks for events instead of one answer, `preview` for images of the state.

    :raises TypeError: an option that there is not.
    :raises InvalidRequest: a number that is none, text that is none, or an empty image.
    :raises OSError: the path of an image cannot be read.
    """
    unknown = options.keys() - GenerateOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(GenerateOptions.__annotations__)
        raise TypeError(f"generate() has no option {min(unknown)!r}; there are {known}")
    body: dict[str, Any] = {"prompt": prompt} | {name: value for name, value in options.items() if value is not None}
    for name in GENERATE_IMAGES:
        if name in body:
            data = load_image(body[name]).data
            if not data:  # as text it would count as no image at all
                raise _invalid(name, "is empty")
            body[name] = base64.b64encode(data).decode("ascii")
    if preview:
        body.setdefault("preview_every", PREVIEW_EVERY)
    accept = "text/event-stream" if stream else "application/json"
    headers = {"Accept": accept, "Content-Type": "application/json"}
    return Call(method="POST", path="/generate", arguments={"content": as_json(body), "headers": headers})


def as_json(body: Mapping[str, Any]) -> bytes:
    """The body of a request.

    :raises InvalidRequest: a number that is none, or text that is none.
    """
    for name, value in body.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain).encode()
        except ValueError as error:  # NaN and infinity; text with half a character, which is no UTF-8
            raise _invalid(name, f"cannot be sent: {error}") from None
    return json.dumps(body, default=_plain).encode()


def _plain(value: object) -> object:
    """What JSON has for mappings and sequences that are no dict and no list."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def png_info_call(upload: Upload) -> Call:
    """`POST /png-info`."""
    return Call(method="POST", path="/png-info", arguments={"files": {"file": (upload.filename, upload.data)}})
