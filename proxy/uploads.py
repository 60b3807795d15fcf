"""What clients send: JSON or a form, and pictures in it as files or as base64, with or without a data URL around it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from darkroom.errors import InvalidInput, TooLarge

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_DATA_URL = "data:"


async def read_file(file: UploadFile, *, max_mb: float, param: str = "file") -> bytes:
    """The bytes of an uploaded file.

    :raises TooLarge: over `max_mb`.
    """
    _check_size(file.size or 0, max_mb, param)
    return await file.read()


async def read_fields(request: Request, *, max_mb: float) -> dict[str, Any]:
    """The fields of a body, which is a form or else a JSON object: text and files (bytes) of the one, values of the
    other. A form's file without a name and without content is a field that was left empty, and is left out.

    :param max_mb: for a file, and for a text: base64 comes as text as well. The body as a whole has its own limit.
    :raises InvalidInput, TooLarge: neither the one nor the other; a file over `max_mb`.
    """
    if not request.headers.get("content-type", "").lower().startswith(_FORMS):
        return await read_json(request)
    fields: dict[str, Any] = {}
    async with request.form(max_files=8, max_fields=100, max_part_size=int(max_mb * (1 << 21))) as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
            elif value.filename or value.size:
                fields[name] = await read_file(value, max_mb=max_mb, param=name)
    return fields


async def read_json(request: Request) -> dict[str, Any]:
    """The fields of a body, which is a JSON object.

    :raises InvalidInput: it is none.
    """
    return await asyncio.to_thread(_from_json, await request.body())


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body, parse_int=_whole_number)
    except (ValueError, RecursionError):
        raise InvalidInput("The body is no JSON; send a JSON object or a multipart form.", param="body") from None
    if not isinstance(fields, dict):
        raise InvalidInput(f"The body must be a JSON object; got a {type(fields).__name__}.", param="body")
    return fields


def _whole_number(digits: str) -> int:
    """Python reads no more than 4,300 digits; what is out of every range stays so with 1,000 of them."""
    return int(digits[:1000])


async def take_picture(fields: dict[str, Any], names: Iterable[str], *, max_mb: float) -> tuple[str, bytes] | None:
    """Take the picture out of `fields`: the name that it has there, and its bytes. None when there is none.

    :param names: every name that it may have.
    :raises InvalidInput: several of the names, or something that is no picture.
    :raises TooLarge: over `max_mb`.
    """
    values = {name: fields.pop(name, None) for name in names}
    given = [(name, value) for name, value in values.items() if value not in (None, "")]
    if not given:
        return None
    if len(given) > 1:
        both = " and ".join(name for name, _ in given)
        raise InvalidInput(f"{both} are names of one field; send one of them.", param=given[1][0])
    name, value = given[0]
    if isinstance(value, bytes):
        return name, value
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a file or text in base64; got a {type(value).__name__}.", param=name)
    _check_size(len(value) * 3 // 4, max_mb, name)
    return name, await asyncio.to_thread(_from_base64, value, name)


def _check_size(size: int, max_mb: float, param: str) -> None:
    if size > max_mb * (1 << 20):
        raise TooLarge(f"The file is over the limit of {max_mb:g} MB.", param=param)


def _from_base64(text: str, param: str) -> bytes:
    if text[: len(_DATA_URL)].lower() == _DATA_URL:
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidInput(f"{param} must be data:image/...;base64,...; got {head[:40]!r}.", param=param)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{param} must be a picture in base64; got {text[:20]!r}.", param=param) from None
