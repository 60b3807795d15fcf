"""Teaching the finished UNet the guidance scale that people use.

Without a sentence it draws the mean of its small world, which is far from any one scene: a scale of 7.5, the default of
Stable Diffusion and of the service, takes a prediction out of everything that it has seen. So it learns to answer a
sentence more timidly, such that the guided prediction at 7.5 is the one that it gave at `TAUGHT`. The guided prediction
is the one of classifier-free guidance (Ho and Salimans 2022); to learn from one's own is after Meng et al. 2023 ("On
Distillation of Guided Diffusion Models").
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from exporters.demo.dataset import Samples, make_tokenizer
from exporters.demo.models import make_text_encoder, make_unet
from exporters.demo.trainer import Report, Run, Stage, averaged_weights
from exporters.demo.unet_stage import LatentScale, Noiser, attend_plainly, make_source

NAME = "guidance"
WANTED = 7.5
TAUGHT = 2.0
"""At which the UNet's own pictures hold most of what is asked."""
_CALM = 20.0
"""How much an error of the prediction without a sentence counts: 7.5 times it reaches the picture, and the loss would
take it for one that the sentence can mend."""


class GuidanceStage(Stage):
    """The UNet and its text encoder learn from what they were."""

    name = NAME
    learning_rate = 3e-4
    average = 0.99

    def __init__(self, run: Run, report: Report) -> None:
        self.run = run
        tokenizer = make_tokenizer()
        trained = averaged_weights(run, "unet")
        unet, text_encoder, scale = make_unet(), make_text_encoder(tokenizer), LatentScale()
        self.modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "scale": scale})
        for name, module in self.modules.items():
            module.load_state_dict(trained[name])
        attend_plainly(run.device, text_encoder, unet)
        self.text_encoder = text_encoder
        self.teacher = copy.deepcopy(self.modules).to(run.device).eval().requires_grad_(False)
        self.samples = Samples(run, make_source(run, tokenizer), report, drop=0.0)
        self.predict, self.teach = run.maybe_compiled(unet), run.maybe_compiled(self.teacher["unet"])
        self.noiser = Noiser(run.device)
        self.take(run.batch_size(32), cpu=32)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        latents, tokens, _ = self.samples.batch(self.batch, generator)
        noisy, _, steps = self.noiser(latents, generator)
        both = torch.cat([tokens, self.samples.empty.expand_as(tokens)])
        noisy, steps = noisy.repeat(2, 1, 1, 1), steps.repeat(2)
        with torch.autocast(self.run.device.type, torch.bfloat16):
            with torch.no_grad():
                states = self.teacher["text_encoder"](both).last_hidden_state
                known = self.teach(noisy, steps, states, return_dict=False)[0].float()
            states = self.text_encoder(both).last_hidden_state
            said = self.predict(noisy, steps, states, return_dict=False)[0].float()
        error = guided(said, WANTED) - guided(known, TAUGHT)
        alone = said.chunk(2)[1] - known.chunk(2)[1]
        return error.square().mean() + _CALM * alone.square().mean(), self.batch


def guided(predicted: Tensor, scale: float) -> Tensor:
    """(2 B, ...), first with a sentence, then without -> (B, ...)."""
    with_sentence, without = predicted.chunk(2)
    return without + scale * (with_sentence - without)
