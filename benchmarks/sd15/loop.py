"""The floor: the denoising loop over the exported networks in this process, with nothing around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.errors import BenchmarkError
from benchmarks.sd15.jobs import Job
from darkroom.diffusion.guidance import doubled, guide
from darkroom.diffusion.sampling import get_generators, get_noise, get_schedule
from darkroom.pipelines.sd15.checkpoint import FILE_NAME, TOKENIZER_NAME, Sd15CheckpointInfo
from darkroom.pipelines.sd15.networks import (
    LATENT_CHANNELS,
    PIPELINE,
    TEXT_ENCODER,
    UNET,
    VAE_DECODER,
    VAE_SCALE_FACTOR,
)
from darkroom.png import encode_png
from darkroom.prompts.clip import chunk
from darkroom.serving.networks import Array, ModelSpec, OrtNetwork


def exported(repository: Path, spec: ModelSpec, file: str = "model.onnx") -> Path:
    """A file that the exporter puts beside a model.

    :raises BenchmarkError: it is not there.
    """
    path = repository / spec.name / "1" / file
    if not path.exists():
        raise BenchmarkError(f"{path} is not there; run: python -m exporters prepare")
    return path


def text_width(repository: Path) -> int:
    """The width of the text embeddings, as the exported text encoder makes them.

    :raises BenchmarkError: it is not exported.
    """
    assert TEXT_ENCODER.canary is not None
    network = OrtNetwork(exported(repository, TEXT_ENCODER))
    return int(network.run(TEXT_ENCODER.canary())["prompt_embeds"].shape[-1])


class Loop:
    """Text encoder, UNet and VAE decoder of a repository, loaded into this process, one thread per core each.

    :raises BenchmarkError: a network is not exported.
    """

    def __init__(self, repository: Path) -> None:
        torch.set_num_threads(1)  # as in the pipeline: a step's arithmetic is tiny, the cores are the networks'
        self._checkpoint = Sd15CheckpointInfo.read(exported(repository, PIPELINE, FILE_NAME).parent)
        self._tokenizer = Tokenizer.from_file(str(exported(repository, PIPELINE, TOKENIZER_NAME)))
        paths = [exported(repository, spec) for spec in (TEXT_ENCODER, UNET, VAE_DECODER)]
        self._text_encoder, self._unet, self._vae_decoder = (OrtNetwork(path) for path in paths)

    def run(self, jobs: Sequence[Job]) -> list[bytes]:
        """The PNG files of some jobs, as one batch: all rows of all jobs in one call per step.

        :param jobs: with guidance, of one image each, and alike in steps, size and guidance scale.
        """
        job = jobs[0]
        side = job.side // VAE_SCALE_FACTOR
        schedule = get_schedule(None, self._checkpoint.scheduler, job.steps)
        scheduler = schedule.scheduler
        embeds = self._embeds([""] * len(jobs) + [job.prompt for job in jobs])
        generators = get_generators([job.seed for job in jobs])
        latents = get_noise(generators, (LATENT_CHANNELS, side, side)) * scheduler.init_noise_sigma
        for timestep in schedule.timesteps:
            rows = doubled(scheduler.scale_model_input(latents, timestep)).numpy()
            times = np.full((len(rows), 1), float(timestep), np.float32)
            answer = self._unet.run({"latents": rows, "timestep": times, "prompt_embeds": embeds})
            noise_pred = guide(torch.from_numpy(answer["noise_pred"]), job.guidance_scale)
            latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
        images = self._vae_decoder.run({"latents": latents.numpy()})["image"]
        return [encode_png(pixels) for pixels in images]

    def _embeds(self, texts: Sequence[str]) -> Array:
        ids = np.concatenate([chunk(text, self._tokenizer, self._checkpoint).ids for text in texts])
        return self._text_encoder.run({"input_ids": ids})["prompt_embeds"]
