"""Readiness of each group of models: what counts as one that does not work, and what as one that is busy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from darkroom.errors import NotReady
from darkroom.registry import family_of, is_chosen
from darkroom.serving.networks import Array
from proxy.gateway import translate
from proxy.groups import groups_of
from proxy.readiness import Monitor
from tests.monitors import FAMILIES, PHOTOS, PICTURES, UPSCALE, Server, look, watched
from tests.unit.loopback import Answer, Received, loopback


def counting(counts: Mapping[str, int]) -> Answer:
    lines = [f'nv_inference_request_success{{model="{name}",version="1"}} {count}' for name, count in counts.items()]
    return Answer(body="\n".join(lines).encode())


@pytest.mark.parametrize("hanging", ["sd15", "sd15_vae_decoder"])
@pytest.mark.parametrize("working", [None, "sd15_unet", "sd15_text_encoder", "sd15_vae_decoder"])
def test_late_canary_is_excused_by_work_that_goes_on(hanging: str, working: str | None) -> None:
    """It has to be the network in question that works: of a network's canary itself, of the pipeline's the UNet,
    which has none."""
    counts = dict.fromkeys(PICTURES, 5)

    def metrics(_: Received) -> Answer:
        if working and server.hanging and server.asked[hanging] > asked:
            counts[working] += 1
        return counting(counts)

    async def scenario(monitor: Monitor, gateway: Server) -> None:
        nonlocal server, asked
        server = gateway
        await look(monitor)
        assert monitor.ready
        asked = gateway.asked[hanging]
        gateway.hanging = {hanging}
        await look(monitor)
        assert monitor.canary_failures == (0 if excused else 1)
        assert monitor.ready == excused
        if not excused:
            assert monitor.reason == f"a small inference on {hanging} failed: no answer in 0.2 s"
            assert monitor.states["sd15"].failing == (
                ("sd15_vae_decoder",) if hanging == "sd15_vae_decoder" else ("sd15_unet", "sd15")
            )

    server: Server
    asked = 0
    excused = working == {"sd15": "sd15_unet", "sd15_vae_decoder": "sd15_vae_decoder"}[hanging]
    watched(scenario, metrics=metrics, timeout=0.2)


@pytest.mark.parametrize("trouble", ["loading", "failing", "hanging"])
def test_group_is_ready_while_another_one_is_not(trouble: str) -> None:
    async def scenario(monitor: Monitor, server: Server) -> None:
        if trouble == "loading":
            server.index["sd15_unet"] = False
        else:
            setattr(server, trouble, {"sd15_vae_decoder"})
        await monitor.look()
        while not monitor.ready_of("upscale"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        monitor.require("upscale")
        assert not monitor.ready
        assert not monitor.ready_of("sd15")
        with pytest.raises(NotReady, match="sd15 is not ready") as refused:
            monitor.require("sd15")
        assert refused.value.retry_after == monitor.states["sd15"].retry_after == server.retry_after("sd15_unet")
        assert server.retry_after("upscale") == monitor.states["upscale"].retry_after

    watched(scenario, *PICTURES, *UPSCALE)


def test_group_of_a_label_is_ready_by_itself() -> None:
    async def scenario(monitor: Monitor, server: Server) -> None:
        server.index["sd15_unet.photos"] = False
        await look(monitor)
        assert monitor.ready_of("sd15")
        assert not monitor.ready_of("sd15.photos")
        assert monitor.states["sd15.photos"].reason == "models are loading: sd15_unet.photos."
        server.index["sd15_unet.photos"] = True
        await look(monitor)
        assert monitor.ready
        assert server.asked["sd15.photos"] == 1

    watched(scenario, *PICTURES, *PHOTOS)


def test_groups_are_checked_side_by_side() -> None:
    """A canary that hangs in each of them takes one timeout and not three."""

    async def scenario(monitor: Monitor, server: Server) -> None:
        server.hanging = {"sd15", "sd15.photos", "upscale"}
        await monitor.look()
        while len(server.asked & Counter(server.hanging)) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert [state.check is not None and not state.check.done() for state in monitor.states.values()] == [True] * 3

    watched(scenario, *PICTURES, *PHOTOS, *UPSCALE)


def test_group_that_worked_since_its_last_check_runs_no_canary() -> None:
    counts = dict.fromkeys(PICTURES, 5)

    async def scenario(monitor: Monitor, server: Server) -> None:
        await look(monitor)
        before = server.asked.copy()
        server.answered["sd15"] += 1
        counts.update({name: count + 1 for name, count in counts.items()})
        await look(monitor)
        assert server.asked == before
        await look(monitor)
        assert server.asked > before, "nothing has worked since the check before"

    watched(scenario, metrics=lambda _: counting(counts))


def test_pipelines_canary_is_the_proof_for_the_networks_that_it_uses() -> None:
    counts = dict.fromkeys(UPSCALE, 5)

    async def scenario(monitor: Monitor, server: Server) -> None:
        def metrics_grow() -> None:
            counts["realesrgan_animevideov3_x2"] = 5 + server.asked["upscale"]

        grow.append(metrics_grow)
        await look(monitor)
        before = server.asked.copy()
        await look(monitor)
        assert server.asked - before == Counter({"upscale": 1, "realesrgan_x4plus": 1})

    def metrics(_: Received) -> Answer:
        for one in grow:
            one()
        return counting(counts)

    grow: list[Callable[[], None]] = []
    watched(scenario, *UPSCALE, metrics=metrics)


@pytest.mark.parametrize("network", ["animevideov3-x2", "x4plus"])
def test_canary_of_upscaling_uses_a_network_that_is_there(network: str) -> None:
    async def scenario(monitor: Monitor, server: Server) -> None:
        await look(monitor)
        assert monitor.ready
        assert list(server.inputs["upscale"]["model"]) == [network]

    watched(scenario, "upscale", "realesrgan_" + network.replace("-", "_"))


def test_model_that_the_repository_is_without_for_a_moment_is_expected_back() -> None:
    async def scenario(monitor: Monitor, server: Server) -> None:
        await look(monitor)
        del server.index["sd15"], server.index["sd15_unet"]
        server.loaded = {"sd15", "sd15_unet"}
        await look(monitor)
        assert monitor.models["sd15_unet"], "it is gone from the repository, and not unloaded yet"
        assert not server.broken_off
        server.loaded = set()
        await look(monitor)
        assert server.broken_off == ["sd15", "sd15_unet"]
        assert not monitor.ready_of("sd15")
        assert monitor.models == {**dict.fromkeys(PICTURES, True), "sd15": False, "sd15_unet": False}

    watched(scenario)


def test_model_that_a_new_triton_does_not_have_is_not_waited_for() -> None:
    class Restarted(Server):
        away = False

        async def models(self) -> dict[str, bool]:
            if self.away:
                raise NotReady("away", retry_after=1)
            return await super().models()

    async def scenario() -> None:
        server = Restarted(*PICTURES, *UPSCALE)
        monitor = Monitor(server, FAMILIES, metrics_url="http://127.0.0.1:1", interval=0, timeout=60)
        await look(monitor)
        server.away = True
        await look(monitor)
        assert not monitor.ready_of("sd15")
        assert not monitor.ready_of("upscale")
        server.away, server.index = False, dict.fromkeys(UPSCALE, True)
        await look(monitor)
        assert list(monitor.states) == ["upscale"]
        assert monitor.ready
        assert monitor.ready_of("sd15"), "there is nothing to wait for: its tasks fail"
        await monitor._http.aclose()
        await server.close()

    asyncio.run(scenario())


def test_retry_after_is_what_is_left_of_a_start_as_long_as_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is unavailable, comes back after 12 s, is lost again, and takes 30 s this time."""
    script = iter([(100, "away"), (104, "away"), (112, "up"), (150, "away"), (155, "away"), (170, "away"), (180, "up")])
    clock = {"now": 100.0}
    told: list[tuple[float, int, int]] = []

    class Restarting(Server):
        async def models(self) -> dict[str, bool]:
            if self.state == "away":
                raise NotReady("away", retry_after=1)
            return await super().models()

    async def run(url: str) -> None:
        server = Restarting()
        monitor = Monitor(server, FAMILIES, metrics_url=url, interval=0, timeout=60)
        for now, state in script:
            clock["now"], server.state = now, state
            told.append((now, monitor.retry_after, server.retry_after("sd15")))
            await look(monitor)
        monitor.states["sd15"].down("a test")
        with pytest.raises(NotReady) as refused:
            monitor.require("sd15")
        assert refused.value.retry_after == monitor.retry_after == 30
        await monitor._http.aclose()
        await server.close()

    for module in ("proxy.readiness", "proxy.states"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: clock["now"]))
    with loopback(lambda _: Answer()) as here:
        asyncio.run(run(here.url))
    assert [now for now, *_ in told] == [100, 104, 112, 150, 155, 170, 180]
    assert [seconds for _, seconds, _ in told] == [20, 16, 8, 12, 7, 5, 5]
    assert all(seconds == gateways for _, seconds, gateways in told)


