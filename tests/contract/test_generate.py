"""Contract C over REST: what is answered, in which form, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any, cast

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.contract.generating import CONTROL, QUICK, REFERENCE, decoded, events_of, first, post
from tests.pictures import encoded, pixels
from tests.service import ROOT, RunningService


def shown(answer: httpx.Response) -> dict[str, Any]:
    """The answer with the pixels in place of its files: two files of the same pixels may differ in their packing."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    body["images"] = [pixels(decoded(image)).tolist() for image in body["images"]]
    body["control_map"] = pixels(decoded(body["control_map"])).tolist()
    return cast(dict[str, Any], body)


def farthest(one: bytes, other: bytes) -> int:
    return int(np.abs(pixels(one).astype(int) - pixels(other).astype(int)).max())


def test_generate_answer(http: httpx.Client) -> None:
    body = post(http, num_images=2, width=72, height=64, negative_prompt="red").json()
    assert body["success"] is True
    assert (body["seed"], body["seeds"]) == (7, [7, 8])
    assert (body["width"], body["height"], body["media_type"]) == (72, 64, "image/png")
    assert "control_map" not in body
    shapes = [pixels(decoded(image)).shape for image in body["images"]]
    assert shapes == [(64, 72, 3)] * 2
    expected = {"prompt": QUICK["prompt"], "negative_prompt": "red", "steps": 2, "seed": 7}
    assert body["parameters"].items() >= expected.items()


def test_generate_defaults(http: httpx.Client) -> None:
    checkpoint = json.loads((ROOT / "model_repository/sd15/1/pipeline.json").read_text())
    side, guidance_scale = checkpoint["side"], checkpoint["guidance_scale"]
    answers = [http.post("/generate", json={"prompt": "a cat"}).json() for _ in range(2)]
    parameters = answers[0]["parameters"]
    assert (parameters["width"], parameters["height"]) == (side, side)
    assert (parameters["steps"], parameters["guidance_scale"], parameters["negative_prompt"]) == (
        20,
        guidance_scale,
        "",
    )
    assert len(answers[0]["images"]) == 1
    assert answers[0]["seed"] != answers[1]["seed"]


def test_generate_gives_the_same_bytes_again(http: httpx.Client) -> None:
    assert first(post(http)) == first(post(http))
    assert first(post(http)) != first(post(http, seed=8))


def test_generate_with_the_random_seed_gives_the_image_again(http: httpx.Client) -> None:
    answer = post(http, seed=3, randomize_seed=True)
    drawn = answer.json()["seed"]
    assert drawn != 3
    assert first(post(http, seed=drawn)) == first(answer)


def test_generate_by_json_and_form_gives_the_same_bytes(http: httpx.Client) -> None:
    fields = {**QUICK, "prompt": "一隻貓 😀", "guidance_scale": 1.5, "scheduler": "Euler a"}
    texts = {name: str(value) for name, value in fields.items()}
    ours = first(http.post("/generate", json=fields))
    assert first(http.post("/generate", files={name: (None, text) for name, text in texts.items()})) == ours
    assert first(http.post("/generate", data=texts)) == ours
    assert first(http.post("/generate", data={**texts, "quality": "", "control_type": ""})) == ours
    assert first(http.post("/generate", json={**texts, "quality": None, "unknown": 1})) == ours


def test_generate_takes_other_field_names(http: httpx.Client) -> None:
    fields = {name: value for name, value in QUICK.items() if name != "steps"}
    body = http.post("/generate", json={**fields, "num_inference_steps": 2, "num_images_per_prompt": 2}).json()
    assert body["images"] == post(http, num_images=2).json()["images"]
    assert first(post(http, num_inference_steps=2)) == first(post(http))


def test_generate_image_k_is_that_of_seed_plus_k(http: httpx.Client) -> None:
    """In a batch with others it may differ by rounding only: at most 2 of 255."""
    together = post(http, num_images=3, scheduler="euler_a").json()["images"]
    for k, image in enumerate(together):
        assert farthest(decoded(image), first(post(http, seed=7 + k, scheduler="euler_a"))) <= 2


def test_generate_beside_other_requests_gives_the_same_image(http: httpx.Client, service: RunningService) -> None:
    alone = first(post(http, steps=4))

    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:
            jobs = [{**QUICK, "steps": 4}, *({**QUICK, "prompt": f"{k} dogs", "seed": k, "steps": 6} for k in range(7))]
            return await asyncio.gather(*(client.post("/generate", json=job) for job in jobs))

    assert farthest(alone, first(asyncio.run(crowd())[0])) <= 2


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_generate_answers_with_an_image_file(http: httpx.Client, kind: str) -> None:
    answer = post(http, accept=f"image/{kind}, */*;q=0.5")
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.headers["x-seed"] == "7"
    assert answer.headers["x-request-id"]
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == (kind.upper(), (64, 64))
    body = post(http, format=kind).json()
    assert body["media_type"] == f"image/{kind}"
    assert decoded(body["images"][0], kind) == answer.content
    assert post(http, accept="image/*", format=kind).content == answer.content


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "text/html", "image/png;q=0.1, application/json", "image/gif, */*;q=x"]
)
def test_generate_answers_with_json(http: httpx.Client, accept: str) -> None:
    assert post(http, accept=accept).headers["content-type"] == "application/json"


@pytest.mark.parametrize("fields", [{"num_images": 2}, {"format": "jpeg"}])
def test_generate_refuses_an_accept_that_does_not_fit(http: httpx.Client, fields: dict[str, Any]) -> None:
    answer = post(http, accept="image/webp", **fields)
    assert answer.status_code == 406
    assert answer.json()["error"]["code"] == "not_acceptable"
    ((name, value),) = fields.items()
    assert f"{name} is {value}" in answer.json()["detail"]


