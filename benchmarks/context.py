"""What every benchmark is given: how thorough to be, where to show progress, and the running service."""

from __future__ import annotations

import contextlib

import httpx
from rich.progress import Progress, TaskID

from benchmarks.service import Service, running_service


class Context:
    """Used as a context manager: the service starts when the first benchmark asks for it, and stops at the end.

    :param quick: so little of everything that the whole command takes a minute or two.
    """

    def __init__(self, *, quick: bool, progress: Progress) -> None:
        self.quick = quick
        self._progress = progress
        self._task: TaskID | None = None
        self._stack = contextlib.ExitStack()
        self._service: Service | None = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop_service()

    @property
    def service(self) -> Service:
        """The running service, with default settings and warm models."""
        if self._service is None:
            self.stage("starting the service")
            self._service = self._stack.enter_context(running_service())
        return self._service

    def stop_service(self) -> None:
        """Stop it, if it runs; the next one that asks gets a fresh one."""
        self._stack.close()
        self._service = None

    def choose(self, full: int, quick: int) -> int:
        """A number of rounds or requests, or a size."""
        return quick if self.quick else full

    def stage(self, text: str, total: int | None = None) -> None:
        """Show what is being done now, and how many steps it has."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(text, total=total)

    def step(self, done: int) -> None:
        """Show that so many steps of the stage are done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)


class Rest:
    """An HTTP connection to the service that stays open.

    :raises httpx.HTTPError: from every call, when the service fails.
    """

    def __init__(self, service: Service) -> None:
        self._client = httpx.Client(base_url=service.url, timeout=None, trust_env=False)

    def __enter__(self) -> Rest:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def upscale(self, data: bytes, model: str) -> bytes:
        """`POST /api/upscale`, from the file to the whole answer."""
        answer = self._client.post("/api/upscale", files={"file": ("photo.png", data)}, data={"model": model})
        return answer.raise_for_status().content
