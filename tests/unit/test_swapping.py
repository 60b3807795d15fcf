"""Which units are loaded within a budget of memory, and which requests wait for theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from darkroom.errors import InvalidInput, NotReady
from darkroom.memory.sizes import GIGABYTE, Size, memory_folder, read_wanted, write_sizes, write_wanted
from darkroom.memory.units import Unit, models_of, units_of
from darkroom.settings import Settings
from proxy.fleet import Fleet
from proxy.swapping import swapper as module
from proxy.swapping.places import Place, fitting, leaving
from proxy.swapping.swapper import Swapper
from tests.service import link_models

SMALL, LARGE = "upscale", "sd15"
MODELS = {
    SMALL: ("realesrgan_animevideov3_x2", "upscale"),
    LARGE: ("sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "sd15"),
}
OTHER = "sd15_loras"


def place(name: str, size: int, *, used: float = 0, since: float = 0, running: int = 0) -> Place:
    one = Place(unit=Unit(name=name, models=(name,)), size=size, wanted=True, running=running)
    one.used, one.since = used, since
    return one


NOW = 1000.0
BUSY = {"running": 1, "used": NOW}


@pytest.mark.parametrize(
    ("loaded", "need", "expected"),
    [
        ([place("a", 5, used=10), place("b", 5, used=5)], 5, ["b"]),
        ([place("a", 5, used=10), place("b", 5, used=5)], 6, ["b", "a"]),
        ([place("a", 1, used=5), place("b", 9, used=10)], 8, ["b"]),
        ([place("a", 5, **BUSY), place("b", 5, used=500)], 5, ["b"]),
        ([place("a", 5, **BUSY, since=10), place("b", 5, **BUSY, since=5)], 5, ["b"]),
        ([place("a", 5, **BUSY, since=NOW - 1)], 5, None),
        ([place("a", 5, used=NOW - 0.5, since=NOW - 1)], 5, None),
        ([place("a", 5, used=1)], 6, None),
        ([], 1, None),
    ],
    ids=[
        "least recently used",
        "as many as it takes",
        "none that is not needed",
        "idle before busy",
        "loaded for longest",
        "turn not over",
        "idle for a moment only",
        "not enough",
        "nothing",
    ],
)
def test_swapping_which_units_leave(loaded: Sequence[Place], need: int, expected: list[str] | None) -> None:
    going = leaving(need, loaded, NOW)
    assert (None if going is None else [one.unit.name for one in going]) == expected


@pytest.mark.parametrize(("load", "turn"), [(None, 10), (1.0, 10), (5.0, 20), (100.0, 60)])
def test_swapping_turn_is_as_long_as_loading_is_worth(load: float | None, turn: float) -> None:
    one = place("a", 1, **BUSY, since=NOW - turn + 0.1)
    one.load_seconds = load
    assert not one.had_its_turn(NOW)
    assert one.had_its_turn(NOW + 0.2)


def test_swapping_begins_with_what_fits() -> None:
    places = [place("a", 6), place("b", 7), place("c", 4), place("d", 1)]
    assert [one.unit.name for one in fitting(places, 10)] == ["a", "c"]


def test_units_are_the_models_of_a_checkpoint() -> None:
    photos = [f"{model}.photos" for model in MODELS[LARGE]]
    units = units_of([*MODELS[SMALL], *MODELS[LARGE], *photos, OTHER, "somebody_elses", "sdxl_unet"])
    assert {name: set(unit.models) for name, unit in units.items()} == {
        SMALL: set(MODELS[SMALL]),
        LARGE: set(MODELS[LARGE]),
        f"{LARGE}.photos": set(photos),
    }
    assert units[LARGE].models[-1] == LARGE  # the networks are linked first


class Triton:
    """Loads and unloads what the swapper wants, when it is told to."""

    def __init__(self, settings: Settings) -> None:
        self._folder = memory_folder(settings)
        self.models = dict.fromkeys(models_of(settings), False)
        self.states: dict[str, Any] = {}

    def obey(self) -> None:
        wanted = read_wanted(self._folder) or frozenset()
        self.models = {model: model in wanted for model in self.models}
        for name, models in MODELS.items():
            self.states[name] = SimpleNamespace(ready=wanted.issuperset(models))

    @property
    def loaded(self) -> set[str]:
        return {name for name, models in MODELS.items() if all(self.models[model] for model in models)}


Scenario = Callable[[Swapper, Triton], Awaitable[None]]


def settings_of(folder: Path) -> Settings:
    models = [model for those in MODELS.values() for model in those]
    repository = link_models(folder / "repository", *models, OTHER)
    return Settings(_env_file=None, state_dir=folder / "state", model_repository=repository)


def swapped(folder: Path, scenario: Scenario, *, small: float = 3, large: float = 5, budget: float = 7) -> None:
    """Run a scenario with two units; the model that is always loaded takes 1."""
    settings = settings_of(folder)
    gigabytes = {MODELS[SMALL][0]: small, MODELS[LARGE][0]: large, OTHER: 1}
    write_sizes(
        memory_folder(settings), {model: Size(size=round(size * GIGABYTE)) for model, size in gigabytes.items()}
    )

    async def run() -> None:
        triton = Triton(settings)
        swapper = Swapper(settings, round(budget * GIGABYTE))
        running = asyncio.create_task(swapper.run(cast(Fleet, triton)))
        try:
            await asyncio.wait_for(scenario(swapper, triton), 60)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # these conditions have no event
        await asyncio.sleep(0.01)


async def obeyed(triton: Triton, expected: set[str]) -> None:
    """Let Triton do what it is told until it has loaded exactly these units."""
    while triton.loaded != expected:
        triton.obey()
        await asyncio.sleep(0.01)


def begin(swapper: Swapper, name: str, leave: asyncio.Event) -> asyncio.Task[None]:
    async def use() -> None:
        async with swapper.using(name):
            await leave.wait()

    return asyncio.create_task(use())


@pytest.mark.parametrize(("budget", "first"), [(9, {SMALL, LARGE}), (7, {LARGE}), (5, {SMALL}), (3, set())])
def test_swapping_loads_what_fits_at_the_start(tmp_path: Path, budget: float, first: set[str]) -> None:
    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await until(lambda: read_wanted(memory_folder(settings_of_run)) is not None)
        triton.obey()
        assert triton.loaded == first
        assert {name for name in MODELS if not swapper.is_swapped_out(name)} == first

    settings_of_run = Settings(_env_file=None, state_dir=tmp_path / "state")
    swapped(tmp_path, scenario, budget=budget)


def test_swapping_makes_room_for_a_request_and_back(tmp_path: Path) -> None:
    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {LARGE})
        leave = asyncio.Event()
        for wanted, other in ((SMALL, LARGE), (LARGE, SMALL)):
            using = begin(swapper, wanted, leave)
            await until(lambda name=wanted: swapper.is_wanted(name))
            assert swapper.is_swapped_out(wanted)
            assert swapper.is_swapped_out(other)
            await obeyed(triton, {wanted})
            await until(lambda name=wanted: not swapper.is_swapped_out(name))
            leave.set()
            await using
            leave.clear()

    swapped(tmp_path, scenario)


def test_swapping_waits_for_running_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And new calls wait for their next turn then."""
    monkeypatch.setattr("proxy.swapping.places._TURN_SECONDS", (0.2, 0.2))

    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {LARGE})
        leave, later = asyncio.Event(), asyncio.Event()
        running = begin(swapper, LARGE, leave)
        await asyncio.sleep(0)
        waiting = begin(swapper, SMALL, later)
        await until(lambda: swapper.places[LARGE].closing)
        second = begin(swapper, LARGE, later)
        await until(lambda: swapper.places[LARGE].waiting)
        assert swapper.is_wanted(LARGE)
        leave.set()
        await running
        await obeyed(triton, {SMALL})
        later.set()
        await waiting
        assert not second.done()
        await obeyed(triton, {LARGE})
        await second

    swapped(tmp_path, scenario)


