"""Fields, ranges and defaults of edits, and what Triton gets of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from darkroom.errors import Conflict, InvalidInput, NotAnImage, TooLarge
from darkroom.pipelines.qwen_edit.request import EditRequest
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.png import encode_png
from darkroom.request.tensors import to_tensors, triton_inputs
from tests.families.qwen_edit.facts import facts


def png(width: int, height: int) -> bytes:
    return encode_png(np.zeros((height, width, 3), np.uint8))


SMALL = png(90, 70)


def parse(**fields: Any) -> EditRequest:
    return EditRequest.parse({"prompt": "a cat", "images": [SMALL], **fields}, Settings())


def test_edit_request_has_the_contracts_defaults() -> None:
    plain = parse()
    assert (plain.true_guidance_scale, plain.guidance_scale, plain.steps, plain.num_images) == (4.0, 1.0, 50, 1)
    assert plain.align
    assert plain.negative_prompt is None
    own = EditRequest.parse({"prompt": "", "images": [SMALL]}, Settings(), facts(plus=True).request_defaults)
    assert (own.steps, own.true_guidance_scale) == (40, 3.0)


def test_edit_request_is_as_large_as_its_first_image() -> None:
    several = parse(images=[SMALL, png(300, 20)])
    assert (several.width, several.height) == (90, 70)
    assert (parse(width=180).width, parse(width=180).height) == (180, 140)
    large = parse(images=[png(2000, 1500)])
    assert (large.width, large.height) == (2000, 1500)
    assert not {"width", "height"} & to_tensors(large).keys(), "the pipeline finds the size itself"
    assert (parse(images=[png(3, 5)]).width, parse(images=[png(3, 5)]).height) == (3, 5)


@pytest.mark.parametrize(("scale", "negative", "guided"), [(4.0, None, False), (4.0, "", True), (1.0, "a dog", False)])
def test_edit_request_is_guided_as_in_diffusers(scale: float, negative: str | None, guided: bool) -> None:
    assert parse(true_guidance_scale=scale, negative_prompt=negative).guided is guided


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"images": None}, InvalidInput, "images is missing."),
        ({"images": []}, InvalidInput, "images must be 1 to 5 images; got 0."),
        ({"images": [SMALL] * 6}, InvalidInput, "images must be 1 to 5 images; got 6."),
        ({"images": [b"text"]}, NotAnImage, "images"),
        ({"prompt": None}, InvalidInput, "prompt is missing."),
        ({"true_guidance_scale": 0.5}, InvalidInput, "true_guidance_scale must be from 1 to 10; got 0.5."),
        ({"guidance_scale": 11}, InvalidInput, "guidance_scale must be from 1 to 10; got 11."),
        ({"steps": 51}, InvalidInput, "steps must be from 1 to 50; got 51."),
        ({"num_images": 5}, InvalidInput, "num_images must be from 1 to 4; got 5."),
        ({"width": 2048, "height": 2048}, TooLarge, "width x height must be at most 1,048,576 pixels"),
        ({"width": 8192}, TooLarge, "width x height must be at most 1,048,576 pixels"),
        ({"mask": SMALL, "width": 128}, InvalidInput, "mask needs a result as large as the first image, 90x70;"),
        ({"scheduler": "ddim"}, InvalidInput, "scheduler must be one of"),
    ],
)
def test_edit_request_refuses(fields: dict[str, Any], error: type[InvalidInput], text: str) -> None:
    with pytest.raises(error) as raised:
        parse(**fields)
    assert text in f"{raised.value.param} {raised.value.message}"


def test_edit_request_of_several_images_needs_a_plus_model() -> None:
    request = parse(images=[SMALL, SMALL])
    assert request.completed(facts(plus=True), Settings()).images == (SMALL, SMALL)
    with pytest.raises(InvalidInput, match="tiny edits one image at a time; got 2"):
        request.completed(facts(plus=False), Settings())


def test_edit_request_travels_as_tensors() -> None:
    request = parse(images=[SMALL, png(64, 64)], negative_prompt="", seed=3, mask=SMALL)
    tensors = to_tensors(request)
    assert tensors["images"].tolist() == list(request.images)
    assert tensors["negative_prompt"].tolist() == [""]
    (images,) = [one for one in triton_inputs(EditRequest) if one.name == "images"]
    assert (images.dtype, images.dims, images.optional) == ("STRING", (-1,), False)
    fields = {name: value if value.dtype == np.uint8 else value[0] for name, value in tensors.items()}
    assert EditRequest.parse({**fields, "images": tensors["images"]}, Settings()) == request


def test_edit_request_for_a_map_without_its_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(make_map="edges").make_map == "edges"
    with pytest.raises(Conflict, match="make_map: depth needs a model, and QWEN_EDIT_DEPTH_MODEL names none here"):
        parse(make_map="depth")
    monkeypatch.setenv("QWEN_EDIT_DEPTH_MODEL", "/models/depth")
    assert parse(make_map="depth").make_map == "depth"
    with pytest.raises(InvalidInput, match="make_map must be one of edges, sketch, depth, keypoints"):
        parse(make_map="normals")


def test_edit_request_with_a_map_counts_it_as_an_image() -> None:
    five = parse(images=[SMALL] * 5, make_map="sketch")
    with pytest.raises(InvalidInput, match="at most 5 images; got 6, the map that is made included"):
        five.completed(facts(plus=True), Settings())
    with pytest.raises(InvalidInput, match="one image at a time; got 2, the map"):
        parse(make_map="sketch").completed(facts(plus=False), Settings())
