"""Tasks survive: whatever dies by SIGKILL, every accepted task completes once, its pictures whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from darkroom_client import Client

from benchmarks.processes import free_port
from proxy.tasks.heartbeat import LOST_SECONDS
from tests.load import TINY, Load
from tests.postgres import running_postgres
from tests.service import ROOT, RunningService, link_models, running_service

MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
ROUNDS = 20
TASKS = 30


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text to image alone, so that a start takes less time."""
    return link_models(tmp_path_factory.mktemp("repository"), *MODELS)


def proxy_of(service: RunningService) -> psutil.Process:
    return next(p for p in service.find("-m proxy") if p.pid != service.process.pid)


def kill_proxy(service: RunningService) -> None:
    proxy_of(service).kill()


def kill_triton(service: RunningService) -> None:
    service.find("bin/tritonserver")[0].kill()


def kill_pipeline_stub(service: RunningService) -> None:
    next(p for p in service.find("/sd15/") if "stub" in p.name()).kill()


def kill_network_stub(service: RunningService) -> None:
    next(p for p in service.find("/sd15_unet/") if "stub" in p.name()).kill()


def kill_proxy_and_triton(service: RunningService) -> None:
    for process in (proxy_of(service), service.find("bin/tritonserver")[0]):
        process.kill()


KILLS = [kill_proxy, kill_triton, kill_pipeline_stub, kill_network_stub, kill_proxy_and_triton]


def kill_all(service: RunningService) -> None:
    """As when the power goes."""
    processes = service.tree()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    service.process.wait()
    psutil.wait_procs(processes, timeout=20)


@contextlib.contextmanager
def tasks_service(folder: Path, repository: Path, **settings: object) -> Iterator[RunningService]:
    defaults = {"canary_interval": 3600, "max_concurrent_tasks": 3}
    with running_service(folder, model_repository=repository, **(defaults | settings)) as running:
        yield running


def test_killed_proxy_and_killed_triton_lose_no_task(tmp_path: Path, repository: Path) -> None:
    """The short form: one kill of each with a few tasks, then of all together. A client that watches sees no more of
    it than that it takes longer."""
    with tasks_service(tmp_path, repository) as service, Client(service.url) as client:
        load, watched = Load(service.url, steps=60), list[str]()
        for kill in (kill_proxy, kill_triton):
            load.submit(8)
            last = load.ids[-1]
            watcher = threading.Thread(target=lambda id=last: watched.append(client.watch(id).state))
            watcher.start()
            load.wait_for_work(len(load.ids) - 7)
            kill(service)
            load.check()
            watcher.join(30)
        assert watched == ["completed"] * 2
        load.submit(4)
        load.wait_for_work(len(load.ids) - 4)
        kill_all(service)
    with tasks_service(tmp_path, repository) as service:
        load.url = service.url
        load.check()


@pytest.mark.heavy
def test_waiting_tasks_are_done_after_the_next_start(tmp_path: Path, repository: Path) -> None:
    """And what runs is finished first; meanwhile new work is refused, and what there is can be looked at."""
    with tasks_service(tmp_path, repository, max_concurrent_tasks=1) as service:
        load = Load(service.url, steps=150)
        load.submit(4)
        load.wait_for_work(0)
        service.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=service.url, timeout=30) as http:
            while (refused := http.post("/tasks", json=TINY)).status_code == 202:
                load.ids.append(refused.json()["task_id"])
                time.sleep(0.01)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert list(load.states().values()).count("queued") >= 3
        assert service.process.wait(60) == 0
        assert "drained" in (tmp_path / "logs" / "proxy.log").read_text()
    with tasks_service(tmp_path, repository) as service, httpx.Client(base_url=service.url, timeout=30) as http:
        load.url = service.url
        assert load.states().keys() == set(load.ids)
        load.wait_completed(120)
        assert [http.get(f"/tasks/{id}").json()["attempts"] for id in load.ids] == [1] * len(load.ids)


@pytest.mark.heavy
def test_two_proxies_on_one_sqlite_file_are_refused(tmp_path: Path, repository: Path) -> None:
    """Both would run every task."""
    with tasks_service(tmp_path, repository) as service:
        env = os.environ | {"DATA_DIR": str(tmp_path / "state" / "data"), "LOG_DIR": str(tmp_path / "other")}
        env |= {"PORT": str(free_port()), "HOST": "127.0.0.1", "MODEL_REPOSITORY": str(repository)}
        second = subprocess.run(
            [sys.executable, "-m", "proxy"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode != 0
        assert "another proxy uses" in second.stdout + second.stderr
        assert service.health() is not None


@contextlib.contextmanager
def second_proxy(service: RunningService, folder: Path, repository: Path, url: str) -> Iterator[tuple[str, int]]:
    """One more proxy in front of the service's Triton and database; its address and its process id."""
    port, host_port = free_port(), service.grpc.rsplit(":", 1)[1]
    env = os.environ | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "TRITON_GRPC_PORT": host_port,
        "TRITON_METRICS_PORT": service.metrics.rsplit(":", 1)[1].partition("/")[0],
        "MODEL_REPOSITORY": str(repository),
        "DATABASE_URL": url,
        "DATA_DIR": str(service.folder / "state" / "data"),
        "LOG_DIR": str(folder / "second"),
        "MAX_CONCURRENT_TASKS": "3",
        "CANARY_INTERVAL": "3600",
    }
    with (folder / "second.log").open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "proxy"], cwd=ROOT, env=env, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_answer(address, process, 200)
        yield address, process.pid
    finally:
        process.kill()
        process.wait()


