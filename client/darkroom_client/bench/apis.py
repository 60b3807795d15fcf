"""Three image APIs as data: what a request is, and how images, previews and errors are read from the answer."""

from __future__ import annotations

import base64
import binascii
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from httpx_sse import ServerSentEvent

from .prompts import Shot

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8")


class BadAnswer(Exception):
    """A successful answer without the images that were asked for; the text says what was wrong."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all requests of a benchmark have in common. None is left to the server.

    :param size: width and height in pixels.
    :param images: images of a request.
    :param stream: ask for events with previews.
    :param preview_every: steps between two previews; OpenAI's API asks for one preview per image instead.
    :param fields: further fields of the request's JSON; they go before all others.
    """

    model: str | None = None
    size: tuple[int, int] | None = None
    steps: int | None = None
    images: int = 1
    stream: bool = False
    preview_every: int = 5
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Received:
    """What has come of one answer.

    :param images: in base64.
    :param done: whether the answer is whole.
    """

    images: list[str] = field(default_factory=list)
    done: bool = False


class Api(ABC):
    """One API. `body` and the readers are plain functions over JSON."""

    name: ClassVar[str]
    path: ClassVar[str]
    can_stream: ClassVar[bool]

    def request(self, shot: Shot, options: Options) -> tuple[dict[str, Any], str]:
        """Return the JSON of a request and the value of its Accept header."""
        stream = options.stream and self.can_stream
        body = {name: value for name, value in self._body(shot, options).items() if value is not None}
        return body | dict(options.fields), "text/event-stream" if stream else "application/json"

    @abstractmethod
    def _body(self, shot: Shot, options: Options) -> dict[str, Any]:
        """Return the JSON of a request, with None for what is left to the server."""

    @abstractmethod
    def images(self, body: Any) -> list[str]:
        """Return the images of an answer in one piece, in base64.

        :raises BadAnswer: it has another form.
        """

    def take(self, event: ServerSentEvent, received: Received) -> bool:
        """Take an event into `received`; returns whether it was a preview.

        :raises BadAnswer: it has another form, or is an error.
        """
        raise BadAnswer("a stream came that was not asked for")


class Native(Api):
    """Darkroom's `POST /generate`."""

    name = "native"
    path = "/generate"
    can_stream = True

    def _body(self, shot: Shot, options: Options) -> dict[str, Any]:
        width, height = options.size or (None, None)
        return {
            "prompt": shot.prompt,
            "seed": shot.seed,
            "model": options.model,
            "width": width,
            "height": height,
            "steps": options.steps,
            "num_images": options.images,
            "preview_every": options.preview_every if options.stream else None,
        }

    def images(self, body: Any) -> list[str]:
        return [_without_head(image) for image in _list(body, "images")]

    def take(self, event: ServerSentEvent, received: Received) -> bool:
        if event.event == "image":
            received.images.append(_without_head(_text(_json(event.data), "image")))
        elif event.event == "error":
            raise BadAnswer(_error_of(_json(event.data)))
        elif event.event == "done":
            received.done = True
        return event.event == "preview"


class OpenAi(Api):
    """OpenAI's `POST /v1/images/generations`. It has no field for seeds or steps, so none are sent."""

    name = "openai"
    path = "/v1/images/generations"
    can_stream = True

    def _body(self, shot: Shot, options: Options) -> dict[str, Any]:
        # Models of this name answer base64 in any case and refuse the field; others may answer URLs without it.
        says_base64 = (options.model or "").startswith("gpt-image")
        return {
            "prompt": shot.prompt,
            "model": options.model,
            "n": options.images,
            "size": "x".join(map(str, options.size)) if options.size else None,
            "response_format": None if says_base64 else "b64_json",
            "stream": True if options.stream else None,
            "partial_images": 1 if options.stream else None,
        }

    def images(self, body: Any) -> list[str]:
        return [_text(item, "b64_json") for item in _list(body, "data")]

    def take(self, event: ServerSentEvent, received: Received) -> bool:
        if event.data.strip() == "[DONE]":
            return False
        body = _json(event.data)
        if isinstance(body, dict) and body.get("error"):
            raise BadAnswer(_error_of(body))
        kind = body.get("type") if isinstance(body, dict) else None
        if kind == "image_generation.completed":
            received.images.append(_text(body, "b64_json"))
            received.done = True
        return kind == "image_generation.partial_image"


class A1111(Api):
    """AUTOMATIC1111's `POST /sdapi/v1/txt2img`. It has no events."""

    name = "a1111"
    path = "/sdapi/v1/txt2img"
    can_stream = False

    def _body(self, shot: Shot, options: Options) -> dict[str, Any]:
        width, height = options.size or (None, None)
        override = {"sd_model_checkpoint": options.model} if options.model else None
        return {
            "prompt": shot.prompt,
            "seed": shot.seed,
            "steps": options.steps,
            "width": width,
            "height": height,
            "batch_size": options.images,
            "override_settings": override,
        }

    def images(self, body: Any) -> list[str]:
        return [_without_head(image) for image in _list(body, "images")]


APIS: Mapping[str, Api] = {api.name: api for api in (Native(), OpenAi(), A1111())}


def check_images(images: list[str], wanted: int) -> None:
    """Check that as many images came as were asked for, and that each of them begins as an image file does.

    :raises BadAnswer: not so.
    """
    if len(images) != wanted:
        raise BadAnswer(f"{len(images)} images came, and {wanted} were asked for")
    for image in images:
        try:
            data = base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            raise BadAnswer("an image is no base64") from None
        if not data.startswith(_SIGNATURES):
            raise BadAnswer("what came is no PNG, JPEG, WebP or GIF")


def error_kind(status: int, text: str) -> str:
    """Return the kind of a refusal: the status, with the code of the answer where it has one."""
    try:
        body = json.loads(text)
    except ValueError:
        return str(status)
    error = body.get("error") if isinstance(body, dict) else None
    code = (error.get("code") or error.get("type")) if isinstance(error, dict) else error
    return f"{status} {code}" if isinstance(code, str) else str(status)


def _error_of(body: Any) -> str:
    """The kind of an error that comes as an event."""
    error = body.get("error") if isinstance(body, dict) else None
    code = (error.get("code") or error.get("type") or error.get("message")) if isinstance(error, dict) else None
    return f"error event {code}" if isinstance(code, str) else "error event"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BadAnswer("an event is no JSON") from None


def _list(body: Any, name: str) -> list[Any]:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, list):
        raise BadAnswer(f"the answer has no list {name!r}")
    return value


def _text(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str):
        raise BadAnswer(f"the answer has no text {name!r}")
    return value


def _without_head(image: Any) -> str:
    """The base64 of an image that may begin with `data:image/png;base64,`."""
    if not isinstance(image, str):
        raise BadAnswer("an image is no text")
    return image.partition(",")[2] if image.startswith("data:") else image
