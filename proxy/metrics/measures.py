"""The counters and histograms of one proxy. Each proxy has its own; Prometheus tells them apart by `instance`.

Labels have few values: never an id, a prompt, an address, or a path as it was sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from darkroom import __version__
from proxy.metrics.collector import StateCollector

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_WAITS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_WORK = ("operation", "model")


class Measures:
    """The registry of one app, and what the layers tell it.

    :ivar state: what is looked at when the metrics are read.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.state = StateCollector()
        registry.register(self.state)
        ProcessCollector(registry=registry)
        info = Gauge("darkroom_info", "1, with the version of Darkroom", ["version"], registry=registry)
        info.labels(version=__version__).set(1)
        self._http = Counter(
            "darkroom_http_requests",
            "Answered HTTP requests",
            ["surface", "method", "route", "status"],
            registry=registry,
        )
        self._requests = Counter(
            "darkroom_requests",
            "Requests for work: done, accepted (as a task), or the code of the error",
            ["surface", *_WORK, "outcome"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "darkroom_request_seconds",
            "Seconds from a direct request to the end of its answer, of those that were done",
            ["surface", *_WORK],
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "darkroom_queue_wait_seconds",
            "Seconds that direct requests (kind direct) and tasks (kind task) waited for a slot",
            ["kind"],
            buckets=_WAITS,
            registry=registry,
        )
        self._first_preview = Histogram(
            "darkroom_first_preview_seconds",
            "Seconds from a request, or the acceptance of a task, to its first preview",
            _WORK,
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter("darkroom_images", "Images that were made", _WORK, registry=registry)
        self._tasks_ended = Counter(
            "darkroom_tasks_ended",
            "Tasks that this proxy has run to their end: completed, or the code of the error",
            ["operation", "outcome"],
            registry=registry,
        )
        self._task_seconds = Histogram(
            "darkroom_task_seconds",
            "Seconds from the acceptance of a task to its end, of completed ones",
            ["operation"],
            buckets=_WAITS,
            registry=registry,
        )
        self._decisions = Counter(
            "darkroom_policy_decisions",
            "Judged requests: passed, changed or refused, and the rule that decided",
            ["operation", "decision", "rule"],
            registry=registry,
        )
        self._loads = Counter(
            "darkroom_model_loads", "How often a family was loaded for a request", ["family"], registry=registry
        )
        self._unloads = Counter(
            "darkroom_model_unloads", "How often a family was unloaded for others", ["family"], registry=registry
        )
        self._load_seconds = Histogram(
            "darkroom_model_load_seconds",
            "Seconds from the decision to load a family to its first answer, unloading of others included",
            ["family"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._training_steps = Counter("darkroom_training_steps", "Steps of trainings", registry=registry)
        self._training_loss = Gauge(
            "darkroom_training_loss", "Loss of the last step of the training that spoke last", registry=registry
        )

    def answered(self, *, surface: str, method: str, route: str, status: int) -> None:
        """Count an HTTP request; `route` is the template of the path."""
        self._http.labels(surface=surface, method=method, route=route, status=str(status)).inc()

    def worked(self, *, surface: str, operation: str, model: str, outcome: str, seconds: float) -> None:
        """Count a request for work that has ended."""
        self._requests.labels(surface=surface, operation=operation, model=model, outcome=outcome).inc()
        if outcome == "done":
            self._request_seconds.labels(surface=surface, operation=operation, model=model).observe(seconds)

    def waited(self, kind: str, seconds: float) -> None:
        """Note how long a direct request ("direct") or a task ("task") has waited for its slot."""
        self._queue_wait.labels(kind=kind).observe(seconds)

    def previewed(self, *, operation: str, model: str, seconds: float) -> None:
        """Note the first preview of a request."""
        self._first_preview.labels(operation=operation, model=model).observe(seconds)

    def made(self, operation: str, model: str, images: int) -> None:
        """Count images."""
        self._images.labels(operation=operation, model=model).inc(images)

    def task_ended(self, operation: str, outcome: str, seconds: float) -> None:
        """Count a task that this proxy has run; `seconds` since it was accepted."""
        self._tasks_ended.labels(operation=operation, outcome=outcome).inc()
        if outcome == "completed":
            self._task_seconds.labels(operation=operation).observe(seconds)

    def decided(self, operation: str, *, refused: bool, rules: Iterable[str]) -> None:
        """Count a decision of the policy, by each rule that acted; of a refusal by the one that refused."""
        acted = list(rules)
        if refused:
            acted = acted[-1:]
        decision = "refused" if refused else "changed" if acted else "passed"
        for rule in acted or [""]:
            self._decisions.labels(operation=operation, decision=decision, rule=rule).inc()

    def loaded(self, family: str, seconds: float) -> None:
        """Note that a family was loaded for a request."""
        self._loads.labels(family=family).inc()
        self._load_seconds.labels(family=family).observe(seconds)

    def unloaded(self, family: str) -> None:
        """Count a family that was unloaded because others need its memory."""
        self._unloads.labels(family=family).inc()

    def trained(self, steps: int, loss: float | None) -> None:
        """Note steps of a training, and the loss of the last one."""
        self._training_steps.inc(steps)
        if loss is not None:
            self._training_loss.set(loss)
