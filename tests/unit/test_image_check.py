"""Images that are checked before they are sent, by a tiny safety checker of diffusers' class."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest

from darkroom.diffusion.generation import GenerationProgress
from darkroom.diffusion.image_check import is_flagged
from darkroom.errors import ModerationBlocked
from darkroom.pipelines.sd15.pipeline import Components, FinishedImage, generate
from darkroom.pipelines.sd15.request import GenerateRequest
from exporters.graphs.safety_checker import ServedSafetyChecker
from tests.safety_checkers import flag, make_checker
from tests.tiny_sd15 import make_components, make_pipeline, network, our_pictures

FIELDS: dict[str, Any] = {"prompt": "a cat", "seed": 11, "steps": 2, "width": 64, "height": 64, "num_images": 2}
"""The image of the first seed is flagged."""


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    made = make_components(make_pipeline(tmp_path_factory.mktemp("tiny")))
    first, second = our_pictures(made, **FIELDS)
    checker = make_checker()
    flag(checker, first, [second])
    return dataclasses.replace(made, safety_checker=network(ServedSafetyChecker(checker), "score"))


def events_of(components: Components, **more: Any) -> list[GenerationProgress | FinishedImage]:
    request = GenerateRequest.parse({"format": "raw", **FIELDS, **more}, components.limits)

    async def collect() -> list[GenerationProgress | FinishedImage]:
        return [event async for event in generate(request, components)]

    return asyncio.run(collect())


def images_of(components: Components, **more: Any) -> list[FinishedImage]:
    return [event for event in events_of(components, **more) if isinstance(event, FinishedImage)]


def test_flagged_image_is_black_and_says_so(components: Components) -> None:
    plain = images_of(components)
    black, other = images_of(components, check_images="blank", check_rule="look")
    assert not any(black.data)
    assert (black.shape, black.details) == (plain[0].shape, {**plain[0].details, "flagged": True})
    assert (other.data, other.details) == (plain[1].data, plain[1].details)


def test_flagged_image_fails_the_request(components: Components) -> None:
    with pytest.raises(ModerationBlocked, match="1 of 2 images were flagged") as caught:
        images_of(components, check_images="refuse", check_rule="look")
    assert caught.value.rule == "look"
    with pytest.raises(ModerationBlocked, match="The image was flagged"):
        images_of(components, check_images="refuse", num_images=1)
    (fine,) = images_of(components, check_images="refuse", num_images=1, seed=12)
    assert "flagged" not in fine.details


def test_checked_images_have_no_previews(components: Components) -> None:
    def previews(**more: Any) -> int:
        events = events_of(components, preview_every=1, **more)
        return sum(isinstance(event, GenerationProgress) and event.preview is not None for event in events)

    assert previews() > 0
    assert previews(check_images="blank") == 0


def test_request_that_is_to_be_checked_is_refused_without_a_checker(components: Components) -> None:
    bare = dataclasses.replace(components, safety_checker=None)
    with pytest.raises(ModerationBlocked, match="has no safety checker"):
        images_of(bare, check_images="blank", check_rule="look")


def test_scores_are_rounded_as_diffusers_rounds_them() -> None:
    scores = (-1.0, 0.0, 0.0004, 0.0006, 0.3)
    assert [is_flagged(score) for score in scores] == [round(np.float32(score), 3) > 0 for score in scores]
    assert [is_flagged(score) for score in scores] == [False, False, False, True, True]
