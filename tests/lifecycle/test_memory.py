"""A service whose budget of memory holds one of two families, on the real Triton."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from darkroom.memory.sizes import GIGABYTE, memory_folder, read_sizes
from darkroom.settings import Settings
from tests.service import ROOT, RunningService, link_models, running_service
from tests.waiting import until

LOCAL = os.environ.get("ENGINE") == "local"
BUDGET_GB = 0.09 if LOCAL else 0.75
"""It holds one of the two. All models of the local engine share a process, which does not count."""
FIRST = ("sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "sd15")
SECOND = ("sdxl_text_encoder", "sdxl_text_encoder_2", "sdxl_unet", "sdxl_vae_decoder", "sdxl")
HUGE = tuple(f"{model}.huge" for model in FIRST)
UNITS = {"sd15": FIRST, "sdxl": SECOND, "sd15.huge": HUGE}
SECONDS = 300.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("memory")
    repository = link_models(folder / "repository", *FIRST, *SECOND)
    for model in FIRST:
        _labelled(repository, model)
    with running_service(folder, model_repository=repository, device_memory_gb=BUDGET_GB) as running:
        running.wait_for_log("Darkroom is ready", timeout=60)
        yield running


def _labelled(repository: Path, model: str) -> None:
    """The same model under a label; its network has a file of 2 GB, which takes no room on the disk."""
    version = repository / f"{model}.huge" / "1"
    version.mkdir(parents=True)
    for path in (ROOT / "model_repository" / model / "1").iterdir():
        (version / path.name).symlink_to(path)
    if model.endswith("unet"):
        with (version / "weights").open("wb") as file:
            file.truncate(2 * GIGABYTE)


class Watch:
    """Looks at the server's own index all the time.

    :ivar together: the units of which models were there at the same time.
    """

    def __init__(self, service: RunningService) -> None:
        self._client = grpcclient.InferenceServerClient(service.grpc)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.together: set[frozenset[str]] = set()
        self.looks = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            try:
                index = self._client.get_model_repository_index().models
            except InferenceServerException:
                continue
            there = {model.name for model in index if model.state in ("READY", "LOADING", "UNLOADING")}
            self.together.add(frozenset(name for name, models in UNITS.items() if there & set(models)))
            self.looks += 1


def make(service: RunningService, model: str, **fields: object) -> bytes:
    body = {"model": model, "prompt": "a red car", "seed": 1, "steps": 2, "width": 64, "height": 64, **fields}
    headers = {"Accept": "image/png"}
    answer = httpx.post(f"{service.url}/generate", json=body, headers=headers, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.content


def events_of(service: RunningService, model: str) -> list[str]:
    """The names of the events of a request."""
    body = {"model": model, "prompt": "a red car", "steps": 2, "width": 64, "height": 64}
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("POST", f"{service.url}/generate", json=body, headers=headers, timeout=SECONDS) as answer:
        return [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]


def family(service: RunningService, name: str) -> dict[str, Any]:
    answer = service.health()
    assert answer is not None
    return dict(answer.json()["families"][name])


def model(service: RunningService, name: str) -> dict[str, Any]:
    return dict(httpx.get(f"{service.url}/models/{name}", timeout=60).raise_for_status().json())


def is_loaded(service: RunningService, name: str) -> bool:
    return bool(family(service, name)["loaded"])


def test_memory_holds_the_first_family_at_the_start(service: RunningService) -> None:
    assert is_loaded(service, "sd15")
    assert not is_loaded(service, "sdxl")
    assert family(service, "sdxl")["ready"]  # a request may come, and waits
    assert model(service, "sdxl")["loaded"] is False
    assert model(service, "sd15")["loaded"] is True


def test_memory_swaps_families_and_images_stay_the_same(service: RunningService) -> None:
    mark = len(service.log())
    with Watch(service) as watch:
        images = [make(service, name) for name in ("sd15", "sdxl", "sd15", "sdxl")]
    assert images[0] == images[2]  # the first one is loaded from the start, as without a budget
    assert images[1] == images[3]
    assert images[0] != images[1]
    assert watch.looks > 10
    assert watch.together <= {frozenset(), frozenset({"sd15"}), frozenset({"sdxl"})}
    assert {frozenset({"sd15"}), frozenset({"sdxl"})} <= watch.together
    health = service.health()
    assert health is not None
    assert health.status_code == 200
    restarted = [line for line in service.log()[mark:].splitlines() if "again" in line or "ERROR" in line]
    assert restarted == []


@pytest.mark.skipif(LOCAL, reason="in one process the memory of each model is not known")
def test_memory_is_measured_and_stays_within_the_budget(service: RunningService) -> None:
    settings = Settings(_env_file=None, state_dir=service.folder / "state", port=int(service.url.rpartition(":")[2]))
    until(lambda: all(read_sizes(memory_folder(settings))[name].measured for name in (*FIRST, *SECOND)), SECONDS)
    sizes = read_sizes(memory_folder(settings))
    taken = {name: sum(sizes[one].size for one in models) for name, models in UNITS.items()}
    assert max(taken["sd15"], taken["sdxl"]) < BUDGET_GB * GIGABYTE < taken["sd15"] + taken["sdxl"]


def test_memory_alternating_clients_all_finish(service: RunningService) -> None:
    expected = {name: make(service, name) for name in ("sd15", "sdxl")}

    def client(number: int) -> list[str]:
        names = [("sd15", "sdxl")[(number + turn) % 2] for turn in range(3)]
        return [name for name in names if make(service, name) == expected[name]]

    with Watch(service) as watch, ThreadPoolExecutor(4) as clients:
        made = Counter(name for names in clients.map(client, range(4)) for name in names)
    assert made == {"sd15": 6, "sdxl": 6}
    assert frozenset({"sd15", "sdxl"}) not in watch.together


def test_memory_task_waits_for_its_family_over_a_death_of_the_proxy(service: RunningService) -> None:
    make(service, "sd15")
    until(lambda: not is_loaded(service, "sdxl"), SECONDS)
    body = {"operation": "generate", "model": "sdxl", "prompt": "a tree", "steps": 2, "width": 64, "height": 64}
    task = httpx.post(f"{service.url}/tasks", json=body, timeout=60).raise_for_status().json()
    assert task["status"] == "queued"

    def shown() -> dict[str, Any]:
        return dict(httpx.get(f"{service.url}/tasks/{task['task_id']}", timeout=60).raise_for_status().json())

    assert until(lambda: shown()["loading"], SECONDS) == "sdxl"
    mark = len(service.log())
    service.find("-m proxy")[0].kill()
    service.wait_for_log("starting proxy again", after=mark)
    service.wait_healthy(SECONDS)
    done = until(lambda: (one := shown())["status"] not in ("queued", "processing") and one, SECONDS)
    assert done["status"] == "completed", done["error"]
    assert is_loaded(service, "sdxl")


def test_memory_refuses_a_checkpoint_over_the_budget(service: RunningService) -> None:
    body = {"model": "sd15.huge", "prompt": "a red car", "steps": 1, "width": 64, "height": 64}
    for path, fields in (("generate", body), ("tasks", {**body, "operation": "generate"})):
        answer = httpx.post(f"{service.url}/{path}", json=fields, timeout=60)
        assert answer.status_code == 422, answer.text
        error = answer.json()["error"]
        assert error["param"] == "model"
        assert f"DEVICE_MEMORY_GB = {BUDGET_GB:.2f} GB" in error["message"]
        assert "sd15.huge takes about 2." in error["message"]
    assert model(service, "sd15.huge")["ready"] is False


def test_memory_metrics_say_what_is_loaded(service: RunningService) -> None:
    text = httpx.get(f"{service.url}/metrics", timeout=60).text
    samples = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"}
    loaded = {name: samples[f'darkroom_loaded_bytes{{family="{name}"}}'] for name in UNITS}
    assert sum(size > 0 for size in loaded.values()) == 1
    assert sum(loaded.values()) < BUDGET_GB * GIGABYTE
    assert all(samples[f'darkroom_ready{{family="{name}"}}'] == 1 for name in ("sd15", "sdxl"))


def test_memory_accepted_work_is_loaded_for_during_a_stop(service: RunningService) -> None:
    """The last test: the service ends."""
    now = next(name for name in ("sd15", "sdxl") if is_loaded(service, name))
    other = "sdxl" if now == "sd15" else "sd15"
    mark = len(service.log())
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(events_of, service, other)
        service.wait_for_log(f"unloading {now}", after=mark, timeout=SECONDS)
        service.process.terminate()
        names = events.result(SECONDS)
        assert (names[0], names[-1]) == ("loading", "done")
    service.process.wait(SECONDS)