def test_generate_events(http: httpx.Client) -> None:
    fields = {**CONTROL, "steps": 4, "num_images": 2, "preview_every": 2, "scheduler": "euler"}
    events = events_of(http.post("/generate", json=fields, headers={"accept": "text/event-stream"}))
    names = [name for name, _ in events]
    assert names == ["progress", "control", *["progress"] * 2, "preview", *["progress"] * 2, "image", "image", "done"]
    assert [one for name, one in events if name == "progress"] == [{"done": n, "total": 4} for n in range(5)]
    whole = http.post("/generate", json=fields).json()
    images = [one for name, one in events if name == "image"]
    assert [(one["index"], one["seed"], one["image"]) for one in images] == [
        (k, 7 + k, image) for k, image in enumerate(whole.pop("images"))
    ]
    assert dict(events)["control"]["control_map"] == whole.pop("control_map")
    assert dict(events)["done"] == whole
    preview = dict(events)["preview"]
    assert (preview["done"], preview["total"]) == (2, 4)
    assert pixels(decoded(preview["image"])).shape == (8, 16, 3)  # a pixel per latent, two pictures side by side


def test_generate_error_inside_the_stream_is_an_event(http: httpx.Client) -> None:
    fields = {**QUICK, "prompt": "a BREAK " * 480}  # too many chunks, which the model finds out
    *_, (name, body) = events_of(http.post("/generate", json=fields, headers={"accept": "text/event-stream"}))
    assert (name, body["status"], body["error"]["code"]) == ("error", 422, "invalid_input")
    assert body["detail"] == body["error"]["message"]
    assert http.post("/generate", json=fields).status_code == 422


@pytest.mark.parametrize(("low", "high"), [(None, None), (30, 90)])
def test_generate_control_map_is_that_of_opencv(http: httpx.Client, low: int | None, high: int | None) -> None:
    fields = {"low_threshold": low, "high_threshold": high}
    body = http.post("/generate", json={**CONTROL, "width": 96, "height": 80, **fields}).json()
    fitted = np.asarray(REFERENCE.resize((96, 80), Image.Resampling.LANCZOS))
    edges = cv2.Canny(cv2.cvtColor(fitted, cv2.COLOR_RGB2GRAY), low or 100, high or 200)
    ours = pixels(decoded(body["control_map"]))
    assert np.array_equal(ours, np.repeat(edges[..., None], 3, axis=2))
    assert 0.01 < (ours > 0).mean() < 0.5
    assert body["parameters"]["control_type"] == "canny"
    assert body["parameters"]["low_threshold"] == (low or 100)


def test_generate_reads_transparent_control_images_on_white(http: httpx.Client) -> None:
    """Black lines with alpha: without a ground to stand on nothing would be seen of them."""
    drawing = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(drawing).rectangle((16, 16, 48, 48), outline=(0, 0, 0, 255), width=4)
    control = base64.b64encode(encoded(drawing)).decode()
    assert pixels(decoded(post(http, control_image=control).json()["control_map"])).any()


def test_generate_with_every_default_has_no_control(http: httpx.Client) -> None:
    assert first(post(http, control_type="canny", low_threshold=100, high_threshold=200)) == first(post(http))


def test_generate_takes_control_images_by_any_name_and_encoding(http: httpx.Client) -> None:
    data = encoded(REFERENCE)
    text = base64.b64encode(data).decode()
    ours = shown(http.post("/generate", json=CONTROL))
    assert pixels(first(post(http))).tolist() != ours["images"][0]
    for name in ("image", "control_image", "reference_image"):
        assert shown(http.post("/generate", data=QUICK, files={name: ("photo.png", data)})) == ours
    wrapped = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for value in (f"data:image/png;base64,{text}", wrapped):
        assert shown(http.post("/generate", json={**QUICK, "image_base64": value})) == ours
    form = {name: (None, str(value)) for name, value in {**QUICK, "image_base64": text}.items()}
    assert shown(http.post("/generate", files=form)) == ours
    nothing = {"image": ("", b"")}  # what browsers send for a field that was left empty
    assert first(http.post("/generate", data=QUICK, files=nothing)) == first(post(http))


def test_generate_takes_large_control_images_as_text_of_a_form(http: httpx.Client) -> None:
    """The form parser's own limit for texts is 1 MB."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    data = encoded(Image.fromarray(noise))
    fields = {**QUICK, "image_base64": base64.b64encode(data).decode()}
    answer = http.post("/generate", files={name: (None, str(value)) for name, value in fields.items()})
    assert answer.status_code == 200
    assert first(answer) == first(http.post("/generate", data=QUICK, files={"image": data}))


def test_documentation(http: httpx.Client) -> None:
    body = http.get("/openapi.json").json()["paths"]["/generate"]["post"]["requestBody"]["content"]
    assert body.keys() == {"application/json", "multipart/form-data", "application/x-www-form-urlencoded"}
    for kind in body.values():
        schema = kind["schema"].get("oneOf", [kind["schema"]])[0]  # that of the default model
        fields = schema["properties"]
        assert fields.keys() >= {"prompt", "model", "seed", "scheduler", "control_image", "image", "control_type"}
        assert (fields["steps"]["default"], fields["steps"]["minimum"]) == (20, 1)
        assert fields["guidance_scale"]["maximum"] == 50
        assert "default" not in fields["guidance_scale"], "it is the checkpoint's"
        assert (fields["high_threshold"]["default"], fields["high_threshold"]["maximum"]) == (200, 255)
        assert schema["required"] == ["prompt"]


def test_generate_takes_an_empty_prompt(http: httpx.Client) -> None:
    assert post(http, prompt="").status_code == 200
    assert http.post("/generate", data={**QUICK, "prompt": ""}).status_code == 200
