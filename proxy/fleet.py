"""The readiness of several Tritons together: a group is ready when one of them is ready for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from proxy.network_metrics import Ranks, joined
from proxy.readiness import Monitor
from proxy.states import LATE_SECONDS, Readiness, State
from proxy.tritons import Tritons


class Fleet(Readiness):
    """What `Monitor` says of one Triton, of all of them."""

    def __init__(self, tritons: Tritons) -> None:
        self._tritons = tritons

    @property
    def states(self) -> dict[str, State]:
        """Each group where it works best: where it has been ready for longest, else where it is expected soonest."""
        found: dict[str, State] = {}
        for monitor in self._monitors:
            for name, state in monitor.states.items():
                found[name] = min(found.get(name, state), state, key=_order)
        return found

    @property
    def models(self) -> dict[str, bool]:
        """Whether each model is loaded somewhere."""
        found: dict[str, bool] = {}
        for monitor in self._monitors:
            answers = not monitor.unanswered or len(self._tritons.members) == 1
            for name, loaded in monitor.models.items():
                found[name] = found.get(name, False) or (loaded and answers)
        return found

    @property
    def providers(self) -> dict[str, str]:
        """The execution providers of each network, with commas between those of different Tritons."""
        found: dict[str, set[str]] = {}
        for monitor in self._monitors:
            for name, provider in monitor.providers.items():
                found.setdefault(name, set()).update(provider.split(", "))
        return {name: ", ".join(sorted(providers)) for name, providers in found.items()}

    @property
    def ranks(self) -> dict[str, Ranks]:
        """The networks that are divided over devices; of several Tritons the one with the fewest healthy ranks."""
        found: dict[str, Ranks] = {}
        for monitor in self._monitors:
            for name, ranks in monitor.ranks.items():
                found[name] = min(found.get(name, ranks), ranks, key=lambda one: one.healthy)
        return found

    @property
    def known(self) -> Mapping[str, State]:
        return self.states

    @property
    def complete(self) -> bool:
        return bool(self._tritons.members) and all(monitor.complete for monitor in self._monitors)

    async def read_metrics(self) -> None:
        """Update `providers` and `ranks` from the metrics of every Triton that answers."""
        await asyncio.gather(*(monitor.read_metrics() for monitor in self._monitors if not monitor.unanswered))

    async def triton_metrics(self) -> str:
        """The metrics of all Tritons, see `joined`; empty while none can be read."""
        members = self._tritons.members
        texts = await asyncio.gather(*(one.monitor.triton_metrics() for one in members))
        return joined({one.address.grpc: text for one, text in zip(members, texts, strict=True)}) if members else ""

    def described(self) -> list[dict[str, Any]]:
        """Each Triton, as `GET /status` tells it."""
        return [
            {
                "address": one.address.grpc,
                "ready": one.monitor.ready,
                "reason": one.monitor.reason,
                "active_calls": one.running,
                "families": {name: state.described() for name, state in one.monitor.states.items()},
            }
            for one in self._tritons.members
        ]

    @property
    def _monitors(self) -> Iterable[Monitor]:
        return [one.monitor for one in self._tritons.members]

    @property
    def _reason(self) -> str:
        reasons = [monitor.reason for monitor in self._monitors]
        return " ".join(dict.fromkeys(reasons)) or "No inference server is found."

    @property
    def _unknown(self) -> int:
        return min((monitor.retry_after for monitor in self._monitors), default=LATE_SECONDS)


def _order(state: State) -> tuple[bool, float]:
    return (True, float(state.retry_after)) if state.ready_since is None else (False, state.ready_since)
