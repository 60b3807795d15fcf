"""From images of a session to an image with its LoRA: the exported checkpoint is what is trained on."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np

from tests.pictures import pixels
from tests.service import RunningService
from tests.training_service import make_session, wait_ended

FIELDS: dict[str, Any] = {"prompt": "a photo of a cat", "steps": 4, "seed": 5, "width": 64, "height": 64}


def image_of(http: httpx.Client, path: str, **fields: Any) -> np.ndarray[Any, Any]:
    answer = http.post(path, json={**FIELDS, **fields})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    text = said["images_base64"][0] if "images_base64" in said else said["images"][0].partition(",")[2]
    return pixels(base64.b64decode(text)).astype(int)


def test_trained_lora_changes_the_images_of_its_session(lora_service: RunningService) -> None:
    with httpx.Client(base_url=lora_service.url, timeout=120) as http:
        session = make_session(http, 2)
        options = {"steps": 20, "learning_rate": 5e-3, "rank": 8, "alpha": 16, "seed": 1, "resolution": 64}
        http.post("/train_lora", json={"session_id": session, **options}).raise_for_status()
        images = [image_of(http, "/generate") for _ in range(3)]  # which do not wait for the training
        assert all(np.array_equal(images[0], other) for other in images)
        said = wait_ended(http, session)
        assert said["status"] == "completed", said
        with_lora = image_of(http, "/generate", loras=[{"session_id": session}])
        assert np.abs(with_lora - images[0]).max() > 20
        assert np.array_equal(image_of(http, "/generate"), images[0])
        again = image_of(http, "/txt2img", model="sd15", use_lora=True, session_id=session)
        assert np.abs(again - with_lora).max() <= 2


def test_training_makes_samples_of_its_epochs(lora_service: RunningService) -> None:
    """Each is what a request with the LoRA of its epoch makes."""
    with httpx.Client(base_url=lora_service.url, timeout=120) as http:
        session = make_session(http, 1)
        options = {"steps": 2, "learning_rate": 5e-2, "rank": 8, "seed": 1, "resolution": 64, "sample_images": 2}
        task = http.post("/train_lora", json={"session_id": session, **options}).raise_for_status().json()["task_id"]
        said = wait_ended(http, session, seconds=400)
        assert said["status"] == "completed", said
        lora, _, _, *samples = http.get(f"/tasks/{task}").json()["results"]
        assert "samples_left_out" not in lora["details"]
        names = [f"epoch-00000{epoch}-{number}.png" for epoch in (1, 2) for number in (1, 2)]
        assert [one["filename"] for one in samples] == names
        assert [(one["details"]["epoch"], one["details"]["seed"]) for one in samples] == [
            (1, 1),
            (1, 2),
            (2, 1),
            (2, 2),
        ]
        made = [pixels(httpx.get(one["url"]).content).astype(int) for one in samples]
        wanted = {"prompt": "a photo of a cat, number 0", "seed": 2, "loras": [{"session_id": session}]}
        answer = http.post("/generate", json=wanted).raise_for_status().json()
        last = pixels(base64.b64decode(answer["images"][0].partition(",")[2])).astype(int)
        assert np.abs(made[3] - last).max() <= 2
        assert np.abs(made[1] - last).max() > 2, "the first epoch has another LoRA"
