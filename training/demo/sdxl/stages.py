"""Trains the base and the refiner."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from training.dataset import PAIRED, STRAYS, Samples, Source, make_tokenizer, mentions, tokenize
from training.demo.sdxl import models
from training.demo.sdxl.begin import begin_text_encoder, begin_unet, frozen, smaller_checkpoint
from training.demo.sdxl.family import BASE, REFINER
from training.noise import Noiser, attend_plainly
from training.render import SIDE
from training.trainer import Report, TrainingRun, TrainingStage, averaged_weights
from training.vae_stage import LatentScale

_ZEROED, _EMPTY = 0.08, 0.02
"""Shares of the samples without a text: with embeddings of zeros, which is how SDXL leaves the negative prompt out,
and with an empty text."""
_LATENTS = SIDE // 8
_SCORE = 6.0
"""The aesthetic score of every image in training. diffusers sends 6.0 with the prompt, 2.5 with the negative one."""
_LOW_SCORE = 2.5


@dataclass(frozen=True, kw_only=True)
class View:
    """The part of the latents that a batch shows, and what the micro-conditioning says of it.

    :param cropped: whether it is a crop of a larger image; else it is an image of its own size.
    """

    top: int = 0
    left: int = 0
    height: int = _LATENTS
    width: int = _LATENTS
    cropped: bool = True

    def of(self, latents: Tensor) -> Tensor:
        """(B, C, 16, 16) -> (B, C, height, width)."""
        return latents[:, :, self.top : self.top + self.height, self.left : self.left + self.width]

    def numbers(self) -> list[int]:
        """Original height and width, top and left of the crop, target height and width, in pixels."""
        original = [_LATENTS, _LATENTS] if self.cropped else [self.height, self.width]
        corner = [self.top, self.left] if self.cropped else [0, 0]
        return [8 * number for number in (*original, *corner, self.height, self.width)]


WIDE = View(top=2, height=12, cropped=False)
TALL = View(left=2, width=12, cropped=False)
CUT = {WIDE: ("large", "above", "below"), TALL: ("large", "left", "right")}
"""Words of sentences whose things would not be in a view whole."""


def choose_view(generator: torch.Generator) -> View:
    """The view of a batch: half of them whole, a quarter crops, the rest wide or tall images."""
    kind, height, width, top, left = torch.rand(5, generator=generator, device=generator.device).tolist()
    if kind < 0.5:
        return View()
    if kind < 0.75:
        high, broad = 10 + 2 * int(4 * height), 10 + 2 * int(4 * width)
        return View(
            top=int(top * (_LATENTS - high + 1)), left=int(left * (_LATENTS - broad + 1)), height=high, width=broad
        )
    return WIDE if kind < 0.875 else TALL


class _SdxlStage(TrainingStage):
    """A UNet on samples of the smaller demo checkpoint's VAE, in batches of views."""

    samples: Samples
    run: TrainingRun
    weights: dict[View | None, Tensor]
    empty: Tensor

    def begin(
        self, run: TrainingRun, report: Report, vae: nn.Module, unet: nn.Module, *, below: int | None = None
    ) -> None:
        """
        :param below: see `Noiser`.
        """
        tokenizer = make_tokenizer()
        source = Source(
            folder="samples",
            vae=frozen(vae, run.device),
            tokenize=partial(tokenize, tokenizer),
            mentions=partial(mentions, tokenizer),
            strays=STRAYS,
        )
        self.run, self.samples = run, Samples(run, source, report, drop=_EMPTY)
        whole = self.samples.weights * (1 + self.samples.mention(PAIRED, source).float())
        self.weights = {None: whole}
        for view, words in CUT.items():
            self.weights[view] = whole * ~self.samples.mention(words, source)
        self.predict = run.maybe_compiled(unet)
        self.noiser = Noiser(models.training_scheduler(), run.device, below=below)
        self.take(run.batch_size(64), cpu=64)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, View, Tensor]:
        """Latents, tokens, their view, and (B,) which of them lose their text."""
        view = choose_view(generator)
        latents, tokens, _ = self.samples.batch(self.batch, generator, self.weights[view if view in CUT else None])
        zeroed = torch.rand(self.batch, generator=generator, device=generator.device) < _ZEROED
        return view.of(latents), tokens, view, zeroed


