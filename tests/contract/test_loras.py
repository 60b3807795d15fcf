"""LoRAs over REST: the library, and requests that name its files, sessions and digests."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from darkroom.parameters import read_image
from darkroom.pipelines.sd15 import networks
from darkroom.serving.lora_layout import LoraLayout
from tests.bad_safetensors import bad_files
from tests.lora_matrices import make_lora, write_diffusers_file
from tests.pictures import pixels
from tests.service import ROOT, RunningService

FIELDS: dict[str, Any] = {"prompt": "a photo of a cat", "steps": 2, "seed": 5, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def service(lora_service: RunningService) -> RunningService:
    return lora_service


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """LoRA files of the UNet, strong enough to be seen."""
    folder = tmp_path_factory.mktemp("files")
    layout = LoraLayout.read(ROOT / "model_repository" / networks.UNET.name / "1")
    assert layout is not None, "run: python -m exporters sd15"
    made = {}
    for seed, name in enumerate(("red", "blue", "green", "late", "session")):
        layers = make_lora([layout], 4, seed, strength=2.0)["unet"]
        made[name] = write_diffusers_file(layers, layout, folder / name).read_bytes()
    return made


@pytest.fixture(scope="module", autouse=True)
def library(service: RunningService, files: dict[str, bytes]) -> None:
    """One file is uploaded, the other one is put into a folder by hand."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        upload(client, "red", files["red"]).raise_for_status()
    folder = service.folder / "state" / "data" / "loras" / "colours"
    folder.mkdir()
    (folder / "blue.safetensors").write_bytes(files["blue"])


def upload(http: httpx.Client, name: str, data: bytes) -> httpx.Response:
    return http.post("/loras", files={"file": (f"{name}.safetensors", data)})


def generated(http: httpx.Client, **fields: Any) -> np.ndarray[Any, Any]:
    answer = http.post("/generate", json={**FIELDS, **fields})
    assert answer.status_code == 200, answer.text
    return pixels(base64.b64decode(answer.json()["images"][0].partition(",")[2])).astype(int)


