"""Refusing a request while its body is on the way."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from proxy.errors import answer, refusal


class Refused(BaseException):
    """Ends the work on a request with this answer, from wherever its body is read.

    No `Exception`: the framework would make another error of it.
    """

    def __init__(self, response: JSONResponse) -> None:
        super().__init__(response.status_code)
        self.response = response

    @classmethod
    def because(cls, error: Exception) -> Refused:
        """With the answer that this error gets."""
        return cls(answer(error))

    @classmethod
    def with_status(cls, status: int, message: str, param: str | None = None) -> Refused:
        """With this status."""
        return cls(refusal(status, message, param))


async def refuse(response: JSONResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before the body was read, and have the connection closed (see `proxy.http.protocol`)."""
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
