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
_ISOLATED = {
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

    :param media_type: with the charset of texts.
    """

    content: bytes = field(repr=False)
    media_type: str

    @classmethod
    def read(cls, path: Path) -> WebFile:
        """Read a file; its media type comes from its name."""
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        kind = "text/javascript" if path.suffix in (".js", ".mjs") else kind  # some systems say otherwise
        return cls(path.read_bytes(), f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)

    @cached_property
    def compressed(self) -> bytes | None:
        """The content with gzip; None where that is not worth it."""
        if len(self.content) < _WORTH_IT or not self.media_type.startswith(_TEXTS):
            return None
        return gzip.compress(self.content, mtime=0)

    @cached_property
    def tag(self) -> str:
        """A name of the content, for `ETag`. It is weak: compressed or not, it is the same."""
        return f'W/"{hashlib.sha256(self.content).hexdigest()[:20]}"'

    def answer(self, request: Request, *, cache: str, more: Mapping[str, str] | None = None) -> Response:
        """The file, compressed for clients that take gzip; 304 for one that has it.

        :param cache: `Cache-Control`.
        :param more: further headers.
        """
        varies = ", ".join(filter(None, ["Accept-Encoding", (more or {}).get("Vary")]))
        headers = {**_ISOLATED, **(more or {}), "Cache-Control": cache, "ETag": self.tag, "Vary": varies}
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
    """Read the files of a folder, without those of its folders, by their names."""
    return {path.name: WebFile.read(path) for path in sorted(folder.iterdir()) if path.is_file()}
