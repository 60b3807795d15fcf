"""diffusers' pipelines and one job at a time through them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image

from benchmarks.baseline.request import GenerateBody
from darkroom.diffusion.controls import ControlOptions, load_control
from darkroom.diffusion.sampling import get_generators, get_noise


class Generator:
    """A checkpoint, loaded; with a ControlNet, the pipeline that uses it shares the checkpoint's weights.

    :param checkpoint: a folder in the diffusers layout.
    :param controlnet: the folder of a Canny ControlNet.
    :param device: "cpu" or "cuda".
    :param dtype: of weights and activations.
    :param compile_mode: of torch.compile for the UNet; None = eager.
    :param threads: of torch on the CPU.
    """

    def __init__(
        self,
        checkpoint: Path,
        controlnet: Path | None = None,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        compile_mode: str | None = None,
        threads: int,
    ) -> None:
        self._threads = threads
        self._text = _quiet(StableDiffusionPipeline.from_pretrained(checkpoint).to(device, dtype))
        self._control: Any = None
        if controlnet is not None:
            network = ControlNetModel.from_pretrained(controlnet).to(device, dtype)
            parts = self._text.components
            self._control = _quiet(StableDiffusionControlNetPipeline(**parts, controlnet=network))
        if compile_mode is not None:
            self._text.unet = torch.compile(self._text.unet, mode=compile_mode)
            if self._control is not None:
                self._control.unet = self._text.unet

    @property
    def controllable(self) -> bool:
        """Whether there is a ControlNet."""
        return self._control is not None

    def prepare_thread(self) -> None:
        """Called once in the thread that will run the jobs: OpenMP counts threads for each caller."""
        torch.set_num_threads(self._threads)

    def __call__(self, body: GenerateBody, seed: int, control_image: Image.Image | None) -> list[Image.Image]:
        """Run one job; the k-th image has the seed `seed` + k."""
        generators = get_generators(range(seed, seed + body.num_images))
        scale = self._text.vae_scale_factor
        shape = (self._text.unet.config.in_channels, body.height // scale, body.width // scale)
        arguments: dict[str, Any] = {
            "prompt": body.prompt,
            "negative_prompt": body.negative_prompt,
            "num_inference_steps": body.steps,
            "guidance_scale": body.guidance_scale,
            "width": body.width,
            "height": body.height,
            "num_images_per_prompt": body.num_images,
            "generator": generators,
            # Left to itself the pipeline draws in its own dtype, and in half precision torch before 2.12 draws other
            # numbers than in single: the images would be those of another seed.
            "latents": get_noise(generators, shape).to(self._text.unet.dtype),
        }
        pipeline = self._text
        if control_image is not None:
            pipeline = self._control
            arguments["image"] = edges(control_image, body)
            arguments["controlnet_conditioning_scale"] = body.controlnet_conditioning_scale
        with torch.inference_mode():
            images: list[Image.Image] = pipeline(**arguments).images
        return images


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edges(picture: Image.Image, body: GenerateBody) -> Image.Image:
    """What the ControlNet reads, as large as the result will be."""
    fitted = picture.convert("RGB").resize((body.width, body.height), Image.Resampling.LANCZOS)
    options = ControlOptions(low_threshold=body.low_threshold, high_threshold=body.high_threshold)
    return Image.fromarray(load_control("canny").preprocess(np.asarray(fitted), options))


def as_pngs(images: Sequence[Image.Image]) -> list[bytes]:
    """PNG by Pillow with its default compression, as these services do."""
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        image.save(file, "PNG")
    return [file.getvalue() for file in files]
