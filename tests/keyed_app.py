"""The whole app in this process, without Triton, with keys for several people and things that belong to one of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from darkroom.settings import Settings
from proxy.app import create_app
from proxy.callers import CALLER, Caller
from proxy.keys import store as table
from proxy.keys.keyring import Keyring
from proxy.keys.models import Key, Limits, NewKey
from proxy.loras.library import LoraLibrary
from proxy.tasks.models import Output, Task
from proxy.tasks.store import Store
from tests.task_store import draft

T = TypeVar("T")


class KeyedApp:
    """The app and the loop of its own thread."""

    def __init__(self, app: FastAPI, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.settings = settings
        self._loop = loop
        self._number = 0

    @property
    def store(self) -> Store:
        return self.app.state.tasks.store  # type: ignore[no-any-return]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        made: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return made.result(120)

    def call(
        self, method: str, path: str, key: str | None = None, address: str = "10.0.0.1", **how: Any
    ) -> httpx.Response:
        """Send a request; its answer."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(address, 1234))
            headers = {**({} if key is None else {"Authorization": f"Bearer {key}"}), **how.pop("headers", {})}
            async with httpx.AsyncClient(transport=transport, base_url="http://darkroom") as client:
                return await client.request(method, path, headers=headers, **how)

        return self.run(send())

    def create(self, name: str, role: str = "user", **limits: Any) -> tuple[Key, str]:
        """Make a key that the app knows at once; returns it and its secret."""
        made = table.create(self.store, NewKey(name=name, role=role, limits=Limits(**limits)))  # type: ignore[arg-type]
        self.load()
        return made

    def load(self) -> None:
        """Have the app look into the database now."""
        ring: Keyring = self.app.state.keys.ring
        self.run(ring.load())

    def task(self, client: str, *, source: str | None = None, completed: bool = True) -> Task:
        """A task of a client: with one result, or one that waits."""
        ((task, _),) = self.store.add([draft(client, source=source)], slots=2, queue_size=1000, fallback=0.5)
        if completed:
            output = Output(data=b"not really a PNG", media_type="image/png")
            results = self.app.state.tasks.files.write_results(task.id, [output])
            self.store.end(task.id, None, "completed", {"results": results})
        found = self.store.get(task.id)
        assert found is not None
        return found

    def lora(self, client: str, role: str = "user") -> str:
        """A LoRA file that a client has uploaded, which no model has read; its name."""
        self._number += 1
        token = CALLER.set(Caller(key="x", client=client, role=role))  # type: ignore[arg-type]
        try:
            return LoraLibrary(self.settings.lora_dir).add(f"lora-{self._number}", BytesIO(b"x" * self._number)).name
        finally:
            CALLER.reset(token)

    def session(self, key: str | None) -> str:
        """A session that is made with a key; its id."""
        return str(self.call("GET", "/create_session", key).json()["session_id"])


@contextmanager
def keyed_app(folder: Path, **settings: Any) -> Iterator[KeyedApp]:
    """Start the app; stop it at the end."""
    made = Settings(_env_file=None, state_dir=folder, data_dir=folder / "data", triton_grpc_port=1, **settings)
    app, loop = create_app(made), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    running = KeyedApp(app, made, loop)
    lifespan = app.router.lifespan_context(app)
    try:
        running.run(lifespan.__aenter__())
        try:
            yield running
        finally:
            running.run(lifespan.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
