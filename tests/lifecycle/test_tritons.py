"""Several Tritons behind one proxy: work is divided among them, and one that dies hurts none of the others' work."""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.tritons import RunningProxy, RunningTriton, running_proxy, running_triton
from darkroom.pipelines.sd15.networks import UNET
from darkroom.serving.lora_layout import LoraLayout
from tests.load import TINY, Load
from tests.lora_matrices import make_lora, write_diffusers_file
from tests.service import ROOT, link_models
from tests.waiting import until

MODELS = ("sd15", "sd15_loras", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
STEPS = 150
PLACES = 8
LARGER = {"width": 128, "height": 128}  # so that a direct request lasts until something is killed
AGAIN = "begins again on another one"


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningTriton]]:
    folder = tmp_path_factory.mktemp("tritons")
    repository = link_models(folder / "repository", *MODELS)
    with contextlib.ExitStack() as running:
        settings = {"model_repository": repository, "canary_interval": 3600}
        both = [running.enter_context(running_triton(folder / name, **settings)) for name in "ab"]
        for one in both:
            one.wait_ready()
        yield both


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, tritons: list[RunningTriton]) -> Iterator[RunningProxy]:
    folder = tmp_path_factory.mktemp("proxy")
    settings = {"max_concurrent_tasks": PLACES, "canary_interval": 3600}
    with running_proxy(folder, tritons, model_repository=tritons[0].folder.parent / "repository", **settings) as proxy:
        wait_whole(proxy)
        yield proxy


def generate(proxy: RunningProxy, seed: int, steps: int = STEPS, **more: Any) -> httpx.Response:
    return httpx.post(f"{proxy.url}/generate", json=_fields(seed, steps) | more, timeout=300, trust_env=False)


def _fields(seed: int, steps: int) -> dict[str, Any]:
    return {name: value for name, value in TINY.items() if name != "operation"} | {
        "seed": seed,
        "steps": steps,
        **LARGER,
    }


def pixels(answer: httpx.Response) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0].partition(",")[2]))) as image:
        return np.asarray(image).astype(int)


def calls(proxy: RunningProxy) -> list[int]:
    """The calls at each Triton."""
    return [one["active_calls"] for one in proxy.tritons().values()]


def kill(triton: RunningTriton) -> None:
    triton.find("bin/tritonserver")[0].kill()


def test_status_lists_the_tritons(proxy: RunningProxy, tritons: list[RunningTriton]) -> None:
    listed = proxy.tritons()
    assert listed.keys() == {one.grpc for one in tritons}
    for one in listed.values():
        assert (one["ready"], one["reason"], one["active_calls"]) == (True, "", 0)
        assert one["families"]["sd15"]["ready"]
    health = httpx.get(f"{proxy.url}/health", trust_env=False)
    assert (health.status_code, health.json()["families"].keys()) == (200, {"sd15", "sd15_loras"})


def test_lora_files_are_sent_to_every_triton_that_lacks_them(
    proxy: RunningProxy, tritons: list[RunningTriton], tmp_path: Path
) -> None:
    """Also to one that has lost them, as one on a new machine has."""
    layout = LoraLayout.read(ROOT / "model_repository" / UNET.name / "1")
    assert layout is not None
    data = write_diffusers_file(make_lora([layout], 4, 1, strength=2.0)["unet"], layout, tmp_path / "red").read_bytes()
    files = {"file": ("red.safetensors", data)}
    httpx.post(f"{proxy.url}/loras", files=files, timeout=120, trust_env=False).raise_for_status()
    kept = [one.folder / "state" / "loras" for one in tritons]
    assert all(any(folder.iterdir()) for folder in kept)
    shutil.rmtree(kept[1])
    fields = {"loras": [{"name": "red"}], "prompt": "a cat"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: generate(proxy, seed, 20, **fields), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert any(kept[1].iterdir())
    assert np.abs(pixels(answers[0]) - pixels(generate(proxy, 0, 20))).max() > 2


def wait_whole(proxy: RunningProxy) -> None:
    until(lambda: all(one["ready"] for one in proxy.tritons().values()), 180)


def test_direct_requests_of_a_killed_triton_begin_again_on_the_other_one(
    proxy: RunningProxy, tritons: list[RunningTriton]
) -> None:
    """Those of the other one go on."""
    before = proxy.log().count(AGAIN)
    with ThreadPoolExecutor(4) as pool:
        direct = [pool.submit(generate, proxy, seed) for seed in range(4)]
        until(lambda: calls(proxy) == [2, 2], 120)
        kill(tritons[0])
        until(lambda: not proxy.tritons()[tritons[0].grpc]["ready"], 60)
        health = httpx.get(f"{proxy.url}/health", timeout=60, trust_env=False)
        assert (health.status_code, health.json()["families"]["sd15"]["ready"]) == (200, True)
        answers = [one.result() for one in direct]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert proxy.log().count(AGAIN) - before == 2
    for seed, answer in enumerate(answers):  # the same pictures as undisturbed, but for what shared their batches
        assert np.abs(pixels(generate(proxy, seed)) - pixels(answer)).max() <= 2


def test_tasks_of_a_killed_triton_have_a_second_attempt(proxy: RunningProxy, tritons: list[RunningTriton]) -> None:
    wait_whole(proxy)  # after the test before
    load = Load(proxy.url, steps=STEPS)
    load.submit(8)
    until(lambda: min(calls(proxy)) >= 1, 120)
    kill(tritons[1])
    load.check()
    with httpx.Client(base_url=proxy.url, timeout=30, trust_env=False) as http:
        attempts = {http.get(f"/tasks/{id}").json()["attempts"] for id in load.ids}
    assert attempts == {1, 2}
    wait_whole(proxy)


@pytest.mark.heavy
def test_triton_that_falls_silent_loses_its_calls(proxy: RunningProxy, tritons: list[RunningTriton]) -> None:
    """As when a machine is switched off: no connection is closed."""
    wait_whole(proxy)
    silent = tritons[1].find("bin/tritonserver")[0]
    load = Load(proxy.url, steps=STEPS)
    load.submit(8)
    until(lambda: min(calls(proxy)) >= 1, 120)
    silent.suspend()
    try:
        load.check(120)
        assert generate(proxy, 0, 5).status_code == 200
        assert not proxy.tritons()[tritons[1].grpc]["ready"]
    finally:
        silent.resume()
    wait_whole(proxy)
