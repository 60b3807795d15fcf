"""The training loop. A run that was killed resumes from its saved state and ends in the same bytes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import InvalidInput
from darkroom.files import write_atomically
from training.lora.adapter import add_adapter, load_weights, trained, weights_of
from training.lora.cache import MEAN, STD, SampleCache
from training.lora.family import LoraFamily, stacked
from training.lora.objective import Objective, generator_of
from training.lora.plan import Plan
from training.lora.prior import PRIOR_WEIGHT
from training.trainer import save_file

STATE, LOSSES = "checkpoint.pt", "loss.csv"
_WEIGHT_DECAY, _LARGEST_NORM = 1e-2, 1.0

Report = Callable[[dict[str, Any]], None]
"""Called with the progress as a dict of JSON values."""


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


class LoraTrainer:
    """Trains the LoRA of one plan. Noise, timesteps and the order of the images depend on seed and step alone.

    On a GPU the frozen UNet has 16 bits and the LoRA 32; on a CPU all of it has 32.

    :param folder: of the state.
    :param root: the folder of the checkpoint.
    :ivar losses: of the steps that are done.
    """

    def __init__(self, folder: Path, plan: Plan, family: LoraFamily, root: Path, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.losses: list[float] = []
        self.objective = Objective(root)
        self._folder, self._family = folder, family
        self._samples = SampleCache(folder, plan)
        half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        self._autocast = torch.autocast(device.type, half, enabled=device.type == "cuda")
        self._scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and half is torch.float16)
        self._unet = self._made(family.load(root, "unet"), half)
        self._optimizer = torch.optim.AdamW(
            [weight for _, weight in trained(self._unet)],
            lr=plan.request.learning_rate,
            weight_decay=_WEIGHT_DECAY,
        )
        self._load()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The LoRA as it is; see `adapter.weights_of`.

        :raises InvalidInput: its numbers are not finite.
        """
        found = weights_of(self._unet)
        if not all(bool(torch.isfinite(weight).all()) for weight in found.values()):
            raise self._diverged("weights are not finite")
        return found

    def train(
        self,
        report: Report,
        stop: threading.Event,
        save_seconds: float,
        after: Callable[[int], None],
    ) -> None:
        """Do the steps that are left.

        :param save_seconds: between saved states; 0 saves after every step.
        :param after: called after each step with its number, from 1.
        :raises Stopped: `stop` was set.
        :raises InvalidInput: the loss is no finite number; the last saved state stays.
        """
        saved = time.monotonic()
        write_atomically(self._folder / LOSSES, self._table().encode())
        report({"step": len(self.losses), "steps": self.plan.steps})
        with (self._folder / LOSSES).open("a") as table:
            while len(self.losses) < self.plan.steps:
                if stop.is_set():
                    self._save()
                    raise Stopped
                loss = self._step(len(self.losses))
                self.losses.append(loss)
                table.write(_row(len(self.losses), loss))
                table.flush()
                if time.monotonic() - saved >= save_seconds:
                    self._save()
                    saved = time.monotonic()
                after(len(self.losses))
                report({"step": len(self.losses), "steps": self.plan.steps, "loss": loss})
        self._save()

    def _made(self, unet: Any, half: torch.dtype) -> Any:
        """The UNet on its device, with the LoRA in it."""
        from diffusers.models.attention_processor import AttnProcessor

        if self.device.type == "cuda":
            unet.to(half)
        else:
            unet.set_attn_processor(AttnProcessor())  # torch's fused attention is slow backwards on a CPU
        add_adapter(unet, self.plan.request)
        unet.enable_gradient_checkpointing()
        return unet.to(self.device)  # in evaluation mode: dropout would draw other numbers after a resume

    def _step(self, step: int) -> float:
        """One optimizer step; returns the loss of the examples.

        :raises InvalidInput: the loss is no finite number.
        """
        generator = generator_of(self.plan.request.seed, step)
        self._optimizer.zero_grad()
        value = self._learn([self._samples.read(index) for index in self.plan.batch(step)], generator)
        if prior := [self._samples.read_prior(index) for index in self.plan.prior_batch(step)]:
            self._learn(prior, generator, weight=PRIOR_WEIGHT)  # by itself: the images may have other sizes
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_([weight for _, weight in trained(self._unet)], _LARGEST_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return value

    def _learn(self, samples: list[dict[str, Tensor]], generator: torch.Generator, weight: float = 1.0) -> float:
        """Add the gradients of some samples of one size; returns their loss.

        :param weight: of the loss among those of the step.
        :raises InvalidInput: the loss is no finite number.
        """
        batch = stacked(samples)
        mean, std = batch.pop(MEAN), batch.pop(STD)
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        noisy, target, steps = (value.to(self.device) for value in self.objective.noisy(latents, generator))
        given = self._family.arguments({name: value.to(self.device) for name, value in batch.items()})
        with self._autocast:
            predicted = self._unet(noisy, steps, **given, return_dict=False)[0]
        loss = self.objective.loss(predicted, target, steps)
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        torch.autograd.backward(self._scaler.scale(weight * loss))
        return value

    def _diverged(self, what: str) -> InvalidInput:
        return InvalidInput(
            f"The training has diverged: {what} at step {len(self.losses) + 1} of {self.plan.steps}. A lower "
            f"learning_rate than {self.plan.request.learning_rate:g} may help.",
            param="learning_rate",
        )

    def _table(self) -> str:
        return "step,loss\n" + "".join(_row(number, loss) for number, loss in enumerate(self.losses, 1))

    def _save(self) -> None:
        """Write the state; the old one stays until the new one is whole."""
        state = {
            "weights": self.weights,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "losses": self.losses,
        }
        save_file(self._folder / STATE, state)

    def _load(self) -> None:
        path = self._folder / STATE
        if path.is_file():
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            load_weights(self._unet, state["weights"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self.losses = state["losses"]


def _row(step: int, loss: float) -> str:
    return f"{step},{loss:.9g}\n"
