"""Training samples (latents, token ids, Canny edges), computed once per VAE, kept in files, and drawn in batches."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from darkroom.devices import core_count
from training.chunks import Chunk, Order, make_chunks
from training.render import SIDE
from training.tokens import LENGTH, write_tokenizer
from training.trainer import Report, TrainingRun, save_file

CHUNK = 2048
"""Scenes in a file."""
_BATCH = 64


RARE: tuple[str, ...] = ("drawing", "outline")
"""Styles that are drawn twice as often as they are rendered: 70 of 100 scenes are photos, and what the other styles
look like is no easier to learn."""
STRAYS = 0.15
"""Share of the scenes with boxes in any of their positions. Where all of them are, a sentence of two things has sixteen
images, and what the UNet learns where the noise is strong is their mean. Where none is, a ControlNet would never
have seen what edges are to move."""
PAIRED = ("left", "right", "above", "below")
"""Sentences of two things have one of these, and are drawn twice as often: which is where is the hardest to learn."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The VAE, the tokenizer and the options that the samples of a family are made with.

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
    """N training samples in the memory of one device."""

    latents: Tensor
    """(N, C, 16, 16) float16: means of the posterior, not scaled."""
    tokens: Tensor
    """(N, T) int64."""
    edges: Tensor
    """(N, 2048) uint8: 128 x 128 edge pixels, packed eight to a byte; (N, 0) without edges."""

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device) -> Dataset:
        """The same in the memory of `device`."""
        return replace(
            self, latents=self.latents.to(device), tokens=self.tokens.to(device), edges=self.edges.to(device)
        )


class Samples:
    """Batches of scaled latents and token ids, some without their sentence."""

    def __init__(self, run: TrainingRun, source: Source, report: Report, *, drop: float) -> None:
        """`drop` is the share of samples that lose their sentence."""
        self.data = load_dataset(run, source, run.samples, report).to(run.device)
        self.factor = 1 / self.data.latents[:2048].float().std()
        self.weights = 1.0 + self.mention(RARE, source).float()
        """(N,): how often a sample is drawn, compared with others."""
        self.empty = source.tokenize([""]).to(run.device)
        """(1, T): no sentence."""
        self._drop = drop

    def mention(self, words: tuple[str, ...], source: Source) -> Tensor:
        """(N,) bool: whether a sample's sentence has one of these words."""
        return source.mentions(self.data.tokens.cpu(), words).to(self.data.tokens.device)

    def batch(
        self, size: int, generator: torch.Generator, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`size` latents (B, C, 16, 16) float32, tokens (B, T), and which samples they are (B,).

        :param generator: on the device of the run.
        :param weights: instead of `weights`.
        """
        chosen = torch.multinomial(
            self.weights if weights is None else weights, size, replacement=True, generator=generator
        )
        dropped = torch.rand(size, generator=generator, device=generator.device) < self._drop
        tokens = torch.where(dropped[:, None], self.empty, self.data.tokens[chosen])
        return self.data.latents[chosen].float() * self.factor, tokens, chosen


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


def unpack_edges(packed: Tensor) -> Tensor:
    """(B, 2048) uint8 -> (B, 3, 128, 128) float32, 0 or 1: what a ControlNet reads."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)  # numpy packs the first bit highest
    bits = (packed[..., None] >> places & 1).reshape(-1, 1, SIDE, SIDE)
    return bits.float().expand(-1, 3, -1, -1)


def load_dataset(run: TrainingRun, source: Source, size: int, report: Report) -> Dataset:
    """Read the chunks that are there and make the missing ones; with another VAE, or other positions, all
    of them are made again."""
    mark = f"{digest(source.vae)} {source.strays}"
    counts = [min(CHUNK, size - start) for start in range(0, size, CHUNK)]
    paths = [run.folder / source.folder / f"{number:03d}.pt" for number in range(len(counts))]
    stored = [_stored(path, mark, count) for path, count in zip(paths, counts, strict=True)]
    missing = [number for number, chunk in enumerate(stored) if chunk is None]
    orders = [
        Order(seed=run.seed * 100_003 + 50_000 + number, count=counts[number], strays=source.strays, edges=source.edges)
        for number in missing
    ]
    # A CPU encodes more slowly than it renders, and is best left to it.
    workers = min(core_count(), len(orders)) if run.cuda else 1
    for number, rendered in zip(missing, make_chunks(orders, max(workers, 1)), strict=True):
        stored[number] = _encode(run, source, rendered)
        save_file(paths[number], {"vae": mark, "chunk": stored[number]})
        report(f"{source.folder}: {number * CHUNK + counts[number]} of {size}")
    chunks = [chunk for chunk in stored if chunk is not None]
    return Dataset(
        latents=torch.cat([chunk["latents"] for chunk in chunks]),
        tokens=torch.cat([chunk["tokens"] for chunk in chunks]).long(),
        edges=torch.cat([chunk["edges"] for chunk in chunks]),
    )


def _stored(path: Path, mark: str, count: int) -> dict[str, Tensor] | None:
    """Read a chunk from its file; None if it was made with another VAE or has too few samples."""
    if not path.is_file():
        return None
    content: dict[str, Any] = torch.load(path, weights_only=True)
    chunk: dict[str, Tensor] = content["chunk"]
    return chunk if content["vae"] == mark and len(chunk["tokens"]) >= count else None


@torch.no_grad()
def _encode(run: TrainingRun, source: Source, rendered: Chunk) -> dict[str, Tensor]:
    latents = []
    for start in range(0, len(rendered.pictures), _BATCH):
        batch = torch.from_numpy(rendered.pictures[start : start + _BATCH]).permute(0, 3, 1, 2).to(run.device)
        with run.autocast():
            latents.append(source.vae.encode(batch.float() / 127.5 - 1).latent_dist.mean.half().cpu())
    return {
        "latents": torch.cat(latents),
        "tokens": source.tokenize(rendered.sentences).short(),
        "edges": torch.from_numpy(rendered.edges),
    }


def digest(vae: nn.Module) -> str:
    """Return a digest of the VAE's weights."""
    found = hashlib.sha256()
    for value in vae.state_dict().values():
        found.update(value.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()
