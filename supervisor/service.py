"""The supervised unit: an engine (Triton, or the local one) and the proxy, brought up, kept up, and drained."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from darkroom.registry import all_specs, is_chosen
from darkroom.serving.networks import split_label
from darkroom.settings import Settings
from supervisor.child import Child
from supervisor.engines import Engine, engine_of
from supervisor.errors import SetupError
from supervisor.leftovers import sweep
from supervisor.loads import Loads
from supervisor.output import LISTENS, LOAD_FAILURE, STARVED, last_error
from supervisor.preflight import preflight
from supervisor.reloads import LastResort, ReloadFailed, Reloads
from supervisor.served import Served
from supervisor.stubs import is_living_stub, kill, stubs_of
from supervisor.supervision import GRACE_SECONDS, MALLOC, Supervision, address_of, loopback, loopback_address
from supervisor.swaps import Swaps

if TYPE_CHECKING:
    from supervisor.own_health import OwnHealth

log = logging.getLogger("darkroom")

_TICK = 0.5
_SWAP_TICK = 0.2
"""Where models are swapped, a request may wait for the next round."""
_CALM_TICK = 2.0
"""Seconds between two requests for /health while everything works. Dead processes are noticed without them."""
_CANARY_FAILURES = 2
_CANARY_GRACE = 10.0  # seconds after a restart in which the proxy may still report failures of the previous Triton
_MAX_RELOADS_OF_MODEL = 3
"""Number of times that a model is loaded again alone before the server is restarted."""
_REMEMBERED_SECONDS = 300.0
_RETRY_SECONDS = 30.0
"""Seconds between two attempts with a model that still fails after a restart of the server."""
_MAX_RELOADS = 50
"""Number of reloads of all models before a restart: each reload of a used model leaves 68 waiting threads and 2 MB in
the server."""
_RELOAD_SECONDS = 60.0
_MAX_STARTS = 4
"""Number of starts of the server in a row that may fail before everything has worked once."""


class Service(Supervision):
    """Runs an engine and the proxy, or the engine alone (SERVE_ONLY=triton), until `stopping` is set.

    :param engine: by default the one of the settings.

    A server does not notice that a stub has ended: its model stays "ready", and calls to it hang. So a model that lost
    a stub is loaded again. If that does not help, or if the server ends, the server is restarted.
    """

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        super().__init__(settings, restarts=("triton", "proxy", "model"))
        self._up = False
        self._linked = False
        self._listened = False
        self._starting = True
        self._reload_count = 0
        self._stubs: dict[psutil.Process, str] = {}
        self._scanned: set[str] = set()
        self._dead: set[str] = set()
        self._failed: dict[str, str] = {}
        self._health_time = 0.0
        self._health_seen: dict[str, Any] = {}
        folder = settings.state_dir / "served" / str(settings.triton_grpc_port)
        self.engine = engine or engine_of(settings)
        self._swaps = Swaps(settings, self.engine) if settings.device_memory_gb else None
        self._served = Served(folder, settings.model_repository, self._is_served)
        self._reloads = Reloads(self._served, _RELOAD_SECONDS)
        self._last_resort = LastResort()
        self._loads = Loads(folder, settings.load_idle_timeout)
        self._failed_starts = 0
        self._stubbed = {spec.name for spec in all_specs() if self.engine.has_stubs(spec)}
        env = {**MALLOC, **settings.environment()}
        command, name = self.engine.command(settings, folder), self.engine.name
        # Its name in the code, whatever the engine is: the server that speaks Triton's protocol.
        self.triton = Child(name, command, self.engine.environment(env), log_name=name, on_line=self._read_line)
        if settings.serve_only is None:
            self.proxy = Child("proxy", [sys.executable, "-m", "proxy"], env)
        self._own_health: OwnHealth | None = None

    async def run(self) -> None:
        """Start, watch, and drain and stop after `stopping` is set.

        :raises SetupError: the machine is not ready to serve, or Triton does not start.
        """
        preflight(self.settings)
        try:
            await asyncio.to_thread(sweep)
            self._served.clear()
            self._tally.begin()
            if self._swaps is not None:
                await asyncio.to_thread(self._swaps.begin)
            await asyncio.gather(*(child.start() for child in (self.triton, self.proxy) if child is not None))
            if self.proxy is None or self.settings.triton_grpc:
                self._own_health = _own_health(self.settings)
            # One client for all rounds, because creating one costs more than a round.
            async with httpx.AsyncClient(
                base_url=address_of(self.settings.host, self.settings.port), timeout=5, trust_env=False
            ) as client:
                while not self.stopping.is_set():
                    await self._round(client)
                    await self._pause(_TICK if self._swaps is None else _SWAP_TICK)
        finally:
            await self._shut_down()

    async def _round(self, client: httpx.AsyncClient) -> None:
        """One round: restart dead processes, and notice when everything works."""
        asked = time.monotonic()
        calm = self._up and self._serves and not self._reloads.models and not self._dead and not self._swapping
        if asked - self._health_time >= (_CALM_TICK if calm else 0):
            self._health_time, self._health_seen = asked, await self._health(client)
        if self.proxy is not None and not self.proxy.alive:
            await self._revive(self.proxy)
        if not self.triton.alive:
            await self._restart_triton(f"ended with code {self.triton.exit_code}")
        elif self._stands_still(self._health_seen):
            await self._restart_triton(f"has done nothing for {self.settings.load_idle_timeout:g} s while it starts")
        elif not self._linked:
            await self._link()
        else:
            await self._watch(self._swapped(self._health_seen), asked)

    async def _link(self) -> None:
        """Link the models once the server listens. If they were linked before, it would listen only after all of them
        have loaded; so each family is ready when its own models are."""
        if self._swaps is not None and not self._swaps.read():
            return
        if await _listens(self.settings.triton_grpc_bind, self.settings.triton_grpc_port):
            self._served.fill()
            self._linked = True

    def _is_served(self, model: str) -> bool:
        return is_chosen(model, self.settings) and (self._swaps is None or self._swaps.wants(model))

    @property
    def _swapping(self) -> bool:
        return self._swaps is not None and self._swaps.busy

    def _swapped(self, health: dict[str, Any]) -> dict[str, Any]:
        """Load and unload what the proxy wants; returns what /health says of the models that are not unloaded."""
        if self._swaps is None:
            return health
        if not all(map(self._swaps.wants, self._reloads.models)):
            self._reloads.forget()
        if not self._reloads.models:
            gone = self._swaps.step(self._served, health, partial(stubs_of, self.triton.pid, self._served.folder))
            self._stubs = {process: model for process, model in self._stubs.items() if model not in gone}
            self._dead -= gone
            for model in gone:
                self._failed.pop(model, None)
        return self._swaps.seen(self._served, health)

    async def _watch(self, health: dict[str, Any], asked: float) -> None:
        """Load lost models again, and restart the server if that does not help."""
        if not self.ready and any(not STARVED.search(why) for why in self._failed.values()):
            why = f"{self.engine.title} cannot serve this repository: {last_error(self.triton)}"
            raise SetupError(f"{_capital(why)} (see logs/{self.engine.name}.log)")
        ready = {name for name, family in health.get("families", {}).items() if self._is_ready(family, asked)}
        if ready != self._scanned:
            self._scan(ready, health)
            self._last_resort.works(model for name in ready for model in health["families"][name]["models"])
        if ready and asked - self.triton.started > _REMEMBERED_SECONDS:
            self._failed_starts = 0
        self._count_stubs()
        lost = dict.fromkeys(self._dead, "lost its process") | self._failing(health) | self._not_loaded(health)
        lost = {model: why for model, why in lost.items() if not self._last_resort.is_resting(model)}
        try:
            if self._reloads.models:
                if (seconds := self._reloads.step(health, self._failed)) is not None:
                    log.info("the models are loaded again, in %.1f s", seconds)
            elif lost and not self._loading(health):
                self._reload(lost, health)
        except ReloadFailed as error:
            await self._after_failed_reload(error, ready)
            return
        waited_for = {name for name, family in health.get("families", {}).items() if family["loaded"]}
        up = health.get("status") == "healthy" and waited_for <= ready and not self._reloads.models
        if up and not self._up:
            self._announce()
        self._up = up

    def _is_ready(self, family: dict[str, Any], asked: float) -> bool:
        """Whether a family works in this Triton; for a moment the proxy may still report the previous Triton."""
        ready_for = family["ready_for"]
        return ready_for is not None and ready_for < asked - self.triton.started

    def _loading(self, health: dict[str, Any]) -> set[str]:
        """The models that are loading: the server looks at its repository again only when all of them have loaded."""
        return {model for model, loaded in health.get("models", {}).items() if not loaded and model not in self._failed}

    def _stands_still(self, health: dict[str, Any]) -> bool:
        """Whether the server has stopped starting. Stubs that have stopped loading their models are ended."""
        if self._swaps is not None:
            health = self._swaps.seen(self._served, health)
        loading = self._loading(health)
        knows_no_model = self._swaps is None and (not self._linked or health.get("models") == {})
        if not self._stubbed or not (loading or knows_no_model):
            self._loads.forget()
            return False
        # A reload has a limit of its own, and the server does nothing until it looks at its repository again.
        return self._loads.look(self.triton.pid, loading) and self._starting and not self._reloads.models

    def _scan(self, ready: set[str], health: dict[str, Any]) -> None:
        """Find the stubs of the families that are ready; other stubs may exist only for a moment. A stub may have died
        since its canary."""
        self._scanned = ready
        models = {model for name in ready for model in health["families"][name]["models"]}
        found = stubs_of(self.triton.pid, self._served.folder)
        self._stubs |= {process: model for process, model in found.items() if model in models}
        stubbed = {model for model in models if split_label(model)[0] in self._stubbed}
        self._dead |= stubbed - set(found.values())
        if self._swaps is not None:
            self._swaps.measure(models, found)

    def _count_stubs(self) -> None:
        """Find dead stubs. Those of a model whose files have changed are replaced by the server itself."""
        dead = {process: model for process, model in self._stubs.items() if not is_living_stub(process)}
        if not dead:
            return
        found, before = stubs_of(self.triton.pid, self._served.folder), list(self._stubs.values())
        now = list(found.values())
        self._dead |= {model for model in dead.values() if now.count(model) < before.count(model)}
        models = set(before)
        self._stubs = {process: model for process, model in found.items() if model in models}

    def _not_loaded(self, health: dict[str, Any]) -> dict[str, str]:
        """Return the models that failed to load. A loaded model continues if its new files are broken."""
        loaded = health.get("models", {})
        return {m: f"did not load: {why}" for m, why in self._failed.items() if loaded.get(m) is False}

    def _failing(self, health: dict[str, Any]) -> dict[str, str]:
        """Return the models whose canaries fail repeatedly, with the reason for loading them again."""
        if time.monotonic() - self.triton.started < _CANARY_GRACE:
            return {}
        families = health.get("families", {}).values()
        failing = [family for family in families if family["canary_failures"] >= _CANARY_FAILURES]
        return {model: f"does not work: {family['reason']}" for family in failing for model in family["failing"]}

    def _reload(self, lost: dict[str, str], health: dict[str, Any]) -> None:
        """Load models again, after a pause if one was lost too often.

        :param lost: what happened to each model.
        :raises ReloadFailed: they were loaded again too often.
        """
        now = time.monotonic()
        recent = {m: [t for t in self._deaths.get(m, []) if now - t < _REMEMBERED_SECONDS] for m in lost}
        worst = max(map(len, recent.values()))
        if worst > _MAX_RELOADS_OF_MODEL and now - max(map(max, filter(None, recent.values()))) < _RETRY_SECONDS:
            return
        self._dead = set()
        for model, why in lost.items():
            self._deaths[model] = [*recent[model], now]
            self._failed.pop(model, None)
            log.error("%s %s", model, why)
        if worst == _MAX_RELOADS_OF_MODEL or self._reload_count >= _MAX_RELOADS:
            raise ReloadFailed(lost, f"{', '.join(lost)}: loading models alone did not help for long")
        log.warning("loading %s again, the others go on", ", ".join(lost))
        kill(stubs_of(self.triton.pid, self._served.folder), set(lost))
        self._stubs = {process: model for process, model in self._stubs.items() if model not in lost}
        self._reload_count += len(lost)
        self._tally.reloaded(lost)
        self._reloads.begin(set(lost), health)

    async def _after_failed_reload(self, failed: ReloadFailed, ready: set[str]) -> None:
        """Restart the server for models that could not be loaded alone; only once as long as another family works."""
        if ready and self._last_resort.did_not_help(failed.models) and self._reload_count < _MAX_RELOADS:
            self._dead -= failed.models
            self._reloads.give_up()
            seconds = self._last_resort.rest(failed.models)
            log.error(
                "%s; a restart did not help before. The other families go on; next try in %.0f s", failed, seconds
            )
            return
        self._last_resort.restart(failed.models)
        await self._restart_triton(str(failed))

    async def _restart_triton(self, why: str) -> None:
        if not self.ready:
            self._count_failed_start(why)
        log.error("%s %s; restarting it", self.engine.name, why)
        self._up, self._linked, self._listened, self._starting, self._reload_count = False, False, False, True, 0
        self._stubs, self._scanned, self._dead, self._failed = {}, set(), set(), {}
        self._reloads.forget()
        self._loads.forget()
        if self._swaps is not None:
            self._swaps.forget()
        await self.triton.kill()
        await asyncio.to_thread(sweep)
        self._served.clear()
        await self._revive(self.triton)

    def _count_failed_start(self, why: str) -> None:
        """Before everything has worked once, start the server only a few times.

        :raises SetupError: that was the last time, or the server ended by itself before it listened, as it does when
            its port is taken: the next start would end in the same way.
        """
        self._failed_starts += 1
        refused = not self._listened and (self.triton.exit_code or 0) > 0
        if not refused and self._failed_starts < _MAX_STARTS:
            return
        said = f"{self.engine.title} ended while it started: {last_error(self.triton)}"
        if not refused:
            said = f"{self.engine.title} did not start, {_MAX_STARTS} times in a row. The last time: {why}"
        raise SetupError(f"{_capital(said)} (all of it: logs/{self.engine.name}.log)")

    def _read_line(self, line: str) -> None:
        """Read a line of the server's output."""
        self._listened = self._listened or LISTENS in line  # another program may listen at its port
        if (found := LOAD_FAILURE.search(line)) is not None:
            self._failed[found[1] or found[2]] = found[3]

    async def _health(self, client: httpx.AsyncClient) -> dict[str, Any]:
        if self._own_health is not None:
            return self._own_health.read()
        try:
            return dict((await client.get("/health")).json())
        except (httpx.HTTPError, ValueError):
            return {}

    def _announce(self) -> None:
        if self._starting:  # a model that takes minutes to load may take them again
            self._reloads.limit = max(_RELOAD_SECONDS, 2 * (time.monotonic() - self.triton.started))
            self._starting = False
        if self.ready:
            log.info("everything is up again")
        elif self.proxy is None:
            settings = self.settings
            log.info("Triton is ready: %s", loopback_address(settings.triton_grpc_bind, settings.triton_grpc_port))
        else:
            log.info("Darkroom is ready: %s (documentation: /docs)", address_of(self.settings.host, self.settings.port))
        self.ready = True

    async def _shut_down(self) -> None:
        """Stop the proxy first, so that accepted work finishes while Triton still runs."""
        swapping = asyncio.create_task(self._swap_while_draining())
        await self._stop_proxy()
        swapping.cancel()
        await asyncio.gather(swapping, return_exceptions=True)
        if self._own_health is not None:
            await self._own_health.close()
        await self.triton.stop(grace=GRACE_SECONDS)
        await asyncio.to_thread(sweep)

    async def _swap_while_draining(self) -> None:
        """Load models for accepted requests that wait for them."""
        if self._swaps is None or not self._linked:
            return
        address = address_of(self.settings.host, self.settings.port)
        async with httpx.AsyncClient(base_url=address, timeout=5, trust_env=False) as client:
            while True:
                self._swapped(await self._health(client))
                await asyncio.sleep(_SWAP_TICK)


async def _listens(host: str, port: int) -> bool:
    """Whether a port of this machine accepts connections."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(loopback(host), port), 1)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _own_health(settings: Settings) -> OwnHealth:
    """Import what watches Triton only where it is needed: gRPC takes memory."""
    # gRPC reads it when it is imported, and would otherwise write a line for each child that is started.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from supervisor.own_health import OwnHealth

    return OwnHealth(settings)
