"""Generation in phases against diffusers' way to hand over from Stable Diffusion XL's base to its refiner."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from darkroom.diffusion import checkpoint
from darkroom.diffusion.generation import FinishedImage, GenerationJob, GenerationProgress, Phase, run, steps_of
from darkroom.diffusion.sampling import Schedule, Step, get_generators, get_noise, get_schedule
from darkroom.diffusion.schedulers import SCHEDULERS, make_scheduler
from darkroom.errors import Cancelled
from darkroom.request.image import ImageRequest
from darkroom.serving.networks import Array, Tensors
from exporters.onnx_export import quiet
from training.networks import make_vae

WIDTH, POOLED, SIDE = 16, 16, 8
CONFIG = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
EMBEDS = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(1))
POOL = torch.randn(1, POOLED, generator=torch.Generator().manual_seed(2))
SEEDS = [7, 8]


def make_unet(seed: int) -> UNet2DConditionModel:
    """Of SDXL's kind: it is told of sizes, and of a pooled embedding."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        cross_attention_dim=WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED,
    ).eval()


@pytest.fixture(scope="module")
def unets() -> list[UNet2DConditionModel]:
    return [make_unet(3), make_unet(4)]


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    """Only its configuration is read: no pixels are made here."""
    return make_vae(widths=(4,) * 4, groups=4)


