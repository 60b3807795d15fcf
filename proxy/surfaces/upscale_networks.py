"""The files of the upscaling networks, for browsers that upscale by themselves."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from isal import isal_zlib
from pydantic import Field

from darkroom.browser_networks import BrowserNetworks, NetworkFile
from darkroom.errors import NotFound
from darkroom.files import write_atomically
from darkroom.settings import Settings
from proxy.answers import Answer
from proxy.documented import answers
from proxy.http.bodies import MEGABYTE
from proxy.http.conditional import is_known
from proxy.models import of_operation
from proxy.services import Use
from proxy.web_files import ISOLATED, takes_gzip

router = APIRouter(prefix="/upscale", tags=["upscaling"])
log = logging.getLogger(__name__)

_KEPT = "private, max-age=31536000, immutable"
"""The address changes with the content. Private, because a service with keys gives it only to those who have one."""
_GZIP = 16 + isal_zlib.MAX_WBITS
_LEVEL = 2
_PART = 4 * MEGABYTE
_ONNX = "application/octet-stream"


class BrowserNetwork(Answer):
    """A network file of the upscaler."""

    name: str
    family: str
    scale: int
    title: str
    tile: int = Field(description="Longest side of a tile in pixels, as the server has it here by default.")
    tile_cpu: int = Field(description="The same on CPUs, where a large tile takes long.")
    bytes: int
    sha256: str
    url: str = Field(description="Where the file is, relative to this service. It changes with the content.")


class ListedBrowserNetworks(Answer):
    """What a browser needs to upscale by itself."""

    default_model: str
    tile_pad: int
    max_pixels: int
    max_output_pixels: int
    networks: list[BrowserNetwork]


@router.get("/networks", summary="Networks for browsers", **answers(ListedBrowserNetworks))
async def browser_networks(services: Use) -> dict[str, Any]:
    """The networks whose files browsers may have, and how to cut images for them. There are none where the files lie on
    another machine, where they are TensorRT engines, and where they are larger than UPSCALE_BROWSER_MAX_MB."""
    found = await asyncio.to_thread(_networks, services.settings)
    listed = [
        {
            "name": file.name,
            **file.facts,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "url": f"upscale/networks/{file.file_name}",
        }
        for file in found.files
    ]
    return {**found.facts, "networks": listed}


@router.get(
    "/networks/{file}",
    summary="A network for browsers",
    response_class=Response,
    **answers(None, raises=(NotFound,), media=(_ONNX,), headers=("Vary",)),
)
async def browser_network(file: str, request: Request, services: Use) -> Response:
    """An ONNX file, whose input and output are 8-bit images. Its name is in `GET /upscale/networks`."""
    there = (await asyncio.to_thread(_networks, services.settings)).files
    found = next((one for one in there if one.file_name == file), None)
    if found is None:
        raise NotFound(f"There is no network file {file[:80]!r}; GET /upscale/networks lists them.", param="file")
    headers = {**ISOLATED, "Cache-Control": _KEPT, "ETag": f'W/"{found.sha256}"', "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") and is_known(request.headers, etag=headers["ETag"], modified=""):
        return Response(status_code=304, headers=headers)
    packed = await asyncio.to_thread(_packed, found, services.settings.state_dir) if takes_gzip(request) else None
    if packed is None:
        return FileResponse(found.path, media_type=_ONNX, headers=headers)
    return FileResponse(packed, media_type=_ONNX, headers={**headers, "Content-Encoding": "gzip"})


def _networks(settings: Settings) -> BrowserNetworks:
    made = next(family.browser for family in of_operation("upscale") if family.browser is not None)
    return made(settings)


def _packed(file: NetworkFile, state_dir: Path) -> Path | None:
    """The file with gzip, made when it is first asked for; None where there is no room for it."""
    folder = state_dir / "networks"
    target = folder / f"{file.file_name}.gz"
    if target.is_file():
        return target
    try:
        write_atomically(target, _compressed(file.path))
        for other in folder.glob(f"{file.name}-{'?' * 16}.onnx.gz"):
            if other != target:
                other.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is sent without compression, as %s cannot be written: %s", file.file_name, target, error)
        return None
    return target


def _compressed(path: Path) -> bytes:
    """A file with gzip."""
    packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
    with path.open("rb") as source:
        parts = [packer.compress(part) for part in iter(lambda: source.read(_PART), b"")]
    return b"".join([*parts, packer.flush()])
