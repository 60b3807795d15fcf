"""Fields that are not known: their names are told, with the ones that were meant."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.upscale.request import UpscaleRequest
from darkroom.request.edge import rest_names
from proxy.ignored import ignored, meant

GENERATE_NAMES, NAMES = rest_names(GenerateRequest), rest_names(UpscaleRequest)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("numInferenceSteps", "num_inference_steps"),
        ("negativePrompt", "negative_prompt"),
        ("Guidance-Scale", "guidance_scale"),
        ("guidanceScale", "guidance_scale"),
        ("n_iter", "num_images"),
        ("batch_size", "num_images"),
        ("cfg_scale", "guidance_scale"),
        ("cfgScale", "guidance_scale"),
        ("sampler_name", "scheduler"),
        ("sampler", "scheduler"),
        ("resolution", "size"),
        ("stpes", "steps"),
        ("heigth", "height"),
        ("image_format", "format"),
        ("something", None),
        ("", None),
        ("ß" * 500, None),
    ],
)
def test_meant_names(name: str, field: str | None) -> None:
    assert meant(name, GENERATE_NAMES) == field


def test_meant_is_only_what_the_endpoint_has() -> None:
    assert meant("cfg_scale", NAMES) in (None, "scale")
    assert meant("upscaler", NAMES) == "model"


def test_ignored_says_field_message_and_suggestion() -> None:
    assert ignored(["prompt", "n_iter"], GENERATE_NAMES) == [
        {
            "field": "n_iter",
            "message": "n_iter is not known here and was ignored; did you mean num_images?",
            "suggestion": "num_images",
        }
    ]
    assert ignored(["prompt", "steps", "control_image"], GENERATE_NAMES) == []


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "\ud800", "名前", "x" * 10_000, 'a,b"c', "\x1b[31m"])
def test_ignored_names_fit_into_a_header(name: str) -> None:
    (told,) = ignored([name], GENERATE_NAMES, "requests[3].")
    assert told["field"].isascii()
    assert told["field"].isprintable()
    assert "," not in told["field"]
    assert len(told["field"]) < 100
    assert len(told["message"]) < 300


def test_ignored_are_bounded_in_number() -> None:
    many: list[dict[str, Any]] = ignored((f"field{k}" for k in range(50_000)), GENERATE_NAMES)
    assert len(many) == 21
    assert many[-1]["field"] == "..."
    assert "49,980 more" in many[-1]["message"]
