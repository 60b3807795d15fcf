"""Decides which units are loaded, so that they fit into DEVICE_MEMORY_GB, and lets requests wait for theirs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Set

from darkroom.errors import DarkroomError, InvalidInput, NotReady
from darkroom.memory.sizes import GIGABYTE, memory_folder, read_sizes, read_wanted, shown, sizes_time, write_wanted
from darkroom.memory.units import models_of, units_of
from darkroom.registry import families
from darkroom.serving.networks import split_label
from darkroom.settings import Settings
from proxy.fleet import Fleet
from proxy.metrics.measures import Measures
from proxy.observability import REQUEST_ID
from proxy.readiness import Monitor
from proxy.swapping.places import Place, Ticket, fitting, leaving
from proxy.waiting import at_most

log = logging.getLogger(__name__)

_ROUND_SECONDS = 0.2
_CALM_SECONDS = 1.0
"""Seconds between two looks while nobody waits."""
_LOAD_LIMIT = 120.0
_SLOWEST_LOAD = 50_000_000
"""Seconds, and bytes per second beyond them, that a unit may take to load; then its requests fail, and others have
their turn."""
_FIRST_LOAD = 20.0
"""Assumed seconds of a load before one was measured."""


class Swapper:
    """The units of a repository, and their requests.

    The supervisor loads and unloads what `wanted` says (`supervisor/swaps.py`), one change after the other. A unit is
    unloaded when no call of it runs, and is not wanted again before it is unloaded.

    :param budget: bytes for all models.
    :param measures: where loads are counted.
    """

    def __init__(self, settings: Settings, budget: int, measures: Measures | None = None) -> None:
        self._folder = memory_folder(settings)
        self._budget = budget
        self._measures = measures
        self._monitor: Monitor | Fleet | None = None
        self._changed = asyncio.Event()
        self._written: frozenset[str] | None = None
        self._sizes_time = 0
        self._all = models_of(settings)
        units = sorted(units_of(self._all).values(), key=lambda unit: _order(unit.name))
        self.places = {unit.name: Place(unit=unit) for unit in units}
        self._place_of = {model: place for place in self.places.values() for model in place.unit.models}
        self._room = budget
        self._begin()

    @property
    def swappable(self) -> Set[str]:
        """See `Presence`."""
        return self._place_of.keys()

    def is_wanted(self, group: str) -> bool:
        """See `Presence`."""
        return group not in self._place_of or self._place_of[group].wanted

    def is_swapped_out(self, group: str) -> bool:
        """See `Presence`."""
        return group in self._place_of and self._place_of[group].swapped_out

    def is_open(self, model: str) -> bool:
        """Whether requests of a model need not wait."""
        return model not in self._place_of or self._place_of[model].is_open

    def require_fits(self, model: str) -> None:
        """:raises InvalidInput: the model does not fit into the budget, even alone."""
        if not self.fits(model):
            raise self._too_large(self._place_of[model])

    def fits(self, model: str) -> bool:
        """Whether a model fits into the budget, alone at least."""
        place = self._place_of.get(model)
        return place is None or place.size <= self._room

    def waits(self, request: str) -> str | None:
        """The model that a request or a task waits for; None if it waits for none."""
        found = (name for name, one in self.places.items() if any(ticket.request == request for ticket in one.waiting))
        return next(found, None)

    def seconds_until_open(self, model: str) -> float:
        """Expected seconds until the requests of a model run, without those before them; 0 if it is loaded."""
        place = self._place_of.get(model)
        if place is None or place.is_open:
            return 0.0
        known = [one.load_seconds for one in self.places.values() if one.load_seconds is not None]
        usual = sum(known) / len(known) if known else _FIRST_LOAD
        seconds = usual if place.load_seconds is None else place.load_seconds
        return max(0.0, seconds - (time.monotonic() - place.since)) if place.wanted else seconds

    def loaded_bytes(self) -> dict[str, int]:
        """The memory of each unit; 0 of one that is unloaded."""
        return {name: place.size if place.wanted else 0 for name, place in self.places.items()}

    @contextlib.asynccontextmanager
    async def using(self, model: str) -> AsyncIterator[None]:
        """Wait until a model is loaded, and keep it loaded while the body calls it.

        :raises InvalidInput: it does not fit into the budget.
        :raises NotReady: it did not load.
        """
        place = self._place_of.get(model)
        if place is None:
            yield
            return
        await self._admitted(place, holds=True)
        try:
            yield
        finally:
            place.running -= 1
            self._worked(place)

    @contextlib.asynccontextmanager
    async def near(self, model: str) -> AsyncIterator[None]:
        """Wait until a model is loaded. During the body, in which the request waits for a slot, it is not idle, but may
        be unloaded at the end of its turn: those who have the slots may wait for another one.

        :raises InvalidInput, NotReady: see `using`.
        """
        place = self._place_of.get(model)
        if place is None:
            yield
            return
        await self._admitted(place, holds=False)
        place.coming += 1
        try:
            yield
        finally:
            place.coming -= 1
            self._worked(place)

    async def run(self, monitor: Monitor | Fleet) -> None:
        """Decide until cancelled.

        :param monitor: of the models in Triton.
        """
        self._monitor = monitor
        await self._write()
        while True:
            self._changed.clear()
            try:
                self._decide(time.monotonic())
                await self._write()
            except Exception:
                log.exception("no decision about loaded models")
            with contextlib.suppress(asyncio.TimeoutError):
                await at_most(_ROUND_SECONDS if self._busy else _CALM_SECONDS, self._changed.wait())

    @property
    def _busy(self) -> bool:
        return any(one.waiting or (one.wanted and one.swapped_out) for one in self.places.values())

    def _begin(self) -> None:
        """Want what an earlier proxy of this service has wanted, else the first units that fit."""
        self._read_sizes()
        before = read_wanted(self._folder)
        first = fitting(self.places.values(), self._room)
        for place in self.places.values():
            place.wanted = place in first if before is None else place.unit.name in before
            place.swapped_out = not place.wanted

    def _read_sizes(self) -> None:
        time_of_file = sizes_time(self._folder)
        if time_of_file == self._sizes_time:
            return
        self._sizes_time = time_of_file
        sizes = {name: one.size for name, one in read_sizes(self._folder).items()}
        for place in self.places.values():
            place.size = sum(sizes.get(model, 0) for model in place.unit.models)
        self._room = self._budget - sum(sizes.get(model, 0) for model in self._all if model not in self._place_of)

    async def _write(self) -> None:
        wanted = frozenset(model for one in self.places.values() if one.wanted for model in one.unit.models)
        if wanted != self._written:
            await asyncio.to_thread(write_wanted, self._folder, wanted)
            self._written = wanted

    async def _admitted(self, place: Place, *, holds: bool) -> None:
        """Return when a unit is open; with `holds` it counts one more call."""
        if place.is_open:
            place.running += holds
            return
        admitted = asyncio.get_running_loop().create_future()
        ticket = Ticket(since=time.monotonic(), request=REQUEST_ID.get(), holds=holds, admitted=admitted)
        place.waiting.append(ticket)
        self._changed.set()
        try:
            await admitted
        except BaseException:
            if not admitted.cancelled() and admitted.done() and admitted.exception() is None:  # both at the same moment
                place.running -= holds
            if ticket in place.waiting:
                place.waiting.remove(ticket)
            self._worked(place)
            raise

    def _worked(self, place: Place) -> None:
        place.used = time.monotonic()
        self._changed.set()

    def _open(self, place: Place) -> None:
        """Let the requests run that wait for a unit."""
        place.swapped_out = place.closing = False
        for ticket in place.waiting:
            if not ticket.admitted.done():
                place.running += ticket.holds
                ticket.admitted.set_result(None)
        if place.waiting:
            place.used = time.monotonic()
        place.waiting.clear()

    def _fail(self, place: Place, error: DarkroomError) -> None:
        """End the requests that wait for a unit."""
        for ticket in place.waiting:
            if not ticket.admitted.done():
                ticket.admitted.set_exception(error)
        place.waiting.clear()

    def _decide(self, now: float) -> None:
        """Open what is loaded; then, unless something is still being loaded or unloaded, make room for the unit whose
        request has waited for the longest time."""
        self._read_sizes()
        for place in self.places.values():
            self._note_load(place, now)
        if any(place.swapped_out and (place.wanted or self._is_loaded(place)) for place in self.places.values()):
            return
        target = self._next()
        taken = sum(place.size for place in self.places.values() if place.wanted)
        need = taken + (target.size if target else 0) - self._room
        loaded = [one for one in self.places.values() if one.wanted and self._is_settled(one, now)]
        going = leaving(need, loaded, now) if need > 0 else ()
        self._close(going or ())
        if going is None or any(place.running for place in going):
            return
        for place in going:
            self._unload(place, now)
        if target is not None:
            target.wanted, target.since = True, now

    def _next(self) -> Place | None:
        """The unit to be loaded next."""
        waiting = [place for place in self.places.values() if place.waiting and not place.wanted]
        for place in waiting:
            if place.size > self._room:
                self._fail(place, self._too_large(place))
        return min((one for one in waiting if one.waiting), key=lambda one: one.waiting[0].since, default=None)

    def _close(self, going: Iterable[Place]) -> None:
        """Let new requests of these units wait, and of no others."""
        closing = set(going)
        for place in self.places.values():
            if place.closing and place not in closing:
                self._open(place)
            place.closing = place in closing

    def _unload(self, place: Place, now: float) -> None:
        place.wanted, place.swapped_out, place.closing, place.since = False, True, False, now
        if self._measures is not None:
            self._measures.unloaded(place.unit.name)

    def _note_load(self, place: Place, now: float) -> None:
        """Open a unit that has been loaded; give up one that does not load."""
        if not (place.wanted and place.swapped_out):
            return
        if self._is_ready(place):
            place.load_seconds, place.since = now - place.since, now
            log.info(
                "%s is loaded, in %.1f s; it takes about %s", place.unit.name, place.load_seconds, shown(place.size)
            )
            if self._measures is not None:
                self._measures.loaded(place.unit.name, place.load_seconds)
            self._open(place)
        elif now - place.since > _load_limit(place):
            log.error("%s did not load within %.0f s", place.unit.name, _load_limit(place))
            self._fail(place, NotReady(f"{place.unit.name} did not load; try again in a minute.", retry_after=60))
            self._unload(place, now)

    def _is_ready(self, place: Place) -> bool:
        state = self._monitor.states.get(place.unit.name) if self._monitor is not None else None
        return state is not None and state.ready

    def _is_settled(self, place: Place, now: float) -> bool:
        """Whether a unit has loaded: Triton does not unload one in the middle."""
        return self._is_ready(place) or now - place.since > _load_limit(place)

    def _is_loaded(self, place: Place) -> bool:
        """Whether a model of a unit is still there."""
        models = self._monitor.models if self._monitor is not None else {}
        return any(models.get(model) for model in place.unit.models)

    def _too_large(self, place: Place) -> InvalidInput:
        room = "" if self._room == self._budget else f", of which {shown(self._room)} are for models like this"
        return InvalidInput(
            f"model {place.unit.name} takes about {shown(place.size)} of memory, which is over DEVICE_MEMORY_GB = "
            f"{shown(self._budget)}{room}.",
            param="model",
        )


def _load_limit(place: Place) -> float:
    return _LOAD_LIMIT + place.size / _SLOWEST_LOAD


def _order(name: str) -> tuple[int, str]:
    """The default of each operation first."""
    plain, _ = split_label(name)
    order = next((family.order for family in families().values() if family.pipeline.name == plain), 0)
    return order, name


def swapper_of(settings: Settings, measures: Measures | None) -> Swapper | None:
    """The swapper of a service; None without DEVICE_MEMORY_GB."""
    budget = settings.device_memory_gb
    return None if budget is None else Swapper(settings, round(budget * GIGABYTE), measures)
