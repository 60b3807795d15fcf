"""The training of the Canny ControlNet beside the finished UNet, whose weights stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.dataset import Samples, make_tokenizer, unpack_edges
from training.demo.sd15.models import make_controlnet, make_text_encoder, make_unet, training_scheduler
from training.demo.sd15.unet_stage import make_source
from training.noise import Noiser, attend_plainly
from training.trainer import Report, TrainingRun, TrainingStage, averaged_weights

_DROP = 0.3
"""More samples without a sentence than the UNet had: then only the edges tell what to draw."""


class ControlnetStage(TrainingStage):
    """Velocity prediction with the edges of the image as a second condition (Zhang et al. 2023)."""

    name = "controlnet"
    learning_rate = 1e-3

    def __init__(self, run: TrainingRun, report: Report) -> None:
        torch.manual_seed(run.seed + 2)
        self.run = run
        tokenizer = make_tokenizer()
        trained = averaged_weights(run, "unet")
        self.unet, self.text_encoder = make_unet(), make_text_encoder(tokenizer)
        self.unet.load_state_dict(trained["unet"])
        self.text_encoder.load_state_dict(trained["text_encoder"])
        self.controlnet = make_controlnet(self.unet)
        attend_plainly(run.device, self.text_encoder, self.unet, self.controlnet)
        self.modules = nn.ModuleDict({"controlnet": self.controlnet})
        for frozen in (self.unet, self.text_encoder):
            frozen.to(run.device).eval().requires_grad_(False)
        self.samples = Samples(run, make_source(run, tokenizer), report, drop=_DROP)
        self.control, self.predict = run.maybe_compiled(self.controlnet), run.maybe_compiled(self.unet)
        self.noiser = Noiser(training_scheduler(), run.device)
        self.take(run.batch_size(48), cpu=48)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        latents, tokens, chosen = self.samples.batch(self.batch, generator)
        edges = unpack_edges(self.samples.data.edges[chosen])
        noisy, velocity, steps = self.noiser(latents, generator)
        with self.run.autocast():
            states = self.text_encoder(tokens).last_hidden_state
            down, middle = self.control(noisy, steps, states, edges, return_dict=False)
            (predicted,) = self.predict(
                noisy,
                steps,
                states,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )
        return self.noiser.loss(predicted, velocity, steps), self.batch
