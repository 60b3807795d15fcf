"""Fields of all endpoints that take requests for images: numbers of any size, names that are not known, files where
text belongs, and words in any case."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from darkroom.request.init_image import InitImageRequest
from proxy.body_fields import MULTIPART
from tests.pictures import encoded, pixels
from tests.service import RunningService

HUGE = {
    "400 zeros": "1" + "0" * 400,
    "5,000 digits": "9" * 5000,
    "negative": "-1" + "0" * 400,
    "exponent": "1e400",
    "beyond int64": str(2**63),
    "beyond int32": str(2**31),
}
"""As a form or a query has them; JSON has the same as numbers, but for infinity, which "exponent" is there."""
ALWAYS_RIGHT = {("seed", "beyond int32")}
OTHERS = ("edit", "hidream", "sdxl")
"""Operations whose models are not in this repository."""
EDITS = ("/edit", "/edit/json", "/edit/multi", "/multi-image-editing")
"""Of a family that is not in this repository either."""
SESSIONS = (
    *("/post_session_image", "/upload_lora", "/get_lora", "/delete_session"),
    *("/train_lora", "/train_status"),
)
"""Their ids are texts, which may be sent as numbers; see test_lora_sessions.py."""
WEB_UI = tuple(f"/sdapi/v1/{name}" for name in ("txt2img", "img2img", "extra-single-image", "extra-batch-images"))
"""Their errors have another shape; see test_sdapi_refused.py."""
OPENAI = tuple(f"/v1/images/{name}" for name in ("generations", "edits", "variations"))
"""Their errors have another shape, too; see `test_huge_numbers_in_openais_fields`."""
ADMIN = ("/admin/keys",)
"""Takes nothing while there is no key; see tests/unit/test_keys_access.py."""
QUICK = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64, "guidance_scale": 1}


@pytest.fixture(scope="module")
def small(small_service: RunningService) -> Iterator[httpx.Client]:
    """A client of a service with small limits."""
    with httpx.Client(base_url=small_service.url, timeout=120) as client:
        yield client


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    return encoded(Image.new("RGB", size, (200, 30, 30)))


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return document["components"]["schemas"][name] if name else schema


def _numbers(document: dict[str, Any], media: str) -> list[tuple[str, str, str]]:
    """Path, operation (of tasks) and name of every numeric field of every body, as the documentation has them."""
    found = []
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        if media not in content:
            continue
        schema = _resolved(document, content[media]["schema"])
        for one in schema.get("oneOf", [schema]) if "properties" not in schema else [schema]:
            properties = _resolved(document, one)["properties"]
            operation = properties.get("operation", {}).get("enum", [""])[0]
            for name, described in properties.items():
                types = described.get("type", [])
                if (operation, name) == ("train", "session_id"):
                    continue  # a text that may be sent as a number
                if {"integer", "number"} & set([types] if isinstance(types, str) else types):
                    found.append((path, operation, name))
    return found


def _body(path: str, operation: str, name: str) -> dict[str, Any]:
    """The other fields of a request that is right."""
    if path.endswith("submit"):
        return {"prompt": "a cat"}
    if "upscale" in (path.rsplit("/", 1)[-1], operation) or path == "/api/upscale-batch":
        return {"operation": operation} if operation else {}
    if operation == "train":
        return {"operation": operation, "session_id": "1"}
    others = {key: value for key, value in QUICK.items() if key != InitImageRequest.aliases().get(name)}
    return {**({"operation": operation} if operation else {}), **others}


@pytest.mark.parametrize("kind", HUGE)
def test_huge_numbers_in_every_field_of_every_form(small: httpx.Client, kind: str) -> None:
    numbers = _numbers(small.get("/openapi.json").json(), MULTIPART)
    upscales = ("/api/upscale", "/api/upscale-batch")
    assert {path for path, _, _ in numbers} == {"/generate", "/txt2img", "/tasks", *upscales, *EDITS, *OPENAI}
    assert len(numbers) > 40
    for path, operation, name in numbers:
        if (name, kind) in ALWAYS_RIGHT or operation in OTHERS or path in (*EDITS, *OPENAI):
            continue
        file = "files" if path.endswith("batch") else "file"
        files = {file: ("a.png", png())} if "upscale" in path + operation else {"control_image": ("a.png", png())}
        answer = small.post(path, data={**_body(path, operation, name), name: HUGE[kind]}, files=files)
        _refused(answer, name, path)


@pytest.mark.parametrize("kind", HUGE)
def test_huge_numbers_in_openais_fields(small: httpx.Client, kind: str) -> None:
    numbers = [one for one in _numbers(small.get("/openapi.json").json(), "application/json") if one[0] in OPENAI]
    image = base64.b64encode(png((64, 64))).decode()
    for path, _, name in numbers:
        if (name, kind) in ALWAYS_RIGHT:
            continue
        body = {"prompt": "a cat", **({} if path.endswith("generations") else {"image": image}), name: "HERE"}
        text = json.dumps(body).replace('"HERE"', HUGE[kind])
        answer = small.post(path, content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 400, (path, name, answer.text)
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.json()["error"]["param"], (path, name, answer.text)


@pytest.mark.parametrize("kind", HUGE)
def test_huge_numbers_in_every_field_of_json(small: httpx.Client, kind: str) -> None:
    numbers = _numbers(small.get("/openapi.json").json(), "application/json")
    foreign = {*SESSIONS, *EDITS, *WEB_UI, *OPENAI, *ADMIN}
    others = ("/api/upscale", "/submit", *foreign)
    assert {path for path, _, _ in numbers} == {"/generate", "/txt2img", "/tasks", *others}
    paths = [one for one in numbers if one[1] not in OTHERS and one[0] not in foreign]
    for path, operation, name in paths:
        if (name, kind) in ALWAYS_RIGHT:
            continue
        text = json.dumps({**_body(path, operation, name), name: "HERE"}).replace('"HERE"', HUGE[kind])
        _refused(small.post(path, content=text, headers={"content-type": "application/json"}), name, path)
        if path == "/submit":
            text = f'{{"requests": [{text}]}}'
            _refused(
                small.post("/batch_submit", content=text, headers={"content-type": "application/json"}), name, path
            )


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[1]", "{}", "true", '"x"', "1.5", '""\u0001'])
def test_numbers_that_are_none_in_json(small: httpx.Client, text: str) -> None:
    for name in ("steps", "seed", "quality", "preview_every", "low_threshold", "num_images"):
        body = json.dumps({**QUICK, name: "HERE"}).replace('"HERE"', text)
        answer = small.post("/generate", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["param"] in (name, "body"), answer.text


@pytest.mark.parametrize("kind", HUGE)
def test_huge_numbers_in_queries_and_paths(small: httpx.Client, kind: str) -> None:
    task = small.post("/tasks", json={"operation": "generate", **QUICK}).json()["task_id"]
    with small.stream("GET", f"/tasks/{task}/events") as events:
        assert "event: done" in events.read().decode()
    limit = small.get("/tasks", params={"limit": HUGE[kind]})
    assert limit.status_code == 422
    _refused(limit, "limit", "/tasks")
    index = small.get(f"/download/{task}", params={"image_index": HUGE[kind]})
    assert index.status_code in (404, 422), index.text
    assert len(index.text) < 700
    assert index.json()["error"]["param"] == "image_index"
    for path in (f"/tasks/{HUGE[kind]}", f"/status/{HUGE[kind]}", f"/images/{HUGE[kind]}", f"/download/{HUGE[kind]}"):
        unknown = small.get(path)
        assert unknown.status_code == 404, unknown.text
        assert len(unknown.text) < 700


def _refused(answer: httpx.Response, name: str, path: str) -> None:
    assert answer.status_code == 422, (path, name, answer.text[:300])
    error = answer.json()["error"]
    assert error["param"] in (name, InitImageRequest.aliases().get(name)), (path, answer.text[:300])
    assert len(error["message"]) < 300, error
    assert any(words in error["message"] for words in ("from ", "than or equal to", "integer", "at most")), error


UNKNOWN = {"numInferenceSteps": 3, "n_iter": 2, "heigth": 64, "\u540d\u524d": 1}
NAMES = {"numInferenceSteps", "n_iter", "heigth", "??"}


def _warned(answer: httpx.Response, content: dict[str, Any] | None, names: set[str] = NAMES) -> None:
    assert answer.status_code in (200, 202), answer.text
    assert set(answer.headers["x-ignored-fields"].split(", ")) == names
    if content is not None:
        assert {one["field"] for one in content["warnings"]} == names
        assert all(one["field"] in one["message"] for one in content["warnings"])


def test_ignored_fields_of_generate(small: httpx.Client) -> None:
    answer = small.post("/generate", json={**QUICK, **UNKNOWN})
    _warned(answer, answer.json())
    told = {one["field"]: one["suggestion"] for one in answer.json()["warnings"]}
    assert told == {
        "numInferenceSteps": "num_inference_steps",
        "n_iter": "num_images",
        "heigth": "height",
        "??": None,
    }
    form = small.post("/generate", data={**QUICK, **UNKNOWN})
    _warned(form, form.json())
    bare = small.post("/generate", json={**QUICK, **UNKNOWN}, headers={"accept": "image/png"})
    _warned(bare, None)
    assert bare.content.startswith(b"\x89PNG")
    told_by_events = small.post("/generate", json={**QUICK, **UNKNOWN}, headers={"accept": "text/event-stream"})
    last = told_by_events.text.split("event: done\ndata: ")[1].split("\n\n")[0]
    _warned(told_by_events, json.loads(last))
    clean = small.post("/generate", json=QUICK)
    assert "x-ignored-fields" not in clean.headers
    assert "warnings" not in clean.json()


def test_ignored_fields_of_tasks_and_submit(small: httpx.Client) -> None:
    task = small.post("/tasks", json={"operation": "generate", **QUICK, **UNKNOWN})
    _warned(task, task.json())
    file = {"file": ("a.png", png())}
    upscale = small.post("/tasks", data={"operation": "upscale", "model": "animevideov3-x2", "steps": "3"}, files=file)
    _warned(upscale, upscale.json(), {"steps"})
    one = small.post("/submit", json={"prompt": "a", "resolution": "512x512", "n_iter": 2})
    assert one.headers["x-ignored-fields"] == "n_iter"
    small.delete(f"/tasks/{one.json()['task_id']}")
    refused = small.post("/submit", json={"prompt": "a", "num_images_per_prompt": 2, "n_iter": 2})
    assert refused.status_code == 422, "a limit of this service; the header comes all the same"
    assert refused.headers["x-ignored-fields"] == "n_iter"


def test_ignored_fields_of_submit(small: httpx.Client) -> None:
    fields = {"prompt": "a cat", "resolution": "512x512", "num_inference_steps": 1}
    one = small.post("/submit", json={**fields, "cfgScale": 2, "n_iter": 2, "seed": "-1"})
    _warned(one, one.json(), {"cfgScale", "n_iter"})
    assert {w["suggestion"] for w in one.json()["warnings"]} == {"guidance_scale", "num_images"}
    several = small.post("/batch_submit", json={"requests": [fields, {**fields, "n_iter": 2}], "prority": "low"})
    _warned(several, several.json(), {"requests[1].n_iter", "prority"})
    for id in [one.json()["task_id"], *several.json()["task_ids"]]:
        small.delete(f"/tasks/{id}")


def test_ignored_fields_of_upscaling_and_png_info(small: httpx.Client) -> None:
    data, model = {"outscale": "2", "steps": "3"}, {"model": "animevideov3-x2"}
    names = {"outscale", "steps"}
    one = small.post("/api/upscale", data={**model, **data}, files={"file": ("a.png", png())})
    _warned(one, None, names)
    batch = small.post("/api/upscale-batch", data={**model, **data}, files={"files": ("a.png", png())})
    _warned(batch, None, names)
    listed = small.post(
        "/api/upscale-batch",
        data={**model, **data},
        files={"files": ("a.png", png())},
        headers={"accept": "application/json"},
    )
    _warned(listed, listed.json(), names)
    events = small.post(
        "/api/upscale", data={**model, **data}, files={"file": png()}, headers={"accept": "text/event-stream"}
    )
    _warned(events, json.loads(events.text.split("event: image\ndata: ")[1].split("\n\n")[0]), names)
    info = small.post("/png-info", data=data, files={"file": ("a.png", png())})
    _warned(info, info.json(), names)


def test_ignored_fields_are_shown_to_pages_of_other_origins(small: httpx.Client) -> None:
    answer = small.post("/generate", json={**QUICK, "n_iter": 1}, headers={"origin": "http://shop.example"})
    assert "X-Ignored-Fields" in answer.headers["access-control-expose-headers"]


def test_ignored_fields_with_names_for_headers(small: httpx.Client) -> None:
    hostile = {**QUICK, "a\r\nX-Evil: 1": 1, "\ud800": 1, "b" * 5000: 1}
    body = json.dumps(hostile)
    answer = small.post("/generate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert "x-evil" not in answer.headers
    assert len(answer.headers["x-ignored-fields"]) < 200
    many = small.post("/generate", json={**QUICK, **{f"field{k}": k for k in range(5000)}})
    assert len(many.headers["x-ignored-fields"].split(", ")) == 21
    assert len(many.json()["warnings"]) == 21


def test_size_seed_and_words_in_any_case(small: httpx.Client) -> None:
    fields = {"prompt": "a cat", "steps": 1, "guidance_scale": 1, "size": "64X96", "seed": "-1", "format": "JPG"}
    answer = small.post("/generate", json=fields).json()
    assert (answer["width"], answer["height"], answer["media_type"]) == (64, 96, "image/jpeg")
    assert answer["seed"] >= 0
    again = small.post("/generate", data={**fields, "seed": -1}).json()
    assert again["seed"] != answer["seed"]
    task = small.post("/tasks", json={"operation": "GENERATE", "priority": "High", **fields})
    assert (task.status_code, task.json()["priority"]) == (202, "high"), task.text
    assert small.get("/tasks", params={"state": "COMPLETED"}).status_code == 200
    assert small.get("/tasks", params={"state": "finished"}).status_code == 422
    upscaled = small.post("/api/upscale", data={"model": "AnimeVideoV3-X2"}, files={"file": ("a.png", png())})
    assert upscaled.headers["x-upscale-model"] == "animevideov3-x2"


@pytest.mark.parametrize("size", ["64", "64x", "big", "64x63", "1x1", "9" * 5000 + "x64"])
def test_size_that_is_none(small: httpx.Client, size: str) -> None:
    for path, more in (("/generate", {}), ("/tasks", {"operation": "generate"})):
        answer = small.post(path, json={**more, "prompt": "a cat", "size": size})
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["param"] in ("size", "width", "height")
        assert len(answer.text) < 900


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/generate", {}, "prompt"),
        ("/generate", QUICK, "steps"),
        ("/generate", QUICK, "control_type"),
        ("/generate", QUICK, "randomize_seed"),
        ("/tasks", {"operation": "generate", **QUICK}, "seed"),
        ("/tasks", {"operation": "generate", **QUICK}, "enlarge"),
        ("/tasks", QUICK, "operation"),
        ("/tasks", {"operation": "generate", **QUICK}, "priority"),
        ("/api/upscale", {}, "model"),
        ("/api/upscale", {}, "tile"),
        ("/api/upscale-batch", {}, "quality"),
    ],
)
def test_files_where_text_belongs(small: httpx.Client, path: str, fields: dict[str, Any], name: str) -> None:
    others = {key: value for key, value in fields.items() if key != name}
    image = {"/api/upscale": {"file": ("a.png", png())}, "/api/upscale-batch": {"files": ("a.png", png())}}
    answer = small.post(path, data=others, files={name: ("5.txt", b"5"), **image.get(path, {})})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"] == name
    assert "file" in answer.json()["error"]["message"]


def test_batch_names_every_bad_file(small: httpx.Client) -> None:
    names = ("bad.png", "bad.png", "errors.json", "good.png", "bad.png", "errors.json")
    files = [("files", (name, png() if name == "good.png" else b"no image")) for name in names]
    answer = small.post("/api/upscale-batch", data={"model": "animevideov3-x2"}, files=files)
    assert answer.headers["x-failed-files"] == "5"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["good.png", "errors.json"]
        told = json.loads(archive.read("errors.json"))
    assert set(told) == {"bad.png", "bad-2.png", "bad-3.png", "errors.json", "errors-2.json"}
    assert {error["code"] for error in told.values()} == {"not_an_image"}


def test_control_map_of_ones_own(small: httpx.Client) -> None:
    text = base64.b64encode(png((64, 64))).decode()
    answer = small.post("/generate", json={**QUICK, "control_image": text, "control_preprocess": False})
    assert answer.status_code == 200, answer.text
    control_map = base64.b64decode(answer.json()["control_map"].split(",")[1])
    assert np.array_equal(pixels(control_map), pixels(png((64, 64))))
    assert answer.json()["parameters"]["control_preprocess"] is False
    form = small.post("/generate", data={**QUICK, "control_preprocess": "no"}, files={"image": png()})
    assert form.json()["parameters"]["control_preprocess"] is False


def test_upscale_takes_base64(small: httpx.Client) -> None:
    text = base64.b64encode(png()).decode()
    for answer in (
        small.post("/api/upscale", json={"image": f"data:image/png;base64,{text}", "model": "animevideov3-x2"}),
        small.post("/api/upscale", data={"file": text, "model": "animevideov3-x2"}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.content.startswith(b"\x89PNG")
