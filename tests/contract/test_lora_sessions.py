"""Contract E over REST: sessions, their images and their LoRA files. Bodies are those of the old document."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.bad_safetensors import LORA, bad_files
from tests.pictures import encoded, photo, pixels
from tests.service import RunningService

JSON = {"content-type": "application/json"}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def session(http: httpx.Client) -> str:
    return str(http.get("/create_session").raise_for_status().json()["session_id"])


def listed(http: httpx.Client, session: str) -> dict[str, Any]:
    found = http.get("/list_sessions").json()["sessions"]
    return next(dict(one) for one in found if one["session_id"] == session)


def files(service: RunningService, session: str) -> list[str]:
    folder = service.folder / "state" / "data" / "session_data" / f"session_{session}"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("number", [False, True])
def test_session_id_as_text_or_number(http: httpx.Client, service: RunningService, session: str, number: bool) -> None:
    named = {"session_id": int(session) if number else session}
    image = {**named, "image_base64": text(encoded(photo(0, 0, 40, 30))), "prompt": "a red apple on a wooden table"}
    assert http.post("/post_session_image", json=image).json() == {"status": "success"}
    assert files(service, session) == ["0/0.png", "0/0.txt"]
    added = http.post("/upload_lora", json={**named, "lora_base64": text(LORA)})
    assert added.json() == {"status": "success", "lora_filename": "lora_1.safetensors"}
    assert http.post("/get_lora", json=named).json() == {
        "session_id": session,
        "lora_filename": "lora_1.safetensors",
        "lora_base64": text(LORA),
    }
    assert listed(http, session) == {
        "session_id": session,
        "latest_lora": "lora_1.safetensors",
        "image_groups": 1,
        "training": {"status": "none", "progress": 0},
    }
    assert http.post("/delete_session", json=named).json() == {"status": "deleted", "session_id": session}
    assert http.post("/get_lora", json=named).status_code == 404


def test_session_image_is_kept_upright_and_opaque(http: httpx.Client, service: RunningService, session: str) -> None:
    image = photo(0, 0, 40, 30).convert("RGBA")
    image.putalpha(0)
    body = {"session_id": session, "image_base64": f"data:image/png;base64,{text(encoded(image))}", "prompt": "white"}
    http.post("/post_session_image", json=body).raise_for_status()
    folder = service.folder / "state" / "data" / "session_data" / f"session_{session}"
    kept = pixels((folder / "0" / "0.png").read_bytes())
    assert kept.shape == (30, 40, 3)
    assert kept.min() == 255


def test_session_lora_by_iteration(http: httpx.Client, session: str) -> None:
    for k in (1, 2):
        data = save({"x.lora_A.weight": np.full((1, 2), k, np.float32)})
        http.post("/upload_lora", json={"session_id": session, "lora_base64": text(data)}).raise_for_status()
    first = http.post("/get_lora", json={"session_id": session, "iteration": 1}).json()
    assert first["lora_filename"] == "lora_1.safetensors"
    assert http.post("/get_lora", json={"session_id": session}).json()["lora_filename"] == "lora_2.safetensors"
    missing = http.post("/get_lora", json={"session_id": session, "iteration": 3})
    assert (missing.status_code, missing.json()["detail"]) == (404, "Requested LoRA not found")


@pytest.mark.parametrize("name", bad_files())
def test_session_lora_that_is_no_safetensors_file_is_refused(
    http: httpx.Client, service: RunningService, session: str, name: str
) -> None:
    answer = http.post("/upload_lora", json={"session_id": session, "lora_base64": text(bad_files()[name])})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"] == "lora_base64"
    assert files(service, session) == []


REFUSED = {
    "no session": ("/get_lora", {}, 422, "session_id"),
    "unknown session": ("/get_lora", {"session_id": "987654"}, 404, "session_id"),
    "traversal": ("/delete_session", {"session_id": "../../data"}, 404, "session_id"),
    "session of another type": ("/delete_session", {"session_id": [1]}, 422, "session_id"),
    "true": ("/delete_session", {"session_id": True}, 422, "session_id"),
    "iteration 0": ("/get_lora", {"iteration": 0}, 422, "iteration"),
    "no image": ("/post_session_image", {"prompt": "x"}, 422, "image_base64"),
    "no prompt": ("/post_session_image", {"image_base64": text(encoded(photo(0, 0, 8, 8)))}, 422, "prompt"),
    "no picture": ("/post_session_image", {"prompt": "x", "image_base64": text(b"hello")}, 415, "image_base64"),
    "no base64": ("/post_session_image", {"prompt": "x", "image_base64": "?!"}, 422, "image_base64"),
    "bad name": ("/upload_lora", {"lora_base64": text(LORA), "filename": "../a.safetensors"}, 422, "filename"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_session_request_that_is_refused(http: httpx.Client, service: RunningService, session: str, name: str) -> None:
    path, body, status, param = REFUSED[name]
    sent = body if name == "no session" else {"session_id": session, **body}
    answer = http.post(path, json=sent)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert files(service, session) == []


def test_session_fields_that_are_not_known_are_named(http: httpx.Client, session: str) -> None:
    answer = http.post("/delete_session", json={"session_id": session, "force": True})
    assert answer.headers["x-ignored-fields"] == "force"
    assert answer.json()["warnings"][0]["field"] == "force"


@pytest.mark.parametrize("digits", [9, 25, 400, 5000])
def test_session_numbers_that_are_huge(http: httpx.Client, session: str, digits: int) -> None:
    huge = "9" * digits
    unknown = http.post("/get_lora", content=f'{{"session_id": {huge}}}', headers=JSON)
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "session_id")
    assert len(unknown.text) < 700
    body = f'{{"session_id": "{session}", "iteration": {huge}}}'
    refused = http.post("/get_lora", content=body, headers=JSON)
    assert (refused.status_code, refused.json()["error"]["param"]) == (404 if digits == 9 else 422, "iteration")
    assert len(refused.text) < 700
