"""The parts of the benchmark of a new thing that need no training: what is drawn, and who recognises it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.results import Finding
from benchmarks.sd15.new_thing import (
    ALONE,
    PRIOR,
    Judged,
    _findings,
    drawn,
    new_thing,
    prior_prompts,
    shows,
    write_images,
)
from training.judge import explained_by, holds, judge
from training.render import render
from training.world import BACKGROUNDS, caption, held_out_scenes, training_scenes


def pale(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image as a checkpoint makes it: a little paler, and with noise."""
    noise = np.random.default_rng(0).normal(0, 6, picture.shape)
    return (picture * 0.95 + 6 + noise).clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_new_thing_is_recognised_on_every_background(background: str) -> None:
    picture = drawn(background, random.Random(1))
    assert explained_by(picture, new_thing()) > 0.9
    assert shows(pale(picture))


def test_things_of_the_world_are_not_taken_for_the_new_thing() -> None:
    rng = random.Random(0)
    scenes = [*held_out_scenes(8, objects=1), *held_out_scenes(2, objects=2)]
    pictures = [pale(render(scene, rng)) for scene in scenes]
    assert not any(shows(picture) for picture in pictures)
    assert np.mean([holds(scene, judge(picture)) for scene, picture in zip(scenes, pictures, strict=True)]) >= 0.9


@pytest.mark.parametrize("level", [0, 128, 255])
def test_empty_image_shows_nothing(level: int) -> None:
    assert not shows(np.full((128, 128, 3), level, np.uint8))


def test_prior_prompts_are_not_those_that_are_judged() -> None:
    found = prior_prompts(40)
    assert len(set(found)) == 40
    assert not set(found) & {caption(scene) for scene in held_out_scenes(24, objects=1)}
    assert found == prior_prompts(40)
    assert set(found) <= {caption(scene) for scene, _ in zip(training_scenes(5), range(400), strict=False)}


def test_new_thing_has_eight_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    texts = {path.read_text() for path in folder.glob("*.txt")}
    assert len(texts) == len(list(folder.glob("*.png"))) == 8
    assert all("zork" in text for text in texts)


def test_findings_of_a_new_thing_have_targets_where_something_is_promised() -> None:
    before, after = Judged(new=0, others=95), Judged(new=75, others=90)

    def met(found: list[Finding]) -> list[bool | None]:
        return [one.met for one in found]

    assert met(_findings(PRIOR, before, after, counts=True)) == [False, True]
    assert met(_findings(ALONE, before, after, counts=False)) == [None, None]
