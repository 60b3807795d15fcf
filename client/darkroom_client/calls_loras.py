"""What the client sends about LoRA files and training sessions."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .calls import Call, as_json, load_image
from .errors import InvalidRequest
from .fields import TrainOptions
from .models import ImageInput

SUFFIX = ".safetensors"


def upload_lora_call(file: ImageInput, name: str | None) -> Call:
    """`POST /loras`. The service stores a file that it has already once.

    :raises OSError: the path cannot be read.
    """
    upload = load_image(file)
    arguments: dict[str, Any] = {"files": {"file": (upload.filename, upload.data)}}
    if name is not None:
        arguments["data"] = {"name": name}
    return Call(method="POST", path="/loras", arguments=arguments, repeatable=True)


def lora_call(method: str, name: str) -> Call:
    """`GET` or `DELETE /loras/{name}`."""
    return Call(method=method, path=_path(name))


def download_lora_call(name: str) -> Call:
    """`GET /loras/{name}.safetensors`."""
    return Call(method="GET", path=_path(name) + SUFFIX)


def _path(name: str) -> str:
    """Where a LoRA file is. Its ending may be given, too.

    :raises InvalidRequest: no file can be called so.
    """
    plain = name.removesuffix(SUFFIX)
    if any(part in ("", ".", "..") for part in plain.split("/")):
        raise InvalidRequest(f"name must be the name of a LoRA, got {name[:80]!r}", code="invalid_input", param="name")
    return "/loras/" + quote(plain, safe="/", errors="replace")


def session_call(path: str, session_id: str | int, fields: Mapping[str, Any] | None = None) -> Call:
    """`POST` a JSON body about a session; fields that are None are left out.

    :raises InvalidRequest: a number that is none, or text that is none.
    """
    given = {name: value for name, value in (fields or {}).items() if value is not None}
    body = {"session_id": str(session_id), **given}
    return Call(
        method="POST", path=path, arguments={"content": as_json(body), "headers": {"Content-Type": "application/json"}}
    )


def session_image_call(session_id: str | int, image: ImageInput, prompt: str) -> Call:
    """`POST /post_session_image`.

    :raises OSError: the path cannot be read.
    """
    return session_call("/post_session_image", session_id, {"image_base64": _text(image), "prompt": prompt})


def session_lora_call(session_id: str | int, file: ImageInput, filename: str | None) -> Call:
    """`POST /upload_lora`.

    :raises OSError: the path cannot be read.
    """
    return session_call("/upload_lora", session_id, {"lora_base64": _text(file), "filename": filename})


def _text(file: ImageInput) -> str:
    return base64.b64encode(load_image(file).data).decode("ascii")


def train_call(session_id: str | int, options: TrainOptions) -> Call:
    """`POST /train_lora`.

    :raises TypeError: an option that there is not.
    :raises InvalidRequest: a number that is none.
    """
    unknown = options.keys() - TrainOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(TrainOptions.__annotations__)
        raise TypeError(f"train_lora() has no option {min(unknown)!r}; there are {known}")
    return session_call("/train_lora", session_id, options)
