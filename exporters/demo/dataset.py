"""The training pictures as latents, token ids and Canny edges: made once per VAE, kept in files, drawn in batches."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from darkroom.pipelines.sd15.controls import ControlOptions
from darkroom.pipelines.sd15.controls.canny import preprocess
from exporters.demo.models import SIDE
from exporters.demo.render import JITTER, JITTERS, render
from exporters.demo.tokens import LENGTH, write_tokenizer
from exporters.demo.trainer import Report, Run, save_file
from exporters.demo.world import random_caption, training_scenes

CHUNK = 2048
"""Scenes in a file."""
_BATCH = 64
_NO_EDGES = np.empty(0, np.uint8)


RARE: tuple[str, ...] = ("drawing", "outline")
"""Styles that are drawn twice as often as they are rendered: 70 of 100 scenes are photos, and what the other styles
look like is no easier to learn."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the samples of a family are made with.

    :param folder: for their files, inside the state folder.
    :param vae: in evaluation mode, on the device of the run.
    :param tokenize: N sentences -> (N, T) int64.
    :param mentions: (N, T) tokens, words of the world -> (N,) bool, whether a sentence has one of them.
    :param strays: share of the scenes whose boxes stand in any of their positions; in the others each stands in one.
    :param edges: whether the samples have edges.
    """

    folder: str
    vae: AutoencoderKL
    tokenize: Callable[[list[str]], Tensor]
    mentions: Callable[[Tensor, tuple[str, ...]], Tensor]
    strays: float
    edges: bool = True


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """N training samples in memory."""

    latents: Tensor
    """(N, C, 16, 16) float16: means of the posterior, not scaled."""
    tokens: Tensor
    """(N, T) int64."""
    edges: Tensor
    """(N, 2048) uint8: 128 x 128 edge pixels, packed eight to a byte; (N, 0) without edges."""

    def __len__(self) -> int:
        return len(self.latents)


class Samples:
    """Batches of scaled latents and token ids, some without their sentence."""

    def __init__(self, run: Run, source: Source, report: Report, *, drop: float) -> None:
        """`drop` is the share of samples that lose their sentence."""
        self.data: Dataset = load_dataset(run, source, run.samples, report)
        self.factor = 1 / self.data.latents[:2048].float().std()
        self.weights = 1.0 + source.mentions(self.data.tokens, RARE).float()
        """(N,): how often a sample is drawn, compared with others."""
        self.empty = source.tokenize([""])
        """(1, T): no sentence."""
        self._drop = drop
        self._device = run.device

    def batch(
        self, size: int, generator: torch.Generator, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`size` latents (B, C, 16, 16) float32, tokens (B, T), and which samples they are (B,).

        :param weights: instead of `weights`.
        """
        chosen = torch.multinomial(
            self.weights if weights is None else weights, size, replacement=True, generator=generator
        )
        dropped = torch.rand(size, generator=generator) < self._drop
        tokens = torch.where(dropped[:, None], self.empty, self.data.tokens[chosen])
        latents = self.data.latents[chosen].float() * self.factor
        return latents.to(self._device), tokens.to(self._device), chosen


def make_tokenizer() -> CLIPTokenizer:
    """The demo world's tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, sentences: list[str], length: int = LENGTH) -> Tensor:
    """(N, `length`) int64 token ids, padded as diffusers' pipelines pad."""
    encoded = tokenizer(sentences, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def mentions(tokenizer: CLIPTokenizer, tokens: Tensor, words: tuple[str, ...]) -> Tensor:
    """(N, T) tokens -> (N,) bool: whether a sentence has one of these words of the world."""
    wanted = torch.tensor(tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words]))
    return torch.isin(tokens, wanted).any(dim=1)


def canny(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 on edges: what the service's preprocessor makes by default."""
    return preprocess(picture, ControlOptions())[..., 0]


def unpack_edges(packed: Tensor) -> Tensor:
    """(B, 2048) uint8 -> (B, 3, 128, 128) float32, 0 or 1: what a ControlNet reads."""
    bits = torch.from_numpy(np.unpackbits(packed.numpy(), axis=1)).reshape(-1, 1, SIDE, SIDE)
    return bits.float().expand(-1, 3, -1, -1)


def load_dataset(run: Run, source: Source, size: int, report: Report) -> Dataset:
    """Read the chunks that are there and make the missing ones; another VAE, or other positions, make them
    all anew."""
    mark = f"{_digest(source.vae)} {source.strays}"
    chunks: list[dict[str, Tensor]] = []
    for number in range(-(-size // CHUNK)):
        count = min(CHUNK, size - number * CHUNK)
        path = run.folder / source.folder / f"{number:03d}.pt"
        stored: dict[str, Any] = torch.load(path, weights_only=True) if path.is_file() else {}
        if stored.get("vae") != mark or len(stored["chunk"]["tokens"]) < count:
            stored = {"vae": mark, "chunk": _make_chunk(run, source, number, count)}
            save_file(path, stored)
            report(f"{source.folder}: {number * CHUNK + count} of {size}")
        chunks.append(stored["chunk"])
    return Dataset(
        latents=torch.cat([chunk["latents"] for chunk in chunks]),
        tokens=torch.cat([chunk["tokens"] for chunk in chunks]).long(),
        edges=torch.cat([chunk["edges"] for chunk in chunks]),
    )


@torch.no_grad()
def _make_chunk(run: Run, source: Source, number: int, count: int) -> dict[str, Tensor]:
    seed = run.seed * 100_003 + 50_000 + number
    rng = random.Random(seed)
    scenes = list(islice(training_scenes(seed), count))
    jitters = [JITTERS if rng.random() < source.strays else (JITTER,) for _ in scenes]
    pictures = np.stack([render(scene, rng, moved) for scene, moved in zip(scenes, jitters, strict=True)])
    edges = [np.packbits(canny(picture) > 0) for picture in pictures] if source.edges else [_NO_EDGES] * count
    latents = []
    for start in range(0, count, _BATCH):
        batch = torch.from_numpy(pictures[start : start + _BATCH]).permute(0, 3, 1, 2).to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16):
            latents.append(source.vae.encode(batch.float() / 127.5 - 1).latent_dist.mean.half().cpu())
    return {
        "latents": torch.cat(latents),
        "tokens": source.tokenize([random_caption(rng, scene) for scene in scenes]).short(),
        "edges": torch.from_numpy(np.stack(edges)),
    }


def _digest(vae: AutoencoderKL) -> str:
    """Which VAE it is."""
    digest = hashlib.sha256()
    for value in vae.state_dict().values():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
