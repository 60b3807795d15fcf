"""Images that a policy has checked by the safety checker of a tiny checkpoint, served by the real Triton.

The checker flags the image of one seed and not that of another. Each rule of the policy has a word of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from darkroom.registry import all_specs
from exporters import config
from exporters.config import Placement
from proxy.audit import chain
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.contract.generating import decoded, events_of
from tests.contract.tasks import wait_ended
from tests.pictures import pixels
from tests.safety_checkers import flag, make_checker
from tests.sd15_checkpoints import write_checkpoint
from tests.sd15_exports import export
from tests.service import RunningService, running_service
from tests.tiny_sd15 import make_pipeline, their_pictures
from tests.waiting import until

FLAGGED, FINE = 11, 29
"""Seeds."""
SIZE = {"width": 64, "height": 64, "steps": 2, "guidance_scale": 1}
POLICY = """\
version: "checks-1"
words: {strict: [zzstrict], black: [zzblack], soft: [zzsoft], few: [zzfew]}
rules:
  - {id: strict, words: strict, check_images: refuse}
  - {id: black, words: black, check_images: blank}
  - {id: soft, words: soft, when: checks_images, check_images: refuse}
  - {id: few, words: few, limit: {num_images: 3}}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A checkpoint with a safety checker, and one without under a label."""
    folder = tmp_path_factory.mktemp("checks")
    repository, policy, checker = folder / "models", folder / "policy.yaml", make_checker()
    seen = make_pipeline(folder / "bare")
    drawn = {seed: their_pictures(seen, seed=seed, prompt="zzstrict", num_inference_steps=2, height=64, width=64,
                                  guidance_scale=1)[0] for seed in (FLAGGED, FINE)}  # fmt: skip
    flag(checker, drawn[FLAGGED], [drawn[FINE]])
    policy.write_text(POLICY)
    specs = [spec for spec in all_specs() if spec.name.startswith("sd15") and not spec.on_demand]
    config.write_configs(repository, specs, Placement())
    export("sd15", "--checkpoint", write_checkpoint(folder / "tiny", checker=checker), "--output", repository)
    bare = [spec.labelled("bare") for spec in specs]
    config.write_configs(repository, bare, Placement())
    for spec, copied in zip(specs, bare, strict=True):
        shutil.copytree(repository / spec.name / "1", repository / copied.name / "1", dirs_exist_ok=True)
    with running_service(folder, model_repository=repository, policy_file=policy, audit="full") as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


def ask(http: httpx.Client, word: str, seed: int, accept: str = "*/*", **more: Any) -> httpx.Response:
    fields = {**SIZE, "prompt": word, "seed": seed, **more}
    return http.post("/generate", json=fields, headers={"accept": accept})


def refused(answer: httpx.Response, rule: str, words: str) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["rule"]) == ("moderation_blocked", rule)
    assert words in error["message"]


def row_of(service: RunningService, name: str, value: str, event: str) -> dict[str, Any]:
    """The row of the audit trail of that event with this value."""
    store = Store(connect(f"sqlite:///{service.folder / 'state' / 'data' / 'darkroom.db'}"))

    def found() -> dict[str, Any] | None:
        with store.transaction() as connection:
            rows = [json.loads(row.content) for row in chain.rows(connection)]
        return next((row for row in rows if row.get(name) == value and row["event"] == event), None)

    row: dict[str, Any] = until(found)
    return row


def is_black(data: bytes) -> bool:
    return not pixels(data).any()


def test_flagged_image_is_refused_and_another_is_not(http: httpx.Client) -> None:
    refused(ask(http, "zzstrict", FLAGGED), "strict", "flagged by the safety checker")
    answer = ask(http, "zzstrict", FINE)
    assert answer.status_code == 200, answer.text
    assert not is_black(decoded(answer.json()["images"][0]))


def test_what_no_rule_has_checked_is_sent(http: httpx.Client) -> None:
    answer = ask(http, "a cat", FLAGGED)
    assert answer.status_code == 200, answer.text
    assert not is_black(decoded(answer.json()["images"][0]))
    assert ask(http, "a cat", FLAGGED, check_images="refuse").headers["X-Ignored-Fields"] == "check_images"


def test_flagged_image_becomes_black(http: httpx.Client) -> None:
    answer = ask(http, "zzblack", FLAGGED).json()
    assert is_black(decoded(answer["images"][0]))
    assert answer["parameters"]["flagged"] is True
    other = ask(http, "zzblack", FINE).json()
    assert not is_black(decoded(other["images"][0]))
    assert "flagged" not in other["parameters"]


def test_stream_of_checked_images_has_no_previews(http: httpx.Client) -> None:
    events = events_of(ask(http, "zzstrict", FLAGGED, "text/event-stream", preview_every=1))
    assert [name for name, _ in events if name == "error"] == ["error"]
    assert events[-1][1]["error"]["code"] == "moderation_blocked"
    assert "preview" not in [name for name, _ in events]
    free = events_of(ask(http, "a cat", FINE, "text/event-stream", preview_every=1))
    assert "preview" in [name for name, _ in free]


def test_refusals_have_the_shape_of_their_surface(http: httpx.Client) -> None:
    openai = {"prompt": "zzstrict", "size": "64x64", "steps": 2, "guidance_scale": 1, "seed": FLAGGED}
    answer = http.post("/v1/images/generations", json=openai)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "moderation_blocked"
    assert answer.json()["error"]["type"] == "image_generation_user_error"
    web_ui = {"prompt": "zzstrict", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1, "seed": FLAGGED}
    answer = http.post("/sdapi/v1/txt2img", json={**web_ui, "sampler_name": "PLMS"})
    assert answer.status_code == 400, answer.text
    assert "flagged by the safety checker" in answer.text


def test_limit_of_images_holds_for_all_batches_together(http: httpx.Client) -> None:
    size = {"width": 64, "height": 64, "steps": 2, "seed": 5}
    made = http.post("/sdapi/v1/txt2img", json={"prompt": "zzfew", **size, "n_iter": 3, "batch_size": 2}).json()
    assert json.loads(made["info"])["all_seeds"] == [5, 6, 7]
    assert len(made["images"]) == 3
    openai = {"prompt": "zzfew", "size": "64x64", "steps": 2, "seed": 5, "n": 10}
    assert [one["seed"] for one in http.post("/v1/images/generations", json=openai).json()["data"]] == [5, 6, 7]


def test_tasks_are_checked(http: httpx.Client, service: RunningService) -> None:
    def ended(word: str) -> dict[str, Any]:
        fields = {**SIZE, "operation": "generate", "prompt": word, "seed": FLAGGED}
        id = http.post("/tasks", json=fields).json()["task_id"]
        return wait_ended(http, id)

    assert ended("zzstrict")["error"]["code"] == "moderation_blocked"
    black = ended("zzblack")
    assert black["status"] == "completed"
    assert is_black(http.get(black["results"][0]["url"]).content)
    assert row_of(service, "task", black["task_id"], "task_end")["flagged"] == 1


def test_audit_trail_has_the_decision(http: httpx.Client, service: RunningService) -> None:
    def row(answer: httpx.Response) -> dict[str, Any]:
        return row_of(service, "request_id", answer.headers["X-Request-ID"], "request")

    refusal = row(ask(http, "zzstrict", FLAGGED))
    assert (refusal["outcome"], refusal["rules"], refusal["policy_version"]) == (
        "moderation_blocked",
        ["strict"],
        "checks-1",
    )
    black = row(ask(http, "zzblack", FLAGGED))
    assert (black["outcome"], black["rules"], black["flagged"]) == ("done", ["black"], 1)
    fine = row(ask(http, "zzblack", FINE))
    assert (fine["outcome"], fine["rules"]) == ("done", ["black"])
    assert "flagged" not in fine


def test_model_without_a_checker_is_refused_unless_the_rule_leaves_it_out(http: httpx.Client) -> None:
    refused(ask(http, "zzstrict", FINE, model="bare"), "strict", "has no safety checker")
    assert ask(http, "zzsoft", FINE, model="bare").status_code == 200
    refused(ask(http, "zzsoft", FLAGGED), "soft", "flagged")
    listed = [model for model in http.get("/models").json()["models"] if model["installed"]]
    models = {model["name"]: model["checks_images"] for model in listed}
    assert models == {"sd15": True, "sd15.bare": False}
