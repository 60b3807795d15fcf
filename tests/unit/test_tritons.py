"""Several Tritons: which one a call goes to, addresses that come and leave, and what is said of all together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from benchmarks.processes import free_port
from darkroom.errors import NotReady
from darkroom.registry import families
from darkroom.serving.networks import Array
from darkroom.settings import Settings
from proxy import addresses, tritons
from proxy.addresses import Address, addresses_of
from proxy.fleet import Fleet
from proxy.gateway import Gateway
from proxy.groups import groups_of
from proxy.network_metrics import joined
from proxy.states import State
from proxy.tritons import Tritons
from supervisor.preflight import taken_ports

FAMILIES = {name: family.specs for name, family in families().items()}
PICTURES = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
UPSCALE = ("upscale", "realesrgan_animevideov3_x2", "realesrgan_x4plus")
ENTRIES = tuple((f"127.0.0.1:{port}", f"http://127.0.0.1:{port}/metrics") for port in (1, 2))


class Server(Gateway):
    """Its calls run until they are told to end, or to end with an error; canaries and looks are not asked for."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.go_on = asyncio.Event()
        self.fails = False
        self.seen: list[str] = []
        self.broken = asyncio.Event()

    async def models(self) -> dict[str, bool]:
        await asyncio.Event().wait()  # the tests set the states
        return {}

    def break_off_all(self) -> None:
        self.broken.set()

    async def stream(
        self, model: str, inputs: Mapping[str, Any], *, request_id: str = "", client: str = "", can_stop: bool = True
    ) -> AsyncGenerator[dict[str, Array], None]:
        self.seen.append(request_id)
        yield {}
        await self.go_on.wait()
        if self.fails:
            raise NotReady("gone", retry_after=20)


Scenario = Callable[[Tritons], Awaitable[None]]


def run(monkeypatch: pytest.MonkeyPatch, scenario: Scenario, entries: Any = ENTRIES) -> None:
    monkeypatch.setattr(tritons, "Gateway", Server)

    async def all_of_it() -> None:
        made = Tritons(entries, FAMILIES, interval=60, timeout=60)
        await made.start()
        try:
            await asyncio.wait_for(scenario(made), 60)
        finally:
            await made.close()

    asyncio.run(all_of_it())


def ready(made: Tritons, *models: str, of: int | None = None, is_ready: bool = True) -> None:
    """Let one Triton, or all, have models that work."""
    for number, one in enumerate(made.members):
        if of in (None, number):
            one.monitor.models = one.monitor.models | dict.fromkeys(models, True)
            for name, group in groups_of(models, FAMILIES).items():
                one.monitor.states[name] = State(group=group, down_since=0)
                if is_ready:
                    one.monitor.states[name].up()


def servers(made: Tritons) -> list[Server]:
    found = [one.gateway for one in made.members]
    assert all(isinstance(one, Server) for one in found)
    return found  # type: ignore[return-value]


async def begun(made: Tritons, name: str, model: str = "sd15") -> asyncio.Task[None]:
    """A call that has its first response."""
    began = asyncio.Event()

    async def call() -> None:
        async with aclosing(made.stream(model, {}, request_id=name)) as responses:
            async for _ in responses:
                began.set()

    task = asyncio.create_task(call())
    await asyncio.wait([task, asyncio.ensure_future(began.wait())], return_when=asyncio.FIRST_COMPLETED)
    return task


def test_calls_go_to_the_triton_with_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Tritons) -> None:
        ready(made, *PICTURES)
        first, second = servers(made)
        calls = [await begun(made, name) for name in "abcd"]
        assert (first.seen, second.seen) == (["a", "c"], ["b", "d"])
        second.go_on.set()
        await asyncio.gather(calls[1], calls[3])
        calls += [await begun(made, name) for name in "ef"]
        assert second.seen == ["b", "d", "e", "f"]
        first.go_on.set()
        await asyncio.gather(*calls)
        assert [one.running for one in made.members] == [0, 0]

    run(monkeypatch, scenario)


def test_calls_go_where_the_family_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Tritons) -> None:
        ready(made, *PICTURES)
        ready(made, *UPSCALE, of=1)
        ready(made, *UPSCALE, of=0, is_ready=False)
        first, second = servers(made)
        calls = [await begun(made, name, "upscale") for name in "abc"]
        assert (first.seen, second.seen) == ([], ["a", "b", "c"])
        calls.append(await begun(made, "d"))
        assert first.seen == ["d"]
        for one in (first, second):
            one.go_on.set()
        await asyncio.gather(*calls)

    run(monkeypatch, scenario)


