"""Reads forms piece by piece: large parts are written to disk, whether or not they have a file name."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.routing import APIRoute
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile

from darkroom.errors import InvalidInput, TooLarge
from proxy.http.bodies import Kind, kind_of
from proxy.http.refused import Refused

MAX_TEXT = 1 << 20
"""Maximum bytes of all text fields together."""
MAX_FIELDS = 100
_MAX_NAME = 200
_MAX_HEADERS = 8192
_HEADERS_TOO_LARGE = "A part of the multipart form has too many or too long headers."
_SPOOL = 1 << 18
_IMAGES = ("image/", "application/octet-stream")
_FILES = ("file", "files")


@dataclass(kw_only=True)
class _Part:
    name: str = ""
    file: UploadFile
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class _Multipart:
    """The parts of one body.

    :param images: names of the fields that may hold images, so that they may be large without a file name.
    :param max_files: parts with a file name, or larger than `_SPOOL`.
    """

    def __init__(self, content_type: str, images: Collection[str], max_files: int) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise _wrong("The multipart form's Content-Type names no boundary.")
        self.parts: list[_Part] = []
        self._images = images
        self._max_files = max_files
        self._files = self._fields = self._text = 0
        self._header_name = self._header_value = b""
        self._header_bytes = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._pending: list[tuple[_Part, bytes]] = []
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError:
            raise _wrong("The multipart form's boundary is too long.") from None

    async def feed(self, piece: bytes) -> None:
        """Parse the next piece of the body."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            if "exceeded" in str(error):
                raise _too_large(_HEADERS_TOO_LARGE) from None
            raise _wrong("The body is no multipart form with the boundary that Content-Type names.") from None
        for part, data in self._pending:
            before = part.file.size or 0
            size = before + len(data)
            if part.file.filename is None and part.name not in self._images:
                self._text += len(data)
                if self._text > MAX_TEXT:
                    raise _too_large(f"The form's texts must have at most {MAX_TEXT >> 20} MB together.", part.name)
            await part.file.write(data)
            if part.file.filename is None and before <= _SPOOL < size:
                self._count_file()
        self._pending.clear()

    async def end(self) -> None:
        """End the body.

        :raises Refused: it is cut short.
        """
        if not self._ended:
            raise _wrong("The multipart form is cut short: its last boundary is missing.")
        for part in self.parts:
            await part.file.seek(0)

    def close(self) -> None:
        """Close all files."""
        for part in self.parts:
            part.file.file.close()

    def _count_file(self) -> None:
        self._files += 1
        if self._files > self._max_files:
            raise _too_large(f"The form has over {self._max_files} files.")

    def _on_part_begin(self) -> None:
        self._headers = []
        self._header_bytes = 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADERS:
            raise _too_large(_HEADERS_TOO_LARGE)

    def _on_header_end(self) -> None:
        self._headers.append((self._header_name.lower(), self._header_value))
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        headers = dict(self._headers)
        _, options = parse_options_header(headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise _wrong("A part of the multipart form has no name in its Content-Disposition.")
        name, filename = options[b"name"], options.get(b"filename")
        if len(name) > _MAX_NAME:
            raise _too_large(f"A field's name has over {_MAX_NAME} bytes.")
        self._fields += 1
        if self._fields > MAX_FIELDS + self._max_files:
            raise _too_large(f"The form has over {MAX_FIELDS + self._max_files} fields.")
        if filename is not None:
            self._count_file()
        file = UploadFile(
            SpooledTemporaryFile(max_size=_SPOOL),  # type: ignore[arg-type] # noqa: SIM115 (closed by `close`)
            size=0,
            filename=None if filename is None else _text(filename),
            headers=Headers(raw=self._headers),
        )
        self.parts.append(_Part(name=_text(name), file=file, headers=self._headers))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pending.append((self.parts[-1], data[start:end]))

    def _on_end(self) -> None:
        self._ended = True


async def read_form(request: Request, *, images: Collection[str], max_files: int) -> list[tuple[str, str | UploadFile]]:
    """The fields of a form in their order; who asked closes the files. A part without a file name is text if it is
    short and UTF-8, and says of itself nothing else; else it is a file without a name.

    :raises Refused: it is none, or has too many fields.
    """
    content_type = request.headers.get("content-type", "")
    if kind_of(content_type) is Kind.URLENCODED:
        return [*await asyncio.to_thread(_urlencoded, await request.body())]
    form = _Multipart(content_type, images, max_files)
    try:
        async for piece in request.stream():
            await form.feed(piece)
        await form.end()
        return [(part.name, await _value(part)) for part in form.parts]
    except BaseException:
        form.close()
        raise


async def _value(part: _Part) -> str | UploadFile:
    file, kind = part.file, part.file.headers.get("content-type", "").lower()
    if file.filename is not None or kind.startswith(_IMAGES) or (file.size or 0) > _SPOOL:
        return file
    data = await file.read()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        await file.seek(0)
        return file
    await file.close()
    return text


def _urlencoded(body: bytes) -> list[tuple[str, str]]:
    try:
        fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise _too_large(f"The form has over {MAX_FIELDS} fields.") from None
    if any(len(name) > _MAX_NAME for name, _ in fields):
        raise _too_large(f"A field's name has over {_MAX_NAME} characters.")
    return fields


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _wrong(message: str) -> Refused:
    return Refused.because(InvalidInput(message, param="body"))


def _too_large(message: str, param: str = "body") -> Refused:
    return Refused.because(TooLarge(message, param=param))


class _FormRequest(Request):
    """Reads its form with `read_form`."""

    async def form(self, **_: Any) -> FormData:  # type: ignore[override] # FastAPI awaits it
        if self._form is None:
            max_files = self.app.state.services.settings.max_batch_files + 8
            self._form = FormData(await read_form(self, images=_FILES, max_files=max_files))
        return self._form


class FormRoute(APIRoute):
    """A route whose `Form` and `File` parameters are read with `read_form`."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Any:
            return await handler(_FormRequest(request.scope, request.receive))

        return handle
