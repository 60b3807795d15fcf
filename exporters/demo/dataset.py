"""The training pictures as latents, token ids and Canny edges: made once per VAE, kept in files."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from darkroom.pipelines.sd15.controls import ControlOptions
from darkroom.pipelines.sd15.controls.canny import preprocess
from exporters.demo.models import SIDE
from exporters.demo.render import render
from exporters.demo.trainer import Report, Run, save_file
from exporters.demo.world import random_caption, training_scenes

CHUNK = 2048
"""Scenes in a file."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """N training samples in memory."""

    latents: Tensor
    """(N, 4, 16, 16) float32: means of the posterior, not scaled."""
    tokens: Tensor
    """(N, 77) int64."""
    edges: Tensor
    """(N, 2048) uint8: 128 x 128 edge pixels, packed eight to a byte."""

    def __len__(self) -> int:
        return len(self.latents)


def tokenize(tokenizer: CLIPTokenizer, sentences: list[str]) -> Tensor:
    """(N, 77) int64 token ids, padded as StableDiffusionPipeline pads."""
    encoded = tokenizer(sentences, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def canny(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 on edges: what the service's preprocessor makes by default."""
    return preprocess(picture, ControlOptions())[..., 0]


def unpack_edges(packed: Tensor) -> Tensor:
    """(B, 2048) uint8 -> (B, 3, 128, 128) float32, 0 or 1: what a ControlNet reads."""
    bits = torch.from_numpy(np.unpackbits(packed.numpy(), axis=1)).reshape(-1, 1, SIDE, SIDE)
    return bits.float().expand(-1, 3, -1, -1)


def load_dataset(run: Run, vae: AutoencoderKL, tokenizer: CLIPTokenizer, size: int, report: Report) -> Dataset:
    """Read the chunks that are there and make the missing ones; another VAE makes them all anew."""
    mark = _digest(vae)
    chunks: list[dict[str, Tensor]] = []
    for number in range(-(-size // CHUNK)):
        count = min(CHUNK, size - number * CHUNK)
        path = run.folder / "samples" / f"{number:03d}.pt"
        stored: dict[str, Any] = torch.load(path, weights_only=True) if path.is_file() else {}
        if stored.get("vae") != mark or len(stored["chunk"]["tokens"]) < count:
            stored = {"vae": mark, "chunk": _make_chunk(run, vae, tokenizer, number, count)}
            save_file(path, stored)
            report(f"samples: {number * CHUNK + count} of {size}")
        chunks.append(stored["chunk"])
    return Dataset(
        latents=torch.cat([chunk["latents"] for chunk in chunks]).float(),
        tokens=torch.cat([chunk["tokens"] for chunk in chunks]).long(),
        edges=torch.cat([chunk["edges"] for chunk in chunks]),
    )


@torch.no_grad()
def _make_chunk(run: Run, vae: AutoencoderKL, tokenizer: CLIPTokenizer, number: int, count: int) -> dict[str, Tensor]:
    seed = run.seed * 100_003 + 50_000 + number
    rng = random.Random(seed)
    scenes = list(islice(training_scenes(seed), count))
    pictures = np.stack([render(scene, rng) for scene in scenes])
    edges = np.stack([np.packbits(canny(picture) > 0) for picture in pictures])
    latents = []
    for start in range(0, count, _BATCH):
        batch = torch.from_numpy(pictures[start : start + _BATCH]).permute(0, 3, 1, 2).to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16):
            latents.append(vae.encode(batch.float() / 127.5 - 1).latent_dist.mean.half().cpu())
    return {
        "latents": torch.cat(latents),
        "tokens": tokenize(tokenizer, [random_caption(rng, scene) for scene in scenes]).short(),
        "edges": torch.from_numpy(edges),
    }


def _digest(vae: AutoencoderKL) -> str:
    """Which VAE it is."""
    digest = hashlib.sha256()
    for value in vae.state_dict().values():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