def test_retry_after_does_not_learn_from_a_start_of_the_proxy_alone() -> None:
    """Triton was there all the time: the next one that is lost takes as long as ever."""

    async def scenario(monitor: Monitor, server: Server) -> None:
        await look(monitor)
        assert monitor.ready
        assert monitor.retry_after == 20

    watched(scenario)


def test_watch_ends_by_a_cancellation_that_comes_with_the_answer() -> None:
    """With `asyncio.wait_for` Python before 3.12 lost it, and a stop waited for ever."""

    class Asked(Server):
        def __init__(self) -> None:
            super().__init__()
            self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.reached = asyncio.Event()

        async def stream(
            self, model: str, inputs: Mapping[str, Any], **more: Any
        ) -> AsyncGenerator[dict[str, Array], None]:
            self.reached.set()
            await self.answer
            yield {}

    async def scenario() -> None:
        server = Asked()
        monitor = Monitor(server, FAMILIES, metrics_url="http://127.0.0.1:1", interval=3600, timeout=3600)
        watching = asyncio.ensure_future(monitor.run())
        await server.reached.wait()
        server.answer.set_result(None)
        for _ in range(20):  # wherever in the chain of awaits the answer is when the cancellation comes
            await asyncio.sleep(0)
            if watching.cancel():
                break
        done, _ = await asyncio.wait({watching}, timeout=30)
        assert done, "the watch goes on"

    asyncio.run(scenario())


