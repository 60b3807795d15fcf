"""Two proxies and two Tritons behind nginx, with PostgreSQL: whatever dies, every accepted task completes once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.processes import Server
from benchmarks.tritons import RunningProxy, RunningTriton, running_proxy, running_triton
from tests.load import Load
from tests.nginx import nginx_program, running_nginx
from tests.postgres import running_postgres
from tests.service import link_models
from tests.waiting import until

MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
TASKS, STEPS = 24, 150
"""So much that there is work left when something is killed."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    url: str
    proxies: list[RunningProxy]
    tritons: list[RunningTriton]

    def wait_whole(self) -> None:
        """Until each proxy has both Tritons."""
        until(lambda: all(self._sees_both(one) for one in self.proxies), 180)

    def _sees_both(self, proxy: RunningProxy) -> bool:
        with contextlib.suppress(httpx.HTTPError):  # it is being started again
            return all(one["ready"] for one in proxy.tritons().values())
        return False


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    repository = link_models(tmp_path / "repository", *MODELS)
    settings: dict[str, object] = {"model_repository": repository, "canary_interval": 3600}
    with running_postgres() as database, contextlib.ExitStack() as stack:
        tritons = [stack.enter_context(running_triton(tmp_path / f"triton-{name}", **settings)) for name in "ab"]
        shared = {"database_url": database.url, "data_dir": tmp_path / "data", "forwarded_allow_ips": "127.0.0.1"}
        proxies = [
            stack.enter_context(running_proxy(tmp_path / f"proxy-{name}", tritons, **settings, **shared))
            for name in "ab"
        ]
        ports = [int(one.url.rpartition(":")[2]) for one in proxies]
        program = nginx_program(tmp_path)
        url = stack.enter_context(running_nginx(program, tmp_path, "several-servers.conf", ports))
        made = Cluster(url=url, proxies=proxies, tritons=tritons)
        made.wait_whole()
        yield made


def kill(server: Server, words: str) -> None:
    """Kill the process of that command line, and not its supervisor."""
    next(one for one in server.find(words) if one.pid != server.process.pid).kill()


def kill_all(server: Server) -> None:
    """As when a machine is switched off."""
    processes = server.tree()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.process.wait()
    psutil.wait_procs(processes, timeout=20)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_no_task_is_lost_whatever_dies(cluster: Cluster) -> None:
    """Each of the four in turn, under load; then one proxy and one Triton for good."""
    pictures = dict[int, Any]()
    victims = [(one, "-m proxy") for one in cluster.proxies] + [(one, "bin/tritonserver") for one in cluster.tritons]
    for victim, words in victims:
        load = Load(cluster.url, steps=STEPS, pictures=pictures)
        load.submit(TASKS)
        load.wait_for_work(0)
        load.require_unfinished()
        kill(victim, words)
        load.check(600)
        cluster.wait_whole()
    load = Load(cluster.url, steps=STEPS, pictures=pictures)
    load.submit(TASKS)
    load.wait_for_work(0)
    load.require_unfinished()
    kill_all(cluster.proxies[0])
    kill_all(cluster.tritons[1])
    load.check(600)
