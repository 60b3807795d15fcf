"""Edits as latents, thumbnails and tokens: made once per VAE, kept in files, drawn in batches."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from darkroom.edit_modes.modes import MODES
from training.dataset import digest
from training.demo.qwen_edit.cases import KEEP, Case, training_cases
from training.demo.qwen_edit.models import THUMBNAIL
from training.demo.qwen_edit.pictures import Picture, draw, thumbnail
from training.demo.qwen_edit.sentences import random_sentence
from training.demo.qwen_edit.tokens import make_tokenizer, tokenize
from training.demo.qwen_edit.vae import posterior
from training.trainer import Report, TrainingRun, save_file

FOLDER = "samples-qwen-edit"
BLANK = " "
"""In place of a sentence that is left out: the negative prompt that is usual with these models."""
_BLOCK = 1024
"""Pictures in a file."""
_BATCH = 32
_STEP = 8
"""Batches are as long as a multiple of it, so that few lengths occur."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B edits with N pictures each."""

    wanted: Tensor
    """(B, 16, 16, 16) float32 latents, normalised."""
    given: Tensor
    """(B, N, 16, 16, 16) float32 latents, normalised."""
    thumbnails: Tensor
    """(B, N, 56, 56, 3) uint8."""
    tokens: Tensor
    """(B, T) int64."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Edits with the same number of pictures."""

    given: Tensor
    wanted: Tensor
    tokens: Tensor
    blank: Tensor

    def to(self, device: torch.device) -> _Group:
        """The same in the memory of `device`."""
        return _Group(**{name: value.to(device) for name, value in vars(self).items()})


class EditSamples:
    """Half as many edits as a run has samples, for each has about two pictures more."""

    def __init__(self, run: TrainingRun, vae: AutoencoderKLQwenImage, report: Report, *, drop: float) -> None:
        """`drop` is the share of edits that lose their sentence."""
        cases = _cases(run.seed, max(run.samples // 2, 17))
        numbers: dict[Picture, int] = {}
        for case in cases:
            for picture in (*case.given, case.wanted):
                numbers.setdefault(picture, len(numbers))
        self.pictures = tuple(numbers)
        self.latents = _encoded(run, vae, self.pictures, report)
        self.mean = self.latents.float().mean(dim=(0, 2, 3))
        self.deviation = self.latents.float().std(dim=(0, 2, 3))
        small = np.stack([thumbnail(draw(picture), THUMBNAIL) for picture in self.pictures])
        self.thumbnails = torch.from_numpy(small).to(run.device)
        rng = random.Random(run.seed + 7)
        self.groups = [
            _grouped([case for case in cases if len(case.given) == count], numbers, rng).to(run.device)
            for count in sorted({len(case.given) for case in cases})
        ]
        self.shares = torch.tensor([float(len(group.wanted)) for group in self.groups], device=run.device)
        self._drop = drop

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """`size` edits that all have the same number of pictures.

        :param generator: on the device of the run.
        """
        device = generator.device
        group = self.groups[int(torch.multinomial(self.shares, 1, generator=generator))]
        chosen = torch.randint(len(group.wanted), (size,), generator=generator, device=device)
        dropped = torch.rand(size, generator=generator, device=device) < self._drop
        tokens = torch.where(dropped[:, None], group.blank, group.tokens[chosen])
        longest = int((tokens != make_tokenizer().pad_token_id).sum(dim=1).max())
        given = group.given[chosen]
        return Batch(
            wanted=self._normalised(self.latents[group.wanted[chosen]]),
            given=self._normalised(self.latents[given]),
            thumbnails=self.thumbnails[given],
            tokens=tokens[:, : -(-longest // _STEP) * _STEP],
        )

    def _normalised(self, latents: Tensor) -> Tensor:
        return (latents.float() - self.mean[:, None, None]) / self.deviation[:, None, None]


def _cases(seed: int, count: int) -> list[Case]:
    """As many of each mode, and half as many that ask for no change."""
    modes = [*MODES, *MODES, KEEP]
    streams = {mode: training_cases(seed, mode) for mode in (KEEP, *MODES)}
    return [next(streams[modes[number % len(modes)]]) for number in range(count)]


def _grouped(cases: list[Case], numbers: dict[Picture, int], rng: random.Random) -> _Group:
    count = len(cases[0].given)
    tokens = tokenize([*(random_sentence(rng, case) for case in cases), BLANK], count)
    return _Group(
        given=torch.tensor([[numbers[picture] for picture in case.given] for case in cases]),
        wanted=torch.tensor([numbers[case.wanted] for case in cases]),
        tokens=tokens[:-1],
        blank=tokens[-1:],
    )


def _encoded(run: TrainingRun, vae: AutoencoderKLQwenImage, pictures: tuple[Picture, ...], report: Report) -> Tensor:
    """(P, 16, 16, 16) float16 latents, not normalised. Blocks that are in files are read."""
    mark = digest(vae)
    blocks = []
    for number, start in enumerate(range(0, len(pictures), _BLOCK)):
        block = pictures[start : start + _BLOCK]
        path = run.folder / FOLDER / f"{number:03d}.pt"
        name = hashlib.sha256(f"{mark} {block}".encode()).hexdigest()
        stored = _stored(path, name)
        if stored is None:
            stored = _encode(run, vae, block)
            save_file(path, {"of": name, "latents": stored})
            report(f"{FOLDER}: {start + len(block)} of {len(pictures)} pictures")
        blocks.append(stored)
    return torch.cat(blocks).to(run.device)


def _stored(path: Path, name: str) -> Tensor | None:
    """The latents in a file, if they are of those pictures."""
    if not path.is_file():
        return None
    content: dict[str, Any] = torch.load(path, weights_only=True)
    latents: Tensor = content["latents"]
    return latents if content["of"] == name else None


@torch.no_grad()
def _encode(run: TrainingRun, vae: AutoencoderKLQwenImage, pictures: tuple[Picture, ...]) -> Tensor:
    made = []
    for start in range(0, len(pictures), _BATCH):
        drawn = np.stack([draw(picture) for picture in pictures[start : start + _BATCH]])
        batch = torch.from_numpy(drawn).permute(0, 3, 1, 2).to(run.device).float() / 127.5 - 1
        with run.autocast():
            made.append(posterior(vae, batch).mean.half().cpu())
    return torch.cat(made)
