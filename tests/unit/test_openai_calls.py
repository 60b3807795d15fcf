"""What requests of OpenAI's images API become: the model, its fields, the jobs. Nothing runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from PIL import Image

from darkroom.errors import DarkroomError, InvalidInput, NotFound
from darkroom.settings import Settings
from proxy.errors import first_problem
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.models import installed
from proxy.openai.calls import EDITS, GENERATIONS, VARIATIONS, Endpoint, ImagesCall, checked_call, read_body
from proxy.openai.names import chosen_model, listed
from proxy.readiness import Monitor
from proxy.services import Services
from tests.openai_requests import multipart, request_with
from tests.pictures import encoded, photo
from tests.service import ROOT

PHOTO = encoded(photo(width=96, height=80))
HOLE = encoded(Image.new("RGBA", (96, 80), (0, 0, 0, 0)))
BASIC: dict[str, Any] = {"prompt": "a cat", "size": "128x128"}


def with_services(work: Any, **settings: Any) -> Any:
    """The result of asynchronous work with the services of a proxy that has not found its Triton."""

    async def run() -> Any:
        made = Settings(_env_file=None, model_repository=ROOT / "model_repository", **settings)
        gateway = Gateway("127.0.0.1:1")
        monitor = Monitor(gateway, {}, metrics_url="http://127.0.0.1:1", interval=60, timeout=1)
        services = Services(settings=made, gateway=gateway, monitor=monitor, gate=Gate(capacity=1, queue_size=1))
        try:
            return await work(services)
        finally:
            await gateway.close()

    return asyncio.run(run())


def call_of(endpoint: Endpoint, sent: Mapping[str, Any] | Sequence[tuple[str, str | bytes]], **more: Any) -> ImagesCall:
    """What a request becomes: a form if it is a sequence of parts, else JSON."""
    if isinstance(sent, Mapping):
        request = request_with(json.dumps(sent).encode(), "application/json")
    else:
        request = multipart(sent)

    async def work(services: Services) -> ImagesCall:
        return await checked_call(request, services, endpoint, await read_body(request, services, endpoint))

    made: ImagesCall = with_services(work, **more)
    return made


def refusal_of(endpoint: Endpoint, sent: Mapping[str, Any] | Sequence[tuple[str, str | bytes]]) -> tuple[str, str]:
    """The field that is at fault and the message, as the answer says them."""
    with pytest.raises((InvalidInput, NotFound, RequestValidationError)) as refused:
        call_of(endpoint, sent)
    if isinstance(refused.value, RequestValidationError):
        message, param = first_problem(refused.value)
        return str(param), message
    assert isinstance(refused.value, DarkroomError)
    return str(refused.value.param), refused.value.message


def default_name() -> str:
    async def work(services: Services) -> str:
        return installed(services, "generate")[0].name

    return str(with_services(work))


@pytest.mark.parametrize("name", ["", None, "gpt-image-1", "gpt-image-9-mini", "dall-e-3", "GPT-Image-1", "default"])
def test_names_of_openai_mean_the_default_model(name: str | None) -> None:
    model = with_services(
        lambda services: _chosen(services, name), model_aliases="default=default,gpt-*=default,d*=default"
    )
    assert model == default_name()
    assert name == "default" or with_services(lambda services: _chosen(services, name)) == model, "without any setting"


async def _chosen(services: Services, name: str | None) -> str:
    return chosen_model(services, ("generate",), name).name


def test_model_aliases_name_models() -> None:
    names = with_services(_names_of_generators)
    other = names[-1]
    aliases = f"gpt-image-1={other}, mine={other}, gone=nothing, gpt-image-*=default"
    for name, wanted in (("gpt-image-1", other), ("Mine", other), ("gpt-image-2", names[0])):
        assert with_services(lambda services, name=name: _chosen(services, name), model_aliases=aliases) == wanted
    found = with_services(_listed, model_aliases=aliases)
    assert found == [*names, "gpt-image-1", "mine"]
    with pytest.raises(NotFound, match="'gone'"):
        with_services(lambda services: _chosen(services, "gone"), model_aliases=aliases)


async def _names_of_generators(services: Services) -> list[str]:
    return [model.name for model in installed(services, "generate")]


async def _listed(services: Services) -> list[str]:
    return list(listed(services))


@pytest.mark.parametrize("alias", ["gpt-image-1", "=x", "x="])
def test_model_alias_without_a_model_is_refused(alias: str) -> None:
    with pytest.raises(ValueError, match="NAME=MODEL"):
        Settings(_env_file=None, model_aliases=alias)


@pytest.mark.parametrize(
    ("sent", "param", "words"),
    [
        ({"size": "64x64"}, "prompt", "missing"),
        ({**BASIC, "stream": "perhaps"}, "stream", "valid boolean"),
        ({**BASIC, "n": 0}, "n", "from 1 to 10; got 0"),
        ({**BASIC, "n": 11}, "n", "from 1 to 10; got 11"),
        ({**BASIC, "n": "many"}, "n", "from 1 to 10"),
        ({**BASIC, "partial_images": 4}, "partial_images", "from 0 to 3"),
        ({**BASIC, "output_compression": 101}, "output_compression", "from 0 to 100"),
        ({**BASIC, "output_format": "gif"}, "output_format", "png, jpeg, webp"),
        ({**BASIC, "response_format": "file"}, "response_format", "b64_json, url"),
        ({**BASIC, "size": "huge"}, "size", "512x768"),
        ({**BASIC, "size": "100x100", "strict_size": True}, "size", "104x104"),
        ({**BASIC, "size": "128x128", "width": 64}, "size", "one field"),
        ({**BASIC, "model": "gpt-5"}, "model", "does not exist"),
        ({**BASIC, "model": "upscale"}, "model", "upscale"),
        ({**BASIC, "model": 7}, "model", "text"),
        ({**BASIC, "num_inference_steps": 0}, "steps", "from 1"),
        ({**BASIC, "seed": "any"}, "seed", "from 0"),
        ({**BASIC, "prompt": "x" * 5000}, "prompt", "at most 4000"),
    ],
)
def test_generation_is_refused(sent: dict[str, Any], param: str, words: str) -> None:
    found, message = refusal_of(GENERATIONS, sent)
    assert (found, words in message) == (param, True), message


def test_fields_of_openai_become_those_of_the_model() -> None:
    call = call_of(
        GENERATIONS,
        {
            **BASIC,
            "model": "gpt-image-1",
            "n": 2,
            "output_format": "jpeg",
            "output_compression": 0,
            "quality": "high",
            "background": "transparent",
            "moderation": "low",
            "style": "vivid",
            "user": "ann",
            "negative_prompt": "a dog",
            "seed": 7,
            "num_inference_steps": 3,
            "guidance_scale": 2.5,
        },
    )
    (job,) = call.jobs
    request = job.request
    assert (request.width, request.height, request.num_images) == (128, 128, 2)
    assert (request.format, request.quality, request.seed, request.steps) == ("jpeg", 1, 7, 3)
    assert (request.negative_prompt, request.guidance_scale) == ("a dog", 2.5)
    assert (request.progress_every, request.preview_every) == (0, 0), "nothing reads them"
    assert (call.by_url, call.partial_images, call.more) == (False, None, {})
    assert (call.tokens.text, call.tokens.image) == (4, 0)


def test_field_that_is_not_known_is_named() -> None:
    call = call_of(GENERATIONS, {**BASIC, "num_images": 3, "sampler": "euler"})
    assert [one["field"] for one in call.more["warnings"]] == ["num_images", "sampler"]


@pytest.mark.parametrize(
    ("model", "wanted", "by_url"),
    [
        (None, None, False),
        (None, "url", True),
        ("dall-e-3", None, True),
        ("dall-e-3", "b64_json", False),
        ("gpt-image-1", "url", False),
        ("gpt-image-1", None, False),
    ],
)
def test_response_format(model: str | None, wanted: str | None, by_url: bool) -> None:
    assert call_of(GENERATIONS, {**BASIC, "model": model, "response_format": wanted}).by_url is by_url


def test_images_over_the_limit_of_the_model_are_several_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD15_MAX_IMAGES", "4")
    call = call_of(GENERATIONS, {**BASIC, "n": 10, "seed": 100})
    assert [(job.request.num_images, job.request.seed) for job in call.jobs] == [(4, 100), (4, 104), (2, 108)]


@pytest.mark.parametrize(("most", "sizes"), [(6, [4, 2]), (3, [3])])
def test_policy_lowers_the_images_of_all_jobs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, sizes: list[int]
) -> None:
    monkeypatch.setenv("SD15_MAX_IMAGES", "4")
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: '1'\nrules: [{{id: few, limit: {{num_images: {most}}}}}]", "utf-8")
    made = call_of(GENERATIONS, {**BASIC, "n": 10, "seed": 5}, policy_file=policy)
    assert [job.request.num_images for job in made.jobs] == sizes
    assert [job.request.seed for job in made.jobs] == [5, 9][: len(sizes)]
    assert made.more["warnings"][0]["message"].startswith(f"num_images was lowered from 10 to {most}")


@pytest.mark.parametrize(
    ("partial", "steps", "every"), [(0, 20, 0), (1, 20, 10), (2, 20, 6), (3, 20, 5), (3, 2, 1), (3, 10, 2)]
)
def test_previews_that_a_stream_needs(partial: int, steps: int, every: int) -> None:
    call = call_of(GENERATIONS, {**BASIC, "stream": True, "partial_images": partial, "steps": steps})
    assert (call.partial_images, call.jobs[0].request.preview_every) == (partial, every)
    assert call_of(GENERATIONS, {**BASIC, "partial_images": partial}).partial_images is None, "this is no stream"


@pytest.mark.parametrize("name", ["image", "image[]", "images"])
def test_edit_without_a_model_for_edits_is_image_to_image(name: str) -> None:
    call = call_of(EDITS, [(name, PHOTO), ("mask", HOLE), ("prompt", "a cat"), ("n", "2"), ("strength", "0.5")])
    request: Any = call.jobs[0].request
    assert (request.init_image, request.mask, request.strength) == (PHOTO, HOLE, 0.5)
    assert (request.width, request.height, request.num_images) == (96, 80, 2), "as large as the image"
    assert call.tokens.image == 6 * 5
    assert call.event == "image_edit"


def test_edit_in_another_size() -> None:
    call = call_of(EDITS, [("image", PHOTO), ("prompt", "a cat"), ("size", "100x64")])
    assert (call.jobs[0].request.width, call.jobs[0].request.height) == (104, 64)


@pytest.mark.parametrize(
    ("parts", "param", "words"),
    [
        ([("prompt", "a cat")], "image", "missing"),
        ([("image", b""), ("prompt", "a cat")], "image", "empty"),
        ([("image", b"no image"), ("prompt", "a cat")], "image", "not an image"),
        ([("image[]", PHOTO), ("image[]", PHOTO), ("prompt", "a cat")], "image", "reads one image; got 2"),
        ([("image", PHOTO), ("image[]", PHOTO), ("prompt", "a cat")], "image", "got 2"),
        ([("image", PHOTO), ("mask", b"no image"), ("prompt", "a cat")], "mask", "not an image"),
        ([("image", PHOTO)], "prompt", "missing"),
        ([("image", PHOTO), ("prompt", "a cat"), ("strength", "2")], "strength", "from 0 to 1"),
        ([("image", PHOTO), ("prompt", "a cat"), ("mode", "1"), ("model", "hidream")], "model", "change images"),
    ],
)
def test_edit_is_refused(parts: list[tuple[str, str | bytes]], param: str, words: str) -> None:
    found, message = refusal_of(EDITS, parts)
    assert (found, words in message) == (param, True), message


def test_variation_is_image_to_image_without_a_prompt() -> None:
    request: Any = call_of(VARIATIONS, [("image", PHOTO)]).jobs[0].request
    assert (request.init_image, request.prompt, request.strength) == (PHOTO, "", 0.6)
    other: Any = call_of(VARIATIONS, [("image", PHOTO), ("strength", "0.3")]).jobs[0].request
    assert other.strength == 0.3
