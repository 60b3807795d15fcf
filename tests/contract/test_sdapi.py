"""AUTOMATIC1111's API with its clients: the requests of Open WebUI, and the client `webuiapi`."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from tests.contract.generating import REFERENCE, first, post
from tests.contract.web_uis import LONG, PROMPT, SMALL, mask
from tests.pictures import encoded, photo, pixels, psnr
from tests.service import RunningService
from tests.waiting import until

IMAGE = photo(150, 30, 64, 64)


@pytest.fixture
def api(service: RunningService) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{service.url}/sdapi/v1", sampler="Euler", steps=4, username="me", password="x")


@pytest.fixture
def web_ui(service: RunningService) -> Iterator[httpx.Client]:
    """As Open WebUI asks: with an Authorization header that is empty where no credentials are set."""
    with httpx.Client(base_url=service.url, headers={"authorization": ""}, timeout=120) as client:
        yield client


def image_of(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def test_open_webui_makes_an_image(web_ui: httpx.Client) -> None:
    """backend/open_webui/routers/images.py, engine automatic1111: verify, list, switch, make."""
    assert web_ui.get("/sdapi/v1/options").is_success
    models = [{"id": one["title"], "name": one["model_name"]} for one in web_ui.get("/sdapi/v1/sd-models").json()]
    options = web_ui.get("/sdapi/v1/options").json()
    chosen = models[1]["id"]
    assert chosen != options["sd_model_checkpoint"]
    options["sd_model_checkpoint"] = chosen
    assert web_ui.post("/sdapi/v1/options", json=options).is_success
    assert web_ui.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == chosen
    data = {"prompt": PROMPT, "batch_size": 2, "width": 64, "height": 64, "steps": 4, "negative_prompt": "a dog"}
    parameters = {"cfg_scale": 7.5, "sampler_name": "DPM++ 2M", "scheduler": "Karras"}
    answer = web_ui.post("/sdapi/v1/txt2img", json={**data, **parameters}).json()
    assert [image_of(text).size for text in answer["images"]] == [(64, 64)] * 2
    info = json.loads(answer["info"])
    assert info["infotexts"][0].startswith(f"{PROMPT}\nNegative prompt: a dog\nSteps: 4, Sampler: DPM++ 2M Karras, ")
    assert info["sd_model_hash"] in chosen, "the model that was switched to"
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert web_ui.post("/sdapi/v1/options", json={"sd_model_checkpoint": models[0]["id"]}).is_success
    back = json.loads(web_ui.post("/sdapi/v1/txt2img", json={**data, "batch_size": 1}).json()["info"])
    assert back["sd_model_hash"] in models[0]["id"]


def test_image_is_that_of_generate(http: httpx.Client, api: webuiapi.WebUIApi) -> None:
    """The same pixels and the same parameters, batch by batch, and png-info reads what `info` says."""
    made = api.txt2img(**SMALL, n_iter=2, batch_size=2, negative_prompt="a dog")
    fields = {"guidance_scale": 2, "negative_prompt": "a dog", "scheduler": "euler", "steps": 4}
    for index, image in enumerate(made.images):
        data = first(post(http, **fields, seed=7 + index))
        assert psnr(pixels(encoded(image)), pixels(data)) > 45, "rounding of a batch"
        assert made.info["infotexts"][index] == Image.open(io.BytesIO(data)).info["parameters"]
        read = api.png_info(image)
        assert read.info == made.info["infotexts"][index]
        assert read.parameters["Seed"] == str(7 + index)
    assert made.info["all_seeds"] == [7, 8, 9, 10]
    assert made.info["all_prompts"] == [PROMPT] * 4
    assert made.parameters["seed"] == 7
    assert made.parameters["batch_size"] == 2


def test_round_trip_of_the_parameters(http: httpx.Client, api: webuiapi.WebUIApi) -> None:
    """`info.infotexts[0]` in our reader gives the request again."""
    made = api.txt2img(**{**SMALL, "seed": -1, "prompt": 'a (cat:1.2), "red"'}, sampler_name="Euler a")
    read = http.post("/png-info", files={"file": encoded(made.image, pnginfo=_info(made.info["infotexts"][0]))}).json()
    fields = read["fields"]
    assert (fields["prompt"], fields["seed"]) == ('a (cat:1.2), "red"', made.info["seed"])
    assert (fields["scheduler"], fields["guidance_scale"], fields["steps"]) == ("euler_a", 2, 4)
    assert (fields["width"], fields["height"], fields["model_hash"]) == (64, 64, made.info["sd_model_hash"])
    again = api.txt2img(**{**SMALL, "seed": fields["seed"], "prompt": fields["prompt"]}, sampler_name="Euler a")
    assert again.image.tobytes() == made.image.tobytes()


def _info(text: str) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", text)
    return info


def test_webuiapi_changes_images(api: webuiapi.WebUIApi) -> None:
    changed = api.img2img([IMAGE], **SMALL, denoising_strength=0.5)
    assert changed.image.size == (64, 64)
    assert changed.info["denoising_strength"] == 0.5
    assert changed.parameters["init_images"] is None
    assert 8 < psnr(pixels(encoded(changed.image)), pixels(encoded(IMAGE))) < 40
    inpaint: dict[str, Any] = {**SMALL, "steps": 8, "denoising_strength": 1.0, "inpainting_fill": 1}
    lower = np.asarray(api.img2img([IMAGE], mask_image=mask(), **inpaint).image)
    upper = np.asarray(api.img2img([IMAGE], mask_image=mask(), inpainting_mask_invert=1, **inpaint).image)
    original = np.asarray(IMAGE)
    for made, kept, painted in ((lower, slice(0, 24), slice(40, 64)), (upper, slice(40, 64), slice(0, 24))):
        assert psnr(made[kept], original[kept]) > psnr(made[painted], original[painted]) + 3, "the mask keeps the rest"


def test_webuiapi_enlarges_images(api: webuiapi.WebUIApi) -> None:
    image = photo(0, 0, 40, 30)
    small = image.resize((20, 15))
    one = api.extra_single_image(image=small, upscaler_1="R-ESRGAN AnimeVideo", upscaling_resize=2.5)
    assert one.image.size == (50, 38)
    assert psnr(np.asarray(one.image.resize((40, 30))), np.asarray(image)) > 18
    to_size = api.extra_single_image(
        image=small, upscaler_1="R-ESRGAN AnimeVideo", resize_mode=1, upscaling_resize_w=40, upscaling_resize_h=40
    )
    assert to_size.image.size == (40, 40)
    several = api.extra_batch_images([small, small], upscaler_1="R-ESRGAN AnimeVideo", upscaling_resize=2.5)
    assert [made.tobytes() for made in several.images] == [one.image.tobytes()] * 2


def test_enable_hr_makes_a_second_pass(api: webuiapi.WebUIApi) -> None:
    common: dict[str, Any] = {**SMALL, "batch_size": 2, "enable_hr": True, "hr_scale": 1.5}
    changed = api.txt2img(**common, hr_upscaler="Latent", denoising_strength=0.5, hr_second_pass_steps=2)
    assert [image.size for image in changed.images] == [(96, 96)] * 2
    assert changed.info["all_seeds"] == [7, 8]
    assert changed.info["extra_generation_params"]["Hires upscale"] == 1.5
    assert api.png_info(changed.image).parameters["Denoising strength"] == "0.5"
    larger = api.txt2img(**common, hr_upscaler="R-ESRGAN AnimeVideo", denoising_strength=0)
    assert [image.size for image in larger.images] == [(96, 96)] * 2
    read = api.png_info(larger.images[1])
    assert read.info == larger.info["infotexts"][1]
    assert (read.parameters["Hires upscaler"], read.parameters["Seed"]) == ("R-ESRGAN AnimeVideo", "8")


def test_controlnet_unit_steers(http: httpx.Client, api: webuiapi.WebUIApi) -> None:
    unit = webuiapi.ControlNetUnit(image=REFERENCE, module="canny", threshold_a=100, threshold_b=200, weight=0.8)
    made = api.txt2img(**SMALL, controlnet_units=[unit])
    control = {"control_image": base64.b64encode(encoded(REFERENCE)).decode(), "controlnet_conditioning_scale": 0.8}
    answer = post(http, **control, steps=4, guidance_scale=2, scheduler="euler")
    assert made.image.tobytes() == Image.open(io.BytesIO(first(answer))).tobytes()
    assert len(made.images) == 2, "the image, and the map that the ControlNet read"
    assert len(made.info["all_seeds"]) == 1


def test_progress_interrupt_and_what_is_finished(api: webuiapi.WebUIApi) -> None:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(api.txt2img(**LONG)))
    thread.start()
    other = webuiapi.WebUIApi(baseurl=api.baseurl)

    def running() -> Any:
        told = other.get_progress()
        return told if told["state"]["job_no"] >= 1 and told["current_image"] else None

    told = until(running)
    assert 0 < told["progress"] < 1
    assert told["eta_relative"] > 0
    state = told["state"]
    assert (state["job_count"], state["sampling_steps"], state["interrupted"]) == (50, 40, False)
    assert state["job"].endswith("out of 50")
    assert image_of(told["current_image"]).size == (16, 8), "two previews side by side, at an eighth of the size"
    assert other.interrupt() == {}
    thread.join(60)
    assert not thread.is_alive()
    (made,) = answers
    assert 2 <= len(made.images) < 100
    assert len(made.info["infotexts"]) == len(made.images)
    assert made.info["interrupted"] is True
    assert until(lambda: other.get_progress()["state"]["job_count"] == 0)


def test_skip_goes_on_with_the_next_batch(api: webuiapi.WebUIApi) -> None:
    answers: list[Any] = []
    fields = {**LONG, "n_iter": 2, "batch_size": 1, "steps": 100}
    thread = threading.Thread(target=lambda: answers.append(api.txt2img(**fields)))
    thread.start()
    other = webuiapi.WebUIApi(baseurl=api.baseurl)
    until(lambda: other.get_progress()["state"]["sampling_step"])
    assert other.skip() is None
    thread.join(120)
    (made,) = answers
    assert made.info["all_seeds"] == [8], "the second batch's"
    assert not made.info["interrupted"]


def test_options_are_kept_for_requests_that_override_them(web_ui: httpx.Client) -> None:
    """With `override_settings_restore_afterwards` false, as in the web UI."""
    usual = web_ui.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    other = next(one for one in web_ui.get("/sdapi/v1/sd-models").json() if one["title"] != usual)
    override = {"override_settings": {"sd_model_checkpoint": other["model_name"]}}
    for restored, after in ((True, usual), (False, other["title"])):
        body = {**SMALL, "steps": 1, **override, "override_settings_restore_afterwards": restored}
        answer = web_ui.post("/sdapi/v1/txt2img", json=body)
        assert json.loads(answer.json()["info"])["sd_model_hash"] == other["hash"]
        assert web_ui.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == after
    web_ui.post("/sdapi/v1/options", json={"sd_model_checkpoint": usual})


def test_images_need_not_be_sent(web_ui: httpx.Client) -> None:
    answer = web_ui.post("/sdapi/v1/txt2img", json={**SMALL, "send_images": False, "save_images": True})
    assert answer.json()["images"] == []
    assert len(json.loads(answer.json()["info"])["infotexts"]) == 1
    assert answer.headers["x-ignored-fields"] == "save_images"
