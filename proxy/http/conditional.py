"""Answers with files that the client may have cached (RFC 9110, section 13)."""

from __future__ import annotations

import os
from email.utils import parsedate_to_datetime
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, Response
from starlette.datastructures import Headers

from darkroom.images import MEDIA_TYPES

_KEPT = ("etag", "last-modified", "cache-control", "vary", "x-content-type-options")
SHOWN = frozenset(media_type for media_type in MEDIA_TYPES.values() if media_type.startswith("image/"))
"""Media types that browsers show."""


def file_answer(request: Request, path: Path, found: os.stat_result, *, media_type: str, filename: str) -> Response:
    """The file; 304 without it for a client whose `If-None-Match` or `If-Modified-Since` says that it has it. Images
    are for browsers to show. They save all other files, as some of them (HTML, SVG) would run as pages of this
    service."""
    answer = FileResponse(
        path,
        stat_result=found,
        media_type=media_type,
        filename=filename,
        content_disposition_type="inline" if media_type in SHOWN else "attachment",
        headers={"X-Content-Type-Options": "nosniff"},
    )
    if not is_known(request.headers, etag=answer.headers["etag"], modified=answer.headers["last-modified"]):
        return answer
    return Response(status_code=304, headers={name: answer.headers[name] for name in _KEPT if name in answer.headers})


def is_known(headers: Headers, *, etag: str, modified: str) -> bool:
    """Whether the client has the version with this tag and date. The tag takes precedence."""
    tags = headers.getlist("if-none-match")
    if tags:
        known = {tag.strip().removeprefix("W/") for tag in ",".join(tags).split(",")}
        return "*" in known or etag.removeprefix("W/") in known
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(headers.get("if-modified-since", ""))
    except (TypeError, ValueError, IndexError):  # no date
        return False
