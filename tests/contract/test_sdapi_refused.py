"""AUTOMATIC1111's API on a proxy alone: options, lists, what needs no model, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from darkroom.parameters import text_chunks
from darkroom.png import encode_png
from tests.pictures import encoded, photo, pixels
from tests.service import Server, running_proxy

IMAGE = base64.b64encode(encoded(photo(0, 0, 40, 30))).decode()
LANCZOS = {"image": IMAGE, "upscaler_1": "Lanczos"}
UNIT = {"image": IMAGE, "module": "canny"}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("proxy")
    with running_proxy(folder, data_dir=folder / "data", lora_dir=folder / "loras", max_batch_files=3) as running:
        yield running


@pytest.fixture
def http(proxy: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{proxy.url}/sdapi/v1", timeout=60) as client:
        yield client


def post(http: httpx.Client, path: str, body: Any) -> httpx.Response:
    """The body may have what httpx refuses to send: NaN."""
    return http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def with_unit(**fields: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {"controlnet": {"args": [{**UNIT, **fields}]}}}


def refused(answer: httpx.Response, status: int, param: str | None) -> str:
    """The answer has AUTOMATIC1111's shape; returns its message."""
    assert answer.status_code == status, answer.text[:500]
    body = answer.json()
    assert {"error", "detail", "body", "errors", "param"} <= body.keys()
    assert body["errors"] == body["detail"]
    assert len(body["detail"]) < 400
    assert body["param"] == param, body
    return str(body["detail"])


