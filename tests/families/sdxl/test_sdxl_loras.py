"""LoRAs of Stable Diffusion XL beside diffusers: two with weights, on the UNet and both text encoders."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.lora_targets import targets_of
from darkroom.diffusion.lora_weights import loras_text
from darkroom.pipelines.sdxl import networks
from darkroom.request.loras import LoraChoice
from darkroom.serving.in_process import InProcess
from darkroom.serving.lora_cache import BaseLoras, LoraCache
from darkroom.serving.lora_layout import LoraLayout
from exporters.onnx_export import quiet
from tests.lora_matrices import Layers, make_lora, merge, write_diffusers_file
from tests.pictures import distance, encoded, pixels
from tests.served_networks import collect

MODELS = (*networks.networks(), networks.PIPELINE)
TOLERANCE = 2
"""Levels of 255."""
SEED, STEPS, SIDE = 7, 5, 64
PROMPT = "a photo of a cat on a blue background"
A, B, C, D = "a" * 64, "b" * 64, "c" * 64, "d" * 64
WEIGHTS = {A: 0.8, B: -0.6}
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def layouts(sdxl_repository: Path) -> dict[str, LoraLayout]:
    """By the component of the checkpoint."""
    specs = (*networks.TEXT_ENCODERS, networks.UNET)
    found = [LoraLayout.read(sdxl_repository / spec.name / "1") for spec in specs]
    return {layout.component: layout for layout in found if layout is not None}


@pytest.fixture(scope="module")
def loras(layouts: dict[str, LoraLayout]) -> dict[str, Layers]:
    """Of different ranks."""
    return {
        A: make_lora(list(layouts.values()), 4, 0, strength=3.0),
        B: make_lora(list(layouts.values()), 6, 1, strength=3.0),
    }


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, layouts: dict[str, LoraLayout], loras: dict[str, Layers]
) -> Iterator[BaseLoras]:
    folder = tmp_path_factory.mktemp("loras")
    made = BaseLoras(cache=LoraCache(folder, limit=1e9), layouts=list(layouts.values()))
    for digest, layers in loras.items():
        made.write(digest, layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_CACHE_DIR", str(folder))
        yield made


def ours(repository: Path, choices: list[LoraChoice], **more: Any) -> Images:
    fields = {
        "prompt": PROMPT,
        "seed": np.array([SEED], np.int64),
        "width": SIDE,
        "height": SIDE,
        "steps": STEPS,
        "guidance_scale": 5.0,
        "loras": loras_text(choices),
        **more,
    }

    async def work() -> list[dict[str, Any]]:
        async with InProcess(repository, MODELS) as models:
            return await collect(models, "sdxl", **fields)

    return np.stack([pixels(one["image"].tobytes()) for one in asyncio.run(work()) if "image" in one])


def load(folder: Path) -> tuple[StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline]:
    """Diffusers' pipelines. The refiner has a text encoder of its own, which no LoRA changes."""
    with quiet():
        base = StableDiffusionXLPipeline.from_pretrained(
            folder / "base", add_watermarker=False, low_cpu_mem_usage=False
        )
        refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(
            folder / "refiner",
            text_encoder_2=copy.deepcopy(base.text_encoder_2),
            tokenizer_2=base.tokenizer_2,
            vae=base.vae,
            scheduler=copy.deepcopy(base.scheduler),
            add_watermarker=False,
        )
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    return base, refiner


def theirs(base: Any, refiner: StableDiffusionXLImg2ImgPipeline, **control: Any) -> Images:
    generator = torch.Generator().manual_seed(SEED)
    given = {"prompt": PROMPT, "num_inference_steps": STEPS, "generator": generator}
    size = {"width": SIDE, "height": SIDE, "guidance_scale": 5.0}
    latents = base(**given, **size, **control, denoising_end=0.8, output_type="latent").images
    images = refiner(**given, image=latents, denoising_start=0.8, guidance_scale=1.0).images
    return np.stack([np.asarray(image) for image in images])


