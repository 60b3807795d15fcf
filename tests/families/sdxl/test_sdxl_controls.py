"""ControlNets of Stable Diffusion XL against diffusers' pipelines on the same weights: base, refiner, given images."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.controls import ControlOptions, canny
from darkroom.diffusion.generation import FinishedImage, GenerationProgress
from darkroom.diffusion.schedulers import make_scheduler
from darkroom.errors import InvalidInput, NotAnImage
from darkroom.pipelines.sdxl.pipeline import Components, generate
from darkroom.pipelines.sdxl.request import GenerateRequest
from exporters.onnx_export import quiet
from tests import tiny_sdxl
from tests.pictures import distance, encoded, photo, pixels

TOLERANCE = 2
"""Levels of 255."""
SEED, STEPS, WIDTH, HEIGHT = 11, 6, 72, 104
PROMPT = "a photo of a cat on a blue background"
REFERENCE = photo(200, 200, 90, 90)
EDGES = Image.fromarray(
    canny.preprocess(np.asarray(REFERENCE.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)), ControlOptions())
)
PHOTO = photo(100, 50, 150, 200)
MASK = Image.fromarray(np.pad(np.full((60, 50), 255, np.uint8), ((40, 30), (20, 20))))
WINDOW = {"control_guidance_start": 0.2, "control_guidance_end": 0.7}
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    return tiny_sdxl.make_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def controlnet(base: StableDiffusionXLPipeline) -> ControlNetModel:
    return tiny_sdxl.make_controlnet(base.unet)


@pytest.fixture(scope="module")
def refiner(base: StableDiffusionXLPipeline) -> StableDiffusionXLImg2ImgPipeline:
    return tiny_sdxl.make_refiner_pipeline(base)


@pytest.fixture(scope="module")
def components(base: StableDiffusionXLPipeline, controlnet: ControlNetModel) -> Components:
    return tiny_sdxl.make_components(base, controlnet=controlnet)


@pytest.fixture(scope="module")
def refined(
    base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline, controlnet: ControlNetModel
) -> Components:
    return tiny_sdxl.make_components(base, refiner, controlnet)


async def _collect(events: Any) -> list[Any]:
    return [event async for event in events]


def events_of(components: Components, **fields: Any) -> list[Any]:
    given: dict[str, Any] = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "guidance_scale": 5.0}
    given |= {"width": WIDTH, "height": HEIGHT, "format": "raw", "control_image": encoded(REFERENCE), **fields}
    request = GenerateRequest.parse(given, components.limits, components.checkpoint.request_defaults)
    return asyncio.run(_collect(generate(request, components)))


def ours(components: Components, **fields: Any) -> Images:
    events = events_of(components, **fields)
    return np.stack([np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)])


class Theirs:
    """The pipelines of diffusers for one request; the k-th image has the seed SEED + k."""

    def __init__(self, base: StableDiffusionXLPipeline, *, scheduler: str | None = None, num_images: int = 1) -> None:
        self._base, self._scheduler = base, scheduler
        self._given: dict[str, Any] = {
            "prompt": [PROMPT] * num_images,
            "num_inference_steps": STEPS,
            "generator": [torch.Generator().manual_seed(SEED + k) for k in range(num_images)],
        }

    def called(self, kind: Any, pipeline: Any, more: dict[str, Any] | None = None, **arguments: Any) -> Any:
        """Images or latents of a pipeline with the components of another one.

        :param more: further components, and options.
        """
        scheduler = make_scheduler(self._scheduler, tiny_sdxl.make_checkpoint(self._base).scheduler)
        with quiet():
            made = kind(**{**pipeline.components, "scheduler": scheduler}, add_watermarker=False, **(more or {}))
        made.set_progress_bar_config(disable=True)
        images = made(**self._given, **arguments).images
        return images if torch.is_tensor(images) else np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["whole", "part"])
@pytest.mark.parametrize("name", [None, "ddim", "euler_a", "dpmpp_2m_karras", "heun"])
def test_sdxl_controlnet_gives_diffusers_image(
    base: StableDiffusionXLPipeline,
    components: Components,
    controlnet: ControlNetModel,
    name: str | None,
    window: dict[str, float],
    guidance_scale: float,
) -> None:
    fields: dict[str, Any] = {"controlnet_conditioning_scale": 0.8, "guidance_scale": guidance_scale, **window}
    made = ours(components, scheduler=name, num_images=2, **fields)
    expected = Theirs(base, scheduler=name, num_images=2).called(
        StableDiffusionXLControlNetPipeline, base, {"controlnet": controlnet}, image=[EDGES] * 2, **fields
    )
    assert distance(made, expected) <= TOLERANCE
    without = ours(components, scheduler=name, num_images=2, guidance_scale=guidance_scale, control_image=None)
    assert distance(made, without) > 10, "the control should change the image"


@pytest.mark.parametrize("window", [{}, WINDOW], ids=["whole", "part"])
@pytest.mark.parametrize("name", [None, "ddim"])
def test_sdxl_controlnet_acts_on_the_base_and_the_refiner_goes_on_without(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline,
    refined: Components,
    controlnet: ControlNetModel,
    name: str | None,
    window: dict[str, float],
) -> None:
    """The window is a share of the steps of both, as that of `controlnet_keep`."""
    pipelines = Theirs(base, scheduler=name)
    latents = pipelines.called(
        StableDiffusionXLControlNetPipeline,
        base,
        {"controlnet": controlnet},
        image=EDGES,
        guidance_scale=5.0,
        denoising_end=0.7,
        output_type="latent",
        **window,
    )
    sizes = {"requires_aesthetics_score": True}
    expected = pipelines.called(
        StableDiffusionXLImg2ImgPipeline, refiner, sizes, image=latents, denoising_start=0.7, guidance_scale=1.0
    )
    made = ours(refined, scheduler=name, refiner_start=0.7, **window)
    assert distance(made, expected) <= TOLERANCE
    assert distance(made, ours(refined, scheduler=name, refiner_start=0.7, control_image=None)) > 10


@pytest.mark.parametrize("window", [{}, WINDOW], ids=["whole", "part"])
@pytest.mark.parametrize("masked", [False, True])
def test_sdxl_controlnet_with_an_image_that_is_changed(
    base: StableDiffusionXLPipeline,
    components: Components,
    controlnet: ControlNetModel,
    masked: bool,
    window: dict[str, float],
) -> None:
    fields: dict[str, Any] = {"strength": 0.85, "controlnet_conditioning_scale": 0.8, **window}
    files = {"init_image": encoded(PHOTO), **({"mask": encoded(MASK)} if masked else {})}
    made = ours(components, scheduler="ddim", num_images=2, **fields, **files)
    expected = Theirs(base, scheduler="ddim", num_images=2).called(
        StableDiffusionXLControlNetInpaintPipeline if masked else StableDiffusionXLControlNetImg2ImgPipeline,
        base,
        {"controlnet": controlnet, "requires_aesthetics_score": False},
        image=[PHOTO.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)] * 2,
        control_image=[EDGES] * 2,
        guidance_scale=5.0,
        width=WIDTH,
        height=HEIGHT,
        **fields,
        **({"mask_image": MASK} if masked else {}),
    )
    assert distance(made, expected) <= TOLERANCE
    without = ours(components, scheduler="ddim", num_images=2, strength=0.85, **files, control_image=None)
    assert distance(made, without) > 10


def test_sdxl_control_map_comes_with_the_first_event_and_the_details_say_what_steered(components: Components) -> None:
    first, *_, last = events_of(components, format="png", low_threshold=50, controlnet_conditioning_scale=0.5)
    assert isinstance(first, GenerationProgress)
    assert first.control_map is not None
    reference = np.asarray(REFERENCE.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
    expected = canny.preprocess(reference, ControlOptions(low_threshold=50))
    assert (pixels(first.control_map) == expected).all()
    told = {name: last.details[name] for name in ("control_type", "low_threshold", "controlnet_conditioning_scale")}
    assert told == {"control_type": "canny", "low_threshold": 50, "controlnet_conditioning_scale": 0.5}


def test_sdxl_map_of_ones_own_is_read_as_it_is(components: Components) -> None:
    made = ours(components, control_image=encoded(EDGES), control_preprocess=False)
    assert (made == ours(components)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low_threshold": 201}, "low_threshold must not be above high_threshold, 200; got 201"),
        ({"control_guidance_start": 0.9, "control_guidance_end": 0.2}, "control_guidance_start must be below"),
        ({"controlnet_conditioning_scale": 3.0}, "controlnet_conditioning_scale must be from 0 to 2; got 3"),
    ],
)
def test_sdxl_controls_that_are_wrong_are_refused(components: Components, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ours(components, **fields)


def test_sdxl_reference_that_is_no_image_is_refused(components: Components) -> None:
    with pytest.raises(NotAnImage) as caught:
        ours(components, control_image=b"no image")
    assert caught.value.param == "control_image"


def test_sdxl_control_without_its_network_is_refused(base: StableDiffusionXLPipeline) -> None:
    with pytest.raises(InvalidInput, match="control_type 'canny' has no network in this installation; it has: none"):
        ours(tiny_sdxl.make_components(base))
