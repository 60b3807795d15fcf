"""Schedules: noise levels that are given, shifts that depend on the size of the image, and parts."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, UniPCMultistepScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift as their_shift

from darkroom.diffusion.sampling import Step, Stepped, calculate_shift, get_schedule, predicted_original
from darkroom.errors import InvalidInput

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
OF_QWEN = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}
"""What Qwen/Qwen-Image's scheduler_config.json says beside the class."""
NOISE = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False}


def of_pipeline(config: dict[str, Any], tokens: int) -> float:
    """mu, as diffusers' pipeline_qwenimage.py asks for it."""
    shift: float = their_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    return shift


@pytest.mark.parametrize("config", [{}, OF_QWEN, {"max_shift": 2.0, "base_image_seq_len": 64}])
@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096, 16384])
def test_calculate_shift_is_diffusers(config: dict[str, Any], tokens: int) -> None:
    assert calculate_shift(tokens, config) == pytest.approx(of_pipeline(config, tokens), abs=1e-12)


@pytest.mark.parametrize("given", [False, True], ids=["own sigmas", "given sigmas"])
@pytest.mark.parametrize("terminal", [None, 0.02])
@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("shifts", [{}, {"base_shift": 0.3, "max_shift": 0.9, "max_image_seq_len": 8192}])
@pytest.mark.parametrize("dynamic", [False, True])
def test_get_schedule_is_diffusers_schedule(
    dynamic: bool, shifts: dict[str, Any], kind: str, terminal: float | None, given: bool
) -> None:
    changes = {"use_dynamic_shifting": dynamic, "time_shift_type": kind, "shift_terminal": terminal, **shifts}
    config = {**FLOW, **changes}
    for tokens, steps in product((64, 1024, 4096), (1, 4, 30)):
        if terminal and steps == 1:
            continue  # see the next test
        sigmas = np.linspace(1.0, 1 / steps, steps) if given else None
        theirs = FlowMatchEulerDiscreteScheduler.from_config(config)
        how = {"sigmas": sigmas} if given else {"num_inference_steps": steps}
        theirs.set_timesteps(**how, mu=of_pipeline(config, tokens) if dynamic else None)
        ours = get_schedule(None, config, steps, tokens=tokens, sigmas=None if sigmas is None else sigmas.tolist())
        assert len(ours) == steps
        assert torch.equal(ours.timesteps, theirs.timesteps)
        assert torch.equal(ours.scheduler.sigmas, theirs.sigmas)


def test_get_schedule_refuses_a_single_step_that_would_have_to_end_elsewhere() -> None:
    """diffusers divides zero by zero there, and makes an image of no numbers."""
    for sigmas in (None, [1.0]):
        with pytest.raises(InvalidInput, match=r"steps: 1 steps do not work with .* not finite") as raised:
            get_schedule(None, {**FLOW, **OF_QWEN}, 1, tokens=1024, sigmas=sigmas)
        assert raised.value.param == "steps"


def test_get_schedule_depends_on_the_tokens_only_where_the_shift_is_dynamic() -> None:
    for config, differs in ((FLOW, False), ({**FLOW, **OF_QWEN}, True)):
        few, many = (get_schedule(None, config, 8, tokens=tokens).timesteps for tokens in (256, 4096))
        assert torch.equal(few, many) is not differs


@pytest.mark.parametrize(
    ("name", "kind"), [("flow_unipc", UniPCMultistepScheduler), ("flow_flash", FlowMatchLCMScheduler)]
)
def test_another_solver_keeps_the_dynamic_shift(name: str, kind: Any) -> None:
    config = {**FLOW, **OF_QWEN}
    sigmas = np.linspace(1.0, 1 / 8, 8)
    wanted = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} if name == "flow_unipc" else {}
    theirs = kind(num_train_timesteps=1000, use_dynamic_shifting=True, shift_terminal=0.02, **wanted)
    theirs.set_timesteps(sigmas=sigmas, mu=of_pipeline(config, 1024))
    ours = get_schedule(name, config, 8, tokens=1024, sigmas=sigmas.tolist())
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.scheduler.sigmas, theirs.sigmas)


def test_given_sigmas_need_a_solver_that_takes_them() -> None:
    with pytest.raises(InvalidInput, match="scheduler: ddim does not take given noise levels") as raised:
        get_schedule("ddim", NOISE, 4, sigmas=[1, 0.7, 0.5, 0.2])
    assert raised.value.param == "scheduler"
    with pytest.raises(ValueError, match="there must be 4 sigmas; got 3"):
        get_schedule("flow_euler", FLOW, 4, sigmas=[1, 0.7, 0.2])


@pytest.mark.parametrize("config", [NOISE, FLOW, {**FLOW, **OF_QWEN}], ids=["noise", "flow", "dynamic flow"])
def test_parts_of_a_schedule_are_the_whole(config: dict[str, Any]) -> None:
    whole = get_schedule(None, config, 20, tokens=1024)
    for share in (0.2, 0.5, 0.8, 1.0):
        first = get_schedule(None, config, 20, tokens=1024, end=share)
        second = get_schedule(None, config, 20, tokens=1024, start=share)
        assert torch.equal(torch.cat([first.timesteps, second.timesteps]), whole.timesteps)
        assert (first.begin, second.begin) == (0, len(first))
        assert (first.timesteps >= 1000 - share * 1000).all()
        assert (second.timesteps <= 1000 - share * 1000).all()
    middle = get_schedule(None, config, 20, tokens=1024, start=0.3, end=0.6)
    assert torch.equal(middle.timesteps, whole.timesteps[middle.begin : middle.begin + len(middle)])
    assert 0 < len(middle) < 20


def test_predicted_original_in_a_part_of_a_schedule() -> None:
    """The prediction is a velocity: what lies sigma times it away is the same for every sigma."""
    whole = get_schedule(None, FLOW, 10)
    part = get_schedule(None, FLOW, 10, start=0.5)
    original, noise = torch.randn(2, 1, 4, 8, 8).unbind()
    for index, timestep in enumerate(part.timesteps):
        sigma = whole.scheduler.sigmas[part.begin + index]
        step = Step(index=index, timestep=float(timestep), latents=(1 - sigma) * original + sigma * noise)
        stepped = Stepped(step=step, latents=step.latents, noise_pred=noise - original)
        torch.testing.assert_close(predicted_original(stepped, part), original, rtol=0, atol=1e-5)