def test_swapping_ends_no_turn_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there is work for the loaded unit, another one waits for its turn to end."""
    monkeypatch.setattr("proxy.swapping.places._TURN_SECONDS", (3600.0, 3600.0))
    monkeypatch.setattr("proxy.swapping.places.IDLE_SECONDS", 60.0)

    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {LARGE})
        waiting = begin(swapper, SMALL, asyncio.Event())
        await until(lambda: swapper.places[SMALL].waiting)
        for _ in range(20):  # short gaps between the calls of one client
            async with swapper.using(LARGE):
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.02)
        assert swapper.is_wanted(LARGE)
        assert not swapper.places[LARGE].closing
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not swapper.places[SMALL].waiting

    swapped(tmp_path, scenario)


def test_swapping_turn_ends_for_requests_that_wait_for_a_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who have the slots may wait for the other unit: otherwise nobody could go on."""
    monkeypatch.setattr("proxy.swapping.places._TURN_SECONDS", (0.2, 0.2))

    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {LARGE})
        leave = asyncio.Event()
        async with swapper.near(LARGE):
            waiting = begin(swapper, SMALL, leave)
            await obeyed(triton, {SMALL})
        leave.set()
        await waiting

    swapped(tmp_path, scenario)


def test_swapping_opens_again_when_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.swapping.places._TURN_SECONDS", (0.0, 0.0))

    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {LARGE})
        leave = asyncio.Event()
        running = begin(swapper, LARGE, leave)
        await asyncio.sleep(0)
        waiting = begin(swapper, SMALL, leave)
        await until(lambda: swapper.places[LARGE].closing)
        second = begin(swapper, LARGE, leave)
        await until(lambda: swapper.places[LARGE].waiting)
        waiting.cancel()
        await until(lambda: swapper.places[LARGE].running == 2)
        leave.set()
        await asyncio.gather(running, second)
        assert swapper.places[LARGE].running == 0

    swapped(tmp_path, scenario)


