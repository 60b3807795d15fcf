"""Gauges and measurements of a model on Triton's metrics endpoint. Runs inside Triton's Python stub only."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from darkroom.serving.host import Gauge
from darkroom.serving.measures import RECORDER, Measure, Recorder

_SECONDS = 2.0
"""How often measurements are published. Each is a message to the server, so they are not sent while a call waits."""
_SETTING = "METRICS"


class Gauges:
    """The gauges of one model instance. Thread safe.

    :param labels: labels of every gauge, unique for each instance. Series with equal labels are one gauge, which is
        removed with its first owner: the end of one instance, for example the old one of a reload, would remove the
        gauges of the other.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._lock = threading.Lock()
        self._families: dict[str, Any] = {}
        self._shown: dict[str, tuple[dict[str, str], Any]] = {}

    def show(self, gauge: Gauge) -> None:
        """Set a gauge, and remove its earlier series with other labels."""
        name = gauge.name
        with self._lock:
            if name not in self._families:
                kind = pb_utils.MetricFamily.GAUGE
                self._families[name] = pb_utils.MetricFamily(name=name, description=gauge.help, kind=kind)
            wanted = {**self._labels, **gauge.labels}
            before, metric = self._shown.get(name, ({}, None))
            if before != wanted:
                metric = self._families[name].Metric(labels=wanted)
                self._shown[name] = wanted, metric
            metric.set(gauge.value)

    def close(self) -> None:
        """Remove the gauges, each before its family."""
        with self._lock:
            self._shown.clear()
            self._families.clear()


class Publisher:
    """Publishes what this process measures, and gauges that change, on a thread of its own.

    :param labels: of every series; see `Gauges`.
    :param gauges: returns the present gauges; called on the thread.
    """

    def __init__(
        self, labels: Mapping[str, str], gauges: Callable[[], Iterable[Gauge]] = tuple, recorder: Recorder = RECORDER
    ) -> None:
        self._labels = dict(labels)
        self._recorder = recorder
        self._read_gauges = gauges
        self._gauges = Gauges(labels)
        self._families: dict[Measure, Any] = {}
        self._series: dict[Any, Any] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin, unless METRICS is false. The thread starts with the first measurement: while a model is loading, no
        other thread of its process sends messages to the server."""
        self._publish_gauges()
        if os.environ.get(_SETTING, "true").lower() not in ("false", "0", "no", "off"):
            self._recorder.start(self._thread.start)

    def close(self) -> None:
        """Stop, and remove the series, each before its family."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._recorder.stop()
        self._series.clear()
        self._families.clear()
        self._gauges.close()

    def _run(self) -> None:
        while not self._stopping.wait(_SECONDS):
            try:
                self.publish()
            except Exception as error:  # the model works without its metrics
                pb_utils.Logger.log_warn(f"metrics cannot be published: {error}")

    def publish(self) -> None:
        """Publish what was measured since the last time."""
        counts, observed = self._recorder.take()
        if not counts and not observed:
            return
        for series, times in counts.items():
            self._metric(series).increment(times)
        for series, values in observed.items():
            metric = self._metric(series)
            for value in values:
                metric.observe(value)
        self._publish_gauges()

    def _publish_gauges(self) -> None:
        for gauge in self._read_gauges():
            self._gauges.show(gauge)

    def _metric(self, series: Any) -> Any:
        if series not in self._series:
            measure, labels = series
            kind = pb_utils.MetricFamily.HISTOGRAM if measure.buckets else pb_utils.MetricFamily.COUNTER
            if measure not in self._families:
                self._families[measure] = pb_utils.MetricFamily(name=measure.name, description=measure.help, kind=kind)
            wanted = {**self._labels, **dict(labels)}
            family = self._families[measure]
            buckets = {"buckets": list(map(float, measure.buckets))} if measure.buckets else {}
            self._series[series] = family.Metric(labels=wanted, **buckets)
        return self._series[series]
