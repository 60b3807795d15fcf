"""Image to image and inpainting with Stable Diffusion XL against diffusers' pipelines on the same weights."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.generation import FinishedImage, GenerationProgress
from darkroom.diffusion.schedulers import make_scheduler
from darkroom.pipelines.sdxl.pipeline import Components, generate
from darkroom.pipelines.sdxl.request import GenerateRequest
from exporters.onnx_export import quiet
from tests import tiny_sdxl
from tests.pictures import distance, encoded, photo

TOLERANCE = 2
"""Levels of 255."""
SEED, STEPS, WIDTH, HEIGHT = 11, 10, 72, 104
PROMPT = "a photo of a cat on a blue background"
PHOTO = photo(100, 50, 150, 200)
MASK = Image.fromarray(np.pad(np.full((60, 50), 255, np.uint8), ((40, 30), (20, 20))))
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    return tiny_sdxl.make_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def refiner(base: StableDiffusionXLPipeline) -> StableDiffusionXLImg2ImgPipeline:
    return tiny_sdxl.make_refiner_pipeline(base)


@pytest.fixture(scope="module")
def refined(base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline) -> Components:
    return tiny_sdxl.make_components(base, refiner)


@pytest.fixture(scope="module")
def components(base: StableDiffusionXLPipeline) -> Components:
    return tiny_sdxl.make_components(base)


async def _collect(events: Any) -> list[Any]:
    return [event async for event in events]


def events_of(components: Components, *, masked: bool, **fields: Any) -> list[Any]:
    given = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "guidance_scale": 5.0, "init_image": encoded(PHOTO)}
    given |= {"width": WIDTH, "height": HEIGHT, "format": "raw"} | ({"mask": encoded(MASK)} if masked else {})
    request = GenerateRequest.parse({**given, **fields}, components.limits, components.checkpoint.request_defaults)
    return asyncio.run(_collect(generate(request, components)))


def ours(components: Components, *, masked: bool, **fields: Any) -> Images:
    events = events_of(components, masked=masked, **fields)
    return np.stack([np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)])


class Theirs:
    """The pipelines of diffusers for one request; the k-th image has the seed SEED + k and an image of its own."""

    def __init__(
        self,
        base: StableDiffusionXLPipeline,
        refiner: StableDiffusionXLImg2ImgPipeline | None,
        *,
        masked: bool,
        scheduler: str | None = None,
        num_images: int = 1,
        strength: float = 0.8,
    ) -> None:
        self._make = partial(make_scheduler, scheduler, tiny_sdxl.make_checkpoint(base).scheduler)
        self._kind: Any = StableDiffusionXLInpaintPipeline if masked else StableDiffusionXLImg2ImgPipeline
        self._base, self._refiner = base, refiner
        self._photos = [PHOTO.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)] * num_images
        self._given: dict[str, Any] = {
            "prompt": [PROMPT] * num_images,
            "num_inference_steps": STEPS,
            "generator": [torch.Generator().manual_seed(SEED + k) for k in range(num_images)],
            "strength": strength,
            **({"mask_image": MASK, "width": WIDTH, "height": HEIGHT} if masked else {}),
        }

    def base(self, **more: Any) -> Any:
        """The images of the base, or its latents."""
        return self._called(self._base, image=self._photos, guidance_scale=5.0, aesthetics=False, **more)

    def refiner(self, image: Any = None, **more: Any) -> Any:
        """The images of the refiner, which begins with the base's latents or the photos."""
        assert self._refiner is not None
        begun = self._photos if image is None else image
        return self._called(self._refiner, image=begun, guidance_scale=1.0, aesthetics=True, **more)

    def _called(self, pipeline: Any, *, aesthetics: bool, **arguments: Any) -> Any:
        with quiet():
            made = self._kind(
                **{**pipeline.components, "scheduler": self._make()},
                requires_aesthetics_score=aesthetics,
                add_watermarker=False,
            )
        made.set_progress_bar_config(disable=True)
        images = made(**self._given, **arguments).images
        return images if torch.is_tensor(images) else np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "strength"), [(None, 0.8), ("ddim", 0.3), ("euler_a", 0.55), ("heun", 1.0)])
def test_sdxl_base_alone_changes_an_image_as_diffusers_does(
    base: StableDiffusionXLPipeline, components: Components, name: str | None, strength: float, masked: bool
) -> None:
    fields: dict[str, Any] = {"scheduler": name, "strength": strength, "num_images": 2}
    expected = Theirs(base, None, masked=masked, **fields).base()
    assert distance(ours(components, masked=masked, **fields), expected) <= TOLERANCE


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("name", "strength"),
    [(None, 0.8), ("ddim", 0.55), ("euler_a", 0.8), ("heun", 0.8), ("dpmpp_2m_sde_karras", 0.8), (None, 1.0)],
)
def test_sdxl_base_and_refiner_change_an_image_as_diffusers_do(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline,
    refined: Components,
    name: str | None,
    strength: float,
    masked: bool,
) -> None:
    fields: dict[str, Any] = {"scheduler": name, "strength": strength, "num_images": 2}
    pipelines = Theirs(base, refiner, masked=masked, **fields)
    latents = pipelines.base(denoising_end=0.7, output_type="latent")
    expected = pipelines.refiner(latents, denoising_start=0.7)
    made = ours(refined, masked=masked, refiner_start=0.7, **fields)
    assert distance(made, expected) <= TOLERANCE


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [None, "dpm2_a"])
def test_sdxl_refiner_does_alone_what_leaves_the_base_no_step(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline,
    refined: Components,
    name: str | None,
    masked: bool,
) -> None:
    fields: dict[str, Any] = {"scheduler": name, "strength": 0.2, "num_images": 2}
    expected = Theirs(base, refiner, masked=masked, **fields).refiner()
    made = ours(refined, masked=masked, refiner_start=0.5, **fields)
    assert distance(made, expected) <= TOLERANCE


@pytest.mark.parametrize("masked", [False, True])
def test_sdxl_kth_image_of_an_image_is_that_of_its_seed_alone(refined: Components, masked: bool) -> None:
    fields: dict[str, Any] = {"scheduler": "euler_a", "masked": masked}
    together = ours(refined, num_images=3, **fields)
    for k in range(3):
        assert distance(together[k : k + 1], ours(refined, seed=SEED + k, **fields)) <= TOLERANCE


def test_sdxl_strength_0_gives_the_image_back(refined: Components) -> None:
    events = events_of(refined, masked=False, strength=0.0, width=None, height=None)
    assert [(e.done, e.total) for e in events if isinstance(e, GenerationProgress)] == [(0, 0)]
    assert events[-1].details["strength"] == 0.0
    assert (events[-1].details["width"], events[-1].details["height"]) == (144, 200)
    assert (ours(refined, masked=True, strength=0.0) == ours(refined, masked=False, strength=0.0)).all()
