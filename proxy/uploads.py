"""Reads request bodies: JSON or a form, with images as files or as base64, with or without a data URL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from darkroom.errors import InvalidInput, TooLarge
from proxy.http.bodies import Kind, kind_of
from proxy.http.forms import MAX_TEXT, read_form
from proxy.http.json_body import decoded, in_turn, read_json
from proxy.http.refused import Refused

IMAGE_FIELDS = (
    *("control_image", "file", "image", "image_base64", "reference_image"),
    *("init_image", "init_images", "mask", "mask_image"),
    *("images", "controlnet_image"),
)
"""Every field name that holds an image at some endpoint. All other fields are short texts."""
_IMAGE_LISTS = ("images",)
"""Those that a form may have several times."""
_MAX_FILES = 8
_PIECE = 1 << 20


async def read_file(file: UploadFile, *, max_mb: float, param: str = "file") -> bytes:
    """Return the bytes of an uploaded file.

    :raises TooLarge: over `max_mb`.
    """
    _check_size(file.size or 0, max_mb, param)
    return await file.read()


async def read_fields(
    request: Request,
    *,
    max_mb: float,
    images: Collection[str] = IMAGE_FIELDS,
    lists: Collection[str] = _IMAGE_LISTS,
    max_files: int = _MAX_FILES,
) -> dict[str, Any]:
    """Return the fields of a body: texts and files (as bytes) of a form, or the values of a JSON object. Those of
    `lists` are lists in a form, and left out if they are empty.

    A file of a form without a name and content is a field that was left empty, and is left out. Images in base64 that
    are too long for text are returned as bytes.

    :param images: names of the fields that may hold images.
    :param lists: names of the fields that a form may have several times.
    :param max_files: most files of a form.
    :param max_mb: limit of a file. The body as a whole has its own limit.
    :raises InvalidInput, TooLarge, Refused: the body is neither; a file is over `max_mb`.
    """
    kind = kind_of(request.headers.get("content-type", ""))
    if kind is Kind.JSON:
        return await read_json(request, images=images, max_mb=max_mb)
    if kind is None:
        raise Refused.with_status(415, "The body must be a JSON object (Content-Type: application/json) or a form.")
    fields: dict[str, Any] = {}
    items = await read_form(request, images=images, max_files=max_files)
    try:
        for name, value in items:
            if not isinstance(value, str) and not value.filename and not value.size:
                continue
            content = value if isinstance(value, str) else await _content(value, name, max_mb)
            if name not in lists:
                fields[name] = content
            elif content != "":
                fields[name] = [*fields.get(name, []), content]
    finally:
        for _, value in items:
            if isinstance(value, UploadFile):
                await value.close()
    return fields


async def _content(file: UploadFile, name: str, max_mb: float) -> bytes | str:
    """Return the content of a part. Without a file name it may be base64 or a long text."""
    if file.filename is not None or not _is_text(start := await file.read(_PIECE)):
        await file.seek(0)
        return await read_file(file, max_mb=max_mb, param=name)
    if (file.size or 0) <= MAX_TEXT:
        try:
            return start.decode()
        except UnicodeDecodeError:
            await file.seek(0)
            return await read_file(file, max_mb=max_mb, param=name)

    def pieces() -> Iterator[bytes]:
        file.file.seek(0)
        while piece := file.file.read(_PIECE):
            yield piece

    return await in_turn(lambda: decoded(pieces(), name, max_mb))


def _is_text(start: bytes) -> bool:
    """Whether bytes start like text, in base64 or not."""
    return start[:1000].isascii() and b"\0" not in start[:1000]


async def take_image(fields: dict[str, Any], names: Iterable[str], *, max_mb: float) -> tuple[str, bytes] | None:
    """Remove the image from `fields`; return its name there and its bytes, or None if there is none. It may be in a
    list of one, as web UIs send it.

    :param names: every name that the image may have.
    :raises InvalidInput: several of the names are given, or the value is no image.
    :raises TooLarge: over `max_mb`.
    """
    found = _pop_one_of(fields, names)
    if found is None:
        return None
    name, value = found
    return name, _image(value[0] if isinstance(value, list) and len(value) == 1 else value, name, max_mb)


async def take_images(
    fields: dict[str, Any], names: Iterable[str], *, max_mb: float, most: int
) -> tuple[str, list[bytes]] | None:
    """`take_image` for a field that has several, in a list; one may be sent without a list.

    :param most: how many there may be.
    :raises InvalidInput: also where there are more, or none in a list.
    """
    found = _pop_one_of(fields, names)
    if found is None:
        return None
    name, value = found
    images = value if isinstance(value, list) else [value]
    if not 1 <= len(images) <= most:
        raise InvalidInput(f"{name} must be 1 to {most} images; got {len(images)}.", param=name)
    places = [place_of(name, index, len(images)) for index in range(len(images))]
    return name, [_image(one, place, max_mb) for one, place in zip(images, places, strict=True)]


def place_of(name: str, index: int, count: int) -> str:
    """The name of one of several images in errors."""
    return f"{name}[{index}]" if count > 1 else name


def _pop_one_of(fields: dict[str, Any], names: Iterable[str]) -> tuple[str, Any] | None:
    values = {name: fields.pop(name, None) for name in names}
    given = [(name, value) for name, value in values.items() if value not in (None, "")]
    if len(given) > 1:
        both = " and ".join(name for name, _ in given)
        raise InvalidInput(f"{both} are names of one field; send one of them.", param=given[1][0])
    return given[0] if given else None


def _image(value: Any, name: str, max_mb: float) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a file or text in base64; got a {type(value).__name__}.", param=name)
    # At most a megabyte of text, see `read_fields`.
    return decoded([value.encode("ascii", "replace")], name, max_mb)


def _check_size(size: int, max_mb: float, param: str) -> None:
    if size > max_mb * (1 << 20):
        raise TooLarge(f"The file is over the limit of {max_mb:g} MB.", param=param)