def test_sdxl_two_weighted_loras_give_diffusers_image(
    sdxl_repository: Path, layouts: dict[str, LoraLayout], loras: dict[str, Layers], stored: BaseLoras, tmp_path: Path
) -> None:
    """The UNet's as adapters of diffusers, those of the text encoders merged into their weights."""
    base, refiner = load(sdxl_repository.parent / "checkpoint")
    plain = theirs(base, refiner)
    with quiet():
        for digest in WEIGHTS:
            file = write_diffusers_file(loras[digest]["unet"], layouts["unet"], tmp_path / f"{digest[0]}.safetensors")
            base.load_lora_weights(file, adapter_name=digest[0])
        base.set_adapters([digest[0] for digest in WEIGHTS], list(WEIGHTS.values()))
    for digest, weight in WEIGHTS.items():
        merge(base.text_encoder, loras[digest]["text_encoder"], weight, prefix="text_model.")
        merge(base.text_encoder_2, loras[digest]["text_encoder_2"], weight)
    expected = theirs(base, refiner)
    assert distance(expected, plain) > 10
    choices = [LoraChoice(digest=digest, weight=weight) for digest, weight in WEIGHTS.items()]
    assert distance(ours(sdxl_repository, choices), expected) <= TOLERANCE
    assert distance(ours(sdxl_repository, []), plain) <= TOLERANCE


def test_sdxl_lora_beside_a_controlnet_gives_diffusers_image(
    sdxl_repository: Path,
    controlled_sdxl_repository: Path,
    sdxl_controlnet_folder: Path,
    layouts: dict[str, LoraLayout],
    loras: dict[str, Layers],
    stored: BaseLoras,
    tmp_path: Path,
) -> None:
    """The UNet with a ControlNet takes the LoRAs of the plain one; the ControlNet itself is not changed by them."""
    stored.write(D, {"unet": loras[A]["unet"]})
    edges = np.zeros((SIDE, SIDE, 3), np.uint8)
    edges[20:40, 8:56] = 255
    base, refiner = load(sdxl_repository.parent / "checkpoint")
    with quiet():
        controlnet = ControlNetModel.from_pretrained(sdxl_controlnet_folder, low_cpu_mem_usage=False)
        file = write_diffusers_file(loras[A]["unet"], layouts["unet"], tmp_path / "a.safetensors")
        base.load_lora_weights(file, adapter_name="a")
        base.set_adapters(["a"], [0.8])
        controlled = StableDiffusionXLControlNetPipeline(
            **base.components, controlnet=controlnet, add_watermarker=False
        )
    controlled.set_progress_bar_config(disable=True)
    expected = theirs(controlled, refiner, image=Image.fromarray(edges), controlnet_conditioning_scale=0.7)
    control = {
        "control_image": np.frombuffer(encoded(Image.fromarray(edges)), np.uint8),
        "control_preprocess": np.array([False]),
        "controlnet_conditioning_scale": np.array([0.7], np.float32),
    }
    choices = [LoraChoice(digest=D, weight=0.8)]
    made = ours(controlled_sdxl_repository, choices, **control)
    assert distance(made, expected) <= TOLERANCE
    assert distance(made, ours(controlled_sdxl_repository, choices)) > 10
    assert distance(made, ours(controlled_sdxl_repository, [], **control)) > 10


def test_sdxl_lora_steps_are_those_of_base_and_refiner_together(
    sdxl_repository: Path, loras: dict[str, Layers], stored: BaseLoras
) -> None:
    """A LoRA of the UNet alone that acts after the base has ended changes nothing; where the base goes on it does."""
    stored.write(C, {"unet": loras[A]["unet"]})
    late = [LoraChoice(digest=C, weight=10.0, start=0.8)]
    np.testing.assert_array_equal(ours(sdxl_repository, late), ours(sdxl_repository, []))
    alone = {"refiner_start": 1.0}
    assert distance(ours(sdxl_repository, late, **alone), ours(sdxl_repository, [], **alone)) > 5


def test_sdxl_layouts_name_the_modules_as_lora_files_do(layouts: dict[str, LoraLayout]) -> None:
    assert set(layouts) == {"unet", "text_encoder", "text_encoder_2"}
    for component in ("text_encoder", "text_encoder_2"):
        names = [target.name for target in layouts[component].targets]
        assert all(name.startswith("text_model.encoder.layers.") for name in names)
        assert "text_model.encoder.layers.0.self_attn.q_proj" in names
    assert [module.name for module in layouts["text_encoder_2"].others] == ["text_projection"]
    assert targets_of("sdxl", layouts.values()).denoiser == "unet"
