"""Checkpoints of Stable Diffusion 1.5 for inpainting, whose UNets read 9 channels, against diffusers' pipelines."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from darkroom.diffusion.checkpoint import FILE_NAME
from darkroom.diffusion.controls import ControlOptions, canny
from darkroom.diffusion.schedulers import make_scheduler
from darkroom.errors import InvalidInput
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import TOKENIZER_NAME, Sd15CheckpointInfo
from darkroom.pipelines.sd15.pipeline import Components
from darkroom.serving.in_process import InProcess
from darkroom.serving.networks import Array, OrtNetwork, Tensors
from exporters.onnx_export import quiet
from exporters.tensorrt.graph import read_graph
from tests import tiny_sd15
from tests.pictures import distance, encoded, photo
from tests.sd15_checkpoints import edit_json, make_unet
from tests.sd15_exports import export
from tests.served_networks import add_model, add_network, collect
from tests.tiny_sd15 import Pictures

TOLERANCE = 2
"""Levels of 255."""
WIDTH, HEIGHT, STEPS = 72, 104, 6
TEXTS = {"prompt": "a photo of a cat on a blue background", "negative_prompt": "a dog"}
PHOTO = photo(100, 50, 150, 200)
MASK = Image.fromarray(np.pad(np.full((60, 50), 255, np.uint8), ((40, 30), (20, 20))))
WHITE = Image.new("L", (WIDTH, HEIGHT), 255)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    return tiny_sd15.make_pipeline(tmp_path_factory.mktemp("tiny") / "checkpoint", in_channels=9)


@pytest.fixture(scope="module")
def controlnet() -> ControlNetModel:
    """It reads the latents alone."""
    return tiny_sd15.make_controlnet(make_unet())


@pytest.fixture(scope="module")
def components(pipeline: StableDiffusionPipeline, controlnet: ControlNetModel) -> Components:
    return tiny_sd15.make_components(pipeline, controlnet)


def ours(components: Components, **fields: Any) -> Pictures:
    given: dict[str, Any] = {**TEXTS, "seed": 11, "steps": STEPS, "width": WIDTH, "height": HEIGHT}
    return tiny_sd15.our_pictures(components, **{**given, **fields})


def theirs(
    components: Components,
    pipeline: StableDiffusionPipeline,
    *,
    scheduler: str | None = None,
    num_images: int = 1,
    controlnet: ControlNetModel | None = None,
    **arguments: Any,
) -> Pictures:
    """What diffusers makes of the photo; every image gets a copy of it, as its rows then have generators of their
    own."""
    kind: Any = StableDiffusionInpaintPipeline if controlnet is None else StableDiffusionControlNetInpaintPipeline
    more = {} if controlnet is None else {"controlnet": controlnet}
    with quiet():
        made = kind(**{**pipeline.components, **more}, requires_safety_checker=False)
    made.scheduler = make_scheduler(scheduler, components.checkpoint.scheduler)
    made.set_progress_bar_config(disable=True)
    image = [PHOTO.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)] * num_images
    given = {**TEXTS, "seed": 11, "num_inference_steps": STEPS, "image": image, "width": WIDTH, "height": HEIGHT}
    return tiny_sd15.their_pictures(made, num_images=num_images, **{**given, **arguments})


@pytest.mark.parametrize(
    ("name", "strength", "guidance_scale"),
    [(None, 1.0, 7.5), (None, 0.55, 7.5), ("ddim", 1.0, 1.0), ("euler_a", 0.8, 7.5), ("heun", 1.0, 7.5)],
)
def test_sd15_inpainting_checkpoint_gives_diffusers_picture(
    pipeline: StableDiffusionPipeline, components: Components, name: str | None, strength: float, guidance_scale: float
) -> None:
    fields: dict[str, Any] = {"scheduler": name, "strength": strength, "guidance_scale": guidance_scale}
    expected = theirs(components, pipeline, mask_image=MASK, num_images=2, **fields)
    files = {"init_image": encoded(PHOTO), "mask": encoded(MASK)}
    made = ours(components, num_images=2, **fields, **files)
    assert distance(made, expected) <= TOLERANCE
    other = ours(components, num_images=2, **fields, init_image=encoded(photo(0, 0, 90, 90)), mask=encoded(MASK))
    assert distance(made, other) > 10, "what the mask keeps should change the picture"


@pytest.mark.parametrize("strength", [1.0, 0.55])
def test_sd15_inpainting_checkpoint_takes_no_mask_for_a_white_one(
    pipeline: StableDiffusionPipeline, components: Components, strength: float
) -> None:
    expected = theirs(components, pipeline, mask_image=WHITE, strength=strength)
    assert distance(ours(components, init_image=encoded(PHOTO), strength=strength), expected) <= TOLERANCE


def test_sd15_inpainting_checkpoint_makes_images_of_texts_with_a_white_mask(
    pipeline: StableDiffusionPipeline, components: Components
) -> None:
    """With full strength and nothing kept it does not matter which image diffusers is given."""
    expected = theirs(components, pipeline, mask_image=WHITE, strength=1.0, num_images=2)
    assert distance(ours(components, num_images=2), expected) <= TOLERANCE


@pytest.mark.parametrize("strength", [1.0, 0.8])
def test_sd15_inpainting_checkpoint_with_a_controlnet(
    pipeline: StableDiffusionPipeline, components: Components, controlnet: ControlNetModel, strength: float
) -> None:
    reference = photo(200, 200, 90, 90)
    edges = canny.preprocess(np.asarray(reference.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)), ControlOptions())
    fields: dict[str, Any] = {"strength": strength, "controlnet_conditioning_scale": 0.8, "scheduler": "ddim"}
    files = {"init_image": encoded(PHOTO), "mask": encoded(MASK)}
    made = ours(components, control_image=encoded(reference), **fields, **files)
    expected = theirs(
        components,
        pipeline,
        controlnet=controlnet,
        control_image=Image.fromarray(edges),
        mask_image=MASK,
        **fields,
    )
    assert distance(made, expected) <= TOLERANCE
    assert distance(made, ours(components, **fields, **files)) > 10


def test_sd15_inpainting_checkpoint_kth_picture_is_that_of_its_seed_alone(components: Components) -> None:
    files = {"init_image": encoded(PHOTO), "mask": encoded(MASK), "scheduler": "euler_a"}
    together = ours(components, num_images=3, **files)
    for k in range(3):
        assert distance(together[k : k + 1], ours(components, seed=11 + k, **files)) <= TOLERANCE


def test_sd15_inpainting_checkpoint_without_a_vae_encoder_says_so(components: Components) -> None:
    without = dataclasses.replace(components, vae_encoder=None)
    with pytest.raises(InvalidInput, match="A checkpoint for inpainting needs a VAE encoder"):
        ours(without)


def test_sd15_inpainting_in_process_requests_share_batches(tmp_path: Path, components: Components) -> None:
    """Rows with and without a mask, and with an image, are of one shape; those with a control go to another network."""
    asked: list[tuple[int, ...]] = []

    async def unet(inputs: Tensors) -> dict[str, Array]:
        asked.append(inputs["latents"].shape)
        return await components.unet(inputs)

    repository = tmp_path / "models"
    version = add_model(repository, networks.PIPELINE)
    (version / FILE_NAME).write_text(components.checkpoint.to_json())
    components.tokenizer.save(str(version / TOKENIZER_NAME))
    assert components.vae_encoder is not None
    served = [
        (networks.TEXT_ENCODER, components.text_encoder),
        (networks.UNET, unet),
        (networks.VAE_ENCODER, components.vae_encoder),
        (networks.VAE_DECODER, components.vae_decoder),
    ]
    specs = [networks.PIPELINE, *(add_network(repository, spec, network) for spec, network in served)]
    picture, mask = (np.frombuffer(encoded(image), np.uint8) for image in (PHOTO, MASK))
    common = {**TEXTS, "seed": np.array([5], np.int64), "width": 64, "height": 64, "steps": 6, "format": "raw"}
    requests: list[dict[str, Any]] = [{}, {"init_image": picture, "strength": 1.0}]
    requests += [{"init_image": picture, "mask": mask, "strength": 1.0, "guidance_scale": 5.0}]

    async def work() -> list[list[dict[str, Any]]]:
        async with InProcess(repository, specs) as models:
            return await asyncio.gather(*(collect(models, "sd15", **common, **request) for request in requests))

    answers = asyncio.run(work())
    assert {shape[1:] for shape in asked} == {(9, 8, 8)}
    rows = sum(shape[0] for shape in asked)
    assert rows == 3 * 2 * 7, "PNDM has a step more"
    assert len(asked) < 3 * 7
    for request, answer in zip(requests, answers, strict=True):
        given = {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in request.items()}
        alone = ours(components, **{**common, "seed": 5}, **given)
        made = next(one["image"] for one in answer if "image" in one)
        assert np.abs(made.reshape(alone[0].shape).astype(int) - alone[0]).max() <= TOLERANCE


@pytest.mark.heavy
def test_sd15_inpainting_checkpoint_is_exported(
    pipeline: StableDiffusionPipeline, components: Components, tmp_path: Path
) -> None:
    """The channels of the UNet decide, whatever the class of the pipeline is called."""
    checkpoint, repository = tmp_path / "painter", tmp_path / "models"
    with quiet():
        pipeline.save_pretrained(checkpoint)
    edit_json(checkpoint / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    found = export("export", checkpoint, "--output", repository).output
    assert found.startswith("painter is a Stable Diffusion 1.5 checkpoint (StableDiffusionInpaintPipeline)")
    assert Sd15CheckpointInfo.read(repository / "sd15" / "1").inpaints
    graph = repository / "sd15_unet" / "1" / "model.onnx"
    assert read_graph(graph).inputs["latents"] == (None, 9, None, None)
    exported = dataclasses.replace(components, unet=OrtNetwork(graph, threads=1))
    files = {"init_image": encoded(PHOTO), "mask": encoded(MASK)}
    assert distance(ours(exported, **files), ours(components, **files)) <= TOLERANCE