HUGE = 10**400
TXT2IMG: list[tuple[dict[str, Any], int, str]] = [
    ({"prompt": []}, 422, "prompt"),
    ({"prompt": {"a": 1}}, 422, "prompt"),
    ({"prompt": "x" * 70_000}, 413, "prompt"),
    ({"prompt": "a AND b"}, 422, "prompt"),
    ({"prompt": "<lora:nope:1>"}, 404, "prompt"),
    ({"seed": "x"}, 422, "seed"),
    ({"seed": -2}, 422, "seed"),
    ({"seed": HUGE}, 422, "seed"),
    ({"seed": 1.5}, 422, "seed"),
    ({"seed": float("nan")}, 422, "seed"),
    ({"steps": 0}, 422, "steps"),
    ({"steps": HUGE}, 422, "steps"),
    ({"cfg_scale": 1e300}, 422, "cfg_scale"),
    ({"cfg_scale": True}, 422, "cfg_scale"),
    ({"batch_size": 99}, 422, "batch_size"),
    ({"n_iter": 0}, 422, "n_iter"),
    ({"n_iter": HUGE}, 422, "n_iter"),
    ({"n_iter": 100, "batch_size": 2}, 422, "n_iter"),
    ({"width": 65}, 422, "width"),
    ({"width": -64}, 422, "width"),
    ({"width": 4096, "height": 4096}, 413, "width"),
    ({"sampler_name": "nope"}, 404, "sampler_name"),
    ({"sampler_name": 5}, 422, "sampler_name"),
    ({"sampler_name": "Euler", "scheduler": "Exponential"}, 422, "scheduler"),
    ({"script_name": "x/y/z plot"}, 422, "script_name"),
    ({"override_settings": []}, 422, "override_settings"),
    ({"override_settings": {"sd_model_checkpoint": "nope"}}, 422, "sd_model_checkpoint"),
    ({"override_settings": {"sd_model_checkpoint": {"a": [1]}}}, 422, "sd_model_checkpoint"),
    ({"override_settings": {"sd_model_checkpoint": "upscale"}}, 422, "sd_model_checkpoint"),
    ({"alwayson_scripts": {"adetailer": {"args": [True]}}}, 422, "alwayson_scripts"),
    ({"alwayson_scripts": {"controlnet": 5}}, 422, "alwayson_scripts"),
    ({"alwayson_scripts": {"controlnet": {"args": [5]}}}, 422, "alwayson_scripts"),
    ({"alwayson_scripts": {"controlnet": {"args": [UNIT, UNIT]}}}, 422, "alwayson_scripts"),
    (with_unit(image=""), 422, "alwayson_scripts"),
    (with_unit(image="%%%"), 422, "alwayson_scripts.controlnet.args"),
    (with_unit(module="depth_midas"), 422, "alwayson_scripts"),
    (with_unit(weight=5), 422, "weight"),
    (with_unit(threshold_a=300), 422, "threshold_a"),
    (with_unit(guidance_start=0.9, guidance_end=0.1), 422, "guidance_start"),
    ({"enable_hr": True, "hr_upscaler": "nope"}, 422, "hr_upscaler"),
    ({"enable_hr": True, "hr_scale": 0.5}, 422, "hr_scale"),
    ({"enable_hr": True, "hr_scale": 1.3, "width": 64, "height": 64}, 422, "hr_scale"),
    ({"enable_hr": True, "hr_scale": 8, "width": 1024, "height": 1024}, 413, "hr_scale"),
    ({"enable_hr": True, "hr_resize_x": 9000, "width": 64, "height": 64, "denoising_strength": 0}, 422, "hr_scale"),
    ({"enable_hr": True, "hr_second_pass_steps": 100_000}, 422, "hr_second_pass_steps"),
    ({"enable_hr": True, "denoising_strength": 2}, 422, "denoising_strength"),
]
IMG2IMG: list[tuple[dict[str, Any], int, str]] = [
    ({}, 404, "init_images"),
    ({"init_images": None}, 404, "init_images"),
    ({"init_images": []}, 404, "init_images"),
    ({"init_images": ["%%"]}, 422, "init_images"),
    ({"init_images": [base64.b64encode(b"text").decode()]}, 415, "init_images"),
    ({"init_images": [IMAGE, IMAGE]}, 422, "init_images"),
    ({"init_images": [5]}, 422, "init_images"),
    ({"init_images": {"a": 1}}, 422, "init_images"),
    ({"init_images": IMAGE}, 422, "init_images"),
    ({"init_images": [IMAGE], "mask": "%%"}, 422, "mask"),
    ({"init_images": [IMAGE], "mask": base64.b64encode(b"text").decode()}, 415, "mask"),
    ({"init_images": [IMAGE], "denoising_strength": -1}, 422, "denoising_strength"),
    ({"init_images": [IMAGE], "resize_mode": 2}, 422, "resize_mode"),
    ({"init_images": [IMAGE], "inpainting_mask_invert": 2}, 422, "inpainting_mask_invert"),
]
EXTRAS: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "image"),
    ({"image": "%%"}, 422, "image"),
    ({"image": ["a"] * 3}, 422, "image"),
    ({"image": base64.b64encode(b"text").decode()}, 415, "image"),
    ({**LANCZOS, "upscaler_1": "nope"}, 422, "upscaler_1"),
    ({**LANCZOS, "upscaler_2": "nope"}, 422, "upscaler_2"),
    ({**LANCZOS, "upscaling_resize": 0}, 422, "upscaling_resize"),
    ({**LANCZOS, "upscaling_resize": HUGE}, 422, "upscaling_resize"),
    ({**LANCZOS, "resize_mode": 1, "upscaling_resize_w": 0}, 422, "upscaling_resize_w"),
    ({**LANCZOS, "resize_mode": 1, "upscaling_resize_w": 60_000}, 422, "image"),
]
BATCH: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "imageList"),
    ({"imageList": []}, 422, "imageList"),
    ({"imageList": "x"}, 422, "imageList"),
    ({"imageList": [{"data": IMAGE}] * 4}, 413, "imageList"),
    ({"imageList": [{"data": IMAGE}, 5]}, 422, "imageList[1]"),
    ({"imageList": [{"data": IMAGE, "name": 5}]}, 422, "imageList[0]"),
    ({"imageList": [{"data": IMAGE}, {"data": "%%"}]}, 422, "imageList[1].data"),
]
PNG_INFO: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "image"),
    ({"image": 3}, 422, "image"),
    ({"image": "%%"}, 422, "image"),
    ({"image": base64.b64encode(b"text").decode()}, 415, "image"),
]
REFUSALS = {
    "txt2img": TXT2IMG,
    "img2img": IMG2IMG,
    "extra-single-image": EXTRAS,
    "extra-batch-images": BATCH,
    "png-info": PNG_INFO,
    "options": [
        ({"sd_model_checkpoint": 5}, 422, "sd_model_checkpoint"),
        ({"a": "b" * 60_000, "c": "d" * 10_000}, 413, "body"),
    ],
}


