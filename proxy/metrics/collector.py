"""The state of the service at the moment when its metrics are read, as families of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.gate import Gate
from proxy.tasks.models import STATES


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known at one moment.

    :param tasks: the number of tasks in each state; None while their database is unavailable.
    :param restarts: by kind and by model, see `darkroom.restarts`; empty without a supervisor.
    :param memory: bytes (used, total) of each device.
    :param loaded: bytes of each family, 0 where it is unloaded; empty without DEVICE_MEMORY_GB.
    """

    gates: Mapping[str, Gate]
    direct: int
    draining: bool
    tasks: Mapping[str, int] | None
    ready: Mapping[str, bool]
    restarts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    memory: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    triton: bool = False
    loaded: Mapping[str, int] = field(default_factory=dict)
    policy_problems: int = 0


class StateCollector(Collector):
    """Gives the registry the last state."""

    def __init__(self) -> None:
        self.state: State | None = None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        state = self.state
        if state is None:
            return
        yield from _queues(state)
        yield from _readiness(state)
        yield from _restart_counts(state)
        memory = _gauge("darkroom_device_memory_bytes", "Memory of devices, of all processes", "device", "kind")
        for device, sizes in state.memory.items():
            for kind, size in zip(("used", "total"), sizes, strict=True):
                memory.add_metric([device, kind], size)
        yield memory
        loaded = _gauge(
            "darkroom_loaded_bytes", "What a family takes of DEVICE_MEMORY_GB, 0 while it is unloaded", "family"
        )
        for family, taken in state.loaded.items():
            loaded.add_metric([family], taken)
        yield loaded


def _queues(state: State) -> Iterator[Metric]:
    queue = _gauge("darkroom_queue_length", "Direct requests of this proxy, and tasks of all, that wait", "kind")
    queue.add_metric(["direct"], state.direct)
    if state.tasks is not None:
        queue.add_metric(["task"], state.tasks.get("queued", 0))
    yield queue
    running = _gauge("darkroom_running", "Requests and tasks that hold a slot of this proxy", "lane")
    slots = _gauge("darkroom_slots", "Slots of this proxy", "lane")
    for lane, gate in state.gates.items():
        running.add_metric([lane], gate.active)
        slots.add_metric([lane], gate.capacity)
    yield running
    yield slots
    tasks = _gauge("darkroom_tasks", "Stored tasks, the same number at all proxies of a database", "state")
    if state.tasks is not None:
        for name in STATES:
            tasks.add_metric([name], state.tasks.get(name, 0))
    yield tasks
    yield _one("darkroom_tasks_readable", "1 while the database of tasks answers", state.tasks is not None)


def _readiness(state: State) -> Iterator[Metric]:
    ready = _gauge("darkroom_ready", "1 while the models of a family answer", "family")
    for family, works in state.ready.items():
        ready.add_metric([family], works)
    yield ready
    yield _one("darkroom_draining", "1 while the proxy takes no new work", state.draining)
    yield _one("darkroom_triton_metrics_up", "1 if Triton's metrics could be read", state.triton)
    text = "Problems of the policy's file as it is now; above 0 the policy before is used"
    yield _one("darkroom_policy_problems", text, state.policy_problems)


def _restart_counts(state: State) -> Iterator[Metric]:
    restarts = CounterMetricFamily(
        "darkroom_restarts", "What was restarted since `darkroom serve` was started", labels=["kind"]
    )
    for kind, count in state.restarts.get("kinds", {}).items():
        restarts.add_metric([kind], count)
    yield restarts
    reloads = CounterMetricFamily("darkroom_model_reloads", "Models that were loaded again alone", labels=["model"])
    for model, count in state.restarts.get("models", {}).items():
        reloads.add_metric([model], count)
    yield reloads


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
