"""Image to image and inpainting with Stable Diffusion 1.5 against diffusers' pipelines on the same weights."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from darkroom.diffusion.controls import ControlOptions, canny
from darkroom.diffusion.schedulers import SCHEDULERS, make_scheduler
from darkroom.errors import InvalidInput, NotAnImage, TooLarge
from darkroom.pipelines.sd15.pipeline import Components, generate
from darkroom.pipelines.sd15.request import GenerateRequest
from exporters.graphs.vae import ServedVaeDecoder
from exporters.onnx_export import quiet
from tests import tiny_sd15
from tests.pictures import distance, encoded, photo
from tests.tiny_sd15 import Pictures

TOLERANCE = 2
"""Levels of 255."""
WIDTH, HEIGHT, STEPS = 72, 104, 6
TEXTS = {"prompt": "a photo of a cat on a blue background", "negative_prompt": "a dog"}
PHOTO = photo(100, 50, 150, 200)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    return tiny_sd15.make_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def components(pipeline: StableDiffusionPipeline) -> Components:
    return tiny_sd15.make_components(pipeline, tiny_sd15.make_controlnet(pipeline.unet))


def round_mask() -> Image.Image:
    """White where the image is painted again, in another size than the image."""
    rows, columns = np.mgrid[0:130, 0:90]
    return Image.fromarray(((rows - 60) ** 2 + (columns - 40) ** 2 < 900).astype(np.uint8) * 255)


MASK = round_mask()


def ours(components: Components, mask: Image.Image | None = None, /, **fields: Any) -> Pictures:
    given = {**TEXTS, "seed": 11, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "init_image": encoded(PHOTO)}
    more = {} if mask is None else {"mask": encoded(mask)}
    return tiny_sd15.our_pictures(components, **{**given, **more, **fields})


def theirs(
    components: Components,
    pipeline: StableDiffusionPipeline,
    kind: Any,
    scheduler: str | None = None,
    num_images: int = 1,
    more_components: dict[str, Any] | None = None,
    **arguments: Any,
) -> Pictures:
    """What a pipeline of diffusers makes of the same; every image gets a copy of the photo, because with a mask the
    pipeline draws from the first generator alone where several share one."""
    own = {**pipeline.components, **(more_components or {})}
    with quiet():
        made = kind(**own, requires_safety_checker=False)
    made.scheduler = make_scheduler(scheduler, components.checkpoint.scheduler)
    made.set_progress_bar_config(disable=True)
    image = PHOTO.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    given = {**TEXTS, "seed": 11, "num_inference_steps": STEPS, "image": [image] * num_images}
    return tiny_sd15.their_pictures(made, num_images=num_images, **{**given, **arguments})


def inpainted(components: Components, pipeline: StableDiffusionPipeline, **arguments: Any) -> Pictures:
    given = {"mask_image": MASK, "width": WIDTH, "height": HEIGHT, **arguments}
    return theirs(components, pipeline, StableDiffusionInpaintPipeline, **given)


CASES = [*((name, 0.55) for name in (None, *SCHEDULERS)), *((name, x) for name in ("ddim", "heun") for x in (0.2, 1.0))]
"""Of six steps: one, three, all."""


@pytest.mark.parametrize(("name", "strength"), CASES)
def test_image_to_image_gives_diffusers_picture(
    pipeline: StableDiffusionPipeline, components: Components, name: str | None, strength: float
) -> None:
    fields = {"scheduler": name, "strength": strength, "num_images": 2}
    expected = theirs(components, pipeline, StableDiffusionImg2ImgPipeline, **fields)
    assert distance(ours(components, **fields), expected) <= TOLERANCE


@pytest.mark.parametrize(("name", "strength"), CASES)
def test_inpainting_gives_diffusers_picture(
    pipeline: StableDiffusionPipeline, components: Components, name: str | None, strength: float
) -> None:
    fields = {"scheduler": name, "strength": strength, "num_images": 2}
    expected = inpainted(components, pipeline, **fields)
    assert distance(ours(components, MASK, **fields), expected) <= TOLERANCE


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_default_strength_and_guidance_of_an_image_that_is_changed(
    pipeline: StableDiffusionPipeline, components: Components, guidance_scale: float
) -> None:
    fields = {"guidance_scale": guidance_scale}
    for mask in (None, MASK):
        made = ours(components, mask, **fields)
        if mask is None:
            expected = theirs(components, pipeline, StableDiffusionImg2ImgPipeline, strength=0.8, **fields)
        else:
            expected = inpainted(components, pipeline, strength=0.8, **fields)
        assert distance(made, expected) <= TOLERANCE


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("window", [{}, {"control_guidance_start": 0.3, "control_guidance_end": 0.8}])
def test_controlnet_with_an_image_that_is_changed(
    pipeline: StableDiffusionPipeline, components: Components, window: dict[str, float], masked: bool
) -> None:
    """Its share of the steps is one of those that are done."""
    reference = photo(200, 200, 90, 90)
    edges = canny.preprocess(np.asarray(reference.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)), ControlOptions())
    fields = {"scheduler": "ddim", "strength": 0.85, "controlnet_conditioning_scale": 0.8, "num_images": 2, **window}
    made = ours(components, MASK if masked else None, control_image=encoded(reference), **fields)
    more = {"mask_image": MASK} if masked else {}
    expected = theirs(
        components,
        pipeline,
        StableDiffusionControlNetInpaintPipeline if masked else StableDiffusionControlNetImg2ImgPipeline,
        control_image=Image.fromarray(edges),
        width=WIDTH,
        height=HEIGHT,
        more_components={"controlnet": tiny_sd15.make_controlnet(pipeline.unet)},
        **fields,
        **more,
    )
    assert distance(made, expected) <= TOLERANCE
    assert distance(made, ours(components, MASK if masked else None, **fields)) > 10


def test_image_is_resized_and_laid_on_white(components: Components) -> None:
    cut = PHOTO.copy()
    cut.putalpha(Image.linear_gradient("L").resize(cut.size))
    white = Image.new("RGBA", cut.size, "white")
    white.alpha_composite(cut)
    transparent = ours(components, init_image=encoded(cut), strength=0.5)
    opaque = ours(components, init_image=encoded(white.convert("RGB")), strength=0.5)
    # Resampling colour apart from transparency differs where the two meet.
    assert np.abs(transparent.astype(int) - opaque.astype(int)).mean() < 4
    assert (transparent != ours(components, strength=0.5)).any()


def test_size_is_that_of_the_upright_image(components: Components) -> None:
    turned = PHOTO.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for image in (encoded(PHOTO), encoded(turned, "PNG", exif=exif)):
        made = ours(components, init_image=image, width=None, height=None, strength=0.5)
        assert made.shape == (1, 200, 144, 3)
        assert (made == ours(components, init_image=encoded(PHOTO), width=144, height=200, strength=0.5)).all()


@pytest.mark.parametrize(("steps", "strength"), [(6, 0.0), (6, 0.16), (1, 0.9)])
def test_strength_of_less_than_a_step_encodes_and_decodes_the_image(
    pipeline: StableDiffusionPipeline, components: Components, steps: int, strength: float
) -> None:
    calls = 0

    async def counted(inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        return await components.unet(inputs)

    made = ours(dataclasses.replace(components, unet=counted), strength=strength, steps=steps, num_images=2)
    assert calls == 0
    pixels = np.asarray(PHOTO.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
    with torch.no_grad():
        posterior = pipeline.vae.encode(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
        for k in range(2):
            latents = posterior.sample(torch.Generator().manual_seed(11 + k)) * pipeline.vae.config.scaling_factor
            decoded = ServedVaeDecoder(pipeline.vae)(latents).numpy()
            assert distance(made[k : k + 1], decoded) <= TOLERANCE


@pytest.mark.parametrize("scheduler", ["euler_a", "dpmpp_2m_sde"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_kth_picture_of_an_image_is_that_of_its_seed_alone(
    components: Components, mask: Image.Image | None, scheduler: str
) -> None:
    together = ours(components, mask, num_images=3, scheduler=scheduler)
    for k in range(3):
        assert distance(together[k : k + 1], ours(components, mask, seed=11 + k, scheduler=scheduler)) <= TOLERANCE


def test_mask_is_transparent_or_white_where_the_image_is_painted_again(components: Components) -> None:
    white = ours(components, MASK)
    inverted = Image.eval(MASK, lambda value: 255 - value)
    transparent = Image.merge("RGBA", (MASK, MASK, MASK, inverted))
    assert (white == ours(components, transparent)).all(), "transparent is painted again"
    black = Image.merge("RGBA", (*[Image.new("L", MASK.size)] * 3, inverted))
    assert (white == ours(components, black)).all(), "whatever the colour is"
    assert (white != ours(components, inverted)).any()
    assert (white == ours(components, MASK.convert("RGBA"))).all(), "an opaque alpha channel says nothing"
    assert (white == ours(components, MASK.convert("1"))).all()
    assert (white == ours(components, MASK.convert("P"))).all()


def test_mask_keeps_the_rest_of_the_image(components: Components) -> None:
    nothing, everything = (Image.new("L", (10, 10), value) for value in (0, 255))
    unchanged = ours(components, strength=0)
    assert distance(ours(components, nothing), unchanged) <= TOLERANCE
    assert distance(ours(components, everything, strength=0.5), unchanged) > 30


def test_details_say_how_an_image_was_changed(components: Components) -> None:
    given = {**TEXTS, "seed": 11, "steps": 2, "scheduler": "ddim", "strength": 0.75}
    given |= {"init_image": encoded(PHOTO), "mask": encoded(MASK)}
    request = GenerateRequest.parse(given, components.limits)

    async def collect() -> Any:
        return [event async for event in generate(request, components)]

    first, *_, last = asyncio.run(collect())
    assert (first.done, first.total) == (0, 1)
    assert last.details["strength"] == 0.75
    assert last.details["masked"] is True
    assert (last.details["width"], last.details["height"]) == (144, 200)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"init_image": b"no image"}, NotAnImage, "init_image"),
        ({"mask": b"no image"}, NotAnImage, "mask"),
        ({"init_image": encoded(PHOTO)[:3000]}, NotAnImage, "init_image"),
        ({"init_image": encoded(Image.new("L", (5000, 4000)))}, TooLarge, "init_image"),
        ({"mask": encoded(Image.new("L", (5000, 4000)))}, TooLarge, "mask"),
        ({"init_image": None, "mask": encoded(MASK)}, InvalidInput, "init_image"),
        ({"strength": 1.1}, InvalidInput, "strength"),
        ({"strength": -0.1}, InvalidInput, "strength"),
    ],
)
def test_bad_images_and_strengths_are_refused(
    components: Components, fields: dict[str, Any], error: type[InvalidInput], param: str
) -> None:
    with pytest.raises(error) as caught:
        ours(components, **fields)
    assert caught.value.param == param


def test_images_are_refused_where_there_is_no_vae_encoder(components: Components) -> None:
    without = dataclasses.replace(components, vae_encoder=None)
    with pytest.raises(InvalidInput, match="init_image needs a VAE encoder") as caught:
        ours(without)
    assert caught.value.param == "init_image"
    assert ours(without, init_image=None, width=64, height=64).shape == (1, 64, 64, 3)