def test_triton_that_breaks_a_call_off_gets_no_more_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would get them all: one that is gone has no calls."""

    async def scenario(made: Tritons) -> None:
        ready(made, *PICTURES)
        first, second = servers(made)
        first.fails = True
        first.go_on.set()
        with pytest.raises(NotReady) as caught:
            await (await begun(made, "a"))
        assert caught.value.retry_after == 1  # not the 20 s until that Triton is back
        calls = [await begun(made, name) for name in "bcd"]
        assert (first.seen, second.seen) == (["a"], ["b", "c", "d"])
        assert [one.address for one in made.each("sd15")] == ["127.0.0.1:2"]
        second.fails = True
        second.go_on.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {one.retry_after for one in ended if isinstance(one, NotReady)} == {20}  # there is no other one now
        assert not made.has_another("sd15")

    run(monkeypatch, scenario)


def test_only_triton_is_called_whatever_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before there could be several; that it is ready is checked elsewhere."""

    async def scenario(made: Tritons) -> None:
        (only,) = servers(made)
        only.go_on.set()
        await (await begun(made, "a", "anything"))
        assert only.seen == ["a"]

    run(monkeypatch, scenario, ENTRIES[:1])


def test_silent_triton_loses_its_calls_if_there_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is switched off closes no connection."""
    monkeypatch.setattr(tritons, "_ROUND_SECONDS", 0)

    async def scenario(made: Tritons) -> None:
        first, second = servers(made)
        made.members[0].monitor.unanswered = 3
        rounds = asyncio.create_task(made.run())
        await first.broken.wait()
        rounds.cancel()
        assert not second.broken.is_set()

    run(monkeypatch, scenario)


def test_family_is_ready_when_one_triton_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Tritons) -> None:
        fleet = Fleet(made)
        assert (fleet.ready, fleet.complete, fleet.ready_of("sd15")) == (False, False, False)
        assert fleet.reason == "The inference server is starting."
        ready(made, *PICTURES, of=0)
        # The other one may have whatever nobody knows yet, so waiting for it is not useless.
        assert (fleet.ready, fleet.ready_of("sd15"), fleet.ready_of("hidream")) == (True, True, False)
        ready(made, *PICTURES, *UPSCALE, of=1, is_ready=False)
        made.members[1].monitor.states["upscale"].reason = "models are loading."
        assert (fleet.ready, fleet.ready_of("sd15"), fleet.ready_of("upscale")) == (False, True, False)
        assert fleet.complete
        assert fleet.ready_of("hidream")  # nobody has it: the request finds that out
        assert fleet.reason == "models are loading."
        with pytest.raises(NotReady, match="upscale is not ready: models are loading"):
            fleet.require("upscale")
        made.members[0].monitor.states["sd15"].down("a small inference failed")
        assert not fleet.ready_of("sd15")
        made.members[1].monitor.states["sd15"].up()
        assert fleet.ready_of("sd15")

    run(monkeypatch, scenario)


def test_models_of_a_triton_that_does_not_answer_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Tritons) -> None:
        ready(made, *PICTURES)
        ready(made, *UPSCALE, of=1)
        made.members[1].monitor.unanswered = 1
        assert Fleet(made).models == {name: name in PICTURES for name in (*PICTURES, *UPSCALE)}

    run(monkeypatch, scenario)


def test_providers_and_status_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Tritons) -> None:
        ready(made, *PICTURES, of=1)
        made.members[0].monitor.providers = {"sd15_unet": "CUDA"}
        made.members[1].monitor.providers = {"sd15_unet": "CPU, CUDA", "sd15_vae_decoder": "CPU"}
        fleet = Fleet(made)
        assert fleet.providers == {"sd15_unet": "CPU, CUDA", "sd15_vae_decoder": "CPU"}
        call = await begun(made, "a")
        listed = [(one["address"], one["ready"], one["active_calls"], [*one["families"]]) for one in fleet.described()]
        assert listed == [("127.0.0.1:1", False, 0, []), ("127.0.0.1:2", True, 1, ["sd15"])]
        servers(made)[1].go_on.set()
        await call

    run(monkeypatch, scenario)


def test_metrics_of_several_are_one_text() -> None:
    """Each family stands together, its type once, as the format wants it."""
    first = '# HELP n requests\n# TYPE n counter\nn{model="a b"} 1\n# TYPE g gauge\ng 2\n'
    second = '# HELP n requests\n# TYPE n counter\nn{model="c"} 3\n'
    assert joined({"x:1": first}) == first
    assert joined({"x:1": first, "y:1": second, "z:1": ""}) == (
        '# HELP n requests\n# TYPE n counter\nn{triton="x:1",model="a b"} 1\nn{triton="y:1",model="c"} 3\n'
        '# TYPE g gauge\ng{triton="x:1"} 2\n'
    )


# --- addresses


def resolving(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) == ("tritons.example", 8001)
        if not hosts:
            raise socket.gaierror("no address")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


NAME = ("dns:///tritons.example:8001", "http://tritons.example:8002/metrics")


def test_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["10.0.0.5", "fd00::6", "10.0.0.5"])
    assert asyncio.run(addresses_of(*NAME)) == {
        Address(grpc="10.0.0.5:8001", metrics="http://10.0.0.5:8002/metrics"),
        Address(grpc="[fd00::6]:8001", metrics="http://[fd00::6]:8002/metrics"),
    }


@pytest.mark.parametrize("host", ["no-such-name.invalid", "x" * 70, "a..b"])
def test_name_that_cannot_be_looked_up_has_unknown_addresses(host: str) -> None:
    assert asyncio.run(addresses_of(f"dns:///{host}:1", "http://a/metrics")) is None


def test_slow_name_server_does_not_hold_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(addresses, "_DNS_SECONDS", 0.01)
    assert asyncio.run(addresses_of(*NAME)) is None


def test_addresses_come_and_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that leaves finishes what it has; while the name server is away nothing changes."""
    hosts = ["10.0.0.5"]
    resolving(monkeypatch, hosts)

    async def scenario(made: Tritons) -> None:
        ready(made, *PICTURES)
        (first,) = servers(made)
        call = await begun(made, "a")
        hosts[:] = ["10.0.0.6", "10.0.0.7"]
        await made._look_up()
        assert [one.address.grpc for one in made.members] == ["10.0.0.6:8001", "10.0.0.7:8001"]
        assert not call.done()
        first.go_on.set()
        await call
        hosts.clear()
        await made._look_up()
        assert len(made.members) == 2

    run(monkeypatch, scenario, [NAME])


