"""What translates between AUTOMATIC1111's API and our operations."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.errors import InvalidInput, NotFound, TooLarge
from darkroom.infotext import web_ui_pairs
from darkroom.png import encode_png, read_text, with_text
from proxy.http.json_body import _object
from proxy.sdapi.controlnet import control_fields
from proxy.sdapi.fields import Img2img, Txt2img, values_of, without_effect
from proxy.sdapi.images import blended, cropped_to, fitted, mask_of, scaled_size
from proxy.sdapi.refusals import by_their_names
from proxy.sdapi.samplers import sampler_of
from proxy.sdapi.upscalers import by_scale, to_size
from proxy.sdapi.works import Work, Works, unless
from tests.pictures import encoded, photo, pixels

PIXELS = 1 << 20


def test_values_have_the_defaults_of_the_web_ui() -> None:
    values = values_of({"seed": None, "prompt": "a cat"}, Txt2img)
    assert (values["seed"], values["cfg_scale"], values["width"], values["height"]) == (-1, 7.0, 512, 512)
    assert (values["batch_size"], values["n_iter"], values["sampler_index"]) == (1, 1, "Euler")
    assert (values["hr_scale"], values["denoising_strength"], values["prompt"]) == (2.0, 0.75, "a cat")
    assert values_of({}, Img2img)["denoising_strength"] == 0.75


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tiling": False, "styles": [], "subseed": 5, "s_noise": 1.0, "restore_faces": None, "seed": 1}, set()),
        (
            {"tiling": True, "styles": ["a"], "s_noise": 1.1, "hr_prompt": "x"},
            {"tiling", "styles", "s_noise", "hr_prompt"},
        ),
        ({"inpainting_fill": 1, "inpaint_full_res": False, "init_images": []}, set()),
        (
            {"inpainting_fill": 0, "inpaint_full_res": True, "nonsense": None},
            {"inpainting_fill", "inpaint_full_res", "nonsense"},
        ),
    ],
)
def test_fields_without_effect(fields: dict[str, Any], names: set[str]) -> None:
    assert {one["field"] for one in without_effect(fields, Txt2img, ("init_images",))} == names


def test_errors_have_the_names_of_the_web_ui() -> None:
    with pytest.raises(NotFound, match=r"^cfg_scale and batch_size, not guidance_scales$") as refused, by_their_names():
        raise NotFound("guidance_scale and num_images, not guidance_scales", param="guidance_scale")
    assert refused.value.param == "cfg_scale"
    with pytest.raises(InvalidInput, match="num_images") as other, by_their_names():
        raise InvalidInput("num_images", param="prompt")
    assert other.value.param == "prompt"


def test_mask_of_the_web_ui_is_white_where_it_is_painted_again() -> None:
    grey = np.zeros((4, 6, 1), np.uint8)
    grey[:2] = 255
    plain, alpha = encode_png(grey), np.zeros((4, 6, 4), np.uint8)
    alpha[:2, :, 3] = 255
    for data in (plain, encode_png(alpha)):
        mask = pixels(mask_of(data, inverted=False, max_pixels=PIXELS))
        assert (mask == grey[..., 0]).all(), "there opaque is painted again, with us transparent is"
        assert (pixels(mask_of(data, inverted=True, max_pixels=PIXELS)) == 255 - grey[..., 0]).all()
    opaque = np.concatenate([np.repeat(grey, 3, axis=2), np.full((4, 6, 1), 255, np.uint8)], axis=2)
    assert (pixels(mask_of(encode_png(opaque), inverted=False, max_pixels=PIXELS)) == grey[..., 0]).all()


@pytest.mark.parametrize(("size", "cut"), [((64, 64), (30, 30)), ((20, 10), (40, 20)), ((10, 30), (10, 30))])
def test_cropped_to_the_proportions(size: tuple[int, int], cut: tuple[int, int]) -> None:
    image = encoded(photo(0, 0, 40, 30))
    made = pixels(cropped_to(image, size, max_pixels=PIXELS, param="init_images"))
    assert made.shape == (cut[1], cut[0], 3)
    left, top = (40 - cut[0]) // 2, (30 - cut[1]) // 2
    assert (made == pixels(image)[top : top + cut[1], left : left + cut[0]]).all()


def test_fitted_blended_and_sizes() -> None:
    image = encoded(photo(0, 0, 40, 30).convert("RGBA"))
    nearest = pixels(fitted(image, (80, 60), (60, 60), max_pixels=PIXELS, nearest=True))
    assert nearest.shape == (60, 60, 4)
    assert (nearest[::2, ::2] == pixels(image)[:, 5:35]).all()
    black, white = (encoded(Image.new("RGB", (4, 4), grey)) for grey in ((0, 0, 0), (255, 255, 255)))
    assert (pixels(blended(black, white, 0.2, max_pixels=PIXELS)) == 51).all()
    assert scaled_size((5, 1), 0.1) == (1, 1)
    assert by_scale(2.5)((3, 2)) == ((8, 5), (8, 5))
    assert to_size((100, 50), crop=True)((10, 10)) == ((100, 100), (100, 50))
    assert to_size((100, 50), crop=False)((10, 10)) == ((100, 100), (100, 100))


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("dpmpp_2m_karras", ("DPM++ 2M", "Karras")),
        ("dpmpp_2m", ("DPM++ 2M", "Uniform")),
        ("dpmpp_2m_sde_karras", ("DPM++ 2M SDE", "Karras")),
        ("euler", ("Euler", "Automatic")),
        ("euler_a", ("Euler a", "Automatic")),
        ("flow_euler", ("Flow Euler", "Uniform")),
    ],
)
def test_samplers_have_the_names_of_the_web_ui(key: str, names: tuple[str, str]) -> None:
    assert sampler_of(key) == names


IMAGE = base64.b64encode(b"image").decode()
UNIT = {"image": IMAGE, "module": "canny", "weight": 0.5, "threshold_a": 50.0, "threshold_b": -1, "guidance_end": 0.8}


def test_controlnet_units_become_controls() -> None:
    found = control_fields({"ControlNet": {"args": [{"enabled": False}, UNIT]}}, None)
    assert found["control_image"] == IMAGE
    assert (found["control_type"], found["control_preprocess"]) == ("canny", True)
    assert (found["controlnet_conditioning_scale"], found["control_guidance_end"]) == (0.5, 0.8)
    assert found["low_threshold"] == 50
    assert "high_threshold" not in found, "-1 is the usual value"
    ready = {
        "input_image": {"image": IMAGE, "mask": None},
        "module": "None",
        "model": "control_v11p_sd_canny [d14c016b]",
    }
    found = control_fields({"controlnet": {"args": [ready]}}, None)
    assert (found["control_type"], found["control_preprocess"], found["control_image"]) == ("canny", False, IMAGE)
    assert control_fields({"controlnet": {"args": [{"module": "canny"}]}}, b"init")["control_image"] == b"init"


@pytest.mark.parametrize("scripts", [{}, {"controlnet": {"args": []}}, {"controlnet": {}}, {"x": {"args": [False]}}])
def test_controlnet_that_is_off(scripts: dict[str, Any]) -> None:
    assert control_fields(scripts, None) == {}


TEXT = 'a cat\nat night\nNegative prompt: dogs\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x32, Other: "a, b"'


def test_web_ui_pairs() -> None:
    assert web_ui_pairs(TEXT) == {
        "Prompt": "a cat\nat night",
        "Negative prompt": "dogs",
        "Steps": "20",
        "Sampler": "Euler",
        "Seed": "1",
        "Other": "a, b",
        "Size-1": "64",
        "Size-2": "32",
    }
    assert web_ui_pairs(" ") == {}
    assert web_ui_pairs("only a prompt") == {"Prompt": "only a prompt", "Negative prompt": ""}


def test_text_is_added_to_a_png() -> None:
    bare = encode_png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    data = with_text(bare, {"parameters": "a cat", "darkroom": "{}"})
    assert read_text(data) == {"parameters": "a cat", "darkroom": "{}"}
    assert (pixels(data) == pixels(bare)).all()


LARGE = b"\0" * 100_000
LONG = base64.b64encode(LARGE).decode()


def test_large_images_inside_of_objects() -> None:
    body = {"imageList": [{"data": LONG, "name": "a"}, {"data": "x"}], "a": {"b": [{"image": {"image": LONG}}]}}
    found = _object(json.dumps(body).encode(), ("data", "image"), 1, 8, 1 << 16)
    assert found["imageList"] == [{"data": LARGE, "name": "a"}, {"data": "x"}]
    assert found["a"] == {"b": [{"image": {"image": LARGE}}]}
    for wrong in ({"a": {"text": LONG}}, {"a": [[[[[[[[[{"data": LONG}]]]]]]]]]}):
        with pytest.raises(TooLarge):
            _object(json.dumps(wrong).encode(), ("data", "image"), 1, 8, 1 << 16)


def test_progress_of_the_oldest_request_that_runs() -> None:
    works, waiting, running = Works(), Work(job="a", parts=1), Work(job="b", parts=4)
    with works.under_way("me", waiting):
        answer, image = works.progress("me")
        assert (answer["progress"], answer["eta_relative"], image) == (0, 0, None)
        assert answer["state"]["job_count"] == 1
        assert "slot" in answer["textinfo"]
        with works.under_way("me", running):
            running.begin_part(2, 10)
            running.note_steps(5, 10)
            running.preview = b"png"
            answer, image = works.progress("me")
            assert (answer["progress"], image) == (0.625, b"png")
            assert answer["state"] | {"job_timestamp": ""} == {
                "skipped": False,
                "interrupted": False,
                "stopping_generation": False,
                "job": "b",
                "job_count": 4,
                "job_timestamp": "",
                "job_no": 2,
                "sampling_step": 5,
                "sampling_steps": 10,
            }
            assert works.progress("you")[0]["state"]["job_count"] == 0
            works.interrupt("you")
            assert not running.interrupted.is_set()
            works.interrupt("me")
            assert running.interrupted.is_set()
            assert not waiting.interrupted.is_set(), "what waits goes on"
        works.interrupt("me")
        assert waiting.interrupted.is_set()
    assert works.progress("me")[1] is None
    assert works.progress("me")[0]["state"]["job_count"] == 0


def test_work_ends_when_it_is_stopped() -> None:
    async def scenario() -> None:
        stopped, cancelled = asyncio.Event(), asyncio.Event()

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        asyncio.get_running_loop().call_soon(stopped.set)
        assert await unless(stopped, endless()) is None
        assert cancelled.is_set()
        assert await unless(asyncio.Event(), asyncio.sleep(0, "done")) == "done"
        with pytest.raises(ZeroDivisionError):
            await unless(asyncio.Event(), _broken())

    asyncio.run(scenario())


async def _broken() -> None:
    raise ZeroDivisionError