@pytest.mark.parametrize("path", REFUSALS)
def test_refused_with_status_field_and_shape(http: httpx.Client, path: str) -> None:
    for body, status, param in REFUSALS[path]:
        refused(post(http, path, body), status, param)


@pytest.mark.parametrize("path", REFUSALS)
def test_refused_deep_and_broken_json(http: httpx.Client, path: str) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    refused(post(http, path, {"a": deep}), 422, "a")
    refused(post(http, path, {"a": {"b": float("inf")}}), 422, "a")
    refused(post(http, path, [1]), 422, "body")
    headers = {"content-type": "application/json"}
    refused(http.post(path, content='{"a": ' + "[" * 100_001, headers=headers), 413, "body")
    refused(http.post(path, content="{", headers=headers), 422, "body")
    refused(http.post(path, data={"prompt": "a cat"}), 415, None)


def test_refused_unknown_path_and_method(http: httpx.Client) -> None:
    refused(http.get("nope"), 404, None)
    refused(http.get("txt2img"), 405, None)


def test_refused_while_no_model_is_ready(http: httpx.Client, proxy: Server) -> None:
    answer = http.post("txt2img", json={"prompt": "a cat", "steps": 1, "width": 64, "height": 64})
    refused(answer, 503, None)
    assert int(answer.headers["retry-after"]) > 0
    assert "Traceback" not in proxy.log()


def test_fields_without_effect_are_named(http: httpx.Client) -> None:
    quiet = {
        "restore_faces": False,
        "tiling": None,
        "styles": [],
        "subseed": 3,
        "eta": 1.0,
        "s_noise": 1,
        "mask_blur": 4,
    }
    loud = {"restore_faces": True, "subseed_strength": 0.5, "styles": ["x"], "nonsense": 1}
    answer = http.post("txt2img", json={**quiet, "override_settings": {"CLIP_stop_at_last_layers": 2}})
    assert answer.headers["x-ignored-fields"] == "override_settings.CLIP_stop_at_last_layers"
    assert "x-ignored-fields" not in http.post("txt2img", json=quiet).headers
    named = http.post("txt2img", json={**quiet, **loud}).headers["x-ignored-fields"]
    assert set(named.split(", ")) == loud.keys()


def test_options_switch_the_model_of_the_caller(http: httpx.Client) -> None:
    options = http.get("options").json()
    models = http.get("sd-models").json()
    usual, other = models[0], models[1]
    assert options["sd_model_checkpoint"] == usual["title"], "the default of requests that name none"
    kept = {"my_option": [1, {"a": None}], "CLIP_stop_at_last_layers": 2}
    for name in (other["title"], other["model_name"], other["hash"]):
        answer = http.post("options", json={**options, **kept, "sd_model_checkpoint": name})
        assert (answer.status_code, answer.json()) == (200, None)
        after = http.get("options").json()
        assert after == {**options, **kept, "sd_model_checkpoint": other["title"], "sd_checkpoint_hash": other["hash"]}
    assert other["model_name"] in http.post("txt2img", json={}).json()["detail"], (
        "it is not ready, and the one that is meant"
    )
    override = {"override_settings": {"sd_model_checkpoint": usual["title"]}}
    assert http.post("txt2img", json=override).json()["detail"].startswith(usual["model_name"])
    http.post("options", json={"sd_model_checkpoint": ""})
    assert http.get("options").json()["sd_model_checkpoint"] == usual["title"]


