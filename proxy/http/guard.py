"""Checks host names and origins: foreign web pages must not submit work through a visitor's browser."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.errors import refusal
from proxy.http.refused import refuse

_CHANGES_NOTHING = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?P<port>:\d*)?")
_DEFAULT_PORTS = ("", ":", ":80", ":443")
_ANY = "*"


class Guard:
    """Refuses hosts that are not trusted with 400, and with 403 requests that a browser sends for a page of another
    origin.

    A form or a text can be sent across origins without a preflight request, so CORS does not stop it.
    Browsers say in `Origin` which page it was; other clients send none.

    :param trusted_hosts: names without a port; `*.example.com` for all below one, `*` for all that there are.
    :param origins: allowed origins, besides the service's own; `*` for all.
    """

    def __init__(self, app: ASGIApp, *, trusted_hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.app = app
        self.trusted_hosts = [host.lower() for host in trusted_hosts]
        self.origins = [origin.lower().rstrip("/") for origin in origins]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._is_trusted(headers.get("host", "")):
            message = f"Host must be one of TRUSTED_HOSTS; got {headers.get('host', '')!r:.80}."
            await refuse(refusal(400, message, "Host"), scope, receive, send)
        elif scope["method"] not in _CHANGES_NOTHING and not self._may_change(headers):
            came = ", ".join(headers.getlist("origin"))
            message = f"Origin must be this service's own or one of CORS_ORIGINS; got {came!r:.80}."
            await refuse(refusal(403, message, "Origin"), scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_trusted(self, host: str) -> bool:
        if not host:  # HTTP/1.0 knows none
            return _ANY in self.trusted_hosts
        found = _HOST.fullmatch(host)
        name = found["name"].lower().rstrip(".") if found else ""
        return bool(name) and any(
            trusted in (_ANY, name) or (trusted.startswith("*.") and name.endswith(trusted[1:]))
            for trusted in self.trusted_hosts
        )

    def _may_change(self, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if not origins or _ANY in self.origins:
            return True
        if len(origins) > 1 or origins[0].lower() == "null":
            return False
        origin = origins[0].lower()
        # Behind a proxy that has put its own name into Host, X-Forwarded-Host has the one that the page came from; a
        # page cannot set it or Sec-Fetch-Site without a preflight request.
        own = {_plain(headers.get(name, "")) for name in ("host", "x-forwarded-host")} - {""}
        return (
            origin in self.origins
            or headers.get("sec-fetch-site") == "same-origin"
            or _plain(origin.partition("://")[2]) in own
        )


def _plain(host: str) -> str:
    """A host and its port, without a usual port: a proxy in front may speak TLS, and we do not."""
    found = _HOST.fullmatch(host.partition(",")[0].strip().lower())
    if found is None:
        return ""
    return found["name"] if (found["port"] or "") in _DEFAULT_PORTS else found[0]
