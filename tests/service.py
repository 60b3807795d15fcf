"""The whole service and the proxy alone as test subjects, with their processes in reach."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.processes import Server, started
from benchmarks.service import RunningService, link_models, running_service, server_settings

__all__ = [
    "ROOT",
    "RunningService",
    "Server",
    "before_triton_is_up",
    "link_models",
    "running_proxy",
    "running_service",
    "server_settings",
]


@contextlib.contextmanager
def before_triton_is_up(service: RunningService) -> Iterator[None]:
    """Suspend Triton while it starts and the proxy already answers; resume it at the end."""
    while not (triton := service.find("bin/tritonserver")):
        assert service.process.poll() is None
        time.sleep(0.02)
    triton[0].suspend()
    try:
        deadline = time.monotonic() + 120
        while service.health() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        triton[0].resume()


@contextlib.contextmanager
def running_proxy(folder: Path, **settings: object) -> Iterator[Server]:
    """Start `python -m proxy` without Triton, which is enough for HTTP; stop it at the end.

    :param settings: environment variables by their names in lower case.
    """
    used = server_settings(folder) | settings
    with started([sys.executable, "-m", "proxy"], folder, settings=used) as process:
        proxy = Server(process=process, url=f"http://127.0.0.1:{used['port']}", folder=folder)
        proxy.wait_for_log("Uvicorn running")
        yield proxy
