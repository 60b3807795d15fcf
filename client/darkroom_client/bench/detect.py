"""Which API a server speaks, and the address that its paths are relative to."""

from __future__ import annotations

from typing import Any

import httpx

from ..errors import InvalidRequest, Unavailable
from .apis import APIS, Api

_ENDINGS = {"/v1/images/generations": "openai", "/sdapi/v1": "a1111", "/v1": "openai", "/generate": "native"}
"""Ends of an address that name an API, the longer ones first; they are cut off."""
_PROBES = (("native", "/health"), ("a1111", "/sdapi/v1/options"), ("openai", "/v1/models"))
"""A cheap request of each API. A server that speaks several is measured by the first one."""


def split_address(url: str) -> tuple[str, str | None]:
    """Return the address without the path of an API, and the API that the path names.

    :raises InvalidRequest: it is no http address.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest(f"url must start with http:// or https://, got {url!r}", code="invalid_input", param="url")
    url = url.rstrip("/")
    for ending, name in _ENDINGS.items():
        if url.endswith(ending):
            return url.removesuffix(ending), name
    return url, None


async def detect(http: httpx.AsyncClient) -> Api:
    """Ask a server which API it speaks.

    :param http: with the server as its base_url.
    :raises Unavailable: nothing answers there.
    :raises InvalidRequest: it speaks none of them.
    """
    for name, path in _PROBES:
        try:
            answer = await http.get(path)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"No server answers at {http.base_url} ({reason})", code="cannot_connect") from None
        if _speaks(name, answer):
            return APIS[name]
    raise InvalidRequest(
        f"The server at {http.base_url} speaks none of the APIs {', '.join(APIS)}, or does not say so; "
        "name one with --api",
        code="unknown_api",
        param="api",
    )


def _speaks(name: str, answer: httpx.Response) -> bool:
    """Whether the answer to a probe is one of that API. A service that loads models answers 503 in its own form."""
    try:
        body: Any = answer.json()
    except ValueError:
        return False
    if not isinstance(body, dict):
        return False
    if name == "native":
        return "families" in body and "pipeline_ready" in body
    if name == "a1111":
        return answer.is_success and "sd_model_checkpoint" in body
    listed = answer.is_success and isinstance(body.get("data"), list)
    refused = answer.status_code in (401, 403) and isinstance(body.get("error"), dict)
    return listed or refused
