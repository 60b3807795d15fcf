"""Images of requests that the content policy changes, by the whole service."""

from __future__ import annotations

import httpx

from tests.contract.generating import QUICK, decoded, events_of
from tests.contract.tasks import finished
from tests.pictures import pixels

CHANGED = {**QUICK, "prompt": "a zzchanged cat", "negative_prompt": "blurry", "steps": 5, "width": 128, "height": 64}
WARNED = {"negative_prompt", "steps", "size"}


def test_image_of_a_request_that_is_changed(http: httpx.Client) -> None:
    answer = http.post("/generate", json=CHANGED)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert {one["field"] for one in found["warnings"]} == WARNED
    assert found["parameters"]["steps"] == 3
    assert found["parameters"]["negative_prompt"] == "zznegative, blurry"
    height, width = pixels(decoded(found["images"][0])).shape[:2]
    assert (width, height) == (found["width"], found["height"])
    assert width == 88, "in the proportions of the request, as far as multiples of 8 and sides of 64 allow"
    assert height == 64
    events = events_of(http.post("/generate", json=CHANGED, headers={"accept": "text/event-stream"}))
    assert {one["field"] for one in events[-1][1]["warnings"]} == WARNED
    assert events[0][1]["total"] == 3


def test_task_that_is_changed_is_done_as_changed(http: httpx.Client) -> None:
    task = http.post("/tasks", json={**CHANGED, "operation": "generate"}).raise_for_status().json()
    assert {one["field"] for one in task["warnings"]} == WARNED
    done = finished(http, task["task_id"])
    assert done["results"][0]["details"]["steps"] == 3
    assert done["results"][0]["details"]["negative_prompt"] == "zznegative, blurry"


def test_refused_words_are_refused_beside_a_running_model(http: httpx.Client) -> None:
    answer = http.post("/generate", json={**QUICK, "prompt": "zzrefused"})
    assert (answer.status_code, answer.json()["error"]["rule"]) == (400, "refused-words")
