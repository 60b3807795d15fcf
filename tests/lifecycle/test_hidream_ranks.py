"""HiDream divided over two ranks in the whole service: its pictures, and a rank that is killed in a request."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from darkroom.parallel.processes import is_alive
from darkroom.pipelines.hidream import networks
from tests.conftest import RunningTriton
from tests.load import Load
from tests.parallel_models import own_temporary_folder, private_folders, wait_gone
from tests.pictures import pixels
from tests.service import RunningService, running_service
from tests.triton.streams import Stream, stubs_of

TRANSFORMER = networks.TRANSFORMER.name
FIELDS = {"prompt": "a cat on a blue background", "seed": np.int64(5), "width": 64, "height": 64}


@contextmanager
def divided_service(folder: Path, repository: Path, **more: object) -> Iterator[RunningService]:
    settings = {"hidream_device_type": "cpu", "hidream_devices": "0,1", "canary_interval": 3600, **more}
    with (
        own_temporary_folder(),
        running_service(folder, wait=False, model_repository=repository, **settings) as running,
    ):
        running.wait_healthy(300)
        yield running


@pytest.fixture
def service(hidream_repository: Path, tmp_path: Path) -> Iterator[RunningService]:
    with divided_service(tmp_path, hidream_repository) as running:
        yield running


def triton_of(service: RunningService) -> RunningTriton:
    (server,) = service.find("bin/tritonserver")
    return RunningTriton(server, service.grpc, service.metrics, service.folder / "logs" / "triton.log")


def ranks_of(service: RunningService) -> list[psutil.Process]:
    return service.find("-m darkroom.parallel.rank ")


def shown(service: RunningService) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{service.url}/status", timeout=60).json()["models"][TRANSFORMER]
    return found


def picture(stream: Stream) -> NDArray[np.int_]:
    return pixels(stream.all()[-1]["image"].tobytes()).astype(int)


def test_a_rank_dies_in_a_request(service: RunningService) -> None:
    assert len(private_folders()) == 1
    triton, ranks = triton_of(service), ranks_of(service)
    assert len(ranks) == 2
    assert len(stubs_of(triton, TRANSFORMER)) == 1
    state = shown(service)
    assert state == {
        "loaded": True,
        "provider": "torch cpu",
        "ranks": {"mode": "distributed", "ranks": 2, "healthy": 2, "tp": 2, "ep": 1, "last_failure": None,
                  "failed_at": None},
    }  # fmt: skip
    divided = picture(Stream(triton, "hidream", **FIELDS, steps=4))

    long = {**FIELDS, "steps": 60}
    stream = Stream(triton, "hidream", **long)
    for _ in range(4):
        stream.next()
    ranks[1].suspend()  # so that a step is surely under way
    ranks[1].kill()
    survived = picture(stream)
    assert not wait_gone(ranks)
    assert not private_folders()

    state = shown(service)
    assert state["loaded"]
    reason = state["ranks"].pop("last_failure")
    # Whichever is noticed first: the end of a process, or the other rank's broken connection to it.
    ended = r"rank [01] \(process \d+\) ended|torchrun ended with code \d+|rank 0 failed: RuntimeError: .*"
    assert re.fullmatch(ended, reason, re.DOTALL)
    since = datetime.now(timezone.utc) - datetime.fromisoformat(state["ranks"].pop("failed_at"))
    assert 0 <= since.total_seconds() < 600
    assert state["ranks"] == {"mode": "single", "ranks": 2, "healthy": 0, "tp": 2, "ep": 1}
    logger = "darkroom.parallel.network"
    began = reason[:30]  # the log escapes what is not ASCII
    assert f"WARNING {logger}: the network goes on with one device: {began}" in service.log()
    assert is_alive(psutil.Process(triton.process.pid)), "nothing was restarted"

    alone = picture(Stream(triton, "hidream", **FIELDS, steps=4))
    assert np.abs(divided - alone).max() <= 2
    assert np.abs(survived - picture(Stream(triton, "hidream", **long))).max() <= 2
    assert np.ptp(alone) > 0


@pytest.mark.heavy
@pytest.mark.timeout(7200)
def test_twenty_killed_ranks_with_thirty_tasks(
    hidream_repository: Path, tmp_path: Path, database: dict[str, object]
) -> None:
    """Ranks do not come back before the next start, so the service is started again each time. Its tasks stay."""
    chance, pictures = random.Random(3), dict[int, Any]()
    fields = {"operation": "hidream", "prompt": "a cat", "width": 64, "height": 64}
    settings = {"data_dir": tmp_path / "data", **database}
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        with divided_service(folder, hidream_repository, **settings) as service:
            load = Load(service.url, steps=4, fields=fields, pictures=pictures)
            load.submit(30)
            load.wait_for_work(0)
            time.sleep(chance.uniform(0, 3))
            load.require_unfinished()
            chance.choice(ranks_of(service)).kill()
            load.wait_completed(600)
            load.check_pictures()
            deadline = time.monotonic() + 60
            while shown(service)["ranks"]["mode"] != "single":  # it may have died between two calls
                assert time.monotonic() < deadline
                time.sleep(0.2)
