"""The files of the upscaling networks, for browsers that upscale by themselves."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from isal import isal_zlib

from darkroom.errors import NotFound
from darkroom.files import sha256_file, write_atomically
from darkroom.pipelines.upscale import networks
from darkroom.pipelines.upscale import request as fields
from darkroom.pipelines.upscale.settings import Settings as UpscaleSettings
from darkroom.registry import is_chosen
from darkroom.settings import Settings
from proxy.answers import BrowserNetworks
from proxy.documented import answers
from proxy.http.bodies import MEGABYTE
from proxy.http.conditional import is_known
from proxy.services import Use
from proxy.surfaces.upscale import served_tile
from proxy.web_files import ISOLATED, takes_gzip

router = APIRouter(prefix="/upscale", tags=["upscaling"])
log = logging.getLogger(__name__)

_KEPT = "private, max-age=31536000, immutable"
"""The address changes with the content. Private, because a service with keys gives it only to those who have one."""
_GZIP = 16 + isal_zlib.MAX_WBITS
_LEVEL = 2
_PART = 4 * MEGABYTE
_ONNX = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class _File:
    """A network file of this installation."""

    network: networks.UpscaleNetwork
    path: Path
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """As its address ends."""
        return f"{self.network.label}-{self.sha256[:16]}.onnx"


@router.get("/networks", summary="Networks for browsers", **answers(BrowserNetworks))
async def browser_networks(services: Use) -> dict[str, Any]:
    """The networks whose files browsers may have, and how to cut images for them. There are none where the files lie on
    another machine, where they are TensorRT engines, and where they are larger than UPSCALE_BROWSER_MAX_MB."""
    settings, limits = services.settings, UpscaleSettings.of(services.settings)
    return {
        "default_model": networks.DEFAULT_MODEL,
        "tile_pad": limits.tile_pad,
        "max_pixels": limits.max_pixels,
        "max_output_pixels": limits.max_output_pixels,
        "networks": [
            {
                "name": file.network.label,
                "family": file.network.family,
                "scale": file.network.scale,
                "title": file.network.title,
                "tile": served_tile(settings, file.network) or limits.tile,
                "tile_cpu": fields.default_tile(limits, limits.tile_pad, file.network.window_cpu),
                "bytes": file.bytes,
                "sha256": file.sha256,
                "url": f"upscale/networks/{file.name}",
            }
            for file in await asyncio.to_thread(_files, settings)
        ],
    }


@router.get(
    "/networks/{file}",
    summary="A network for browsers",
    response_class=Response,
    **answers(None, raises=(NotFound,), media=(_ONNX,), headers=("Vary",)),
)
async def browser_network(file: str, request: Request, services: Use) -> Response:
    """An ONNX file, whose input and output are 8-bit images. Its name is in `GET /upscale/networks`."""
    found = next((one for one in await asyncio.to_thread(_files, services.settings) if one.name == file), None)
    if found is None:
        raise NotFound(f"There is no network file {file[:80]!r}; GET /upscale/networks lists them.", param="file")
    headers = {**ISOLATED, "Cache-Control": _KEPT, "ETag": f'W/"{found.sha256}"', "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") and is_known(request.headers, etag=headers["ETag"], modified=""):
        return Response(status_code=304, headers=headers)
    packed = await asyncio.to_thread(_packed, found, services.settings.state_dir) if takes_gzip(request) else None
    if packed is None:
        return FileResponse(found.path, media_type=_ONNX, headers=headers)
    return FileResponse(packed, media_type=_ONNX, headers={**headers, "Content-Encoding": "gzip"})


def _files(settings: Settings) -> list[_File]:
    found = []
    for network in networks.NETWORKS:
        path = settings.model_repository / network.model_name / "1" / "model.onnx"
        try:
            status = path.stat()
        except OSError:
            continue
        largest = UpscaleSettings.of(settings).browser_max_mb * MEGABYTE
        if is_chosen(network.model_name, settings) and status.st_size <= largest:
            digest = _digest(path, status.st_size, status.st_mtime_ns)
            found.append(_File(network=network, path=path, bytes=status.st_size, sha256=digest))
    return found


@lru_cache(maxsize=32)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """The hash of a file; it is read again when its size or its time has changed."""
    return sha256_file(path)


def _packed(file: _File, state_dir: Path) -> Path | None:
    """The file with gzip, made when it is first asked for; None where there is no room for it."""
    folder = state_dir / "networks"
    target = folder / f"{file.name}.gz"
    if target.is_file():
        return target
    try:
        write_atomically(target, _compressed(file.path))
        for other in folder.glob(f"{file.network.label}-{'?' * 16}.onnx.gz"):
            if other != target:
                other.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is sent without compression, as %s cannot be written: %s", file.name, target, error)
        return None
    return target


def _compressed(path: Path) -> bytes:
    """A file with gzip."""
    packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
    with path.open("rb") as source:
        parts = [packer.compress(part) for part in iter(lambda: source.read(_PART), b"")]
    return b"".join([*parts, packer.flush()])
