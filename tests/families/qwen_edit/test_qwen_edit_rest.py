"""The editing endpoints on a tiny export of a model that reads several images."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from darkroom.devices import gpu_info
from darkroom.edit_modes.modes import MODES
from tests.clients import darkroom
from tests.contract.editing import BASE64, DATA_URL, OTHER, PHOTO, QUICK, TEXT, form
from tests.contract.generating import decoded, events_of, first, named
from tests.contract.tasks import finished
from tests.pictures import encoded, photo, pixels
from tests.service import RunningService, link_models, running_service

ONE, TWO = (("images", PHOTO),), (("images", PHOTO), ("images", OTHER))
SIZE = (80, 96, 3)
"""Of PHOTO."""


def repository_of(exported: Path, folder: Path) -> Path:
    return link_models(folder / "repository", *(model.name for model in exported.iterdir()), source=exported)


@pytest.fixture(scope="module")
def service(qwen_edit_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("edit")
    repository = repository_of(qwen_edit_repository, folder)
    with running_service(folder, model_repository=repository, canary_interval=3600) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=300) as client:
        yield client


def test_edit_answers_as_the_contract_says(http: httpx.Client) -> None:
    answer = form("/edit", http, (("image", PHOTO),))
    body = answer.json()
    image = first(answer)
    assert (body["success"], body["seed"], len(body["images"])) == (True, 7, 1)
    assert body["gpu_id"] == (0 if gpu_info(None) else None)
    assert pixels(image).shape == SIZE, "as large as what was sent"
    assert pixels(image).std() > 5, "a flat image would prove nothing"
    assert "warnings" not in body
    assert first(form("/edit", http, (("image", PHOTO),))) == image, "the same seed, the same bytes"
    assert first(form("/edit", http, (("image", PHOTO),), seed=8)) != image
    parameters = http.post("/png-info", files={"file": image}).json()["darkroom"]
    assert parameters["prompt"] == QUICK["prompt"]
    assert (parameters["seed"], parameters["steps"], parameters["negative_prompt"]) == (7, 2, " ")
    assert parameters == body["parameters"]


def test_edit_json_is_the_same_edit(http: httpx.Client) -> None:
    image = first(form("/edit", http, (("image", PHOTO),)))
    assert first(form("/edit/json", http, image_base64=DATA_URL)) == image, "as the old curl example sends it"
    for path, name in (("/edit/json", "image_base64"), ("/edit", "image"), ("/edit", "image_base64")):
        assert first(http.post(path, json={**QUICK, "seed": 7, name: BASE64})) == image, (path, name)
    assert first(http.post("/edit", json={**QUICK, "images": [BASE64]})) == image
    assert first(http.post("/edit/json", data={**QUICK, "image_base64": BASE64})) == image


def test_edit_of_several_images(http: httpx.Client) -> None:
    several = form("/edit/multi", http, TWO)
    assert pixels(first(several)).shape == SIZE
    assert several.json()["parameters"]["input_images"] == 2
    assert first(several) != first(form("/edit/multi", http, ONE))
    assert first(form("/edit", http, TWO)) == first(several)
    three = form("/edit/multi", http, (*TWO, ("images", OTHER)), guidance_scale=1.0)
    assert three.json()["parameters"]["input_images"] == 3


@pytest.mark.parametrize(
    ("mode", "images", "fields", "prompt"),
    [
        (
            1,
            TWO,
            {"additional_params_json": '{"positions": ["left", "right"]}'},
            "Put the people of Picture 1 and Picture 2 into one scene. Keep the face, hair and clothes of each person. "
            "Positions: Picture 1 left, Picture 2 right. make the background red",
        ),
        (5, TWO, {"prompt": "放在桌上"}, "將圖1和圖2的物件組合在一起，保持每個物件的外觀不變。放在桌上"),
        (
            9,
            ONE,
            {"text_params_json": TEXT},
            'Replace the text "Hello" in the picture with "Hi". make the background red',
        ),
        (
            8,
            ONE,
            {"additional_params_json": '{"style": "ink"}'},
            "Change the style of the picture. Keep its content and composition. Style: ink. make the background red",
        ),
    ],
)
def test_edit_in_a_mode(
    http: httpx.Client, mode: int, images: tuple[tuple[str, bytes], ...], fields: dict[str, Any], prompt: str
) -> None:
    answer = form("/multi-image-editing", http, images, mode=mode, **fields)
    image, body = first(answer), answer.json()
    assert (body["prompt"], body["mode"], body["seed"]) == (prompt, mode, 7)
    assert first(form("/edit/multi", http, images, prompt=prompt)) == image, "the model got that prompt"


@pytest.mark.parametrize("mode", [13, 14, 15, 16])
def test_edit_follows_a_control_image(http: httpx.Client, mode: int) -> None:
    answer = form("/multi-image-editing", http, (*ONE, ("controlnet_image", OTHER)), mode=mode)
    image, body = first(answer), answer.json()
    assert body["parameters"]["input_images"] == 2
    assert pixels(image).shape == SIZE
    other = form("/multi-image-editing", http, (*ONE, ("controlnet_image", PHOTO)), mode=mode)
    assert first(other) != image, "the control image makes a difference"
    assert first(form("/edit/multi", http, TWO, prompt=body["prompt"])) == image


def test_edit_runs_in_every_mode(http: httpx.Client) -> None:
    every = '{"old_text": "a", "new_text": "b", "font_type": "Arial", "color": "red"}'
    for number, mode in MODES.items():
        images = TWO if mode.requires_multiple_images else ONE
        images = (*images, ("controlnet_image", OTHER)) if mode.requires_controlnet else images
        fields = {"text_params_json": every} if mode.requires_text_params else {}
        answer = form("/multi-image-editing", http, images, mode=number, **fields)
        assert pixels(first(answer)).shape == SIZE, number
        assert answer.json()["mode"] == number


def test_edit_makes_several_results(http: httpx.Client) -> None:
    body = form("/edit", http, (("image", PHOTO),), num_images_per_prompt=2).json()
    assert (body["seed"], body["seeds"]) == (7, [7, 8])
    made = [pixels(decoded(image)) for image in body["images"]]
    for seed, image in zip((7, 8), made, strict=True):
        alone = pixels(first(form("/edit", http, (("image", PHOTO),), seed=seed)))
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 2, "the k-th image has seed + k"


def test_edit_draws_a_seed(http: httpx.Client) -> None:
    bodies = [form("/edit", http, (("image", PHOTO),), randomize_seed="true").json() for _ in range(2)]
    assert len({7, *(body["seed"] for body in bodies)}) == 3
    again = form("/edit", http, (("image", PHOTO),), seed=bodies[0]["seed"])
    assert again.json()["images"] == bodies[0]["images"]
    assert form("/edit", http, (("image", PHOTO),), seed=None).json()["seed"] >= 0


def test_edit_leaves_alone_what_the_checkpoint_decides(http: httpx.Client) -> None:
    """The tiny checkpoint wants 4 steps, and what the published ones want for guidance."""
    parameters = form("/edit", http, (("image", PHOTO),), num_inference_steps=None).json()["parameters"]
    assert (parameters["steps"], parameters["true_guidance_scale"]) == (4, 4.0)


def test_edit_through_a_mask_keeps_the_rest(http: httpx.Client) -> None:
    mask = photo(0, 0, 96, 80).convert("RGBA")
    mask.putalpha(255)
    mask.paste((0, 0, 0, 0), (0, 0, 48, 80))
    made = pixels(first(form("/edit", http, (("image", PHOTO), ("mask", encoded(mask))))))
    given = pixels(PHOTO)
    assert np.array_equal(made[:, 64:], given[:, 64:])
    assert not np.array_equal(made[:, :32], given[:, :32])


def test_edit_sends_events(http: httpx.Client) -> None:
    files = [("images", ("a.png", PHOTO)), ("images", ("b.png", OTHER))]
    data = {**QUICK, "mode": "1", "preview_every": "1"}
    answer = http.post("/multi-image-editing", files=files, data=data, headers={"accept": "text/event-stream"})
    events = events_of(answer)
    names = [name for name, _ in events]
    assert names[-2:] == ["image", "done"]
    assert {"progress", "preview"} <= set(names)
    done = events[-1][1]
    assert (done["mode"], done["seed"]) == (1, 7)
    assert done["prompt"].endswith(QUICK["prompt"])
    assert decoded(events[-2][1]["image"]) == first(form("/multi-image-editing", http, TWO, mode=1))


def test_edit_answers_the_image_itself(http: httpx.Client) -> None:
    answer = http.post("/edit", json={**QUICK, "image": BASE64}, headers={"accept": "image/png"})
    assert (answer.status_code, answer.headers["x-seed"]) == (200, "7")
    assert answer.content == first(form("/edit", http, (("image", PHOTO),)))


def test_edit_as_a_task(http: httpx.Client) -> None:
    fields = {**QUICK, "operation": "edit", "mode": 1, "images": [BASE64, base64.b64encode(OTHER).decode()]}
    accepted = http.post("/tasks", json=fields)
    assert accepted.status_code == 202, accepted.text
    task = finished(http, accepted.json()["task_id"])
    assert (task["status"], task["operation"], task["model"]) == ("completed", "edit", "qwen_edit")
    assert (task["total_steps"], len(task["result_urls"])) == (2, 1)
    assert task["results"][0]["details"]["input_images"] == 2
    direct = first(form("/multi-image-editing", http, TWO, mode=1))
    assert http.get(task["result_urls"][0]).content == direct, "from the disk, the same bytes"


def test_edit_as_a_task_in_a_form(http: httpx.Client) -> None:
    control = (*ONE, ("controlnet_image", OTHER))
    accepted = form("/tasks", http, control, operation="edit", mode=13)
    assert accepted.status_code == 202, accepted.text
    task = finished(http, accepted.json()["task_id"])
    direct = first(form("/multi-image-editing", http, control, mode=13))
    assert http.get(task["result_urls"][0]).content == direct


def test_edit_is_known_to_the_service(http: httpx.Client) -> None:
    model = next(one for one in http.get("/models").json()["models"] if one["name"] == "qwen_edit")
    assert (model["installed"], model["default_for"], model["operations"]) == (True, ["edit"], ["edit"])
    assert model["fields"]["images"]["maxItems"] == 5
    status = http.get("/status").json()
    assert status["edit"]["several_images"] is True
    assert status["edit"]["limits"]["max_input_images"] == 5
    assert (status["total_gpus"], status["gpu_info"]) == (len(gpu_info(None)), gpu_info(None))
    assert http.get("/health").json()["version"] == "1.0.0"
    named(http.post("/edit", json={**QUICK, "image": BASE64, "model": "sd15"}), 422, "model", ("not for edit",))
    assert http.post("/edit", json={**QUICK, "image": BASE64, "model": "qwen_edit"}).status_code == 200


def test_edit_on_the_command_line(service: RunningService, http: httpx.Client, tmp_path: Path) -> None:
    one, two, out = tmp_path / "one.png", tmp_path / "two.png", tmp_path / "out.png"
    one.write_bytes(PHOTO)
    two.write_bytes(OTHER)
    options = ["--seed", "7", "--steps", "2", "-o", str(out)]
    result = darkroom(service.url, "edit", str(one), QUICK["prompt"], *options)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == first(form("/edit", http, (("image", PHOTO),)))
    mode = ["--mode", "13", "--control", str(two), "--overwrite"]
    assert darkroom(service.url, "edit", str(one), QUICK["prompt"], *options, *mode).exit_code == 0
    direct = form("/multi-image-editing", http, (*ONE, ("controlnet_image", OTHER)), mode=13)
    assert out.read_bytes() == first(direct)
    refused = darkroom(service.url, "edit", str(one), "go", "--mode", "1", "-o", str(tmp_path / "no.png"))
    assert refused.exit_code == 1
    assert "2 to 5 images" in refused.stderr
    assert "人物 + 人物" in darkroom(service.url, "edit-modes").stdout


@pytest.fixture
def client(service: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0, timeout=300) as made:
        yield made


EXTRA = {"seed": 7, "num_inference_steps": 2}


def test_openai_edit_is_the_same_edit(http: httpx.Client, client: openai.OpenAI) -> None:
    one = client.images.edit(image=("a.png", PHOTO, "image/png"), prompt=QUICK["prompt"], extra_body=EXTRA)
    assert one.data is not None
    assert base64.b64decode(one.data[0].b64_json or "") == first(form("/edit", http, (("image", PHOTO),)))
    assert one.size == "96x80"
    files = [("a.png", PHOTO, "image/png"), ("b.png", OTHER, "image/png")]
    several = client.images.edit(
        model="gpt-image-1", image=files, prompt=QUICK["prompt"], n=2, input_fidelity="high", extra_body=EXTRA
    )
    assert several.data is not None
    assert base64.b64decode(several.data[0].b64_json or "") == first(
        form("/edit/multi", http, TWO, num_images_per_prompt=2)
    )
    assert several.usage is not None
    assert several.usage.input_tokens_details.image_tokens == 6 * 5 + 4 * 4
    with pytest.raises(openai.BadRequestError, match="1 to 5 images; got 6"):
        client.images.edit(image=[files[0]] * 6, prompt="go")
    with pytest.raises(openai.BadRequestError, match="not for generate"):
        client.images.generate(model="qwen_edit", prompt="go")


def test_openai_edit_with_a_mask_in_a_stream(client: openai.OpenAI) -> None:
    mask = Image.new("RGBA", (96, 80), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 48, 80))
    events: list[Any] = list(
        client.images.edit(
            image=("a.png", PHOTO, "image/png"),
            mask=("mask.png", encoded(mask), "image/png"),
            prompt=QUICK["prompt"],
            size="512x512",
            stream=True,
            partial_images=2,
            extra_body={"seed": 7, "num_inference_steps": 6},
        )
    )
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    images = [pixels(base64.b64decode(event.b64_json)) for event in events]
    assert {image.shape for image in images} == {SIZE}
    assert {event.size for event in events} == {"96x80"}, "a mask is of the image"
    before, after = pixels(PHOTO), images[-1]
    assert np.array_equal(before[:, 48:], after[:, 48:]), "what is opaque stays"
    assert not np.array_equal(before[:, :48], after[:, :48])


def test_edit_is_limited_in_time_and_number(qwen_edit_repository: Path, tmp_path: Path) -> None:
    """One place, no queue and little time: the second request is refused with 429, the first one stopped with 504."""
    limits = {"max_concurrent_tasks": 1, "task_queue_size": 0, "task_timeout": 1.5, "canary_interval": 3600}
    repository = repository_of(qwen_edit_repository, tmp_path)
    large = encoded(photo(0, 0, 192, 192))  # takes several seconds on any machine
    slow = {"prompt": "go", "num_inference_steps": 50, "num_images_per_prompt": 4}
    slow |= {"image": base64.b64encode(large).decode()}

    async def begun(http: httpx.AsyncClient, long: asyncio.Task[Any]) -> None:
        while (await http.get("/status")).json()["active_tasks"] == 0:
            assert not long.done(), long.result()

    async def openai_refusals(url: str) -> None:
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
            httpx.AsyncClient(base_url=url, timeout=120) as http,
        ):
            fields: Any = {"image": ("a.png", large, "image/png"), "prompt": "go", "n": 4}
            fields |= {"extra_body": {"num_inference_steps": 50}}
            long = asyncio.create_task(client.images.edit(**fields))
            await begun(http, long)
            with pytest.raises(openai.RateLimitError) as full:
                await client.images.edit(**fields)
            assert (full.value.type, full.value.code) == ("rate_limit_error", "queue_full")
            with pytest.raises(openai.InternalServerError) as late:
                await long
            assert (late.value.status_code, late.value.code) == (504, "task_timeout")
            events = await client.images.edit(**fields, stream=True)
            with pytest.raises(openai.APIError, match="TASK_TIMEOUT"):
                async for _ in events:
                    pass

    async def both(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            long = asyncio.create_task(client.post("/edit", json=slow))
            await begun(client, long)
            return [await client.post("/edit", json=slow), await long]

    with running_service(tmp_path, model_repository=repository, **limits) as running:
        refused, stopped = asyncio.run(both(running.url))
        asyncio.run(openai_refusals(running.url))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert (stopped.status_code, stopped.json()["error"]["code"]) == (504, "task_timeout")
    assert "TASK_TIMEOUT = 1.5 s" in stopped.json()["detail"]
