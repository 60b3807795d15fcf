"""What the client sends to have images changed, and how it reads the list of modes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from .answers import bad_answer, member, parsed
from .calls import PREVIEW_EVERY, Call, as_json, load_image
from .errors import InvalidRequest
from .fields import EDIT_IMAGES
from .models import EditOptions, ImageInput
from .models_edit import EditModeInfo

MODES_CALL = Call(method="GET", path="/edit-modes")


def edit_call(
    images: ImageInput | Sequence[ImageInput],
    prompt: str,
    *,
    mode: int | None,
    control: ImageInput | None,
    text: Mapping[str, Any] | None,
    additional: Mapping[str, Any] | None,
    options: EditOptions,
    stream: bool,
    preview: bool,
) -> Call:
    """`POST /edit`; see `Client.edit`. `stream` asks for events instead of one answer.

    :raises TypeError: an option that there is not.
    :raises InvalidRequest: a number that is none, text that is none, or an empty image.
    :raises OSError: the path of an image cannot be read.
    """
    unknown = options.keys() - EditOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(EditOptions.__annotations__)
        raise TypeError(f"edit() has no option {min(unknown)!r}; there are {known}")
    several = images if isinstance(images, (list, tuple)) else [images]
    body: dict[str, Any] = {"prompt": prompt, "images": [_encoded("images", one) for one in several], "mode": mode}
    body |= {"text_params_json": text, "additional_params_json": additional, **options}
    body |= {name: _encoded(name, body[name]) for name in EDIT_IMAGES if body.get(name) is not None}
    if control is not None:
        body["controlnet_image"] = _encoded("control", control)
    if preview and body.get("preview_every") is None:
        body["preview_every"] = PREVIEW_EVERY
    accept = "text/event-stream" if stream else "application/json"
    headers = {"Accept": accept, "Content-Type": "application/json"}
    content = as_json({name: value for name, value in body.items() if value is not None})
    return Call(method="POST", path="/edit", arguments={"content": content, "headers": headers})


def _encoded(name: str, image: Any) -> str:
    data = load_image(image).data
    if not data:  # as text it would count as no image at all
        raise InvalidRequest(f"{name} is empty", code="invalid_input", param=name)
    return base64.b64encode(data).decode("ascii")


def read_modes(response: httpx.Response) -> list[EditModeInfo]:
    """The answer of a successful `GET /edit-modes`."""
    body = parsed(response.content)
    if not isinstance(body, list):
        raise bad_answer(f"expected a list of modes, got {type(body).__name__}")
    return [
        EditModeInfo(
            mode=member(one, "mode", int),
            name=member(one, "name", str),
            description=member(one, "description", str),
            requires_controlnet=member(one, "requires_controlnet", bool),
            requires_text_params=member(one, "requires_text_params", bool),
            min_images=member(one, "min_images", int),
            max_images=member(one, "max_images", int),
            raw=one,
        )
        for one in body
    ]