def test_proxy_without_any_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, [])

    async def scenario(made: Tritons) -> None:
        fleet = Fleet(made)
        assert (fleet.ready, fleet.complete, fleet.reason) == (False, False, "No inference server is found.")
        with pytest.raises(NotReady, match=r"No inference server is found at dns:///tritons\.example:8001"):
            await (await begun(made, "a"))

    run(monkeypatch, scenario, [NAME])


# --- settings


def test_tritons_of_the_settings() -> None:
    def of(**values: Any) -> tuple[tuple[str, str], ...]:
        return Settings(_env_file=None, **values).tritons

    assert of() == (("127.0.0.1:8001", "http://127.0.0.1:8002/metrics"),)
    assert of(triton_grpc_host="t", triton_grpc_port=5) == (("t:5", "http://t:8002/metrics"),)
    assert of(triton_grpc="a:1, [fd00::1]:2", triton_metrics_port=9) == (
        ("a:1", "http://a:9/metrics"),
        ("[fd00::1]:2", "http://[fd00::1]:9/metrics"),
    )
    assert of(triton_grpc="dns:///t:1") == (("dns:///t:1", "http://t:8002/metrics"),)
    assert of(triton_grpc="a:1,a:2", triton_metrics="http://a:3/m,http://a:4/m") == (
        ("a:1", "http://a:3/m"),
        ("a:2", "http://a:4/m"),
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"triton_grpc": "a"}, "must be HOST:PORT or dns:///NAME:PORT, separated by commas; got 'a'"),
        ({"triton_grpc": "http://a:1"}, "must be HOST:PORT"),
        ({"triton_grpc": "a:70000"}, "got 'a:70000'"),
        ({"triton_grpc": "a:1,a:1"}, "each server once; got 'a:1' twice"),
        ({"triton_grpc": "a:1,b:1", "triton_metrics": "http://a:2/metrics"}, "which has 2; got 1"),
        ({"triton_metrics": "a:2"}, "must be URLs such as http://HOST:8002/metrics"),
        ({"serve_only": "all"}, "'proxy' or 'triton'"),
    ],
)
def test_wrong_addresses_are_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_one_part_alone_needs_only_its_own_ports() -> None:
    """So several of each can run on one machine."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        def problems(only: str, **ports: int) -> list[str]:
            values: dict[str, Any] = {"port": free_port(), "triton_grpc_port": free_port()}
            values |= {"triton_metrics_port": free_port(), "serve_only": only, "host": "127.0.0.1"} | ports
            return taken_ports(Settings(_env_file=None, **values))

        assert problems("proxy", triton_grpc_port=taken, triton_metrics_port=taken) == []
        assert problems("triton", port=taken) == []
        assert "set PORT" in problems("proxy", port=taken)[0]
        assert "set TRITON_METRICS_PORT" in problems("triton", triton_metrics_port=taken)[0]
