"""Checkpoints of Stable Diffusion XL for inpainting, whose UNets read 9 channels, against diffusers' pipelines."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.controls import ControlOptions, canny
from darkroom.diffusion.generation import FinishedImage
from darkroom.diffusion.schedulers import make_scheduler
from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.pipeline import Components, generate
from darkroom.pipelines.sdxl.request import GenerateRequest
from exporters.checkpoints.origin import Origin
from exporters.onnx_export import quiet
from exporters.sdxl import command, weights
from exporters.tasks import run_task
from exporters.tensorrt.graph import read_graph
from tests import tiny_sdxl
from tests.pictures import distance, encoded, photo
from tests.sd15_checkpoints import edit_json

TOLERANCE = 2
"""Levels of 255."""
SEED, STEPS, WIDTH, HEIGHT = 11, 10, 72, 104
PROMPT = "a photo of a cat on a blue background"
PHOTO = photo(100, 50, 150, 200)
MASK = Image.fromarray(np.pad(np.full((60, 50), 255, np.uint8), ((40, 30), (20, 20))))
WHITE = Image.new("L", (WIDTH, HEIGHT), 255)
MASKED = {"init_image": encoded(PHOTO), "mask": encoded(MASK)}
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    return tiny_sdxl.make_pipeline(tmp_path_factory.mktemp("tiny"), unet={"in_channels": 9})


@pytest.fixture(scope="module")
def refiner(base: StableDiffusionXLPipeline) -> StableDiffusionXLImg2ImgPipeline:
    return tiny_sdxl.make_refiner_pipeline(base)


@pytest.fixture(scope="module")
def controlnet() -> ControlNetModel:
    """It reads the latents alone."""
    return tiny_sdxl.make_controlnet(tiny_sdxl.make_unet())


@pytest.fixture(scope="module")
def components(base: StableDiffusionXLPipeline, controlnet: ControlNetModel) -> Components:
    return tiny_sdxl.make_components(base, controlnet=controlnet)


@pytest.fixture(scope="module")
def refined(base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline) -> Components:
    return tiny_sdxl.make_components(base, refiner)


async def _collect(events: Any) -> list[Any]:
    return [event async for event in events]


def ours(components: Components, **fields: Any) -> Images:
    given: dict[str, Any] = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "guidance_scale": 5.0}
    given |= {"width": WIDTH, "height": HEIGHT, "format": "raw", **fields}
    request = GenerateRequest.parse(given, components.limits, components.checkpoint.request_defaults)
    events = asyncio.run(_collect(generate(request, components)))
    return np.stack([np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)])


class Theirs:
    """The pipelines of diffusers for one request; the k-th image has the seed SEED + k and an image of its own."""

    def __init__(
        self,
        base: StableDiffusionXLPipeline,
        *,
        mask: Image.Image = MASK,
        scheduler: str | None = None,
        num_images: int = 1,
        strength: float = 0.8,
    ) -> None:
        self._make = partial(make_scheduler, scheduler, tiny_sdxl.make_checkpoint(base).scheduler)
        self._photos = [PHOTO.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)] * num_images
        self._painted = {"mask_image": mask, "width": WIDTH, "height": HEIGHT, "strength": strength}
        self._given: dict[str, Any] = {
            "prompt": [PROMPT] * num_images,
            "num_inference_steps": STEPS,
            "generator": [torch.Generator().manual_seed(SEED + k) for k in range(num_images)],
        }

    def inpainted(
        self, pipeline: Any, kind: Any = StableDiffusionXLInpaintPipeline, *, scored: bool = False, **arguments: Any
    ) -> Any:
        """Images or latents that a UNet has painted into the photos."""
        given = {"guidance_scale": 5.0, "image": self._photos, **self._painted, **arguments}
        return self.called(pipeline, kind, scored=scored, **given)

    def called(
        self, pipeline: Any, kind: Any, *, scored: bool, more: dict[str, Any] | None = None, **arguments: Any
    ) -> Any:
        with quiet():
            own = {**pipeline.components, "scheduler": self._make(), **(more or {})}
            made = kind(**own, requires_aesthetics_score=scored, add_watermarker=False)
        made.set_progress_bar_config(disable=True)
        images = made(**self._given, **arguments).images
        return images if torch.is_tensor(images) else np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize(
    ("name", "strength"), [(None, 1.0), (None, 0.55), ("ddim", 1.0), ("euler_a", 0.8), ("heun", 1.0)]
)
def test_sdxl_inpainting_checkpoint_gives_diffusers_image(
    base: StableDiffusionXLPipeline, components: Components, name: str | None, strength: float
) -> None:
    fields: dict[str, Any] = {"scheduler": name, "strength": strength, "num_images": 2}
    made = ours(components, **fields, **MASKED)
    assert distance(made, Theirs(base, **fields).inpainted(base)) <= TOLERANCE
    other = ours(components, **fields, **{**MASKED, "init_image": encoded(photo(0, 0, 90, 90))})
    assert distance(made, other) > 10, "what the mask keeps should change the image"


@pytest.mark.parametrize("strength", [1.0, 0.55])
def test_sdxl_inpainting_checkpoint_takes_no_mask_for_a_white_one(
    base: StableDiffusionXLPipeline, components: Components, strength: float
) -> None:
    made = ours(components, init_image=encoded(PHOTO), strength=strength)
    assert distance(made, Theirs(base, mask=WHITE, strength=strength).inpainted(base)) <= TOLERANCE


def test_sdxl_inpainting_checkpoint_makes_images_of_texts_with_a_white_mask(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline,
    components: Components,
    refined: Components,
) -> None:
    """With full strength and nothing kept it does not matter which image diffusers is given."""
    fields: dict[str, Any] = {"num_images": 2, "scheduler": "ddim"}
    pipelines = Theirs(base, mask=WHITE, strength=1.0, **fields)
    assert distance(ours(components, **fields), pipelines.inpainted(base)) <= TOLERANCE
    pipelines = Theirs(base, mask=WHITE, strength=1.0, **fields)
    latents = pipelines.inpainted(base, denoising_end=0.7, output_type="latent")
    expected = _refined(pipelines, refiner, latents)
    assert distance(ours(refined, refiner_start=0.7, **fields), expected) <= TOLERANCE


def _refined(pipelines: Theirs, refiner: Any, latents: Any) -> Any:
    kind = StableDiffusionXLImg2ImgPipeline
    return pipelines.called(refiner, kind, scored=True, image=latents, denoising_start=0.7, guidance_scale=1.0)


@pytest.mark.parametrize(("name", "strength"), [(None, 1.0), ("ddim", 0.8), ("euler_a", 0.8)])
def test_sdxl_refiner_changes_what_an_inpainting_checkpoint_has_painted_as_a_whole(
    base: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline,
    refined: Components,
    name: str | None,
    strength: float,
) -> None:
    fields: dict[str, Any] = {"scheduler": name, "strength": strength, "num_images": 2}
    pipelines = Theirs(base, **fields)
    expected = _refined(pipelines, refiner, pipelines.inpainted(base, denoising_end=0.7, output_type="latent"))
    assert distance(ours(refined, refiner_start=0.7, **fields, **MASKED), expected) <= TOLERANCE


def test_sdxl_refiner_paints_into_the_image_where_an_inpainting_checkpoint_has_no_step(
    base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline, refined: Components
) -> None:
    fields: dict[str, Any] = {"strength": 0.2, "num_images": 2}
    expected = Theirs(base, **fields).inpainted(refiner, scored=True, guidance_scale=1.0)
    assert distance(ours(refined, refiner_start=0.5, **fields, **MASKED), expected) <= TOLERANCE


def test_sdxl_inpainting_checkpoint_with_a_controlnet(
    base: StableDiffusionXLPipeline, components: Components, controlnet: ControlNetModel
) -> None:
    reference = photo(200, 200, 90, 90)
    edges = canny.preprocess(np.asarray(reference.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)), ControlOptions())
    fields: dict[str, Any] = {"scheduler": "ddim", "strength": 0.8}
    made = ours(components, control_image=encoded(reference), controlnet_conditioning_scale=0.8, **fields, **MASKED)
    expected = Theirs(base, **fields).inpainted(
        base,
        StableDiffusionXLControlNetInpaintPipeline,
        more={"controlnet": controlnet},
        control_image=[Image.fromarray(edges)],
        controlnet_conditioning_scale=0.8,
    )
    assert distance(made, expected) <= TOLERANCE
    assert distance(made, ours(components, **fields, **MASKED)) > 10


def test_sdxl_inpainting_checkpoint_is_exported(base: StableDiffusionXLPipeline, tmp_path: Path) -> None:
    """The UNet and what the pipeline reads; the export compares the UNet with diffusers'."""
    checkpoint, repository = tmp_path / "painter", tmp_path / "models"
    with quiet():
        base.save_pretrained(checkpoint)
    edit_json(checkpoint / "model_index.json", _class_name="StableDiffusionXLInpaintPipeline")
    assert weights.read_checkpoint(checkpoint).parts[weights.UNET].config["in_channels"] == 9
    origin = Origin.of(str(checkpoint), tmp_path, lambda name: Path(name))
    *_, unet, loop = command.base_tasks(origin, repository, None)
    for task in (unet, loop):
        run_task(task, force=False, quiet=True)
    assert '"inpaints": true' in (repository / networks.PIPELINE.name / "1" / "pipeline.json").read_text()
    found = read_graph(repository / networks.UNET.name / "1" / "model.onnx").inputs
    assert found["latents"] == (None, 9, None, None)