class BaseStage(_SdxlStage):
    """The base with both text encoders: velocity prediction on views of cached latents."""

    name = BASE
    learning_rate = 6e-4
    average = 0.998

    def __init__(self, run: TrainingRun, report: Report) -> None:
        torch.manual_seed(run.seed + 4)
        tokenizer, smaller = make_tokenizer(), smaller_checkpoint()
        self.unet, self.text_encoder = models.make_unet(), models.make_text_encoder(tokenizer)
        self.text_encoder_2 = models.make_text_encoder_2(tokenizer)
        begin_unet(self.unet, smaller["unet"])
        begin_text_encoder(self.text_encoder, smaller["text_encoder"])
        attend_plainly(run.device, self.text_encoder, self.unet)
        attend_plainly(run.device, self.text_encoder_2)
        scale = LatentScale()
        self.modules = nn.ModuleDict(
            {
                "unet": self.unet,
                "text_encoder": self.text_encoder,
                "text_encoder_2": self.text_encoder_2,
                "scale": scale,
            }
        )
        self.begin(run, report, smaller["vae"], self.unet)
        scale.factor.copy_(self.samples.factor)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        latents, tokens, view, zeroed = self.draw(generator)
        noisy, velocity, steps = self.noiser(latents, generator)
        numbers = torch.tensor([view.numbers()], dtype=torch.float32, device=latents.device).expand(len(latents), -1)
        with self.run.autocast():
            first, _ = models.encode(self.text_encoder, tokens)
            second, output = models.encode(self.text_encoder_2, tokens)
            states = torch.cat((first, second), dim=-1).masked_fill(zeroed[:, None, None], 0)
            pooled = output.text_embeds.masked_fill(zeroed[:, None], 0)
            added = {"text_embeds": pooled, "time_ids": numbers}
            predicted = self.predict(noisy, steps, states, added_cond_kwargs=added, return_dict=False)[0]
        return self.noiser.loss(predicted, velocity, steps), self.batch


class RefinerStage(_SdxlStage):
    """The refiner on the last part of the noise, with the base's second text encoder."""

    name = REFINER
    learning_rate = 1e-3
    average = 0.998

    def __init__(self, run: TrainingRun, report: Report) -> None:
        torch.manual_seed(run.seed + 5)
        tokenizer, trained = make_tokenizer(), averaged_weights(run, BASE)
        self.unet, self.text_encoder_2 = models.make_refiner(), models.make_text_encoder_2(tokenizer)
        self.text_encoder_2.load_state_dict(trained["text_encoder_2"])
        self.text_encoder_2.to(run.device).eval().requires_grad_(False)
        attend_plainly(run.device, self.text_encoder_2, self.unet)
        self.modules = nn.ModuleDict({"unet": self.unet})
        self.begin(run, report, smaller_checkpoint()["vae"], self.unet, below=models.REFINER_BELOW)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        latents, tokens, view, zeroed = self.draw(generator)
        noisy, velocity, steps = self.noiser(latents, generator)
        scores = torch.where(zeroed, _LOW_SCORE, _SCORE)[:, None]
        numbers = torch.tensor([view.numbers()[:4]], dtype=torch.float32, device=latents.device)
        with self.run.autocast():
            states, output = models.encode(self.text_encoder_2, tokens)
            added = {
                "text_embeds": output.text_embeds.masked_fill(zeroed[:, None], 0),
                "time_ids": torch.cat((numbers.expand(len(latents), -1), scores), dim=1),
            }
            states = states.masked_fill(zeroed[:, None, None], 0)
            predicted = self.predict(noisy, steps, states, added_cond_kwargs=added, return_dict=False)[0]
        return self.noiser.loss(predicted, velocity, steps), self.batch
