"""Refuses a request while its body is being read."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from proxy.errors import answer, refusal


class Refused(BaseException):
    """Ends the handling of a request with this answer, from any place that reads its body.

    It is no `Exception`, because the framework would turn that into another error.
    """

    def __init__(self, response: JSONResponse) -> None:
        super().__init__(response.status_code)
        self.response = response

    @classmethod
    def because(cls, error: Exception) -> Refused:
        """Make it with the answer to an error."""
        return cls(answer(error))

    @classmethod
    def with_status(cls, status: int, message: str, param: str | None = None) -> Refused:
        """Make it with a status."""
        return cls(refusal(status, message, param))


async def refuse(response: JSONResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before the body was read, and have the connection closed (see `proxy.http.protocol`)."""
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
