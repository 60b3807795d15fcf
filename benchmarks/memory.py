"""The largest memory of the whole service while it makes a large image."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.local import Local, as_pixels, as_png, photo
from benchmarks.results import Finding, Section, Table
from benchmarks.service import RunningService

MODEL = "animevideov3"
TARGET_GB = 3.0
_EVERY_SECONDS = 0.1


def run(context: Context) -> Section:
    """One 2048x2048 photo to 8192x8192 on a fresh service: what older requests left behind is not counted."""
    title = "Memory for one 2048x2048 photo to 8192x8192"
    if context.quick:
        return Section(name="memory", title=title, missing="only a full run makes the large picture.")
    context.stage("making a 2048x2048 photo")
    data = as_png(as_pixels(Local(MODEL).upscale(photo())))
    context.stop_servers()
    service = context.service
    idle = service.memory()
    context.stage("2048x2048 to 8192x8192")
    began = time.perf_counter()
    with Rest(service) as rest, Peak(service) as peak:
        result = rest.upscale(data, MODEL)
    seconds = time.perf_counter() - began
    total = sum(peak.memory.values())
    rows = [(name, idle.get(name, 0) / 1e6, size / 1e6) for name, size in sorted(peak.memory.items())]
    rows.append(("all", sum(idle.values()) / 1e6, total / 1e6))
    table = Table(
        title=f"{MODEL} x4, {seconds:.1f} s, {len(result) / 1e6:.1f} MB of PNG; {peak.samples} samples",
        columns=("process", "idle MB", "MB at the peak of all"),
        rows=tuple(rows),
        note="PSS: pages that several processes share are shared out among them, so the sum counts them once.",
    )
    finding = Finding(name=f"peak memory ({MODEL}, 8192x8192)", value=total / 1e9, unit="GB", target=TARGET_GB)
    return Section(name="memory", title=title, findings=(finding,), tables=(table,))


class Peak:
    """Samples the memory of a service ten times a second, in a thread, and keeps the largest sample.

    :raises BenchmarkError: on leaving, when there was no sample.
    """

    def __init__(self, service: RunningService) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.memory: dict[str, int] = {}
        self.samples = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None and not self.samples:
            raise BenchmarkError("the memory of the service could not be read.")

    def _sample(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            now = self._service.memory()
            self.samples += 1
            if sum(now.values()) > sum(self.memory.values()):
                self.memory = now
