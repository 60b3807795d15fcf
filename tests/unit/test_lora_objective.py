"""The error that LoRAs are trained on, against diffusers; and what a sample says of its image."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from darkroom.errors import InvalidInput
from tests import tiny_sdxl
from tests.lora_trainings import run_of, write_images
from training.lora.cache import MEAN, STD, SampleCache
from training.lora.family import find_checkpoint
from training.lora.objective import MIN_SNR_GAMMA, Objective, generator_of
from training.lora.plan import prepare
from training.lora.trainer import LoraTrainer


def write_scheduler(folder: Path, **changes: Any) -> Path:
    (folder / "scheduler").mkdir(parents=True)
    config = {"_class_name": "EulerDiscreteScheduler", **tiny_sdxl.SCHEDULER, **changes}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_objective_is_min_snr(tmp_path: Path, prediction: str) -> None:
    """As the training scripts of diffusers have it."""
    objective = Objective(write_scheduler(tmp_path, prediction_type=prediction))
    latents, generator = torch.randn(64, 4, 8, 8, generator=generator_of(0, 0)), generator_of(1, 2)
    noisy, target, steps = objective.noisy(latents, generator)
    scheduler = DDPMScheduler.from_config({**tiny_sdxl.SCHEDULER, "prediction_type": prediction})
    again = generator_of(1, 2)
    noise = torch.randn(latents.shape, generator=again)
    assert torch.equal(steps, torch.randint(1000, (64,), generator=again))
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, steps))
    velocity = scheduler.get_velocity(latents, noise, steps)
    torch.testing.assert_close(target, noise if prediction == "epsilon" else velocity)
    predicted = torch.randn(64, 4, 8, 8, generator=again)
    snr = compute_snr(scheduler, steps)
    weights = snr.clamp(max=MIN_SNR_GAMMA) / (snr if prediction == "epsilon" else snr + 1)
    expected = ((predicted - target).square().mean(dim=(1, 2, 3)) * weights).mean()
    torch.testing.assert_close(objective.loss(predicted, target, steps), expected)


def test_objective_of_a_schedule_that_ends_in_pure_noise(tmp_path: Path) -> None:
    objective = Objective(write_scheduler(tmp_path, prediction_type="v_prediction", rescale_betas_zero_snr=True))
    ones = torch.ones(1, 4, 8, 8)
    assert objective.loss(ones, 2 * ones, torch.tensor([999])).isfinite()


def test_objective_of_another_prediction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="epsilon or v_prediction; got 'sample'"):
        Objective(write_scheduler(tmp_path, prediction_type="sample"))


@pytest.fixture
def trainer(tmp_path: Path) -> LoraTrainer:
    """One of SDXL's classes, whose samples are cached."""
    tiny_sdxl.write_checkpoint(tmp_path / "tiny")
    run = run_of(tmp_path, write_images(tmp_path / "images"), tmp_path / "tiny", steps=2)
    family, root = find_checkpoint(run.checkpoint)
    plan = prepare(run.state, run.images, run.options, checkpoint=run.checkpoint, root=root, side=64, threads=1)
    SampleCache(run.state, plan).fill(family, root, run.images, run.device, lambda done: None)
    return LoraTrainer(run.state, plan, family, root, run.device)


def test_sample_has_embeddings_sizes_and_latents_of_the_checkpoint(trainer: LoraTrainer, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "tiny", add_watermarker=False)
    for index, example in enumerate(trainer.plan.examples):
        sample = trainer._samples.read(index)
        with torch.no_grad():
            states, _, pooled, _ = pipeline.encode_prompt(example.caption, do_classifier_free_guidance=False)
        torch.testing.assert_close(sample["states"], states[0])
        torch.testing.assert_close(sample["pooled"], pooled[0])
        (wide, high), (left, top), (width, height) = example.fit.original, example.fit.corner, example.fit.size
        ids = pipeline._get_add_time_ids(
            (high, wide), (top, left), (height, width), torch.float32, pipeline.text_encoder_2.config.projection_dim
        )
        assert torch.equal(sample["time_ids"], ids[0])
        assert sample[MEAN].shape == sample[STD].shape == (4, height // 8, width // 8)
    wide_one = next(one for one in trainer.plan.examples if one.fit.size == (256, 64))
    assert wide_one.fit.original == (260, 70)


def test_trainer_trains_the_lora_alone_with_gradient_checkpointing(trainer: LoraTrainer) -> None:
    unet = trainer._unet
    assert unet.is_gradient_checkpointing
    frozen = {name: weight.clone() for name, weight in unet.named_parameters() if not weight.requires_grad}
    before = trainer.weights
    steps: list[int] = []
    trainer.train(lambda line: None, threading.Event(), 3600, steps.append)
    assert steps == list(range(1, trainer.plan.steps + 1))
    after = trainer.weights
    assert all("lora_" in name for name in after)
    assert all(torch.equal(weight, frozen[name]) for name, weight in unet.named_parameters() if name in frozen)
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert len(changed) == len(after)