def wait_for_answer(address: str, process: subprocess.Popen[bytes], code: int) -> None:
    """Until /health answers with that code."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=5).status_code == code:
                return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_until_all_work(load: Load, *addresses: str) -> None:
    """Each of the proxies runs a task."""

    def work(_: dict[str, str]) -> bool:
        return all(httpx.get(f"{address}/health").json()["active_tasks"] for address in addresses)

    load.wait(work, 60)


@pytest.mark.heavy
def test_proxy_takes_tasks_over_from_a_dead_one(tmp_path: Path, repository: Path) -> None:
    """On PostgreSQL. The dead one does not come back; what it ran and what waited is done by the other."""
    with (
        running_postgres() as database,
        tasks_service(tmp_path, repository, database_url=database.url) as service,
        second_proxy(service, tmp_path, repository, database.url) as (address, pid),
    ):
        load = Load(service.url, steps=60)
        load.submit(12)
        wait_until_all_work(load, service.url, address)
        os.kill(pid, signal.SIGKILL)
        load.check()
        assert "took over" in service.log()


@pytest.mark.heavy
def test_database_that_is_unavailable_for_a_while_restarts_no_task(tmp_path: Path, repository: Path) -> None:
    """Longer than a proxy may be silent: which of two is back first must not take the other's tasks for left behind."""
    with (
        running_postgres() as database,
        tasks_service(tmp_path, repository, database_url=database.url) as service,
        second_proxy(service, tmp_path, repository, database.url) as (address, _),
    ):
        load = Load(service.url, steps=150, fields={**TINY, "width": 256, "height": 256})
        load.submit(8)
        wait_until_all_work(load, service.url, address)
        database.stop()
        time.sleep(1.5 * LOST_SECONDS)
        database.start()
        load.wait_completed(600)
        with httpx.Client(base_url=service.url, timeout=30) as http:
            assert [http.get(f"/tasks/{id}").json()["attempts"] for id in load.ids] == [1] * len(load.ids)
        assert "took over" not in service.log() + (tmp_path / "second.log").read_text()


def test_proxy_ends_while_its_database_is_unavailable(tmp_path: Path) -> None:
    """DBOS asks again and again, in threads that no exit may wait for."""
    port = free_port()
    env = {"HOST": "127.0.0.1", "PORT": str(port), "TRITON_GRPC_PORT": str(free_port()), "LOG_DIR": str(tmp_path)}
    with running_postgres() as database:
        env |= {"DATABASE_URL": database.url, "DATA_DIR": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-m", "proxy"], cwd=ROOT, env=os.environ | env)
        try:
            wait_for_answer(f"http://127.0.0.1:{port}", process, 503)  # there is no Triton
            time.sleep(3)  # by now it looks every two seconds for proxies that are gone
            database.stop()
            time.sleep(5)
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            database.start()


@pytest.mark.heavy
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kill", KILLS)
def test_tasks_survive_twenty_kills(
    tmp_path: Path, repository: Path, database: dict[str, object], kill: Callable[[RunningService], None]
) -> None:
    """Each time with 30 tasks, at a moment of chance."""
    chance, pictures = random.Random(0), dict[int, Any]()
    with tasks_service(tmp_path, repository, **database) as service:
        for _ in range(ROUNDS):
            load = Load(service.url, pictures=pictures)
            before = set(load.states())
            load.submit(TASKS)
            load.wait_for_work(0)
            time.sleep(chance.uniform(0, 3))
            service.wait_healthy(120)
            load.require_unfinished()
            kill(service)
            load.wait_completed(600)
            assert set(load.states()) - before == set(load.ids), "the newest page holds all of a round"
            service.wait_healthy(120)
            load.check_pictures()


@pytest.mark.heavy
@pytest.mark.timeout(7200)
def test_tasks_survive_twenty_power_cuts(tmp_path: Path, repository: Path, database: dict[str, object]) -> None:
    """All processes at once; the database server lives on, as on another machine."""
    chance, pictures = random.Random(1), dict[int, Any]()
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        state = {"data_dir": tmp_path / "data", **database}
        with tasks_service(folder, repository, **state) as service:
            load = Load(service.url, pictures=pictures)
            load.submit(TASKS)
            time.sleep(chance.uniform(0, 3))
            load.require_unfinished()
            kill_all(service)
        with tasks_service(folder, repository, **state) as service:
            load.url = service.url
            load.wait_completed(600)
            load.check_pictures()


@pytest.mark.heavy
@pytest.mark.timeout(7200)
def test_tasks_survive_twenty_deaths_of_one_of_two_proxies(tmp_path: Path, repository: Path) -> None:
    chance, pictures = random.Random(2), dict[int, Any]()
    with (
        running_postgres() as database,
        tasks_service(tmp_path, repository, database_url=database.url) as service,
    ):
        for _ in range(ROUNDS):
            with second_proxy(service, tmp_path, repository, database.url) as (_, pid):
                load = Load(service.url, pictures=pictures)
                load.submit(TASKS)
                time.sleep(chance.uniform(0, 3))
                load.require_unfinished()
                os.kill(pid, signal.SIGKILL)
                load.wait_completed(600)
                load.check_pictures()
