"""`POST /txt2img` of contract E, on tiny exports of a base and a refiner: answers, refusals, and diffusers' images."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray

from exporters.onnx_export import quiet
from tests.pictures import encoded, photo, pixels
from tests.service import RunningService, link_models, running_service

FIELDS = {"prompt": "a cat on a blue background", "negative_prompt": "", "steps": 5, "seed": 7}
"""As clients of the old service send them; the checkpoint's own size is 64 x 64."""


@pytest.fixture(scope="module")
def service(sdxl_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("txt2img")
    models = [model.name for model in sdxl_repository.iterdir()]
    repository = link_models(folder / "repository", *models, source=sdxl_repository)
    with running_service(folder, model_repository=repository, canary_interval=3600) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/txt2img", json={**FIELDS, **fields})


def images(answer: httpx.Response) -> list[NDArray[np.uint8]]:
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(image, validate=True)) for image in answer.json()["images_base64"]]


def test_txt2img_answers_bare_base64_and_the_seeds(http: httpx.Client) -> None:
    answer = post(http, num_images=2, use_lora=False, session_id="1")
    assert [image.shape for image in images(answer)] == [(64, 64, 3)] * 2
    body = answer.json()
    assert (body["seed"], body["seeds"]) == (7, [7, 8])
    assert "warnings" not in body
    parameters = body["parameters"]
    assert (parameters["guidance_scale"], parameters["refiner_start"]) == (7.0, 0.8), "of the contract"
    assert post(http, num_images=2).json()["images_base64"] == body["images_base64"], "the same seed, the same bytes"


def test_txt2img_changes_an_image(service: RunningService, http: httpx.Client) -> None:
    image = base64.b64encode(encoded(photo(0, 0, 75, 99))).decode()
    networks = ("sdxl_unet", "sdxl_refiner_unet")
    before = [service.counter("nv_inference_exec_count", name) for name in networks]
    answer = post(http, init_image=image, mask_image=image, strength=0.6)
    assert [made.shape for made in images(answer)] == [(96, 72, 3)]
    assert "warnings" not in answer.json()
    assert answer.json()["parameters"]["strength"] == 0.6
    after = [service.counter("nv_inference_exec_count", name) for name in networks]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1], "three of five steps are left"
    assert images(post(http, init_image=image, strength=0))[0].shape == (96, 72, 3)


def test_txt2img_base_and_refiner_both_work(service: RunningService, http: httpx.Client) -> None:
    networks = ("sdxl_unet", "sdxl_refiner_unet")
    before = [service.counter("nv_inference_exec_count", name) for name in networks]
    assert post(http, steps=10).status_code == 200
    after = [service.counter("nv_inference_exec_count", name) for name in networks]
    assert [now - then for now, then in zip(after, before, strict=True)] == [8, 2]


@pytest.mark.parametrize("negative", [None, "", "a dog"])
def test_txt2img_gives_diffusers_image(sdxl_repository: Path, http: httpx.Client, negative: str | None) -> None:
    made = images(post(http, negative_prompt=negative, num_images=2, guidance_scale=5.0, steps=10))
    folder = sdxl_repository.parent / "checkpoint"
    with quiet():
        base = StableDiffusionXLPipeline.from_pretrained(folder / "base", add_watermarker=False)
        refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder / "refiner", add_watermarker=False)
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    common: dict[str, Any] = {"num_inference_steps": 10, "generator": generators}
    latents = base(
        prompt=FIELDS["prompt"],
        negative_prompt=negative,
        guidance_scale=5.0,
        num_images_per_prompt=2,
        denoising_end=0.8,
        output_type="latent",
        **common,
    ).images
    prompts = [FIELDS["prompt"]] * 2
    wanted = refiner(prompt=prompts, image=latents, denoising_start=0.8, guidance_scale=1.0, **common).images
    for ours, theirs in zip(made, wanted, strict=True):
        assert np.asarray(theirs).std() > 5, "a flat image would prove nothing"
        assert np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max() <= 2


def test_txt2img_takes_a_form(http: httpx.Client) -> None:
    form = {name: str(value) for name, value in FIELDS.items() if value != ""}
    answer = http.post("/txt2img", data={**form, "negative_prompt": "", "use_lora": "false", "session_id": "3"})
    assert images(answer)[0].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"use_lora": True, "session_id": "987654"}, 404, "session_id"),
        ({"use_lora": True, "session_id": 987654}, 404, "session_id"),
        ({"use_lora": True}, 422, "session_id"),
        ({"use_lora": "perhaps"}, 422, "use_lora"),
        ({"width": 100}, 422, "width"),
        ({"steps": 0}, 422, "steps"),
        ({"refiner_start": 1.5}, 422, "refiner_start"),
        ({"original_size": "large"}, 422, "original_size"),
        ({"model": "nothing"}, 422, "model"),
        ({"prompt": None}, 422, "prompt"),
    ],
)
def test_txt2img_refuses(http: httpx.Client, fields: dict[str, Any], status: int, param: str) -> None:
    answer = post(http, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert answer.json()["detail"] == answer.json()["error"]["message"]


def test_txt2img_names_fields_that_it_does_not_know(http: httpx.Client) -> None:
    answer = post(http, format="webp", cfg_scale=3)
    assert answer.headers["X-Ignored-Fields"] == "cfg_scale, format"
    assert [one["suggestion"] for one in answer.json()["warnings"]] == ["guidance_scale", None]
    assert base64.b64decode(answer.json()["images_base64"][0])[:4] == b"\x89PNG"


def test_txt2img_model_is_served_by_generate_too(http: httpx.Client) -> None:
    model = next(one for one in http.get("/models").json()["models"] if one["name"] == "sdxl")
    assert (model["installed"], model["refiner"]) == (True, True)
    answer = http.post("/generate", json={**FIELDS, "model": "sdxl", "original_size": "32x48", "refiner_start": 1})
    assert answer.status_code == 200, answer.text
    parameters = answer.json()["parameters"]
    assert (parameters["original_width"], parameters["original_height"]) == (32, 48)
    assert "refiner_start" not in parameters, "the refiner had no part in it"
