"""Reads the parameters that an image carries."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from darkroom.errors import InvalidInput
from darkroom.parameters import read_image
from proxy import answers as answer
from proxy.documented import IMAGE, answers
from proxy.ignored import ignored, note
from proxy.services import Use
from proxy.uploads import read_fields, take_image

router = APIRouter(tags=["text to image"])

PICTURE_FIELDS = ("file", "image", "image_base64")


@router.post("/png-info", summary="Read an image's parameters", **answers(answer.PngInfo, raises=IMAGE))
async def png_info(request: Request, services: Use) -> dict[str, Any]:
    """The text chunks of a PNG or the texts in the EXIF of a JPEG or WebP, as `chunks`; of these `parameters`, the text
    that web UIs write, which `fields` takes apart, and `darkroom`, the exact parameters of images made here. Absent
    ones are null.

    `fields` are those of `POST /generate`, and can be sent there as they are. Where this service has no scheduler that
    is the same, `scheduler` is left out: `sampler` and `schedule_type` say what it was, and `unsupported` names it.
    `other` has everything else. The JSON of SwarmUI, Fooocus, InvokeAI and NovelAI is read as well."""
    max_mb = services.settings.max_upload_mb
    fields = await read_fields(request, max_mb=max_mb)
    warnings = note(request, ignored(fields, PICTURE_FIELDS))
    picture = await take_image(fields, PICTURE_FIELDS, max_mb=max_mb)
    if picture is None:
        raise InvalidInput("file is missing.", param="file")
    info = await asyncio.to_thread(read_image, picture[1])
    return {
        "parameters": info.parameters,
        "fields": info.fields,
        "darkroom": info.details,
        "chunks": info.chunks,
        **warnings,
    }
