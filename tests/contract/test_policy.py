"""The content policy over REST: refusals and changes, direct and as tasks. Nothing here needs a model, so no Triton
runs: what is not refused is answered 503, or becomes a task that waits."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.editing import OTHER, PHOTO, form
from tests.contract.generating import QUICK
from tests.pictures import encoded, photo
from tests.service import ROOT, Server, running_proxy

BAD, CHANGED = "a zzrefused cat", "a zzchanged cat"
LARGE = encoded(photo(0, 0, 400, 400))
UPSCALING = """
  - id: modest-upscaling
    when: operation == "upscale" && scale > 7.0
    limit: {scale: 2}
  - id: many
    when: num_images > 4
    refuse: These are too many.
  - id: large-upscaling
    when: operation == "upscale" && width * height > 4000000
    refuse: The result would be too large.
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    path.write_text((ROOT / "tests" / "data" / "policy.yaml").read_text("utf-8") + UPSCALING, "utf-8")
    return path


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("proxy")
    checkpoint = ROOT / "checkpoints" / "demo-sd15"
    with running_proxy(
        folder, model_repository=folder / "none", policy_file=file, train_checkpoint=checkpoint
    ) as running:
        yield running


@pytest.fixture(scope="module")
def http(proxy: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, timeout=60) as client:
        yield client


def refused(answer: httpx.Response, rule: str) -> None:
    """The answer is a refusal by a rule, in the native shape."""
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["rule"], error["param"]) == ("moderation_blocked", rule, None)
    assert answer.json()["detail"] == error["message"]
    assert error["message"].endswith(".")


def warned(answer: httpx.Response) -> dict[str, str]:
    """The messages of the warnings by their fields."""
    return {one["field"]: one["message"] for one in answer.json()["warnings"]}


@pytest.mark.parametrize(
    "prompt",
    [BAD, "(zzref:1.2)used", "[cat|zzrefused]", "ｚｚrefused", "zz\u200brefused", "一句禁语", "z z r e f u s e d"],
)
def test_generate_with_a_refused_word(http: httpx.Client, prompt: str) -> None:
    refused(http.post("/generate", json={**QUICK, "prompt": prompt}), "refused-words")


def test_refusals_are_the_same_on_every_endpoint(http: httpx.Client) -> None:
    rule = "refused-words"
    refused(http.post("/generate", data={**QUICK, "prompt": BAD}), rule)
    events = {"accept": "text/event-stream"}
    refused(http.post("/generate", json={**QUICK, "prompt": BAD}, headers=events), rule)
    refused(http.post("/txt2img", json={"prompt": BAD, "steps": 2}), rule)
    refused(http.post("/tasks", json={**QUICK, "operation": "generate", "prompt": BAD}), rule)
    refused(http.post("/submit", json={"prompt": BAD}), rule)
    refused(form("/edit", http, [("image", PHOTO)], prompt=BAD), rule)
    refused(form("/tasks", http, [("image", PHOTO)], operation="edit", prompt=BAD), rule)
    several = http.post("/batch_submit", json={"requests": [{"prompt": "a cat"}, {"prompt": BAD}]})
    refused(several, rule)
    assert several.json()["detail"] == "requests[1]: This word is refused."
    assert http.get("/tasks").json()["tasks"] == []


def test_words_in_the_parameters_of_a_mode_are_refused(http: httpx.Client) -> None:
    text = json.dumps({"old_text": "Hello", "new_text": "zzrefused"})
    refused(form("/edit", http, [("image", PHOTO)], prompt="", mode=9, text_params_json=text), "refused-words")
    more = json.dumps({"positions": ["left", "zzrefused"]})
    images = [("images", PHOTO), ("images", OTHER)]
    answer = form("/multi-image-editing", http, images, mode=1, additional_params_json=more)
    refused(answer, "refused-words")


def test_what_is_allowed_goes_on(http: httpx.Client) -> None:
    assert http.post("/generate", json=QUICK).status_code == 503
    assert http.post("/generate", json={**QUICK, "negative_prompt": BAD}).status_code == 503
    assert http.post("/generate", json={**QUICK, "steps": 0}).status_code == 422


def test_task_that_is_changed_says_so(http: httpx.Client) -> None:
    fields = {**QUICK, "prompt": CHANGED, "steps": 20, "num_images": 4, "width": 128, "height": 64, "nope": 1}
    answer = http.post("/tasks", json={**fields, "operation": "generate"})
    assert answer.status_code == 202, answer.text
    said = warned(answer)
    assert said["steps"] == "steps was lowered from 20 to 3 by the content policy (rule changed-words)."
    assert said["num_images"] == "num_images was lowered from 4 to 1 by the content policy (rule changed-words)."
    assert said["size"].startswith("the size was lowered from 8,192 pixels to ")
    assert said["negative_prompt"].startswith('"zznegative" was added to negative_prompt')
    assert "nope" in said, "with the fields that are not known"
    assert answer.headers["X-Ignored-Fields"] == "nope"
    task = answer.json()
    assert task["total_steps"] == 3
    assert http.delete(f"/tasks/{task['task_id']}").status_code == 200


def test_all_images_of_a_request_are_judged_together(http: httpx.Client) -> None:
    size = {"width": 64, "height": 64, "steps": 2}
    many = http.post("/sdapi/v1/txt2img", json={"prompt": "a cat", **size, "n_iter": 3, "batch_size": 2})
    assert (many.status_code, "These are too many" in many.text) == (400, True), many.text
    few = http.post("/sdapi/v1/txt2img", json={"prompt": "a cat", **size, "n_iter": 2, "batch_size": 2})
    assert few.status_code == 503, few.text
    openai = {"prompt": "a cat", "size": "64x64"}
    assert http.post("/v1/images/generations", json={**openai, "n": 5}).json()["error"]["code"] == "moderation_blocked"
    assert http.post("/v1/images/generations", json={**openai, "n": 4}).status_code == 503