def test_lists_have_what_clients_read(http: httpx.Client) -> None:
    keys = {
        "sd-models": {"title", "model_name", "hash", "sha256", "filename", "config"},
        "samplers": {"name", "aliases", "options"},
        "schedulers": {"name", "label", "aliases", "default_rho", "need_inner_model"},
        "upscalers": {"name", "model_name", "model_path", "model_url", "scale"},
    }
    for path, names in keys.items():
        listed = http.get(path).json()
        assert listed
        assert all(one.keys() == names for one in listed)
    for path in ("sd-vae", "loras", "hypernetworks", "face-restorers", "prompt-styles", "script-info", "extensions"):
        assert http.get(path).json() == []
    for path in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "skip"):
        assert http.post(path).json() is None
    assert http.post("interrupt").json() == {}
    memory = http.get("memory").json()
    assert memory["ram"]["total"] == memory["ram"]["free"] + memory["ram"]["used"]
    assert "Euler a" in [one["name"] for one in http.get("samplers").json()]
    idle = http.get("progress").json()
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (80, 60)),
        ({"upscaling_resize": 2.51}, (100, 75)),
        ({"upscaling_resize": 0.5}, (20, 15)),
        ({"resize_mode": 1, "upscaling_resize_w": 50, "upscaling_resize_h": 100}, (50, 100)),
        ({"resize_mode": 1, "upscaling_resize_w": 60, "upscaling_resize_h": 60, "upscaling_crop": False}, (80, 60)),
        ({"upscaler_1": "None"}, (40, 30)),
        ({"upscaler_1": "nearest", "upscaler_2": "Lanczos", "extras_upscaler_2_visibility": 0.5}, (80, 60)),
    ],
)
def test_extras_without_a_network(http: httpx.Client, fields: dict[str, Any], size: tuple[int, int]) -> None:
    """The plain upscalers need no model."""
    one = http.post("extra-single-image", json={**LANCZOS, **fields})
    assert one.status_code == 200, one.text
    image = base64.b64decode(one.json()["image"], validate=True)
    assert pixels(image).shape == (size[1], size[0], 3)
    several = {**LANCZOS, **fields, "imageList": [{"data": IMAGE, "name": "a"}, {"data": IMAGE, "name": "b"}]}
    del several["image"]
    answer = http.post("extra-batch-images", json=several)
    assert [base64.b64decode(data) for data in answer.json()["images"]] == [image, image]


def test_extras_take_large_images_in_a_batch(http: httpx.Client) -> None:
    """Together they are larger than what JSON may have besides images."""
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8)
    large = base64.b64encode(encoded(Image.fromarray(noise))).decode()
    assert 3 * len(large) > 4 << 20
    body = {"imageList": [{"data": large, "name": "a"}] * 3, "upscaler_1": "Nearest", "upscaling_resize": 0.1}
    answer = http.post("extra-batch-images", json=body)
    assert [pixels(base64.b64decode(data)).shape for data in answer.json()["images"]] == [(64, 64, 3)] * 3


DETAILS = {
    "prompt": 'a cat, (night:1.2)\nline: "two"',
    "negative_prompt": "dogs",
    "steps": 7,
    "scheduler": "dpmpp_2m_karras",
    "guidance_scale": 7.5,
    "seed": 3,
    "width": 8,
    "height": 16,
    "model": "demo, one",
    "model_hash": "0123456789",
    "version": "1",
}


def test_png_info_gives_the_names_of_the_web_ui(http: httpx.Client) -> None:
    chunks = text_chunks(DETAILS)
    image = encode_png(np.zeros((16, 8, 3), np.uint8), text={**chunks, "Software": "x"})
    body = http.post("png-info", json={"image": base64.b64encode(image).decode()}).json()
    assert body["info"] == chunks["parameters"]
    assert body["items"] == {"darkroom": chunks["darkroom"], "Software": "x"}
    assert body["parameters"] == {
        "Prompt": DETAILS["prompt"],
        "Negative prompt": "dogs",
        "Steps": "7",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "7.5",
        "Seed": "3",
        "Model hash": "0123456789",
        "Model": "demo, one",
        "Version": "Darkroom 1",
        "Size-1": "8",
        "Size-2": "16",
    }
    bare = http.post("png-info", json={"image": "data:image/png;base64," + IMAGE}).json()
    assert (bare["info"], bare["parameters"]) == ("", {})
