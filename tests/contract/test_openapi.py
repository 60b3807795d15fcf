"""`/openapi.json` is true: ranges of this installation, errors in our shape, examples that are accepted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from darkroom import errors
from proxy.errors import STATUS
from tests.service import ROOT, RunningService

FEW, MANY = "5", os.environ.get("SCHEMATHESIS_EXAMPLES", "600")
"""Cases per operation and phase; with 20 operations the many are over 10,000."""
PATHS = os.environ.get("SCHEMATHESIS_PATHS", "")
"""A regular expression for the paths of the many cases; all by default. Parts of them take less time each."""
SEED = "20"
WEB_UI = ("txt2img", "img2img", "extra-single-image", "extra-batch-images", "png-info", "options")


@pytest.fixture
def client(small_service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=small_service.url, timeout=120) as made:
        yield made


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/openapi.json").json()
    return answer


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield method, path, operation


def test_openapi_has_the_ranges_of_the_installation(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    generate = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    steps, width = generate["properties"]["steps"], generate["properties"]["width"]
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (1, 1, 1)
    assert (width["minimum"], width["maximum"], width["multipleOf"]) == (64, 1024 * 1024 // 64, 8)
    assert generate["properties"]["seed"]["minimum"] == -1
    assert generate["properties"]["num_images"]["maximum"] == 1
    assert schemas["HidreamTask"]["properties"]["steps"]["maximum"] == 7
    assert schemas["UpscaleTask"]["properties"]["scale"]["maximum"] == 8
    assert schemas["ImageGenerationRequest"]["properties"]["num_inference_steps"]["maximum"] == 1


def test_openapi_says_every_kind_of_body(document: dict[str, Any]) -> None:
    both = {"application/json", "multipart/form-data", "application/x-www-form-urlencoded"}
    bodies = {path: set(one["requestBody"]["content"]) for _, path, one in operations(document) if "requestBody" in one}
    assert bodies == {
        "/generate": both,
        "/txt2img": both,
        "/edit": both,
        "/edit/json": both,
        "/edit/multi": both,
        "/multi-image-editing": both,
        "/png-info": both,
        "/api/upscale": both,
        "/tasks": both,
        "/api/upscale-batch": {"multipart/form-data"},
        "/submit": {"application/json"},
        "/batch_submit": {"application/json"},
        "/post_session_image": {"application/json"},
        "/loras": {"application/json", "multipart/form-data"},
        "/upload_lora": {"application/json"},
        "/get_lora": {"application/json"},
        "/delete_session": {"application/json"},
        "/train_lora": {"application/json"},
        "/train_status": {"application/json"},
        **{f"/sdapi/v1/{name}": {"application/json"} for name in WEB_UI},
        "/admin/keys": {"application/json"},
        "/v1/images/generations": {"application/json", "multipart/form-data"},
        "/v1/images/edits": {"application/json", "multipart/form-data"},
        "/v1/images/variations": {"application/json", "multipart/form-data"},
    }
    tasks = document["paths"]["/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(tasks["discriminator"]["mapping"]) == {"edit", "generate", "hidream", "sdxl", "train", "upscale"}


def test_openapi_says_what_edits_need(document: dict[str, Any]) -> None:
    paths = document["paths"]

    def fields(path: str, media: str = "multipart/form-data") -> dict[str, Any]:
        schema: dict[str, Any] = paths[path]["post"]["requestBody"]["content"][media]["schema"]
        return schema

    one, multi, modes = fields("/edit"), fields("/edit/multi"), fields("/multi-image-editing")
    assert {"image", "image_base64", "images"} == {name for names in one["oneOf"] for name in names["required"]}
    assert (one["properties"]["images"]["maxItems"], multi["properties"]["images"]["maxItems"]) == (5, 3)
    assert "mode" not in multi["properties"]
    assert modes["required"] == ["prompt", "mode"]
    assert (modes["properties"]["mode"]["minimum"], modes["properties"]["mode"]["maximum"]) == (1, 16)
    assert modes["properties"]["controlnet_image"]["format"] == "binary"
    for schema in (one, multi, modes):
        scale = schema["properties"]["true_guidance_scale"]
        assert (scale["minimum"], scale["maximum"]) == (1.0, 10.0)
        assert schema["properties"]["num_images_per_prompt"]["maximum"] == 4
    encoded = fields("/edit/json", "application/json")
    assert encoded["oneOf"] == [{"required": ["image_base64"]}]
    assert encoded["properties"]["image_base64"]["contentEncoding"] == "base64"


def test_openapi_says_every_error_in_its_shape(document: dict[str, Any]) -> None:
    said: set[int] = set()
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            said.add(int(status))
            assert "X-Request-ID" in answer["headers"], (method, path, status)
            health = path.startswith(("/health", "/api/health"))
            if int(status) < 400 or (health and status == "503"):
                continue
            schema = answer["content"]["application/json"]["schema"]
            shapes = {"/sdapi/": "WebUiError", "/v1/": "OpenaiError"}
            shape = next((name for start, name in shapes.items() if path.startswith(start)), "Error")
            assert schema == {"$ref": f"#/components/schemas/{shape}"}, (method, path, status)
            if status in ("429", "503"):
                assert "Retry-After" in answer["headers"], (method, path)
    ours = {STATUS[kind] for kind in errors.walk() if kind is not errors.Cancelled}  # whose client has gone
    assert said == ours | {200, 201, 202, 400, 403, 406, 408, 431}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_openapi_examples_are_accepted(client: httpx.Client, document: dict[str, Any]) -> None:
    sent, session = 0, client.get("/create_session").json()["session_id"]
    for _, path, operation in operations(document):
        for media, body in operation.get("requestBody", {}).get("content", {}).items():
            for name, example in body.get("examples", {}).items():
                if name in ("edit", "hidream", "sdxl") or path.startswith("/edit"):
                    continue  # are not in this repository
                if name == "train" or path in ("/train_lora", "/admin/keys"):
                    continue  # take minutes, see test_train_lora.py; are for admins, see tests/unit/test_keys_access.py
                value = example["value"]
                if "session_id" in value:
                    value = {**value, "session_id": session}
                how = {"json": value} if media == "application/json" else {"data": value}
                if media == "multipart/form-data":
                    how = {"files": {key: (None, str(text)) for key, text in value.items()}}
                answer = client.post(path, **how)
                assert answer.status_code in (200, 202), (path, media, name, answer.text)
                assert "x-ignored-fields" not in answer.headers
                sent += 1
                for id in _task_ids(answer):
                    client.delete(f"/tasks/{id}")
    assert sent == 22 + 6 + 4  # of /sdapi/v1 and of /v1


def _task_ids(answer: httpx.Response) -> list[str]:
    if answer.headers["content-type"] != "application/json":
        return []
    content = answer.json()
    if not isinstance(content, dict):  # the web UIs' API answers null, too
        return []
    return content.get("task_ids") or [content["task_id"]] if "task_id" in content or "task_ids" in content else []


def test_docs_page_loads(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert '"openapi.json"' in client.get("/docs/start.js").text


def schemathesis(service: RunningService, work: Path, examples: str, phases: str, paths: str = "") -> str:
    """Run all of its checks; returns what it says. They find nothing, or the test fails.

    :param paths: a regular expression for those that are called; all by default.
    """
    httpx.get(f"{service.url}/openapi.json", timeout=300)  # it is made once; schemathesis waits for 10 s only
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests" / "schemathesis.toml")]
    options = ["--max-examples", examples, "--phases", phases, "--seed", SEED, "--no-color", "--continue-on-failure"]
    options += ["--request-timeout", "300", *(["--include-path-regex", paths] if paths else [])]
    run = subprocess.run(
        [*command, "run", f"{service.url}/openapi.json", *options],
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.openapi_hooks", "PYTHONPATH": str(ROOT)},
        cwd=work,  # where it keeps a cache
        text=True,
        capture_output=True,
        check=False,
    )
    said = run.stdout + run.stderr
    (work / "schemathesis.txt").write_text(said)
    assert run.returncode == 0, said[-6000:]
    return said


def test_schemathesis_finds_nothing(small_service: RunningService, tmp_path: Path) -> None:
    said = schemathesis(small_service, tmp_path, FEW, "examples,fuzzing")
    assert int(re.findall(r"(\d+) generated", said)[0]) > 100, said[-2000:]


@pytest.mark.heavy
@pytest.mark.timeout(7200)
def test_schemathesis_finds_nothing_in_many_cases(small_service: RunningService, tmp_path: Path) -> None:
    """Every phase; SCHEMATHESIS_EXAMPLES says how many cases there are for each operation, SCHEMATHESIS_PATHS where."""
    said = schemathesis(small_service, tmp_path, MANY, "examples,coverage,fuzzing", PATHS)
    print(said[-1000:])  # noqa: T201  # how many cases there were
