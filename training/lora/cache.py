"""Latents and text embeddings, computed once for each example and kept as files in the state folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from darkroom.captioned_images import MAX_PIXELS
from darkroom.errors import InvalidInput
from darkroom.files import write_atomically
from darkroom.images import decode, opaque
from training.lora.buckets import fit, fitted
from training.lora.family import LoraFamily
from training.lora.objective import generator_of
from training.lora.plan import Example, Plan
from training.lora.prior import prior_maker

MEAN, STD = "latent_mean", "latent_std"
"""The posterior of the VAE: latents are drawn from it anew at each step."""


class SampleCache:
    """The encoded examples of a run.

    :param folder: of the state.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder / "samples"
        self._plan = plan

    def read(self, index: int) -> dict[str, Tensor]:
        """The tensors of an example, float32: MEAN and STD (channels, height, width), and those of its caption."""
        return load_file(self._path(index))

    def fill(
        self, family: LoraFamily, root: Path, images: Path, device: torch.device, between: Callable[[int], None]
    ) -> None:
        """Encode the examples that are missing. The VAE runs in fp32, because large ones overflow in fp16.

        :param root: the folder of the checkpoint.
        :param between: called after each example with the number of those that are done.
        :raises InvalidInput: an image has changed since the run began.
        """
        missing = [index for index in range(len(self._plan.examples)) if not self._path(index).is_file()]
        if not missing:
            return
        vae, encode = family.load(root, "vae").to(device), family.encoder(root, device)
        factor, shift = float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)
        for done, index in enumerate(missing, len(self._plan.examples) - len(missing) + 1):
            example = self._plan.examples[index]
            pixels = _pixels(images / example.image, example).to(device)
            with torch.no_grad():
                posterior = vae.encode(pixels[None]).latent_dist
            latents = {MEAN: (posterior.mean[0] - shift) * factor, STD: posterior.std[0] * factor}
            _write(self._path(index), {**latents, **encode(example.caption, example.fit)})
            between(done)

    def read_prior(self, index: int) -> dict[str, Tensor]:
        """The tensors of a prior image, as `read`."""
        return load_file(self._prior_path(index))

    def fill_prior(self, family: LoraFamily, root: Path, device: torch.device, between: Callable[[int], None]) -> None:
        """Have the checkpoint make the prior images that are missing, as latents: no VAE comes between.

        :param root, between: as `fill`.
        """
        captions = self._plan.request.prior_captions
        missing = [index for index in range(len(captions)) if not self._prior_path(index).is_file()]
        if not missing:
            return
        side, encode = self._plan.request.resolution, family.encoder(root, device)
        assert side is not None  # a plan has all values
        draw = prior_maker(family, root, device, side)
        for done, index in enumerate(missing, len(captions) - len(missing) + 1):
            latents = draw(captions[index], generator_of(self._plan.request.seed, index))
            texts = encode(captions[index], fit((side, side), side))
            _write(self._prior_path(index), {MEAN: latents, STD: torch.zeros_like(latents), **texts})
            between(done)

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06}.safetensors"

    def _prior_path(self, index: int) -> Path:
        return self._folder / f"prior-{index:06}.safetensors"


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_atomically(path, save({name: value.float().cpu().contiguous() for name, value in tensors.items()}))


def _pixels(path: Path, example: Example) -> Tensor:
    """(3, height, width) float32, -1..1, of the size of the example's bucket."""
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if hashlib.sha256(data).hexdigest() != example.digest:
        raise InvalidInput(f"{example.image} was changed or removed after the training had begun.", param="images")
    return torch.from_numpy(fitted(opaque(decode(data, max_pixels=MAX_PIXELS)), example.fit))