def differ(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> bool:
    return bool(np.abs(first - second).max() > 20)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- the library ----------------------------------------------------------------------------------------------


def test_loras_lists_uploaded_files_and_those_of_folders(http: httpx.Client, files: dict[str, bytes]) -> None:
    found = {one["name"]: one for one in http.get("/loras").json()["loras"]}
    assert {name: found[name]["digest"] for name in ("red", "colours/blue")} == {
        "red": digest(files["red"]),
        "colours/blue": digest(files["blue"]),
    }
    assert found["red"]["size"] == len(files["red"])


def test_loras_says_what_a_model_has_read(http: httpx.Client) -> None:
    answer = http.get("/loras/colours/blue").json()
    read = answer["models"]["sd15"]
    assert (read["applied"], read["rank"]) == (read["total"], 4)
    assert answer["refused"] == {}


def test_loras_upload_download_delete(http: httpx.Client, files: dict[str, bytes]) -> None:
    data = files["green"]
    added = http.post("/loras", json={"name": "my green (v2)", "file": base64.b64encode(data).decode()})
    assert added.status_code == 200, added.text
    assert added.json()["models"]["sd15"]["applied"] > 0
    assert upload(http, "my green (v2)", data).status_code == 200, "the same file again"
    clash = upload(http, "my green (v2)", files["red"])
    assert (clash.status_code, clash.json()["error"]["code"]) == (409, "conflict")
    assert http.get("/loras/my green (v2).safetensors").content == data
    assert http.delete("/loras/my green (v2)").json() == {"status": "deleted", "name": "my green (v2)"}
    assert http.get("/loras/my green (v2)").status_code == 404


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a:b", "x" * 101, "a\\..\\b"])
def test_loras_bad_names_are_refused(
    http: httpx.Client, service: RunningService, files: dict[str, bytes], name: str
) -> None:
    before = written(service)
    answer = http.post("/loras", json={"name": name, "file": base64.b64encode(files["green"]).decode()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "name")
    assert written(service) == before


def written(service: RunningService) -> set[Path]:
    return {path for path in (service.folder / "state" / "data").rglob("*") if "loras" in path.parts and path.is_file()}


def other_files() -> dict[str, bytes]:
    ones = np.ones((4, 8), np.float32)
    good = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    return {
        "another base": save({"transformer.blocks.0.attn.to_q.lora_A.weight": ones}),
        "wrong shapes": save({f"{good}.lora_A.weight": ones, f"{good}.lora_B.weight": ones}),
        "nothing of a LoRA": save({"model.weight": ones}),
        **bad_files(),
    }


@pytest.mark.parametrize("name", other_files())
def test_loras_that_fit_no_model_are_refused(http: httpx.Client, service: RunningService, name: str) -> None:
    before = written(service)
    answer = upload(http, "bad", other_files()[name])
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"] in ("file", "lora", "loras", None)
    assert written(service) == before
    assert http.get("/health").status_code == 200


# --- requests -------------------------------------------------------------------------------------------------


def test_loras_by_name_tag_and_digest_give_the_same_image(http: httpx.Client, files: dict[str, bytes]) -> None:
    plain = generated(http)
    by_name = generated(http, loras=[{"name": "red", "weight": 0.8}])
    by_tag = generated(http, prompt="a photo of a cat<lora:red:0.8>")
    by_digest = generated(http, loras=[{"digest": digest(files["red"]), "weight": 0.8}])
    assert differ(plain, by_name)
    np.testing.assert_array_equal(by_name, by_tag)
    np.testing.assert_array_equal(by_name, by_digest)
    np.testing.assert_array_equal(plain, generated(http))
    assert differ(by_name, generated(http, loras=[{"name": "blue", "weight": 0.8}]))


def test_loras_of_a_form_are_json(http: httpx.Client) -> None:
    form = {**FIELDS, "loras": json.dumps([{"name": "red"}]), "format": "png"}
    answer = http.post("/generate", data={name: str(value) for name, value in form.items()})
    assert answer.status_code == 200, answer.text
    image = base64.b64decode(answer.json()["images"][0].partition(",")[2])
    np.testing.assert_array_equal(pixels(image), generated(http, loras=[{"name": "red"}]))


def test_loras_stand_in_the_image_and_make_it_again(http: httpx.Client, files: dict[str, bytes]) -> None:
    answer = http.post(
        "/generate", json={**FIELDS, "loras": [{"name": "colours/blue", "weight": 0.5}], "format": "png"}
    )
    image = base64.b64decode(answer.json()["images"][0].partition(",")[2])
    details = read_image(image).details
    assert details is not None
    assert details["loras"] == [{"name": "blue", "digest": digest(files["blue"]), "weight": 0.5}]
    (file,) = details["lora_files"]
    assert (file["name"], file["rank"], file["applied"]) == ("blue", 4, file["total"])
    np.testing.assert_array_equal(pixels(image), generated(http, loras=details["loras"]))


def test_loras_of_a_session_are_its_newest(http: httpx.Client, files: dict[str, bytes]) -> None:
    session = str(http.get("/create_session").json()["session_id"])
    missing = http.post("/txt2img", json={**FIELDS, "use_lora": True, "session_id": session})
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "Requested LoRA not found")
    for name in ("red", "session"):
        body = {"session_id": session, "lora_base64": base64.b64encode(files[name]).decode()}
        http.post("/upload_lora", json=body).raise_for_status()
    used = http.post("/txt2img", json={**FIELDS, "use_lora": True, "session_id": session}).raise_for_status().json()
    without = http.post("/txt2img", json={**FIELDS, "session_id": session}).raise_for_status().json()
    image, plain = (pixels(base64.b64decode(one["images_base64"][0])).astype(int) for one in (used, without))
    assert differ(image, plain)
    same = http.post("/txt2img", json={**FIELDS, "loras": [{"digest": digest(files["session"])}]}).json()
    np.testing.assert_array_equal(pixels(base64.b64decode(same["images_base64"][0])), image)


def test_loras_of_a_task(http: httpx.Client, service: RunningService) -> None:
    body = {"operation": "generate", **FIELDS, "loras": [{"name": "red"}], "format": "png"}
    task = http.post("/tasks", json=body).raise_for_status().json()["task_id"]
    with http.stream("GET", f"/tasks/{task}/events") as events:
        assert [line for line in events.iter_lines() if line.startswith("event:")][-1] == "event: done"
    name = http.get(f"/tasks/{task}").json()["results"][0]["name"]
    image = http.get(f"/tasks/{task}/results/{name}").content
    np.testing.assert_array_equal(pixels(image), generated(http, loras=[{"name": "red"}]))


def test_loras_that_the_networks_have_lost_are_sent_again(http: httpx.Client, service: RunningService) -> None:
    first = generated(http, loras=[{"name": "red"}])
    shutil.rmtree(service.folder / "state" / "loras")
    np.testing.assert_array_equal(generated(http, loras=[{"name": "red"}]), first)


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown name": ({"loras": [{"name": "rad"}]}, 404, "Similar names: red"),
    "unknown tag": ({"prompt": "a cat <lora:nothing:1>"}, 404, "There is no LoRA 'nothing'"),
    "unknown digest": ({"loras": [{"digest": "0" * 64}]}, 404, "upload it with POST /loras"),
    "unknown session": ({"loras": [{"session_id": "999"}]}, 404, "session"),
    "twice": ({"loras": [{"name": "red"}], "prompt": "a cat <lora:red>"}, 422, "twice"),
    "weight": ({"loras": [{"name": "red", "weight": 11}]}, 422, "loras[0].weight must be from -10 to 10; got 11"),
    "no list": ({"loras": {"name": "red"}}, 422, "loras must be a list of objects"),
    "a number": ({"loras": 7}, 422, "loras must be a list of objects"),
    "no JSON": ({"loras": "red"}, 422, "loras must be a JSON list of objects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_loras_that_are_refused(http: httpx.Client, name: str) -> None:
    fields, status, message = REFUSED[name]
    answer = http.post("/generate", json={**FIELDS, **fields})
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]
