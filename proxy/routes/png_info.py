"""What a picture says of how it was made."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from darkroom.errors import InvalidInput
from darkroom.parameters import read_image
from proxy.services import Use
from proxy.uploads import read_fields, take_picture

router = APIRouter(tags=["text to image"])

_PICTURE_FIELDS = ("file", "image", "image_base64")


def _body(picture: dict[str, Any]) -> dict[str, Any]:
    fields = {
        name: {**picture, "description": "The PNG, JPEG or WebP, under one of these names."} for name in _PICTURE_FIELDS
    }
    return {"schema": {"type": "object", "properties": fields}}


_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": _body({"type": "string", "format": "binary"}),
        "application/json": _body({"type": "string", "contentEncoding": "base64"}),
    },
}


@router.post("/png-info", summary="Read a picture's parameters", openapi_extra={"requestBody": _BODY})
async def png_info(request: Request, services: Use) -> dict[str, Any]:
    """The text chunks of a PNG or the texts in the EXIF of a JPEG or WebP, as `chunks`; of these `parameters`, the text
    that web UIs write, which `fields` takes apart, and `darkroom`, the exact parameters of images made here. Absent
    ones are null.

    `fields` are those of `POST /generate`, and can be sent there as they are. Where this service has no scheduler that
    is the same, `scheduler` is left out: `sampler` and `schedule_type` say what it was, and `unsupported` names it.
    `other` has everything else. The JSON of SwarmUI, Fooocus, InvokeAI and NovelAI is read as well."""
    max_mb = services.settings.max_upload_mb
    picture = await take_picture(await read_fields(request, max_mb=max_mb), _PICTURE_FIELDS, max_mb=max_mb)
    if picture is None:
        raise InvalidInput("file is missing.", param="file")
    info = await asyncio.to_thread(read_image, picture[1])
    return {
        "parameters": info.parameters,
        "fields": info.fields,
        "darkroom": info.details,
        "chunks": info.chunks,
    }
