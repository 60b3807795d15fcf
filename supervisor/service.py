"""The supervised unit: Triton and the proxy, brought up, kept up, and drained."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from typing import Any

import httpx
import psutil

from darkroom.registry import all_specs
from darkroom.settings import Settings
from supervisor.child import Child
from supervisor.errors import SetupError
from supervisor.leftovers import SHM_PREFIX, STUB, sweep
from supervisor.preflight import preflight
from supervisor.triton import find_triton, triton_command

log = logging.getLogger("darkroom")

_TICK = 0.5
_CALM_TICK = 2.0
"""Between two looks at the proxy's /health while everything is up: dead processes are seen without it."""
_BACKOFF = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_CALM_SECONDS = 60.0  # after so long without a death the backoff starts again from the beginning
_TRITON_GRACE = 15.0
_CANARY_FAILURES = 2
_CANARY_GRACE = 10.0  # so long after a start the proxy may still count the failures of the Triton before
_LOAD_FAILURE = re.compile(r"failed to load '([^']+)' version \d+: (?:\w+: )?(.*)")


class Service:
    """Runs until `stop` is set.

    Triton is restarted as a whole when it or one of its stubs dies: a server does not notice that a stub is
    gone, keeps its models "ready", and lets calls to it hang.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.ready = False
        self._deaths: dict[str, list[float]] = {}
        self._stubs: set[psutil.Process] = set()
        self._asked = 0.0
        self._seen: dict[str, Any] = {}
        self._backends = {spec.name: spec.backend for spec in all_specs()}
        install = find_triton(settings.state_dir)
        # NVIDIA's container runs ONNX models inside the server, the wheel runs them in our Python-based backend.
        self._stub_backends = {"python", "onnxruntime"} if install.backends else {"python"}
        env = settings.environment()
        command = triton_command(
            install,
            repository=settings.model_repository,
            grpc_port=settings.triton_grpc_port,
            grpc_address=settings.triton_grpc_bind,
            metrics_port=settings.triton_metrics_port,
            http_port=settings.triton_http_port if settings.triton_allow_http else None,
            shm_prefix=f"{SHM_PREFIX}{settings.triton_grpc_port}_",
        )
        self.triton = Child("triton", command, install.environment(env), log_name="triton")
        self.proxy = Child("proxy", [sys.executable, "-m", "proxy"], env)

    async def run(self) -> None:
        """Start, watch, and after `stopping` was set drain and stop.

        :raises SetupError: something is wrong with the machine, or Triton ends before it was ever ready.
        """
        preflight(self.settings)
        try:
            await asyncio.to_thread(sweep)
            await asyncio.gather(self.triton.start(), self.proxy.start())
            # One client for all rounds: making one costs more than a round.
            async with httpx.AsyncClient(
                base_url=address_of(self.settings.host, self.settings.port), timeout=5, trust_env=False
            ) as client:
                while not self.stopping.is_set():
                    await self._look(client)
                    await self._pause(_TICK)
        finally:
            await self._shut_down()

    async def _look(self, client: httpx.AsyncClient) -> None:
        """One round: restart what died, and notice when everything is up."""
        asked = time.monotonic()
        if asked - self._asked >= (_CALM_TICK if self._stubs and self.proxy.alive else 0):
            self._asked, self._seen = asked, await self._health(client)
        health = self._seen
        if not self.proxy.alive:
            await self._revive(self.proxy)
        up = self._is_up(health, asked)
        why = self._triton_trouble(health, up)
        if why:
            await self._restart_triton(why)
        elif up and not self._stubs:
            self._stubs = _stubs_of(self.triton.pid)
            self._announce()

    def _is_up(self, health: dict[str, Any], asked: float) -> bool:
        """Whether the proxy has seen this Triton work; for a moment it may still tell of the one before."""
        ready_for = health.get("ready_for")
        return bool(health.get("status") == "healthy" and ready_for and ready_for < asked - self.triton.started)

    def _triton_trouble(self, health: dict[str, Any], up: bool) -> str | None:
        if not self.triton.alive:
            return f"ended with code {self.triton.exit_code}"
        gone = sum(not _is_living_stub(stub) for stub in self._stubs)
        if up and not self._stubs:
            # One may have died between its canary and our first look; every stub-run model has at least one.
            stubbed = [name for name in health.get("models", {}) if self._backends.get(name) in self._stub_backends]
            gone = max(0, len(stubbed) - len(_stubs_of(self.triton.pid)))
        if gone:
            return f"lost {gone} of its stub processes"
        failures = health.get("canary_failures")
        settled = time.monotonic() - self.triton.started > _CANARY_GRACE
        if settled and isinstance(failures, int) and failures >= _CANARY_FAILURES:
            return f"does not work: {health.get('reason')}"
        return None

    async def _restart_triton(self, why: str) -> None:
        if not self.ready and not self.triton.alive:
            raise SetupError(f"Triton ended while it started: {_last_error(self.triton)} (all of it: logs/triton.log)")
        log.error("triton %s; restarting it", why)
        self._stubs = set()
        await self.triton.kill()
        await asyncio.to_thread(sweep)
        await self._revive(self.triton)

    async def _revive(self, child: Child) -> None:
        """Start a dead child again, at once the first time and ever later when it keeps dying."""
        if child is self.proxy and not self.ready:
            raise SetupError(f"The proxy ended with code {child.exit_code} while it started; see logs/proxy.log.")
        now = time.monotonic()
        recent = [t for t in self._deaths.get(child.name, []) if now - t < _CALM_SECONDS]
        self._deaths[child.name] = [*recent, now]
        wait = _BACKOFF[min(len(recent), len(_BACKOFF) - 1)]
        log.warning("starting %s again%s", child.name, f" in {wait:g} s" if wait else "")
        await self._pause(wait)
        if not self.stopping.is_set():
            try:
                await child.start()
            except OSError as error:  # no memory, or too many processes: the next round tries again
                log.error("%s cannot be started: %s", child.name, error)

    async def _health(self, client: httpx.AsyncClient) -> dict[str, Any]:
        try:
            return dict((await client.get("/health")).json())
        except (httpx.HTTPError, ValueError):
            return {}

    def _announce(self) -> None:
        if self.ready:
            log.info("everything is up again")
        else:
            log.info("Darkroom is ready: %s (documentation: /docs)", address_of(self.settings.host, self.settings.port))
        self.ready = True

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake up to stop."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return

    async def _shut_down(self) -> None:
        """The proxy first, which lets accepted work finish on a Triton that still runs."""
        if self.proxy.alive:
            log.info("stopping: accepted work finishes first (again Ctrl-C or SIGTERM: stop at once)")
        await self.proxy.stop(grace=self.settings.drain_timeout + _TRITON_GRACE)
        await self.triton.stop(grace=_TRITON_GRACE)
        await asyncio.to_thread(sweep)

    def interrupt(self) -> None:
        """What SIGTERM and Ctrl-C do: the first one drains, the second one does not wait."""
        if not self.stopping.is_set():
            self.stopping.set()
        elif self.proxy.alive:
            os.kill(self.proxy.pid, 9)


def address_of(host: str, port: int) -> str:
    """Where this machine reaches what listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _stubs_of(pid: int) -> set[psutil.Process]:
    """The living stub processes below a server. Looks at every process of the machine."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {child for child in children if _is_living_stub(child)}


def _is_living_stub(process: psutil.Process) -> bool:
    try:
        # The kernel cuts names at 15 characters, which psutil completes from a command line that zombies lack.
        named = process.is_running() and STUB.startswith(process.name()[:15])  # another may have its number by now
        return named and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_error(child: Child) -> str:
    """The line of its output that says best why it ended."""
    lines = [line.strip() for line in child.tail]
    named = [found.expand(r"the model \1 does not load: \2") for found in map(_LOAD_FAILURE.search, lines) if found]
    errors = [line for line in lines if "error" in line.lower()]
    return (named[:1] or errors[-1:] or lines[-1:] or ["it said nothing"])[0][:400]
