"""An app with an audit trail, called by ASGI, that says how many rows there were at each message of an answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from darkroom.errors import Forbidden, InvalidInput, ModerationBlocked
from darkroom.settings import Settings
from proxy import errors
from proxy.audit import chain
from proxy.audit.entries import Entries
from proxy.audit.middleware import Audited
from proxy.audit.notes import NOTES, note_request, note_results
from proxy.audit.schema import ROWS
from proxy.audit.tasks import TaskRows
from proxy.audit.trail import Trail
from proxy.audit.words import Words
from proxy.callers import CALLER, Caller
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.http.peers import ProxyHeaders
from proxy.http.requests import RequestIds
from proxy.services import Services
from proxy.streams import EventResponse, SendEvent, event
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.monitors import Ready

KEY = "sk-very-secret"
MADE = b"an image"
DIGEST = hashlib.sha256(MADE).hexdigest()


class Keys:
    """Sets the caller, as a layer inside of the trail does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = CALLER.set(Caller(key="k1", name="Ann", role="user", address="203.0.113.9"))
        try:
            await self.app(scope, receive, send)
        finally:
            CALLER.reset(token)


def routes(app: FastAPI) -> None:
    """One route for each kind of answer."""

    @app.post("/things/{name}")
    async def make(name: str) -> Response:
        await note_request("generate", "painter", {"prompt": "a cat", "negative_prompt": "", "seed": 1}, [b"in"])
        await note_results([MADE])
        return Response(MADE)

    @app.get("/things/{name}")
    async def look(name: str) -> Response:
        if name == "private":
            raise Forbidden("It belongs to another key.")
        return Response(MADE)

    @app.post("/blocked")
    async def blocked() -> Response:
        notes = NOTES.get()
        assert notes is not None
        notes.rules, notes.policy_version = ["r7"], "v2"
        raise ModerationBlocked("No.", rule="r7")

    @app.post("/broken")
    async def broken() -> Response:
        raise KeyError("unexpected")

    @app.post("/png-info")
    async def read() -> Response:
        return JSONResponse({})

    @app.get("/create_session")
    async def session() -> Response:
        return JSONResponse({})


def streams(app: FastAPI, services: Services) -> None:
    """A route that answers with events."""

    @app.post("/stream")
    async def stream(fails: bool = False) -> Response:
        async def work() -> bytes:
            if fails:
                raise InvalidInput("No.", param="x")
            await note_results([MADE])
            return MADE

        async def events(send: SendEvent) -> None:
            send(event("progress", {}))
            await services.admitted(work)
            send(event("image", {}))

        return EventResponse(events)


@dataclass
class Answer:
    """An answer, and how many rows there were when each message of it was sent."""

    status: int = 0
    body: bytes = b""
    rows: list[int] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)


class Service:
    """The app with its trail, called by ASGI."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(_env_file=None, data_dir=folder, **{"audit": "full", **settings})
        self.entries = Entries(self.settings, Words.of(self.settings))
        self.store = Store(connect(self.settings.database), TaskRows(self.entries))
        self.store.create()

    def rows(self) -> list[dict[str, Any]]:
        with self.store.transaction() as connection:
            assert chain.verify(connection).problems == []
            return [json.loads(row.content) for row in chain.rows(connection)]

    def count(self) -> int:
        with self.store.transaction() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(ROWS)) or 0)

    @asynccontextmanager
    async def app(self) -> AsyncIterator[Any]:
        gateway = Gateway("127.0.0.1:1")
        monitor = Ready(gateway, {}, metrics_url="", interval=1, timeout=1)
        gate = Gate(capacity=1, queue_size=1)
        services = Services(settings=self.settings, gateway=gateway, monitor=monitor, gate=gate)
        app = FastAPI()
        app.state.trail = Trail(self.store)
        errors.install(app)
        routes(app)
        streams(app, services)
        app.add_middleware(Keys)
        app.add_middleware(Audited, entries=self.entries)
        app.add_middleware(RequestIds)
        trusted = self.settings.forwarded_allow_ips
        yield ProxyHeaders(app, trusted=trusted) if trusted else app
        await app.state.trail.stop()
        await gateway.close()

    async def _ask(self, app: Any, method: str, path: str, headers: dict[str, str], leave: str) -> Answer:
        answer, gone = Answer(), asyncio.Event()
        path, _, query = path.partition("?")
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
        scope |= {"raw_path": path.encode(), "query_string": query.encode(), "headers": encoded, "scheme": "http"}
        scope |= {"client": ("192.0.2.1", 999), "server": ("test", 80)}
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": b""}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answer.rows.append(await asyncio.to_thread(self.count))
            answer.status = message.get("status", answer.status)
            body = message.get("body", b"")
            answer.body += body
            if body.startswith(b"event: "):
                answer.events[body.split(b"\n")[0][7:].decode()] = answer.rows[-1]
            if leave and leave in answer.events:
                gone.set()

        try:
            await app(scope, receive, send)
        except KeyError:
            assert answer.status == 500  # Starlette answers, and raises it again for the log
        return answer

    def ask(self, method: str, path: str, *, leave: str = "", **headers: str) -> Answer:
        """Send one request.

        :param leave: the event after which the client goes away.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def scenario() -> Answer:
            async with self.app() as app:
                return await self._ask(app, method, path, named, leave)

        return asyncio.run(scenario())
