"""Starts that fail for no fault of the repository: a model that stops loading, a server that ends or hangs."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.service import ROOT, RunningService, link_models, running_service
from tests.waiting import until

NETWORK = "realesrgan_animevideov3_x2"
IDLE = 5
READY_WITHIN = 180.0
HANGS_ONCE = """
import pathlib, time
first = pathlib.Path({first!r})
if not first.exists():
    first.touch()
    time.sleep(3600)
"""
WAITS = """
import pathlib, time
pathlib.Path({begun!r}).touch()
while not pathlib.Path({go_on!r}).exists():
    time.sleep(0.05)
"""


def repository_with(tmp_path: Path, code: str) -> Path:
    """A repository for upscaling, whose pipeline runs some code when it is loaded."""
    made = link_models(tmp_path / "repository", NETWORK)
    shutil.copytree(ROOT / "model_repository" / "upscale", made / "upscale")
    model = made / "upscale" / "1" / "model.py"
    model.write_text(model.read_text().replace("from __future__ import annotations\n", "") + code)
    return made


def server_of(service: RunningService, *, not_pid: int = 0) -> psutil.Process:
    """The tritonserver, once there is one, with another process id than one that has ended."""
    found = until(lambda: [p for p in service.find("bin/tritonserver") if p.pid != not_pid])
    assert isinstance(found[0], psutil.Process)
    return found[0]


def stub_of_pipeline(service: RunningService) -> psutil.Process:
    return next(process for process in service.find("/upscale/") if "stub" in process.name())


def test_model_that_hangs_while_it_loads_is_loaded_again(tmp_path: Path) -> None:
    """Alone or with a restart of Triton: which it takes depends on what its process was started for."""
    repository = repository_with(tmp_path, HANGS_ONCE.format(first=str(tmp_path / "first")))
    with running_service(tmp_path, wait=False, model_repository=repository, load_idle_timeout=IDLE) as service:
        service.wait_for_log("upscale stopped loading", timeout=READY_WITHIN)
        service.wait_for_log("Darkroom is ready", timeout=READY_WITHIN)


def test_model_whose_process_did_not_get_the_processor_is_loaded_again(tmp_path: Path) -> None:
    """Triton gives such a process up after a second, and then waits for its end."""
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    repository = repository_with(tmp_path, WAITS.format(begun=str(begun), go_on=str(go_on)))
    with running_service(tmp_path, wait=False, model_repository=repository, load_idle_timeout=IDLE) as service:
        until(begun.exists, READY_WITHIN)
        stub = stub_of_pipeline(service)
        stub.suspend()
        service.wait_for_log("upscale stopped loading", timeout=READY_WITHIN)
        go_on.touch()
        service.wait_for_log("Darkroom is ready", timeout=READY_WITHIN)
        assert not stub.is_running()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_triton_that_dies_while_it_starts_is_started_again(tmp_path: Path, number: signal.Signals) -> None:
    repository = link_models(tmp_path / "repository", NETWORK, "upscale")
    with running_service(tmp_path, wait=False, model_repository=repository) as service:
        server_of(service).send_signal(number)
        service.wait_for_log("starting triton again", timeout=READY_WITHIN)
        service.wait_for_log("Darkroom is ready", timeout=READY_WITHIN)
        assert f"triton ended with code {-number}; restarting it" in service.log()


def test_triton_that_hangs_while_it_starts_is_started_again(tmp_path: Path) -> None:
    repository = link_models(tmp_path / "repository", NETWORK, "upscale")
    with running_service(tmp_path, wait=False, model_repository=repository, load_idle_timeout=IDLE) as service:
        server_of(service).suspend()
        service.wait_for_log(f"triton has done nothing for {IDLE} s while it starts", timeout=READY_WITHIN)
        service.wait_for_log("Darkroom is ready", timeout=READY_WITHIN)


def test_triton_that_dies_at_every_start_ends_the_service(tmp_path: Path) -> None:
    repository = link_models(tmp_path / "repository", NETWORK, "upscale")
    with running_service(tmp_path, wait=False, model_repository=repository) as service:
        killed = 0
        for _ in range(4):
            server = server_of(service, not_pid=killed)
            server.kill()
            killed = server.pid
        assert service.process.wait(READY_WITHIN) == 1
        assert service.log().count("starting triton again") == 3
        assert "Error: Triton did not start, 4 times in a row. The last time: ended with code -9" in service.log()


def test_triton_that_refuses_to_start_ends_the_service_at_once(tmp_path: Path) -> None:
    """Another program takes its port just before it listens."""
    repository = link_models(tmp_path / "repository", NETWORK, "upscale")
    with running_service(tmp_path, wait=False, model_repository=repository) as service, socket.socket() as other:
        server = server_of(service)
        server.suspend()
        host, port = service.grpc.split(":")
        other.bind((host, int(port)))
        other.listen()
        server.resume()
        assert service.process.wait(READY_WITHIN) == 1
        assert "Error: Triton ended while it started: " in service.log()
        assert f"{port}' already in use" in service.log()
        assert "starting triton again" not in service.log()
