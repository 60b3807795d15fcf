"""OpenAI's images API with OpenAI's own client, and with the requests of Open WebUI."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from tests.contract.generating import first, post
from tests.pictures import encoded, photo, pixels
from tests.service import RunningService

PROMPT = "a cat on a blue background"
SIZE = "128x128"
FEW: dict[str, Any] = {"seed": 7, "num_inference_steps": 4}
"""Further fields, as the client sends them."""
PHOTO = photo(150, 30, 128, 128)
FILE = ("image.png", encoded(PHOTO), "image/png")


@pytest.fixture
def client(service: RunningService) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0, timeout=120) as made:
        yield made


def image_of(text: str | None) -> Any:
    """The pixels of an image in base64."""
    return pixels(base64.b64decode(text or "", validate=True))


def half_mask() -> tuple[str, bytes, str]:
    """A mask as OpenAI wants it: the left half is transparent, and so changed."""
    mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 64, 128))
    return "mask.png", encoded(mask), "image/png"


def difference(one: Any, other: Any) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_image_of_a_text(client: OpenAI, http: httpx.Client) -> None:
    answer = client.images.generate(
        model="gpt-image-1",
        prompt=PROMPT,
        n=1,
        size=SIZE,
        quality="high",
        background="transparent",
        moderation="low",
        output_format="webp",
        output_compression=80,
        user="ann",
        extra_body=FEW,
    )
    assert answer.data is not None
    data = base64.b64decode(answer.data[0].b64_json or "")
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", (128, 128))
    assert (answer.size, answer.output_format, answer.quality, answer.background) == (SIZE, "webp", "high", "opaque")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (7, 64, 71)
    assert 1_600_000_000 < answer.created <= time.time() + 1
    assert pixels(data).std() > 5, "a flat image would prove nothing"
    direct = first(post(http, prompt=PROMPT, seed=7, steps=4, width=128, height=128, format="webp", quality=80), "webp")
    assert np.array_equal(pixels(data), pixels(direct)), "the same image as of POST /generate"


def test_four_images(client: OpenAI) -> None:
    answer = client.images.generate(prompt=PROMPT, n=4, size="100x100", extra_body={**FEW, "num_inference_steps": 2})
    assert answer.data is not None
    images = [image_of(one.b64_json) for one in answer.data]
    assert (answer.size, [image.shape for image in images]) == ("104x104", [(104, 104, 3)] * 4)
    assert [one.model_dump()["seed"] for one in answer.data] == [7, 8, 9, 10]
    assert all(difference(images[0], other) > 1 for other in images[1:])
    last = client.images.generate(prompt=PROMPT, size="104x104", extra_body={"seed": 10, "num_inference_steps": 2})
    assert last.data is not None
    assert difference(image_of(last.data[0].b64_json), images[3]) < 2


def test_images_of_the_asynchronous_client(service: RunningService) -> None:
    async def run() -> tuple[Any, Any]:
        async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client:
            made = client.images.generate(prompt=PROMPT, size=SIZE, extra_body=FEW)
            edited = client.images.edit(image=FILE, prompt=PROMPT, extra_body={**FEW, "strength": 0.5})
            return await asyncio.gather(made, edited)

    for answer in asyncio.run(run()):
        assert image_of(answer.data[0].b64_json).shape == (128, 128, 3)
        assert answer.size == SIZE


def test_stream_grows_towards_the_image(client: OpenAI) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "size": SIZE, "extra_body": {"seed": 7}, "output_format": "png"}
    events: list[Any] = list(client.images.generate(stream=True, partial_images=3, **fields))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    *partial, completed = events
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    assert {(event.size, event.output_format, event.quality) for event in events} == {(SIZE, "png", "medium")}
    assert completed.usage.total_tokens == 71
    images = [image_of(event.b64_json) for event in events]
    assert {image.shape for image in images} == {(128, 128, 3)}
    whole = client.images.generate(**fields)
    assert whole.data is not None
    assert np.array_equal(images[-1], image_of(whole.data[0].b64_json))
    noise = np.random.default_rng(1).integers(0, 256, images[-1].shape)
    distances = [difference(image, images[-1]) for image in images[:-1]]
    assert all(distance < 0.5 * difference(noise, images[-1]) for distance in distances), distances
    # Previews are guesses of a pixel for each latent, so that the last ones are near each other and not the image.
    assert difference(images[0], images[2]) > difference(images[1], images[2]) > 0.5


def test_stream_without_partial_images(service: RunningService, client: OpenAI) -> None:
    (event,) = client.images.edit(image=FILE, prompt=PROMPT, stream=True, output_format="jpeg", extra_body=FEW)
    assert event.type == "image_edit.completed"
    assert base64.b64decode(event.b64_json)[:3] == b"\xff\xd8\xff"
    with httpx.stream(
        "POST", f"{service.url}/v1/images/generations", json={"prompt": "a", "size": "64x64", "stream": True, **FEW}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == "event: image_generation.completed"
    assert lines[1].startswith('data: {"type": "image_generation.completed"')


def test_stream_that_fails_raises(client: OpenAI) -> None:
    broken = encoded(PHOTO)
    broken = broken[: len(broken) // 2] + bytes(200) + broken[len(broken) // 2 + 200 :]
    with pytest.raises(openai.APIError) as failed:
        list(client.images.edit(image=("image.png", broken), prompt=PROMPT, stream=True, extra_body=FEW))
    assert isinstance(failed.value.body, dict)
    assert (failed.value.body["code"], failed.value.body["type"]) == ("not_an_image", "invalid_request_error")


@pytest.fixture(scope="module")
def cat(service: RunningService) -> bytes:
    """A generated image: the demo checkpoint cannot draw a photo."""
    fields = {"prompt": PROMPT, "size": SIZE, "seed": 7}
    made = httpx.post(f"{service.url}/v1/images/generations", json=fields, timeout=120).json()
    return base64.b64decode(made["data"][0]["b64_json"])


def test_edit_with_a_mask_changes_what_is_transparent(client: OpenAI, cat: bytes) -> None:
    answer = client.images.edit(
        image=("cat.png", cat, "image/png"),
        mask=half_mask(),
        prompt="a pizza on a red background",
        n=1,
        size=SIZE,
        extra_body={"seed": 8, "strength": 1},
    )
    assert answer.data is not None
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.image_tokens == 64
    made, before = image_of(answer.data[0].b64_json), pixels(cat)
    assert difference(made[:, :56], before[:, :56]) > 4 * difference(made[:, 72:], before[:, 72:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of create_variation
def test_variations_resemble_their_image(client: OpenAI, cat: bytes) -> None:
    more = {"seed": 8, "num_inference_steps": 10}
    answer = client.images.create_variation(image=cat, n=2, size="128x128", response_format="b64_json", extra_body=more)
    other = client.images.generate(prompt="", n=2, size="128x128", extra_body=more)
    assert answer.data is not None
    assert other.data is not None
    assert answer.size == SIZE
    for one, unlike in zip(answer.data, other.data, strict=True):
        far = difference(image_of(unlike.b64_json), pixels(cat))
        assert 1 < difference(image_of(one.b64_json), pixels(cat)) < 0.7 * far


def test_url_is_the_clients_address(service: RunningService, client: OpenAI, http: httpx.Client) -> None:
    answer = client.images.generate(
        model="dall-e-3", prompt=PROMPT, size=SIZE, style="vivid", output_format="jpeg", extra_body=FEW
    )
    assert answer.data is not None
    assert answer.data[0].b64_json is None
    url = answer.data[0].url or ""
    assert url.startswith(f"{service.url}/v1/images/files/")
    fetched = http.get(url)
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/jpeg")
    assert pixels(fetched.content).shape == (128, 128, 3)
    sent = {"prompt": PROMPT, "size": "64x64", "response_format": "url", **FEW}
    other = http.post("/v1/images/generations", json=sent, headers={"host": "images.example"})
    assert other.json()["data"][0]["url"].startswith("http://images.example/v1/images/files/")


def test_request_that_is_sent_again_is_done_once(client: OpenAI, http: httpx.Client) -> None:
    before = http.get("/health").json()["total_tasks"]
    impatient = client.with_options(timeout=0.3, max_retries=60)
    raw = impatient.images.with_raw_response.generate(prompt=PROMPT, size=SIZE, extra_body={"num_inference_steps": 80})
    assert raw.retries_taken >= 1, "or this tests nothing"
    assert raw.headers["idempotent-replayed"] == "true"
    answer = raw.parse()
    assert answer.data is not None
    assert image_of(answer.data[0].b64_json).shape == (128, 128, 3)
    assert http.get("/health").json()["total_tasks"] - before == 1


def test_idempotency_key_gives_the_same_answer(client: OpenAI, http: httpx.Client) -> None:
    before = http.get("/health").json()["total_tasks"]
    fields: dict[str, Any] = {"prompt": PROMPT, "size": "64x64", "extra_headers": {"Idempotency-Key": "openai-1"}}
    one, two = (client.images.generate(**fields, extra_body={"num_inference_steps": 1}) for _ in range(2))
    assert one == two
    assert http.get("/health").json()["total_tasks"] - before == 1
    with pytest.raises(openai.BadRequestError, match="another request"):
        client.images.generate(**fields)


def test_client_that_is_out_of_time(client: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).images.generate(prompt=PROMPT, size="64x64")


def test_requests_of_open_webui(http: httpx.Client) -> None:
    """Engine OpenAI: the fields, and what it reads of the answers."""
    key = {"Authorization": "Bearer any"}
    sent: dict[str, Any] = {"model": "sd15", "prompt": PROMPT, "n": 1, "size": "64x64", "response_format": "b64_json"}
    made = http.post("/v1/images/generations", json=sent, headers=key)
    assert made.status_code == 200, made.text
    image = base64.b64decode(made.json()["data"][0]["b64_json"])
    assert pixels(image).shape == (64, 64, 3)
    assert "x-ignored-fields" not in made.headers
    gpt = http.post("/v1/images/generations", json={**sent, "model": "gpt-image-1", "response_format": None})
    assert gpt.json()["data"][0]["b64_json"]

    form = {"model": "gpt-image-1", "prompt": PROMPT, "n": "1", "size": "64x64", "background": "transparent"}
    one = http.post("/v1/images/edits", data=form, files=[("image", ("a.png", image, "image/png"))], headers=key)
    assert pixels(base64.b64decode(one.json()["data"][0]["b64_json"])).shape == (64, 64, 3)
    several = [("image[]", (f"{name}.png", image, "image/png")) for name in "ab"]
    two = http.post("/v1/images/edits", data=form, files=several, headers=key)
    assert (two.status_code, two.json()["error"]["param"]) == (400, "image")
    assert "reads one image; got 2" in two.json()["error"]["message"]
