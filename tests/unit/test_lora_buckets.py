"""Sizes of training images, and the order in which they are trained on."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from darkroom.request.training import RESOLUTION_STEP, TrainingOptions
from training.lora.buckets import bucket_of, fit, fitted
from training.lora.objective import generator_of
from training.lora.plan import Example, Plan

RESOLUTIONS = (64, 128, 192, 512, 768, 1024)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_bucket_keeps_area_and_step(resolution: int) -> None:
    for width, height in itertools.product((1, 50, 333, 512, 1024, 4000), repeat=2):
        bucket = bucket_of((width, height), resolution)
        assert all(side % RESOLUTION_STEP == 0 and side > 0 for side in bucket)
        assert bucket[0] * bucket[1] <= resolution**2
        assert max(bucket) <= 2 * resolution
        assert bucket_of((height, width), resolution) == bucket[::-1]


def test_bucket_of_a_square_is_the_resolution() -> None:
    for resolution in RESOLUTIONS:
        assert bucket_of((700, 700), resolution) == (resolution, resolution)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((1920, 1080), (1344, 768)), ((1080, 1920), (768, 1344)), ((3000, 2000), (1216, 832)), ((4000, 100), (2048, 512))],
)
def test_bucket_of_photos_at_1024(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    """Those that SDXL itself was trained at (Podell et al. 2023, appendix I), where the ratio is among them."""
    assert bucket_of(size, 1024) == bucket


def test_fit_covers_its_bucket_and_cuts_around_the_centre() -> None:
    for size in ((1, 1), (33, 4000), (1920, 1080), (700, 701), (64, 64)):
        found = fit(size, 512)
        assert all(whole >= part for whole, part in zip(found.resized, found.size, strict=True))
        assert min(whole - part for whole, part in zip(found.resized, found.size, strict=True)) <= 1
        left, top = found.corner
        assert abs(found.resized[0] - found.size[0] - 2 * left) <= 1
        assert abs(found.resized[1] - found.size[1] - 2 * top) <= 1


def test_fitted_image_keeps_its_aspect_ratio() -> None:
    """A circle stays one: as wide as it is high."""
    y, x = np.mgrid[0:300, 0:500]
    circle = ((x - 250) ** 2 + (y - 150) ** 2 < 100**2).astype(np.uint8) * 255
    made = fitted(np.repeat(circle[..., None], 3, axis=2), fit((500, 300), 256))
    assert made.dtype == np.float32
    assert (float(made.min()), float(made.max())) == (-1.0, 1.0)
    rows, columns = np.nonzero(made[0] > 0)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert abs(rows.mean() - made.shape[1] / 2) <= 1
    assert abs(columns.mean() - made.shape[2] / 2) <= 1


def plan_of(sizes: list[tuple[int, int]], **options: object) -> Plan:
    given = {"resolution": 128, "seed": 1, **options}
    parsed = TrainingOptions.parse(given, None)
    examples = [Example(image=f"{n}.png", digest="", caption="", fit=fit(size, 128)) for n, size in enumerate(sizes)]
    return Plan(
        options={**parsed.model_dump(), "alpha": parsed.used_alpha},
        checkpoint="c",
        weights={},
        examples=examples,
        threads=1,
        started_at=0.0,
    )


SIZES = [(100, 100)] * 7 + [(300, 70)] * 3 + [(70, 300)]


def test_order_shows_every_image_once_in_each_pass() -> None:
    plan = plan_of(SIZES, batch_size=2, epochs=3)
    assert plan.steps == 3 * (4 + 2 + 1)
    seen = [plan.batch(step) for step in range(plan.steps)]
    assert Counter(itertools.chain(*seen)) == dict.fromkeys(range(len(SIZES)), 3)
    for batch in seen:
        assert len({plan.examples[index].fit.size for index in batch}) == 1
    first, second = seen[:7], seen[7:14]
    assert first != second


def test_order_depends_on_seed_and_step_alone() -> None:
    plan = plan_of(SIZES, batch_size=2, epochs=3)
    again = plan_of(SIZES, batch_size=2, epochs=3)
    assert [plan.batch(step) for step in (20, 3, 11)] == [again.batch(step) for step in (20, 3, 11)]
    assert [plan.batch(n) for n in range(7)] != [plan_of(SIZES, batch_size=2, seed=2).batch(n) for n in range(7)]


def test_steps_take_precedence_over_epochs() -> None:
    assert (plan_of(SIZES, steps=5, epochs=9).steps, plan_of(SIZES, steps=5).epochs) == (5, 2)


def test_noise_of_a_step_depends_on_seed_and_step_alone() -> None:
    draws = {key: generator_of(*key).initial_seed() for key in itertools.product((0, 1, 2**62), (0, 1, 99))}
    assert len(set(draws.values())) == len(draws)
    assert all(math.isfinite(seed) and seed >= 0 for seed in draws.values())
    assert generator_of(5, 7).initial_seed() == generator_of(5, 7).initial_seed()