def test_groups_are_pipelines_with_the_networks_of_their_label() -> None:
    found = groups_of([*PICTURES, *PHOTOS, "realesrgan_x4plus", "somebody_elses"], FAMILIES)
    assert {name: {spec.name for spec in group.models} for name, group in found.items()} == {
        "sd15": set(PICTURES),
        "sd15.photos": set(PHOTOS),
    }


def test_family_of_a_model() -> None:
    assert [family_of(name) for name in ("sd15_unet.photos", "realesrgan_x4plus", "other")] == ["sd15", "upscale", None]


def test_families_that_are_not_chosen() -> None:
    chosen = SimpleNamespace(families=("upscale",))
    assert [is_chosen(name, chosen) for name in ("upscale", "sd15.photos", "other")] == [True, False, True]
    assert is_chosen("sd15", SimpleNamespace(families=()))


@pytest.mark.parametrize(
    "text",
    [
        "Stub process 'realesrgan_x4plus_0_0' is not healthy.",
        'darkroom-error:{"code": "network_error", "message": "network x: Stub process \'x_0_0\' is not healthy."}',
        "Request for unknown model: 'upscale' is not found",
    ],
)
def test_error_of_a_dead_model_says_when_to_come_back(text: str) -> None:
    from tritonclient.utils import InferenceServerException

    error = translate(InferenceServerException(text), 7)
    assert isinstance(error, NotReady)
    assert error.retry_after == 7
