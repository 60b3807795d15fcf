"""Files of web pages: read once, compressed once, and answered with headers that let browsers keep them."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response

from proxy.http.conditional import is_known

KEPT_FOR_EVER = "public, max-age=31536000, immutable"
"""For files whose names change with their content."""
ASKED_AGAIN = "no-cache"
"""For files whose names stay: browsers keep them, and ask each time whether they have changed."""
_WORTH_IT = 1024
"""Bytes below which a compressed file is hardly smaller."""
_TEXTS = ("text/", "application/json", "application/manifest+json", "image/svg+xml", "application/wasm")
_KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
"""Types that some systems' tables do not have, or have wrong."""
ISOLATED = {
    # Together these two give a page the threads of WebAssembly; workers need the second one as well.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class WebFile:
    """A file in memory.

    :param stored: the content, or with `packed` its gzip.
    :param media_type: with the charset of texts.
    """

    stored: bytes = field(repr=False)
    media_type: str
    packed: bool = False

    @classmethod
    def read(cls, path: Path) -> WebFile:
        """Read a file; its media type comes from its name. `name.gz` holds the file `name`, compressed."""
        name = file_name(path)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        kind = _KINDS.get(Path(name).suffix, kind)
        media_type = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        return cls(path.read_bytes(), media_type, packed=name != path.name)

    @property
    def content(self) -> bytes:
        """The bytes without compression."""
        return gzip.decompress(self.stored) if self.packed else self.stored

    @cached_property
    def compressed(self) -> bytes | None:
        """The content with gzip; None where that is not worth it."""
        if self.packed:
            return self.stored
        if len(self.stored) < _WORTH_IT or not self.media_type.startswith(_TEXTS):
            return None
        return gzip.compress(self.stored, mtime=0)

    @cached_property
    def tag(self) -> str:
        """A name of the content, for `ETag`. It is weak: compressed or not, it is the same."""
        return f'W/"{hashlib.sha256(self.stored).hexdigest()[:20]}"'

    def answer(self, request: Request, *, cache: str, more: Mapping[str, str] | None = None) -> Response:
        """The file, compressed for clients that take gzip; 304 for one that has it.

        :param cache: `Cache-Control`.
        :param more: further headers.
        """
        varies = ", ".join(filter(None, ["Accept-Encoding", (more or {}).get("Vary")]))
        headers = {**ISOLATED, **(more or {}), "Cache-Control": cache, "ETag": self.tag, "Vary": varies}
        if request.headers.get("if-none-match") and is_known(request.headers, etag=self.tag, modified=""):
            return Response(status_code=304, headers=headers)
        packed = self.compressed if takes_gzip(request) else None
        if packed is None:
            return Response(self.content, media_type=self.media_type, headers=headers)
        return Response(packed, media_type=self.media_type, headers={**headers, "Content-Encoding": "gzip"})


def takes_gzip(request: Request) -> bool:
    """Whether `Accept-Encoding` names gzip, or anything, with a weight above 0."""
    weights: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept-encoding")).lower().split(","):
        name, _, weight = part.partition(";")
        try:
            weights[name.strip()] = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            weights[name.strip()] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def files_of(folder: Path) -> dict[str, WebFile]:
    """Read the files of a folder, without those of its folders, by their names; that of `name.gz` is `name`."""
    return {file_name(path): WebFile.read(path) for path in sorted(folder.iterdir()) if path.is_file()}


def file_name(path: Path) -> str:
    """The name of a file as browsers ask for it."""
    return path.name.removesuffix(".gz")
