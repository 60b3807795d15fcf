"""Noise, schedule and the denoising loop: plain functions over latents, the same for every diffusion family.

Latents are torch tensors (n, channels, height, width) float32 on the CPU: next to a network call a step's arithmetic is
nothing, and the solvers are diffusers'. The order of operations is that of diffusers'
pipelines/stable_diffusion/pipeline_stable_diffusion.py, so that the same noise gives the same image; pipelines of
flow matching differ in that their solvers start from plain noise and scale nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.diffusion.schedulers import is_flow, make_scheduler
from darkroom.errors import Cancelled, InvalidInput
from darkroom.request.init_image import strength_steps


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A request's own solver with its timesteps, or with a part of them.

    :param scheduler: a diffusers scheduler whose timesteps are set.
    :param config: the scheduler_config.json that it was made of.
    :param timesteps: (k,), largest first; k is the number of network calls.
    :param begin: how many of the scheduler's timesteps come before these.
    """

    scheduler: Any
    config: Mapping[str, Any]
    timesteps: Tensor
    begin: int = 0

    def __len__(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the network is asked at one step.

    :param index: 0 for the first of the schedule.
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
Keep = Callable[[Tensor, Schedule, int], Tensor]
"""Of the latents after a step, its schedule and its index: the latents that the next step starts from."""


def get_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One source of random numbers per image, on the CPU, where they are the same on every machine."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def get_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """(n, *shape) of standard normal noise; row k comes from the k-th generator alone."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def calculate_shift(tokens: int, config: Mapping[str, Any]) -> float:
    """The shift `mu` of the timesteps for an image with this number of tokens: a straight line through two points.

    It is diffusers' function of that name, called as in its pipelines/qwenimage/pipeline_qwenimage.py.

    :param config: scheduler_config.json. What it does not say is as in that pipeline.
    """
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, highest = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (highest - base) / (most - least)
    return float(tokens * slope + (base - slope * least))


def get_schedule(
    name: str | None,
    config: Mapping[str, Any],
    steps: int,
    *,
    tokens: int | None = None,
    sigmas: Sequence[float] | None = None,
    start: float = 0.0,
    end: float = 1.0,
    strength: float | None = None,
) -> Schedule:
    """A solver for `steps` steps, or for a part of them.

    :param name: a key of `darkroom.diffusion.schedulers.SCHEDULERS` or FLOW_SCHEDULERS; None = the checkpoint's own.
    :param config: the checkpoint's scheduler_config.json.
    :param tokens: of the image, for a solver that shifts its timesteps by them.
    :param sigmas: noise levels (steps,), largest first, in place of the solver's own; they are shifted as those are.
    :param start, end: shares (0..1) of the noise schedule that another network has done before, and that are done when
        this part ends: `denoising_start` and `denoising_end` of diffusers' Stable Diffusion XL pipelines.
    :param strength: of an image that is changed, 0..1: only this share of the steps is done, the last ones. None: there
        is no image.
    :raises InvalidInput: this solver cannot do that number of steps, or takes no noise levels.
    :raises ValueError: there is not one noise level for each step.
    """
    scheduler = make_scheduler(name, config)
    label = name or config["_class_name"]
    arguments: dict[str, Any] = {"num_inference_steps": steps}
    if sigmas is not None:
        if len(sigmas) != steps:
            raise ValueError(f"there must be {steps} sigmas; got {len(sigmas)}")
        if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
            raise InvalidInput(f"scheduler: {label} does not take given noise levels.", param="scheduler")
        arguments = {"sigmas": np.array(sigmas)}
    if tokens is not None and scheduler.config.get("use_dynamic_shifting"):
        arguments["mu"] = calculate_shift(tokens, config)
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # of what is refused below
            scheduler.set_timesteps(**arguments)
        timesteps = scheduler.timesteps
        # One step cannot be stretched to end at `shift_terminal`; as a whole number that is one far below zero.
        if not timesteps.isfinite().all() or timesteps.min() < -1:
            raise ValueError("its timesteps are not finite")
    except ValueError as error:
        raise InvalidInput(f"steps: {steps} steps do not work with {label} ({error}).", param="steps") from None
    whole = Schedule(scheduler=scheduler, config=config, timesteps=scheduler.timesteps)
    return _part(whole, start, end, None if strength is None else _skipped(whole, steps, strength))


def _skipped(schedule: Schedule, steps: int, strength: float) -> int:
    """How many timesteps are left out for an image that is changed: as by `get_timesteps` of diffusers' img2img
    pipelines, and all where `strength` is less than a step."""
    done = strength_steps(steps, strength)
    return (steps - done) * int(schedule.scheduler.order) if done else len(schedule)


def _part(schedule: Schedule, start: float, end: float, skipped: int | None) -> Schedule:
    """The steps of a schedule whose timesteps are between the two shares, without the `skipped` first ones of all.

    Cut as in diffusers 0.42, pipelines/stable_diffusion_xl: `end` by pipeline_stable_diffusion_xl.py (8.1, "Apply
    denoising_end"), `start` by `get_timesteps` of pipeline_stable_diffusion_xl_img2img.py. Both compare timesteps with
    a share of `num_train_timesteps`, so the parts may have other shares of the steps.
    """
    timesteps, begin = schedule.timesteps, 0
    if start > 0:
        count = int((timesteps < _cutoff(schedule.scheduler, start)).sum())
        if schedule.scheduler.order == 2 and count % 2 == 0:
            count += 1  # the second half of a step of two calls cannot be the first
        begin = max(len(timesteps) - count, 0)
    if skipped is not None:
        begin = min(max(begin, skipped), len(timesteps))
    if (start > 0 or skipped is not None) and hasattr(schedule.scheduler, "set_begin_index"):
        schedule.scheduler.set_begin_index(begin)
    stop = len(timesteps)
    if end < 1:
        stop = max(begin, int((timesteps >= _cutoff(schedule.scheduler, end)).sum()))
    return replace(schedule, timesteps=timesteps[begin:stop], begin=begin)


def _cutoff(scheduler: Any, share: float) -> int:
    """The timestep at which this share of the noise schedule is done."""
    trained: int = scheduler.config.num_train_timesteps
    return round(trained - share * trained)


def initial_latents(noise: Tensor, schedule: Schedule) -> Tensor:
    """`noise`, scaled as the solver wants what it starts from."""
    scale: float | Tensor = getattr(schedule.scheduler, "init_noise_sigma", 1.0)
    return noise * scale


async def denoise(
    latents: Tensor,
    schedule: Schedule,
    predict: Predict,
    *,
    generators: Sequence[torch.Generator],
    stopped: Callable[[], bool] = lambda: False,
    keep: Keep | None = None,
) -> AsyncIterator[Stepped]:
    """Run the loop; yields after every step.

    :param latents: (n, channels, height, width), from `initial_latents`, or what another network has begun.
    :param predict: asks the network; the answer is shaped as the step's latents.
    :param generators: for the solvers that add noise at every step.
    :param stopped: asked before every step whether the client has gone.
    :param keep: keeps something of another image.
    :raises Cancelled: it has.
    """
    scheduler = schedule.scheduler
    extra = _step_arguments(scheduler, generators)
    for index, timestep in enumerate(schedule.timesteps):
        if stopped():
            raise Cancelled("The client cancelled the request.")
        scales = hasattr(scheduler, "scale_model_input")
        scaled = scheduler.scale_model_input(latents, timestep) if scales else latents
        step = Step(index=index, timestep=float(timestep), latents=scaled)
        noise_pred = await predict(step)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **extra)[0]
        if keep is not None:
            latents = keep(latents, schedule, index)
        yield Stepped(step=step, latents=latents, noise_pred=noise_pred)


def _step_arguments(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Only some solvers draw noise, and only those take generators."""
    accepts = inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if "generator" in accepts else {}


def predicted_original(stepped: Stepped, schedule: Schedule) -> Tensor:
    """The image's latents as the network sees them at this step; shaped as the step's latents.

    x0 of DDIM (Song et al. 2021, equation 12), which holds for every solver of that kind, because what they hand to
    the network is always variance preserving; of flow matching, what lies sigma times the velocity away.
    """
    sample, prediction = stepped.step.latents, stepped.noise_pred
    if is_flow(schedule.config):
        sigma: Tensor = schedule.scheduler.sigmas[schedule.begin + stepped.step.index]
        return sample - sigma * prediction
    alphas_cumprod = schedule.scheduler.alphas_cumprod
    index = min(int(stepped.step.timestep + 0.5), len(alphas_cumprod) - 1)
    alpha: Tensor = alphas_cumprod[index]
    kind = schedule.config.get("prediction_type", "epsilon")
    if kind == "v_prediction":
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * prediction
    if kind == "sample":
        return prediction
    return (sample - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
