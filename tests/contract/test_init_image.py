"""Image to image and inpainting over REST: names, encodings, sizes, tasks, refusals."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.contract import tasks
from tests.contract.generating import CONTROL, QUICK, decoded, events_of, first, named, post
from tests.pictures import encoded, photo, pixels

IMAGE = encoded(photo(150, 30, 100, 75))
MASK = encoded(Image.linear_gradient("L"))
"""The lower half is painted again."""
PAINTED: dict[str, Any] = {"prompt": "a cat on a blue background", "steps": 4, "seed": 7, "strength": 0.5}


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def changed(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/generate", json={**PAINTED, "init_image": text(IMAGE), **fields})


def test_generate_takes_images_to_change_by_any_name_and_encoding(http: httpx.Client) -> None:
    answer = changed(http, mask=text(MASK))
    made = first(answer)
    parameters = answer.json()["parameters"]
    assert (parameters["width"], parameters["height"]) == (96, 72)
    assert (parameters["strength"], parameters["masked"], parameters["steps"]) == (0.5, True, 4)
    assert "warnings" not in answer.json()
    bare = {name: value for name, value in PAINTED.items() if name != "strength"}
    url = "data:image/png;base64,"
    bodies: tuple[dict[str, Any], ...] = (
        {"init_images": [url + text(IMAGE)], "mask_image": url + text(MASK), "denoising_strength": 0.5},
        {"init_images": text(IMAGE), "mask": [text(MASK)], "strength": "0.5"},
    )
    for body in bodies:
        again = http.post("/generate", json={**bare, **body})
        assert first(again) == made
        assert "warnings" not in again.json()
    files = {"init_image": ("a.png", IMAGE), "mask": ("b.png", MASK)}
    assert first(http.post("/generate", data=PAINTED, files=files)) == made
    form = {**PAINTED, "init_image": text(IMAGE), "mask": text(MASK)}
    assert first(http.post("/generate", data=form)) == made


def test_generate_takes_large_images_to_change_in_lists(http: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    large = encoded(Image.fromarray(noise))
    assert len(text(large)) > 1 << 20
    fields = {**PAINTED, "width": 64, "height": 64}
    in_list = http.post("/generate", json={**fields, "init_images": [text(large)]})
    assert first(in_list) == first(http.post("/generate", data=fields, files={"init_image": ("a.png", large)}))


def test_generate_with_an_image_differs_by_strength_and_mask(http: httpx.Client) -> None:
    original = pixels(first(changed(http, strength=0)))
    near, far = (pixels(first(changed(http, strength=strength))) for strength in (0.25, 1))
    below = pixels(first(changed(http, strength=1, mask=text(MASK))))

    def distance(image: Any, rows: slice) -> float:
        return float(np.abs(image[rows].astype(int) - original[rows]).mean())

    everything, upper, lower = slice(None), slice(0, 20), slice(50, None)
    assert distance(near, everything) < distance(far, everything)
    assert distance(below, upper) < distance(far, upper) / 2
    assert distance(below, lower) > 2 * distance(below, upper)
    plain = np.asarray(Image.fromarray(pixels(IMAGE)).resize((96, 72), Image.Resampling.LANCZOS))
    assert np.abs(original.astype(int) - plain).mean() < 30, "what the demo's VAE makes of a photo"


def test_generate_with_an_image_and_control(http: httpx.Client) -> None:
    both = http.post("/generate", json={**CONTROL, "init_image": text(IMAGE), "steps": 4})
    assert both.json()["control_map"].startswith("data:image/png;base64,")
    assert both.json()["parameters"]["control_type"] == "canny"
    assert first(both) != first(post(http, init_image=text(IMAGE), steps=4))


@pytest.mark.parametrize(("strength", "calls"), [(0.5, 2), (0, 0)])
def test_generate_with_an_image_reports_the_steps_that_are_done(
    http: httpx.Client, strength: float, calls: int
) -> None:
    body = {**PAINTED, "scheduler": "ddim", "strength": strength, "init_image": text(IMAGE)}
    answer = http.post("/generate", json=body, headers={"accept": "text/event-stream"})
    events = events_of(answer)
    assert [content["total"] for kind, content in events if kind == "progress"] == [calls] * (calls + 1)
    assert events[-1][0] == "done"


def test_what_an_image_says_of_its_strength_makes_it_again(http: httpx.Client) -> None:
    made = first(changed(http))
    fields = http.post("/png-info", files={"file": made}).json()["fields"]
    assert fields["strength"] == 0.5
    known = {name: value for name, value in fields.items() if name not in ("other", "masked")}
    assert first(http.post("/generate", json={**known, "init_image": text(IMAGE)})) == made


def test_strength_without_an_image_does_nothing(http: httpx.Client) -> None:
    answer = post(http, strength=0.3)
    assert first(answer) == first(post(http))
    assert "strength" not in answer.json()["parameters"]


@pytest.mark.parametrize("strength", [0.5, 0])
def test_task_keeps_the_images_that_it_changes(http: httpx.Client, strength: float) -> None:
    fields = {"steps": 4, "strength": strength, "init_image": text(IMAGE), "mask": text(MASK)}
    done = tasks.finished(http, tasks.submit(http, **fields)["task_id"])
    made = http.get(done["result_urls"][0]).content
    assert made == first(http.post("/generate", json={**QUICK, **fields}))
    assert done["progress"] == 100


def test_task_enlarges_an_image_that_only_went_through_the_vae(http: httpx.Client) -> None:
    fields = {"strength": 0, "init_image": text(IMAGE), "enlarge": 2, "enlarge_model": "animevideov3"}
    done = tasks.finished(http, tasks.submit(http, **fields)["task_id"])
    assert pixels(http.get(done["result_urls"][0]).content).shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"init_image": None, "mask": text(MASK)}, 422, "init_image", ("missing", "mask")),
        ({"init_image": text(b"no image")}, 415, "init_image", ("image",)),
        ({"init_image": text(IMAGE[:2000])}, 415, "init_image", ("cut short",)),
        ({"init_image": None, "init_images": text(b"no image")}, 415, "init_images", ("image",)),
        ({"mask": text(b"no image")}, 415, "mask", ("image",)),
        ({"init_image": "no base64!"}, 422, "init_image", ("base64", "no base64!")),
        ({"init_image": [text(IMAGE), text(IMAGE)]}, 422, "init_image", ("base64", "list")),
        ({"init_images": text(IMAGE)}, 422, "init_images", ("init_image", "init_images")),
        ({"strength": 1.2}, 422, "strength", ("0", "1", "1.2")),
        ({"strength": -0.1}, 422, "strength", ("0", "1", "-0.1")),
        ({"strength": "much"}, 422, "strength", ("much",)),
        ({"strength": None, "denoising_strength": 2}, 422, "strength", ("0", "1", "2")),
        ({"denoising_strength": 0.6}, 422, "denoising_strength", ("strength", "0.5", "0.6")),
        ({"width": 2048}, 413, "width", ("1,048,576", "2048x1536")),
    ],
)
def test_generate_refuses_images_that_cannot_be_changed(
    http: httpx.Client, fields: dict[str, Any], status: int, param: str, words: tuple[str, ...]
) -> None:
    named(changed(http, **fields), status, param, words)
    body = {"operation": "generate", **PAINTED, "init_image": text(IMAGE), **fields}
    named(http.post("/tasks", json=body), status, param, words)


@pytest.mark.parametrize("name", ["init_image", "mask"])
def test_generate_limits_images_to_change_by_their_header(http: httpx.Client, name: str) -> None:
    large = text(encoded(Image.new("1", (4097, 4096))))
    named(changed(http, **{name: large}), 413, name, ("4097x4096", "16,777,216"))


def test_openapi_and_models_describe_images_to_change(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    body = document["paths"]["/generate"]["post"]["requestBody"]["content"]
    for media in body.values():
        described = json.dumps(media["schema"])
        for name in ("init_image", "init_images", "mask", "mask_image", "strength", "denoising_strength"):
            assert f'"{name}":' in described
    schema = body["application/json"]["schema"]
    properties = (schema["oneOf"][0] if "oneOf" in schema else schema)["properties"]
    assert (properties["strength"]["minimum"], properties["strength"]["maximum"]) == (0, 1)
    assert properties["strength"]["default"] == 0.8
    assert "transparent" in properties["mask"]["description"]
    assert properties["mask_image"]["description"] == "As `mask`."


def test_bare_image_of_an_image(http: httpx.Client) -> None:
    body = {**PAINTED, "init_image": text(IMAGE)}
    answer = http.post("/generate", json=body, headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == decoded(changed(http).json()["images"][0])
