"""The whole service on the local engine, with Triton hidden from it: what clients get is the same.

Every file of this folder can be run so: `pytest --engine local tests/contract/test_generate.py`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from darkroom.pipelines.sd15 import networks
from darkroom.serving.lora_layout import LoraLayout
from tests.contract.conftest import SD15
from tests.contract.editing import PHOTO, form
from tests.contract.generating import CONTROL, QUICK, decoded, events_of, first, post
from tests.contract.tasks import finished, submit
from tests.lora_matrices import make_lora, write_diffusers_file
from tests.pictures import encoded, photo, pixels
from tests.service import ROOT, RunningService, link_models, running_service
from tests.waiting import until

HIDE = "import sys\nsys.modules['pytriton'] = None\n"
UPSCALER = "realesrgan_animevideov3_x2"
TEN: dict[str, Any] = {"steps": 10, "scheduler": "euler"}
LONG = {"steps": 100, "width": 128, "height": 128}
ALL_ROWS = 2 * 100
"""Of a long request: each step has a row with the prompt and one without."""


@pytest.fixture(scope="module")
def without_triton(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of programs that find no tritonserver."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE)
    return {"pythonpath": folder, "path": "/usr/bin:/bin", "engine": ""}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, without_triton: dict[str, object]) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("local")
    repository = link_models(folder / "models", *SD15, "sd15_unet_canny", "upscale", UPSCALER)
    with running_service(folder, model_repository=repository, canary_interval=3600, **without_triton) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=300) as client:
        yield client


def rows(service: RunningService) -> int:
    return service.counts("sd15_unet").rows


def farthest(one: bytes, other: bytes) -> int:
    return int(np.abs(pixels(one).astype(int) - pixels(other).astype(int)).max())


def test_local_engine_is_used_where_there_is_no_tritonserver(service: RunningService) -> None:
    assert "the local engine runs the models, because no tritonserver is installed" in service.log()
    assert [process.name() for process in service.tree() if "triton" in process.name()] == []
    assert len(service.find("darkroom.local")) == 1
    assert service.provider("sd15_unet") == "CPUExecutionProvider"


def test_local_engine_does_not_stand_in_for_a_triton_that_was_asked_for(without_triton: dict[str, object]) -> None:
    env = {name.upper(): str(value) for name, value in without_triton.items()}
    command = [sys.executable, "-c", "from supervisor.cli import serve; serve()", "--engine", "triton"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "No tritonserver was found" in done.stderr


def test_local_engine_generates(http: httpx.Client) -> None:
    image = first(post(http))
    assert pixels(image).shape == (64, 64, 3)
    assert first(post(http)) == image
    assert first(post(http, seed=8)) != image


def test_local_engine_streams_progress_and_previews(http: httpx.Client) -> None:
    fields = {**CONTROL, "steps": 4, "preview_every": 2, "scheduler": "euler"}
    events = events_of(http.post("/generate", json=fields, headers={"accept": "text/event-stream"}))
    names = [name for name, _ in events]
    assert names == ["progress", "control", *["progress"] * 2, "preview", *["progress"] * 2, "image", "done"]
    assert pixels(decoded(dict(events)["preview"]["image"])).shape == (8, 8, 3)


def test_local_engine_requests_share_executions(service: RunningService) -> None:
    before = service.counts("sd15_unet")

    async def four() -> list[bytes]:
        async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
            jobs = [client.post("/generate", json={**QUICK, **TEN, "seed": seed}) for seed in range(4)]
            return [first(answer) for answer in await asyncio.gather(*jobs)]

    together = asyncio.run(four())
    ran = service.counts("sd15_unet").since(before)
    assert ran.rows >= 4 * 10 * 2, "each step has a row with the prompt and one without"
    assert ran.executions < ran.rows / 2, "alone, each step of a request would be an execution"
    with httpx.Client(base_url=service.url, timeout=300) as client:
        assert farthest(first(post(client, **TEN, seed=2)), together[2]) <= 2


def test_local_engine_request_stops_when_its_client_leaves(service: RunningService, http: httpx.Client) -> None:
    headers, before = {"accept": "text/event-stream"}, rows(service)
    with http.stream("POST", "/generate", json={**QUICK, **LONG}, headers=headers) as answer:
        next(line for line in answer.iter_lines() if line.startswith("event: progress"))
    assert post(http, **LONG).status_code == 200  # in which time a request that went on would end as well
    assert ALL_ROWS <= rows(service) - before < 1.5 * ALL_ROWS


def test_local_engine_task_completes_and_another_one_is_cancelled(service: RunningService, http: httpx.Client) -> None:
    long, quick = submit(http, **LONG)["task_id"], submit(http)["task_id"]
    assert finished(http, quick)["status"] == "completed"
    assert http.delete(f"/tasks/{long}").json()["status"] == "cancelled"
    before = rows(service)
    assert post(http, **LONG).status_code == 200
    assert ALL_ROWS <= rows(service) - before < 1.5 * ALL_ROWS


def test_local_engine_enlarges(http: httpx.Client) -> None:
    fields = {"model": "animevideov3", "scale": "2"}
    answer = http.post("/api/upscale", files={"file": encoded(photo(0, 0, 96, 64))}, data=fields)
    assert answer.status_code == 200, answer.text
    assert pixels(answer.content).shape == (128, 192, 3)


def test_local_engine_applies_loras(http: httpx.Client, tmp_path: Path) -> None:
    layout = LoraLayout.read(ROOT / "model_repository" / networks.UNET.name / "1")
    assert layout is not None
    layers = make_lora([layout], 4, 0, strength=2.0)["unet"]
    file = write_diffusers_file(layers, layout, tmp_path / "red").read_bytes()
    http.post("/loras", files={"file": ("red.safetensors", file)}).raise_for_status()
    with_it = post(http, prompt="a cat <lora:red:1>")
    assert farthest(first(with_it), first(post(http, prompt="a cat"))) > 20


def test_local_engine_refuses_as_triton_does(http: httpx.Client) -> None:
    answer = post(http, steps=0)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "steps"


def killed(service: RunningService) -> psutil.Process:
    (process,) = service.find("darkroom.local")
    process.kill()
    return process


def test_local_engine_that_is_killed_comes_back_and_its_task_completes(
    service: RunningService, http: httpx.Client
) -> None:
    service.wait_for_log("Darkroom is ready", timeout=120)
    mark = len(service.log())
    id = submit(http, **LONG)["task_id"]
    until(lambda: http.get(f"/tasks/{id}").json()["step"] > 0)
    process = killed(service)
    answers: list[Any] = [until(lambda: answer if (answer := post(http)).status_code == 503 else None)]
    assert int(answers[0].headers["retry-after"]) > 0
    service.wait_for_log("starting local again", after=mark, timeout=120)
    service.wait_for_log("everything is up again", after=mark, timeout=300)
    assert finished(http, id)["status"] == "completed"
    assert [one.pid for one in service.find("darkroom.local")] != [process.pid]
    assert post(http).status_code == 200


def test_local_engine_edits(qwen_edit_repository: Path, tmp_path: Path, without_triton: dict[str, object]) -> None:
    """A service of its own, as the export takes a minute; networks in torch."""
    settings = {"model_repository": qwen_edit_repository, "canary_interval": 3600, **without_triton}
    with running_service(tmp_path, **settings) as running, httpx.Client(base_url=running.url, timeout=300) as http:
        image = first(form("/edit", http, (("image", PHOTO),)))
        assert pixels(image).shape == (80, 96, 3)
        assert first(form("/edit", http, (("image", PHOTO),))) == image
        assert running.provider("qwen_edit_transformer") == "torch cpu"
