"""The audit trail and the manifests of a real service, and what is left of them when its proxy is killed."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from click.testing import CliRunner

from darkroom.pipelines.upscale.networks import NETWORKS
from proxy.audit import chain
from proxy.audit.cli import audit
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.certificates import Certificates, make_certificates
from tests.contract.conftest import SD15
from tests.contract.generating import QUICK, decoded, events_of
from tests.manifests import actions, read_manifest
from tests.pictures import encoded, photo
from tests.service import RunningService, link_models, running_service

KEY = "sk-live-0123456789"
FAST, LARGE = "animevideov3-x2", "animevideov3-x4"
SMALL = encoded(photo(200, 60, 48, 40))


class Trail:
    """The rows of a running service."""

    def __init__(self, service: RunningService) -> None:
        self.url = f"sqlite:///{service.folder / 'state' / 'data' / 'darkroom.db'}"
        self.store = Store(connect(self.url))

    def rows(self) -> list[dict[str, Any]]:
        with self.store.transaction() as connection:
            return [json.loads(row.content) for row in chain.rows(connection)]

    def of(self, request_id: str) -> list[dict[str, Any]]:
        """The rows of one request."""
        return [row for row in self.rows() if row.get("request_id") == request_id]

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for row in self.rows():
                if wanted(row):
                    return row
            time.sleep(0.02)
        raise AssertionError(f"no such row: {self.rows()}")

    def verify(self) -> str:
        done = CliRunner().invoke(audit, ["verify"], env={"DATABASE_URL": self.url})
        assert done.exit_code == 0, done.output
        return done.output


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    upscaler = ("upscale", *(network.model_name for network in NETWORKS))
    repository = link_models(folder / "models", *SD15, *upscaler)
    settings: dict[str, object] = {"audit": "full", "c2pa_cert": certificates.cert, "c2pa_key": certificates.key}
    with running_service(folder, model_repository=repository, canary_interval=3600, **settings) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture(scope="module")
def trail(service: RunningService) -> Iterator[Trail]:
    opened = Trail(service)
    yield opened
    opened.store.close()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_generated_image_has_a_row_and_a_manifest(http: httpx.Client, trail: Trail, certificates: Certificates) -> None:
    answer = http.post("/generate", json={**QUICK, "negative_prompt": "a dog"}, headers={"X-Request-ID": "generated"})
    image = decoded(answer.json()["images"][0])
    (row,) = trail.of("generated")
    assert (row["operation"], row["model"], row["outcome"]) == ("generate", "sd15", "done")
    assert row["prompts"] == {"prompt": QUICK["prompt"], "negative_prompt": "a dog"}
    assert (row["results"], row["address"]) == ([sha(image)], "127.0.0.1")
    state, manifest, _ = read_manifest(image, "image/png", certificates.root)
    (action,) = actions(manifest)
    assert (state, action["action"], action["parameters"]) == ("Trusted", "c2pa.created", {"darkroom.model": "sd15"})
    told = http.post("/png-info", files={"file": ("x.png", image)}).json()
    assert QUICK["prompt"] in told["parameters"], "the parameters are still in the image"


def test_upscaled_image_has_a_row_and_names_its_original(
    http: httpx.Client, trail: Trail, certificates: Certificates
) -> None:
    send = {"files": {"file": ("in.png", SMALL)}, "data": {"model": FAST, "format": "webp"}}
    answer = http.post("/api/upscale", headers={"X-Request-ID": "upscaled"}, **send)  # type: ignore[arg-type]
    (row,) = trail.of("upscaled")
    assert (row["path"], row["inputs"], row["results"]) == ("/api/upscale", [sha(SMALL)], [sha(answer.content)])
    state, manifest, _ = read_manifest(answer.content, "image/webp", certificates.root)
    assert (state, [one["action"] for one in actions(manifest)]) == ("Trusted", ["c2pa.opened", "c2pa.edited"])
    assert manifest["ingredients"][0]["relationship"] == "parentOf"


def test_image_between_two_passes_is_no_result(http: httpx.Client, trail: Trail, certificates: Certificates) -> None:
    fields = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "enable_hr": True, "hr_scale": 1.5}
    for strength in (0, 0.5):
        id = f"passes-{strength}"
        asked = {**fields, "hr_upscaler": "Lanczos", "denoising_strength": strength}
        answer = http.post("/sdapi/v1/txt2img", json=asked, headers={"X-Request-ID": id})
        image = base64.b64decode(answer.json()["images"][0])
        (row,) = trail.of(id)
        assert row["results"] == [sha(image)]
        assert read_manifest(image, "image/png", certificates.root)[0] == "Trusted"


def test_batch_has_one_row_with_all_its_images(http: httpx.Client, trail: Trail) -> None:
    files = [("files", (f"{n}.png", SMALL)) for n in range(2)]
    http.post("/api/upscale-batch", files=files, data={"model": FAST}, headers={"X-Request-ID": "batch"})
    (row,) = trail.of("batch")
    assert (len(row["inputs"]), len(row["results"]), row["status"]) == (2, 2, 200)


def test_stream_has_two_rows(http: httpx.Client, trail: Trail) -> None:
    accept = {"Accept": "text/event-stream", "X-Request-ID": "streamed"}
    events = events_of(http.post("/generate", json=QUICK, headers=accept))
    image = decoded(next(content["image"] for name, content in events if name == "image"))
    accepted, ended = trail.of("streamed")
    assert (accepted["outcome"], ended["outcome"], ended["results"]) == ("accepted", "done", [sha(image)])


def test_web_uis_image_that_is_enlarged_has_one_row_with_its_prompt(http: httpx.Client, trail: Trail) -> None:
    sent = {"prompt": QUICK["prompt"], "steps": 1, "width": 64, "height": 64, "seed": 1, "enable_hr": True}
    more = {"hr_upscaler": "Lanczos", "denoising_strength": 0}
    answer = http.post("/sdapi/v1/txt2img", json={**sent, **more}, headers={"X-Request-ID": "second-pass"})
    (row,) = trail.of("second-pass")
    image = base64.b64decode(answer.json()["images"][0])
    assert (row["operation"], row["prompts"]) == ("generate", {"prompt": QUICK["prompt"]})
    assert (row["results"], row.get("inputs")) == ([sha(image)], None)
    twice = {"image": base64.b64encode(SMALL).decode(), "upscaling_resize": 2, "upscaler_1": "Lanczos"}
    twice |= {"upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5}
    answer = http.post("/sdapi/v1/extra-single-image", json=twice, headers={"X-Request-ID": "extras"})
    (row,) = trail.of("extras")
    image = base64.b64decode(answer.json()["image"])
    assert (row["operation"], row["inputs"], row["results"]) == ("upscale", [sha(SMALL)], [sha(image)])


def test_answer_that_is_sent_again_has_a_whole_row(http: httpx.Client, trail: Trail) -> None:
    body = {"prompt": QUICK["prompt"], "size": "64x64", "num_inference_steps": 1}
    for id in ("first", "second"):
        headers = {"X-Request-ID": id, "Idempotency-Key": "audited"}
        answer = http.post("/v1/images/generations", json=body, headers=headers)
    assert answer.headers["Idempotent-Replayed"] == "true"
    image = base64.b64decode(answer.json()["data"][0]["b64_json"])
    for (row,) in (trail.of("first"), trail.of("second")):
        assert (row["operation"], row["prompts"]) == ("generate", {"prompt": QUICK["prompt"]})
        assert row["results"] == [sha(image)]


def test_captions_and_prompts_of_trainings_have_rows(http: httpx.Client, trail: Trail) -> None:
    session = http.get("/create_session").json()["session_id"]
    image = {"session_id": session, "prompt": "a red apple", "image_base64": base64.b64encode(SMALL).decode()}
    http.post("/post_session_image", json=image, headers={"X-Request-ID": "captioned"})
    (row,) = trail.of("captioned")
    assert (row["operation"], row["prompts"], row["inputs"]) == ("train", {"prompt": "a red apple"}, [sha(SMALL)])
    training = {"session_id": "999", "sample_prompts": ["a green apple"]}
    http.post("/train_lora", json=training, headers={"X-Request-ID": "training"})
    (row,) = trail.of("training")
    assert (row["operation"], row["outcome"]) == ("train", "not_found")
    assert "a green apple" in row["prompts"]["sample_prompts"]


def test_refusal_and_deletion_have_rows(http: httpx.Client, trail: Trail) -> None:
    http.post("/generate", json={**QUICK, "steps": 0}, headers={"X-Request-ID": "refused"})
    http.delete("/loras/none", headers={"X-Request-ID": "deleted"})
    ((refused,), (deleted,)) = trail.of("refused"), trail.of("deleted")
    assert (refused["status"], refused["outcome"]) == (422, "invalid_input")
    assert (deleted["status"], deleted["path"], deleted["outcome"]) == (404, "/loras/{name}", "not_found")


def test_task_has_two_rows_and_its_results_have_manifests(
    http: httpx.Client, trail: Trail, certificates: Certificates
) -> None:
    body = {"operation": "generate", **QUICK, "enlarge": 2, "enlarge_model": FAST}
    id = http.post("/tasks", json=body, headers={"X-Request-ID": "begun"}).json()["task_id"]
    ended = trail.wait_for(lambda row: row["event"] == "task_end" and row["task"] == id)
    (accepted,) = trail.of("begun")
    assert (accepted["event"], accepted["task"], accepted["path"]) == ("task", id, "/tasks")
    assert accepted["prompts"] == {"prompt": QUICK["prompt"]}
    image = http.get(f"/download/{id}").content
    assert (ended["outcome"], ended["results"]) == ("completed", [sha(image)])
    state, manifest, all_of_them = read_manifest(image, "image/png", certificates.root)
    assert (state, [one["action"] for one in actions(manifest)]) == ("Trusted", ["c2pa.opened", "c2pa.edited"])
    before = all_of_them[manifest["ingredients"][0]["active_manifest"]]
    assert actions(before)[0]["parameters"] == {"darkroom.model": "sd15"}


def proxy_of(service: RunningService) -> psutil.Process:
    return next(p for p in service.find("-m proxy") if p.pid != service.process.pid)


def test_proxy_that_is_killed_before_its_answer_has_left_the_row(service: RunningService, trail: Trail) -> None:
    """The client does not read, and the 7 MB of the answer are more than the system keeps of what is on its way."""
    address = urlsplit(service.url)
    image = encoded(photo(0, 0, 384, 384))
    head = "POST /api/upscale HTTP/1.1\r\nHost: x\r\nX-Request-ID: killed\r\nContent-Type: {}\r\nContent-Length: {}"
    form = httpx.Request("POST", service.url, files={"file": ("x.png", image)}, data={"model": LARGE, "format": "raw"})
    body = form.read()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.hostname, address.port))
        client.sendall(head.format(form.headers["content-type"], len(body)).encode() + b"\r\n\r\n" + body)
        row = trail.wait_for(lambda row: row.get("request_id") == "killed")
        proxy_of(service).kill()
        client.settimeout(60)
        received = 0
        try:
            while piece := client.recv(1 << 16):
                received += len(piece)
        except ConnectionResetError:
            pass
    assert received < 1536 * 1536 * 3, "the client has no whole answer"
    assert (row["outcome"], row["inputs"], len(row["results"])) == ("done", [sha(image)], 1)
    assert trail.of("killed") == [row]
    trail.verify()


def test_task_that_is_killed_on_the_way_ends_with_one_row(service: RunningService, trail: Trail) -> None:
    service.wait_healthy(120)
    with httpx.Client(base_url=service.url, timeout=60) as http:
        body = {"operation": "generate", **QUICK, "steps": 100}
        id = http.post("/tasks", json=body).json()["task_id"]
        while http.get(f"/tasks/{id}").json()["status"] == "queued":
            time.sleep(0.02)
        proxy_of(service).kill()
    trail.wait_for(lambda row: row["event"] == "task_end" and row["task"] == id)
    events = [(row["event"], row.get("outcome")) for row in trail.rows() if row.get("task") == id]
    assert events == [("task", "accepted"), ("task_end", "completed")]


def test_trail_is_intact_and_has_no_key(trail: Trail) -> None:
    assert f"{len(trail.rows())} rows are intact" in trail.verify()
    with trail.store.transaction() as connection:
        assert all(KEY not in row.content for row in chain.rows(connection))
