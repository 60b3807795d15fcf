"""Gauges of a model on Triton's metrics endpoint. Runs inside Triton's Python stub only."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from darkroom.serving.host import Gauge


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
