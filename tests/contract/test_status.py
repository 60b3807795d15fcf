"""`GET /status`: contract A, and what it tells while there is work."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pynvml

from darkroom.registry import families
from tests.contract.generating import QUICK
from tests.contract.states import state, wait_for
from tests.service import RunningService


def _gpus() -> int:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def test_fields_of_the_contract(http: httpx.Client) -> None:
    body = http.get("/status").json()
    assert body["active_workers"] == body["max_concurrent_tasks"] == 8
    assert [body[name] for name in ("task_queue_size", "result_queue_size", "pending_tasks")] == [0, 0, 0]
    assert body["total_gpus"] == len(body["gpu_info"]) == _gpus()
    assert [gpu["gpu_id"] for gpu in body["gpu_info"]] == list(range(body["total_gpus"]))
    for gpu in body["gpu_info"]:
        assert gpu["name"]
        assert 0 <= gpu["memory_allocated"] <= gpu["memory_reserved"] <= gpu["memory_total"]


def test_models_and_what_they_run_on(http: httpx.Client) -> None:
    body = http.get("/status").json()
    no_networks = {spec.name for family in families().values() for spec in family.specs if not spec.is_network}
    for name, model in body["models"].items():
        assert model["loaded"], name
        assert (model["provider"] is None) == (name in no_networks)
    assert body["generate"]["controls"] == ["canny"]
    assert "dpmpp_2m_karras" in body["generate"]["schedulers"]
    assert body["generate"]["limits"]["max_steps"] == 150
    made = http.post("/generate", json=QUICK).json()["parameters"]
    checkpoint: dict[str, Any] = body["generate"]["checkpoint"]
    assert (checkpoint["name"], checkpoint["hash"]) == (made["model"], made["model_hash"])


def test_tasks_are_counted(service: RunningService) -> None:
    url, fields = f"{service.url}/generate", {**QUICK, "steps": 20, "width": 256, "height": 256}
    before = state(service)
    workers = [threading.Thread(target=httpx.post, args=(url,), kwargs={"json": fields, "timeout": 300}) for _ in "ab"]
    for worker in workers:
        worker.start()
    wait_for(lambda: state(service)["active_tasks"] == 2)
    assert state(service)["pending_tasks"] == 2
    for worker in workers:
        worker.join()
    after = state(service)
    assert (after["pending_tasks"], after["active_tasks"]) == (0, 0)
    assert after["finished_tasks"] - before["finished_tasks"] == 2
    assert after["uptime_seconds"] > before["uptime_seconds"]