def make_pipeline(kind: Any, unet: UNet2DConditionModel, vae: AutoencoderKL, name: str, **more: Any) -> Any:
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    with quiet():
        pipeline = kind(unet=unet, vae=vae, scheduler=make_scheduler(name, CONFIG), **nothing, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def their_latents(
    unets: Sequence[UNet2DConditionModel], vae: AutoencoderKL, name: str, steps: int, share: float
) -> Tensor:
    base = make_pipeline(StableDiffusionXLPipeline, unets[0], vae, name, add_watermarker=False)
    refiner = make_pipeline(
        StableDiffusionXLImg2ImgPipeline,
        unets[1],
        vae,
        name,
        add_watermarker=False,
        requires_aesthetics_score=False,
    )
    given = {
        "prompt_embeds": EMBEDS,
        "pooled_prompt_embeds": POOL,
        "num_images_per_prompt": len(SEEDS),
        "num_inference_steps": steps,
        "guidance_scale": 1.0,
        "generator": get_generators(SEEDS),
        "output_type": "latent",
    }
    latents = base(height=8 * SIDE, width=8 * SIDE, denoising_end=share, **given).images
    # From here on a prompt has one image: there are as many prompts as latents.
    rows = len(latents)
    several = {"prompt_embeds": EMBEDS.expand(rows, -1, -1), "pooled_prompt_embeds": POOL.expand(rows, -1)}
    refined: Tensor = refiner(
        image=latents, denoising_start=share, **{**given, **several, "num_images_per_prompt": 1}
    ).images
    return refined


class Asked:
    """A UNet as the `Predict` of a phase, which counts its calls."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet, self.steps = unet, list[Step]()

    async def __call__(self, step: Step) -> Tensor:
        self.steps.append(step)
        rows = len(step.latents)
        size = float(8 * SIDE)
        conditions = {
            "text_embeds": POOL.expand(rows, -1),
            "time_ids": torch.tensor([[size, size, 0, 0, size, size]]).expand(rows, -1),
        }
        with torch.no_grad():
            answer: Tensor = self.unet(
                step.latents,
                step.timestep,
                encoder_hidden_states=EMBEDS.expand(rows, -1, -1),
                added_cond_kwargs=conditions,
                return_dict=False,
            )[0]
        return answer


async def _collect(
    phases: Sequence[Phase], decoded: list[Array], *, stopped: Any = lambda: False, **request: Any
) -> list[GenerationProgress | FinishedImage]:
    async def decoder(inputs: Tensors) -> dict[str, Array]:
        decoded.append(inputs["latents"].copy())
        return {"image": np.zeros((len(inputs["latents"]), 8, 8, 3), np.uint8)}

    fields: dict[str, Any] = {"prompt": "", "steps": 1, "guidance_scale": 1.0, "seed": SEEDS[0], "format": "raw"}
    job = GenerationJob(
        request=ImageRequest(**{**fields, **request}),
        checkpoint=checkpoint.CheckpointInfo(name="", digest="", side=64, scheduler=CONFIG, latent_rgb=[[0.1] * 3] * 5),
        vae_decoder=decoder,
        details={},
        stopped=stopped,
    )
    generators = get_generators(SEEDS)
    noise = get_noise(generators, (4, SIDE, SIDE))
    return [event async for event in run(job, noise, phases, generators)]


def our_latents(phases: Sequence[Phase], **request: Any) -> Tensor:
    decoded: list[Array] = []
    asyncio.run(_collect(phases, decoded, **request))
    return torch.from_numpy(decoded[0])


def two_phases(name: str, steps: int, share: float, asked: Sequence[Asked]) -> list[Phase]:
    parts: list[dict[str, Any]] = [{"end": share}, {"start": share}]
    schedules = [get_schedule(name, CONFIG, steps, **part) for part in parts]
    return [Phase(schedule=one, predict=predict) for one, predict in zip(schedules, asked, strict=True)]


@pytest.mark.parametrize(("steps", "share"), [(10, 0.8), (7, 0.5), (5, 0.63)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_phases_end_where_diffusers_base_and_refiner_end(
    unets: list[UNet2DConditionModel], vae: AutoencoderKL, name: str, steps: int, share: float
) -> None:
    asked = [Asked(unet) for unet in unets]
    ours = our_latents(two_phases(name, steps, share, asked))
    theirs = their_latents(unets, vae, name, steps, share)
    assert all(one.steps for one in asked), "both networks must have been called"
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_phases_differ_from_one_network_alone(unets: list[UNet2DConditionModel]) -> None:
    both = our_latents(two_phases("euler", 10, 0.8, [Asked(unet) for unet in unets]))
    alone = our_latents([Phase(schedule=get_schedule("euler", CONFIG, 10), predict=Asked(unets[0]))])
    assert not torch.allclose(both, alone, atol=1e-2)


@pytest.mark.parametrize("name", ["ddim", "pndm", "euler_a", "dpmpp_2m_karras", "heun"])
def test_one_phase_is_the_plain_loop(unets: list[UNet2DConditionModel], name: str) -> None:
    schedule = get_schedule(name, CONFIG, 6)
    assert schedule.begin == 0
    ours = our_latents([Phase(schedule=schedule, predict=Asked(unets[0]))])
    scheduler, predict = make_scheduler(name, CONFIG), Asked(unets[0])
    scheduler.set_timesteps(6)
    generators = get_generators(SEEDS)
    latents = get_noise(generators, (4, SIDE, SIDE)) * scheduler.init_noise_sigma
    extra = {"generator": generators} if name == "euler_a" else {}
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        noise_pred = asyncio.run(predict(Step(index=index, timestep=float(timestep), latents=scaled)))
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **extra)[0]
    assert torch.equal(ours, latents)


def test_phases_count_their_steps_together(unets: list[UNet2DConditionModel]) -> None:
    asked = [Asked(unet) for unet in unets]
    phases = two_phases("euler", 10, 0.8, asked)
    events = asyncio.run(_collect(phases, [], num_images=2, preview_every=3))
    steps = [event for event in events if isinstance(event, GenerationProgress)]
    assert [len(one.steps) for one in asked] == [8, 2]
    assert steps_of(phases) == 10
    assert [(event.done, event.total) for event in steps] == [(done, 10) for done in range(1, 11)]
    assert [event.done for event in steps if event.preview] == [3, 6, 9]
    finished = [event for event in events if isinstance(event, FinishedImage)]
    assert [event.last for event in finished] == [False, True]
    assert [event.details["negative_prompt"] for event in finished] == ["", ""], "what an absent one is recorded as"


def test_phases_stop_for_a_client_that_has_gone(unets: list[UNet2DConditionModel]) -> None:
    asked = [Asked(unet) for unet in unets]
    phases = two_phases("euler", 10, 0.8, asked)
    with pytest.raises(Cancelled):
        asyncio.run(_collect(phases, [], stopped=lambda: len(asked[1].steps) == 1))
    assert [len(one.steps) for one in asked] == [8, 1]


def test_a_phase_without_steps_is_passed_over(unets: list[UNet2DConditionModel]) -> None:
    asked = [Asked(unet) for unet in unets]
    phases = two_phases("euler", 1, 0.999, asked)
    assert [len(phase.schedule) for phase in phases] == [1, 0]
    plain: Schedule = get_schedule("euler", CONFIG, 1)
    assert torch.equal(our_latents(phases), our_latents([Phase(schedule=plain, predict=Asked(unets[0]))]))
