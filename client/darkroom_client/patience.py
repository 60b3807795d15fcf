"""Gives up at once where the service asks for a longer wait than all retries of a request together would take.

The limit of a day may be hours from its end: trying again three times in as many minutes cannot help.
"""

from __future__ import annotations

import httpx
from httpx_retries import Retry, RetryTransport


class _TooLong(Exception):
    """The service asks for a longer wait than a request has retries for; `response` says so."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__()
        self.response = response


class _Watched(httpx.BaseTransport):
    """Raises `_TooLong`, which is not tried again, in place of such a response."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return _checked(request, self._transport.handle_request(request))

    def close(self) -> None:
        self._transport.close()


class _AsyncWatched(httpx.AsyncBaseTransport):
    """As `_Watched`."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return _checked(request, await self._transport.handle_async_request(request))

    async def aclose(self) -> None:
        await self._transport.aclose()


class PatientTransport(RetryTransport):
    """`RetryTransport`, which does not wait in vain."""

    def __init__(self, transport: httpx.BaseTransport | httpx.AsyncBaseTransport) -> None:
        if isinstance(transport, httpx.AsyncBaseTransport):
            super().__init__(_AsyncWatched(transport))
        else:
            super().__init__(_Watched(transport))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return super().handle_request(request)
        except _TooLong as error:
            return error.response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except _TooLong as error:
            return error.response


def _checked(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """:raises _TooLong: the response would be tried again, and wants a longer wait than all retries take."""
    retry = request.extensions.get("retry")
    if not isinstance(retry, Retry) or not retry.is_retryable_status_code(response.status_code):
        return response
    try:
        seconds = retry.parse_retry_after(response.headers.get("retry-after", "0"))
    except ValueError:
        return response
    if seconds > retry.total * retry.max_backoff_wait:
        raise _TooLong(response)
    return response
