"""Noise, schedule and the denoising loop: plain functions over latents, the same for every diffusion family.

Latents are torch tensors (n, channels, height, width) float32 on the CPU: next to a network call a step's arithmetic is
nothing, and the solvers are diffusers'. The order of operations is that of diffusers'
pipelines/stable_diffusion/pipeline_stable_diffusion.py, so that the same noise gives the same picture; pipelines of
flow matching (pipelines/hidream_image) differ in that their solvers start from plain noise and scale nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darkroom.diffusion.schedulers import is_flow, make_scheduler
from darkroom.errors import Cancelled, InvalidInput


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A request's own solver with its timesteps.

    :param scheduler: a diffusers scheduler whose timesteps are set.
    :param timesteps: (k,), largest first; k is the number of network calls.
    """

    scheduler: Any
    timesteps: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the network is asked at one step.

    :param index: 0 for the first.
    :param timestep: for the network, 0..1000.
    :param latents: (n, channels, height, width), scaled as the network expects them.
    """

    index: int
    timestep: float
    latents: Tensor


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A finished step.

    :param latents: what the next step starts from; after the last one, the result.
    :param step: what the network was asked.
    :param noise_pred: what it answered, (n, channels, height, width).
    """

    step: Step
    latents: Tensor
    noise_pred: Tensor


Predict = Callable[[Step], Awaitable[Tensor]]


def get_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One source of random numbers per picture, on the CPU, where they are the same on every machine."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def get_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """(n, *shape) of standard normal noise; row k comes from the k-th generator alone."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def calculate_shift(tokens: int) -> float:
    """The exponent `mu` of dynamic shifting for so many tokens of a picture (diffusers' function of that name)."""
    slope = (1.15 - 0.5) / (4096 - 256)
    return 0.5 + slope * (tokens - 256)


def get_schedule(name: str | None, config: Mapping[str, Any], steps: int, *, tokens: int | None = None) -> Schedule:
    """A solver for `steps` steps.

    :param name: a key of `darkroom.diffusion.schedulers.SCHEDULERS` or FLOW_SCHEDULERS; None = the checkpoint's own.
    :param config: the checkpoint's scheduler_config.json.
    :param tokens: of the picture, for a solver that shifts its timesteps by them.
    :raises InvalidInput: this solver cannot do so many steps.
    """
    scheduler = make_scheduler(name, config)
    shifted = tokens is not None and scheduler.config.get("use_dynamic_shifting")
    try:
        scheduler.set_timesteps(steps, **({"mu": calculate_shift(tokens or 0)} if shifted else {}))
    except ValueError as error:
        label = name or config["_class_name"]
        raise InvalidInput(f"steps: {steps} steps do not work with {label} ({error}).", param="steps") from None
    return Schedule(scheduler=scheduler, timesteps=scheduler.timesteps)


async def denoise(
    noise: Tensor,
    schedule: Schedule,
    predict: Predict,
    *,
    generators: Sequence[torch.Generator],
    stopped: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Stepped]:
    """Run the loop; yields after every step.

    :param noise: (n, channels, height, width), from `get_noise`.
    :param predict: asks the network; the answer is shaped as the step's latents.
    :param generators: for the solvers that add noise at every step.
    :param stopped: asked before every step whether the client has gone.
    :raises Cancelled: it has.
    """
    scheduler = schedule.scheduler
    extra = _step_arguments(scheduler, generators)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for index, timestep in enumerate(schedule.timesteps):
        if stopped():
            raise Cancelled("The client cancelled the request.")
        scales = hasattr(scheduler, "scale_model_input")
        scaled = scheduler.scale_model_input(latents, timestep) if scales else latents
        step = Step(index=index, timestep=float(timestep), latents=scaled)
        noise_pred = await predict(step)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **extra)[0]
        yield Stepped(step=step, latents=latents, noise_pred=noise_pred)


def _step_arguments(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Only some solvers draw noise, and only those take generators."""
    accepts = inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if "generator" in accepts else {}


def predicted_original(stepped: Stepped, schedule: Schedule, config: Mapping[str, Any]) -> Tensor:
    """The picture's latents as the network sees them at this step; shaped as the step's latents.

    x0 of DDIM (Song et al. 2021, equation 12), which holds for every solver of that kind, because what they hand to
    the network is always variance preserving; of flow matching, what lies sigma times the velocity away.
    """
    sample, prediction = stepped.step.latents, stepped.noise_pred
    if is_flow(config):
        sigma: Tensor = schedule.scheduler.sigmas[stepped.step.index]
        return sample - sigma * prediction
    alphas_cumprod = schedule.scheduler.alphas_cumprod
    index = min(int(stepped.step.timestep + 0.5), len(alphas_cumprod) - 1)
    alpha: Tensor = alphas_cumprod[index]
    kind = config.get("prediction_type", "epsilon")
    if kind == "v_prediction":
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * prediction
    if kind == "sample":
        return prediction
    return (sample - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