def test_task_says_what_its_mode_does_not_read(http: httpx.Client) -> None:
    text = json.dumps({"old_text": "Hello"})
    answer = form(
        "/tasks",
        http,
        [("images", PHOTO), ("images", OTHER)],
        operation="edit",
        prompt="red",
        mode=1,
        text_params_json=text,
    )
    assert answer.status_code == 202, answer.text
    assert "text_params_json.old_text" in warned(answer)
    http.delete(f"/tasks/{answer.json()['task_id']}").raise_for_status()


def test_submitted_task_that_is_changed_says_so(http: httpx.Client) -> None:
    answer = http.post("/batch_submit", json={"requests": [{"prompt": "a cat"}, {"prompt": CHANGED}]})
    assert answer.status_code == 200, answer.text
    assert {one["field"] for one in answer.json()["warnings"]} >= {"requests[1].steps", "requests[1].negative_prompt"}
    for id in answer.json()["task_ids"]:
        http.delete(f"/tasks/{id}").raise_for_status()


def test_upscaling_is_judged_by_the_size_of_its_result(http: httpx.Client) -> None:
    file = {"file": ("large.png", LARGE)}
    refused(http.post("/api/upscale", files=file, data={"scale": "6"}), "large-upscaling")
    refused(http.post("/tasks", files=file, data={"operation": "upscale", "scale": "6"}), "large-upscaling")
    answer = http.post("/tasks", files=file, data={"operation": "upscale", "scale": "8"})
    assert warned(answer) == {"scale": "scale was lowered from 8 to 2 by the content policy (rule modest-upscaling)."}
    http.delete(f"/tasks/{answer.json()['task_id']}").raise_for_status()
    larger = http.post("/tasks", json={**QUICK, "operation": "generate", "enlarge": 8})
    assert warned(larger) == {
        "enlarge": "enlarge was lowered from 8 to 2 by the content policy (rule modest-upscaling)."
    }
    http.delete(f"/tasks/{larger.json()['task_id']}").raise_for_status()


@pytest.mark.parametrize("upscaler", ["Lanczos", "Nearest"])
def test_images_that_are_resized_without_a_model_are_judged(http: httpx.Client, upscaler: str) -> None:
    image = base64.b64encode(PHOTO).decode()
    sent = {"image": image, "upscaling_resize": 8, "upscaler_1": upscaler}
    answer = http.post("/sdapi/v1/extra-single-image", json=sent)
    assert (answer.status_code, answer.json()["param"]) == (422, "image")
    assert "rule modest-upscaling" in answer.json()["detail"]
    sent = {"prompt": "a cat", "width": 64, "height": 64, "enable_hr": True, "hr_scale": 8, "hr_upscaler": upscaler}
    answer = http.post("/sdapi/v1/txt2img", json={**sent, "denoising_strength": 0})
    assert (answer.status_code, answer.json()["param"]) == (422, "hr_scale")
    assert "rule modest-upscaling" in answer.json()["detail"]


def test_captions_and_prompts_of_trainings_are_judged(http: httpx.Client) -> None:
    session = http.get("/create_session").json()["session_id"]
    image = {"session_id": session, "image_base64": base64.b64encode(OTHER).decode()}
    refused(http.post("/post_session_image", json={**image, "prompt": "zztrained"}), "trained-words")
    http.post("/post_session_image", json={**image, "prompt": "a cat"}).raise_for_status()
    prior = {"prior_images": 1, "prior_prompts": ["a dog", "zztrained"]}
    samples = {"sample_prompts": ["zztrained"]}
    for more in (samples, {**prior, "prior_images": 2}):
        refused(http.post("/train_lora", json={"session_id": session, "steps": 1, **more}), "trained-words")
        task = {"operation": "train", "session_id": session, "steps": 1, **more}
        refused(http.post("/tasks", json=task), "trained-words")


def test_admins_see_which_policy_is_used(http: httpx.Client) -> None:
    found = http.get("/admin/policy").json()
    assert (found["enabled"], found["version"], found["problems"]) == (True, "test-1", [])
    assert found["rules"][0] == "refused-words"
    assert found["words"] == {"refused": 2, "changed": 1, "trained": 1}


def test_changed_file_is_used_at_once_and_a_broken_one_is_not(http: httpx.Client, file: Path, proxy: Server) -> None:
    """The last test: it changes the policy of the others."""
    text, prompt = file.read_text("utf-8"), {**QUICK, "prompt": "a zzlater cat"}
    assert http.post("/generate", json=prompt).status_code == 503
    file.write_text(text.replace("zzrefused", "zzlater").replace("test-1", "test-2"), "utf-8")
    refused(http.post("/generate", json=prompt), "refused-words")
    assert http.post("/generate", json={**QUICK, "prompt": BAD}).status_code == 503
    file.write_text(text.replace("steps: 3", "steps: few"), "utf-8")
    refused(http.post("/generate", json=prompt), "refused-words")
    found = http.get("/admin/policy").json()
    assert found["version"] == "test-2"
    assert found["problems"][0].startswith("policy.yaml, line 22: rules[3].limit.steps: ")
    assert "the policy is broken, and version test-2 stays" in (proxy.folder / "logs" / "proxy.log").read_text()
