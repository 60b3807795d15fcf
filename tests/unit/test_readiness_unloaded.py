"""Readiness of groups that are unloaded because others need the memory."""

from __future__ import annotations

from proxy.readiness import Monitor
from tests.monitors import PICTURES, UPSCALE, Server, look, watched


class Wishes:
    """The groups that are to be loaded, and those whose requests wait."""

    def __init__(self, *swappable: str) -> None:
        self.swappable = frozenset(swappable)
        self.wanted: set[str] = set()
        self.swapped_out: set[str] = set()

    def is_wanted(self, group: str) -> bool:
        return group in self.wanted

    def is_swapped_out(self, group: str) -> bool:
        return group in self.swapped_out


def test_group_that_is_unloaded_for_others_takes_requests_and_runs_no_canary() -> None:
    wishes = Wishes(*PICTURES, *UPSCALE)
    wishes.wanted, wishes.swapped_out = {"sd15"}, {"upscale"}

    async def scenario(monitor: Monitor, server: Server) -> None:
        await look(monitor)
        assert set(monitor.models) == {*PICTURES, *UPSCALE}  # also those that Triton does not list
        assert (monitor.ready, monitor.reason) == (True, "")
        state = monitor.states["upscale"]
        assert (state.ready, state.takes_requests) == (False, True)
        assert (state.described()["ready"], state.described()["loaded"]) == (True, False)
        monitor.require("upscale")
        wishes.wanted = {"upscale"}
        server.index = dict.fromkeys(UPSCALE, True)
        wishes.swapped_out = {"sd15"}
        asked = server.asked.total()
        await look(monitor)
        assert state.ready
        assert server.asked["upscale"] == 1
        assert server.asked.total() - asked == len(UPSCALE)
        assert monitor.models["sd15"] is False
        assert monitor.states["sd15"].takes_requests
        assert monitor.ready

    watched(scenario, *PICTURES, presence=wishes)


def test_group_that_is_unloaded_is_not_ready_while_its_models_are_still_there() -> None:
    """Otherwise it would count as loaded again at once when it is wanted again."""
    wishes = Wishes(*PICTURES)
    wishes.wanted = {"sd15"}

    async def scenario(monitor: Monitor, server: Server) -> None:
        await look(monitor)
        assert monitor.states["sd15"].ready
        wishes.wanted, wishes.swapped_out = set(), {"sd15"}
        await look(monitor)
        assert not monitor.states["sd15"].ready
        assert monitor.ready
        assert all(monitor.models.values())

    watched(scenario, *PICTURES, presence=wishes)
