"""The library of LoRA files: list, upload, download, delete."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from io import BytesIO
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from darkroom.errors import Conflict, InvalidInput, NotFound, NotReady, TooLarge
from darkroom.request.edge import Text
from proxy.documented import BODY, answers
from proxy.http.bodies import Kind, kind_of
from proxy.http.forms import read_form
from proxy.http.json_body import read_json
from proxy.ignored import ignored, note
from proxy.loras import answers as answer
from proxy.loras.library import NAME, SUFFIX, LoraFile
from proxy.models import ServedModel, installed
from proxy.services import Services, Use
from proxy.uploads import take_image
from proxy.validation import validated

router = APIRouter(tags=["LoRAs"])

FILE = "file"


class LoraUpload(BaseModel):
    """The fields of an upload beside the file."""

    name: Text | None = Field(
        None,
        description="Without folders and ending. Absent: the name of the file, or one made of its digest.",
        json_schema_extra={"pattern": f"^{NAME}$"},
    )


@router.get("/loras", summary="LoRA files", **answers(answer.Loras))
async def loras(services: Use) -> dict[str, Any]:
    """The files of LORA_DIR, those in its folders included."""

    def listed() -> list[dict[str, Any]]:
        found = []
        for file in services.loras.library.files():
            with contextlib.suppress(OSError, NotFound):  # deleted meanwhile
                found.append(_listed(services, file))
        return found

    return {"loras": await asyncio.to_thread(listed)}


@router.post(
    "/loras", summary="Add a LoRA file", **answers(answer.UploadedLora, raises=(*BODY, NotFound, Conflict, NotReady))
)
async def add_lora(request: Request, services: Use) -> dict[str, Any]:
    """Every installed model that takes LoRAs reads the file; one that fits none of them is refused with the reasons.
    Sending the same file again is no error."""
    with services.taken_before_the_end():
        return await _added(request, services)


async def _added(request: Request, services: Services) -> dict[str, Any]:
    """See `add_lora`."""
    async with _upload(request, services) as (name, file, warnings):
        limit = services.settings.lora_max_mb
        async with services.loras.turn:
            data = await asyncio.to_thread(content_of, file, limit)
            models, refused = await _read_by_all(services, data)
            name = name or f"lora-{hashlib.sha256(data).hexdigest()[:12]}"
            del data
        if not models:
            raise InvalidInput(" ".join(dict.fromkeys(refused.values())), param=FILE)
        stored = await asyncio.to_thread(services.loras.library.add, name, file)
        described = await asyncio.to_thread(_listed, services, stored)
    return {**described, "models": models, "refused": refused, **warnings}


@router.get(
    "/loras/{name:path}.safetensors",
    summary="Download a LoRA file",
    **answers(None, media=["application/octet-stream"], raises=(NotFound, InvalidInput)),
)
async def download_lora(name: str, services: Use) -> FileResponse:
    """The file as it was uploaded."""
    file = await asyncio.to_thread(services.loras.library.find, name)
    return FileResponse(file.path, media_type="application/octet-stream", filename=file.path.name)


@router.get(
    "/loras/{name:path}", summary="A LoRA file", **answers(answer.Lora, raises=(NotFound, InvalidInput, NotReady))
)
async def lora(name: str, services: Use) -> dict[str, Any]:
    """What the installed models read of the file."""
    async with services.loras.turn:
        described, data = await asyncio.to_thread(_with_content, services, name)
        models, refused = await _read_by_all(services, data)
        del data
    return {**described, "models": models, "refused": refused}


@router.delete("/loras/{name:path}", summary="Delete a LoRA file", **answers(answer.DeletedLora, raises=(NotFound,)))
async def delete_lora(name: str, services: Use) -> dict[str, Any]:
    """Requests that name it are refused from then on; those that were accepted may still find it in the cache."""
    file = await asyncio.to_thread(services.loras.library.delete, name)
    return {"status": "deleted", "name": file.name}


def _listed(services: Services, file: LoraFile) -> dict[str, Any]:
    """:raises OSError: the file cannot be read."""
    modified = datetime.fromtimestamp(file.modified / 1e9, timezone.utc)
    return {
        "name": file.name,
        "digest": services.loras.digest_of(file.path),
        "size": file.size,
        "modified": modified.isoformat(timespec="seconds"),
    }


def _with_content(services: Services, name: str) -> tuple[dict[str, Any], bytes]:
    """What the list says of a file, and its content.

    :raises NotFound, InvalidInput: as `LoraLibrary.find`.
    """
    file = services.loras.library.find(name)
    try:
        return _listed(services, file), file.path.read_bytes()
    except FileNotFoundError:  # deleted meanwhile
        raise NotFound(f"There is no LoRA {file.name!r}.", param="name") from None


def _takers(services: Services) -> list[ServedModel]:
    """The installed models that take LoRAs."""
    return [model for model in installed(services) if model.family.lora_reader is not None]


async def _read_by_all(services: Services, data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """What each model reads of a file, and why others refuse it.

    :raises NotReady: Triton is not ready.
    :raises InvalidInput: there is no model that takes LoRAs.
    """
    takers = _takers(services)
    if not takers:
        raise InvalidInput("No model of this installation takes LoRAs.", param=FILE)
    models, refused = {}, {}
    for model in takers:
        try:
            models[model.name] = await services.loras.read_by(services, model, data)
        except InvalidInput as error:
            refused[model.name] = error.message
    return models, refused


def content_of(file: BinaryIO, max_mb: float) -> bytes:
    """The content of a file, which is then at its beginning again.

    :raises TooLarge: it is over `max_mb`.
    :raises InvalidInput: it is empty.
    """
    limit = int(max_mb * (1 << 20))
    data = file.read(limit + 1)
    file.seek(0)
    if len(data) > limit:
        raise TooLarge(f"{FILE} is over LORA_MAX_MB = {max_mb:g} MB.", param=FILE)
    if not data:
        raise InvalidInput(f"{FILE} is empty.", param=FILE)
    return data


@contextlib.asynccontextmanager
async def _upload(request: Request, services: Services) -> AsyncIterator[tuple[str, BinaryIO, dict[str, Any]]]:
    """Name ("" for none) and content of an uploaded file, and the warnings for unknown fields.

    :raises InvalidInput: there is no file.
    """
    if kind_of(request.headers.get("content-type", "")) is not Kind.MULTIPART:
        body = await read_json(request, images=(FILE,), max_mb=services.settings.max_upload_mb)
        found = await take_image(body, (FILE,), max_mb=services.settings.max_upload_mb)
        if found is None:
            raise InvalidInput(f"{FILE} is missing.", param=FILE)
        name, warnings = _named(request, body, "")
        yield name, BytesIO(found[1]), warnings
        return
    items = await read_form(request, images=(FILE,), max_files=1)
    files = [(name, value) for name, value in items if isinstance(value, UploadFile)]
    try:
        sent = next((value for name, value in files if name == FILE), None)
        if sent is None:
            raise InvalidInput(f"{FILE} is missing.", param=FILE)
        texts = {name: value for name, value in items if isinstance(value, str)}
        name, warnings = _named(request, texts, sent.filename or "")
        yield name, sent.file, warnings
    finally:
        for _, value in files:
            await value.close()


def _named(request: Request, fields: dict[str, Any], filename: str) -> tuple[str, dict[str, Any]]:
    """The name that a file is to have ("" for none), and the warnings for unknown fields."""
    warnings = note(request, ignored(fields, LoraUpload.model_fields))
    name = validated(fields, LoraUpload).name or filename.replace("\\", "/").rpartition("/")[2].removesuffix(SUFFIX)
    return name, warnings