def test_swapping_refuses_what_is_too_large(tmp_path: Path) -> None:
    async def scenario(swapper: Swapper, triton: Triton) -> None:
        with pytest.raises(InvalidInput) as refused:
            swapper.require_fits(LARGE)
        assert refused.value.param == "model"
        assert "sd15 takes about 5.00 GB" in refused.value.message
        assert "DEVICE_MEMORY_GB = 5.00 GB" in refused.value.message
        swapper.require_fits(SMALL)
        with pytest.raises(InvalidInput):
            async with swapper.using(LARGE):
                pass

    swapped(tmp_path, scenario, budget=5)


def test_swapping_unloads_what_turns_out_to_be_larger(tmp_path: Path) -> None:
    """The first sizes are estimates; those that the supervisor measures count as soon as it has written them."""

    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {SMALL, LARGE})
        async with swapper.using(SMALL):
            pass
        sizes = {MODELS[SMALL][0]: 4, MODELS[LARGE][0]: 6, OTHER: 1}
        write_sizes(memory_folder(settings), {model: Size(size=size * GIGABYTE) for model, size in sizes.items()})
        await obeyed(triton, {SMALL})
        assert swapper.is_swapped_out(LARGE)

    settings = Settings(_env_file=None, state_dir=tmp_path / "state")
    swapped(tmp_path, scenario, budget=10)


def test_swapping_gives_up_what_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests fail, and the others have their turn."""
    monkeypatch.setattr(module, "_load_limit", lambda place: 0.3)

    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {LARGE})

        async def broken() -> None:
            async with swapper.using(SMALL):
                pass

        waiting = asyncio.create_task(broken())
        await until(lambda: swapper.is_wanted(SMALL))
        triton.models = dict.fromkeys(triton.models, False)
        triton.states[LARGE].ready = False
        with pytest.raises(NotReady, match="did not load"):
            await waiting
        leave = asyncio.Event()
        leave.set()
        using = begin(swapper, LARGE, leave)
        await obeyed(triton, {LARGE})
        await using

    swapped(tmp_path, scenario)


def test_swapping_goes_on_with_what_an_earlier_proxy_wanted(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    write_sizes(memory_folder(settings), {MODELS[SMALL][0]: Size(size=3), MODELS[LARGE][0]: Size(size=5)})
    write_wanted(memory_folder(settings), frozenset(MODELS[SMALL]))
    swapper = Swapper(settings, 7)
    assert (swapper.is_wanted(SMALL), swapper.is_wanted(LARGE)) == (True, False)


def test_swapping_says_who_waits_and_how_long(tmp_path: Path) -> None:
    async def scenario(swapper: Swapper, triton: Triton) -> None:
        await obeyed(triton, {LARGE})
        assert swapper.seconds_until_open(LARGE) == 0
        assert swapper.seconds_until_open(SMALL) > 0
        token = module.REQUEST_ID.set("a-task")
        waiting = begin(swapper, SMALL, asyncio.Event())
        module.REQUEST_ID.reset(token)
        await until(lambda: swapper.waits("a-task"))
        assert swapper.waits("a-task") == SMALL
        assert swapper.waits("another") is None
        await obeyed(triton, {SMALL})
        await until(lambda: swapper.waits("a-task") is None)
        assert swapper.loaded_bytes() == {SMALL: 3 * GIGABYTE, LARGE: 0}
        waiting.cancel()

    swapped(tmp_path, scenario)


@pytest.mark.parametrize("apart", [{"serve_only": "proxy"}, {"serve_only": "triton"}, {"triton_grpc": "10.0.0.5:8001"}])
def test_memory_budget_is_for_one_service_alone(apart: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be set together with") as refused:
        Settings(_env_file=None, device_memory_gb=8, **cast(dict[str, Any], apart))
    assert next(iter(apart)).upper() in json.dumps(str(refused.value))
