"""The training of the Stable Diffusion demo checkpoints: a few real steps of every stage, and what an export takes."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from training.chunks import Order, make_chunks
from training.dataset import unpack_edges
from training.demo.sd15.card import CONTROL, TEXT
from training.demo.sd15.models import training_scheduler
from training.export import export
from training.family import families
from training.noise import Noiser
from training.restore import restore
from training.train import make_stage
from training.trainer import Budget, Trainer, TrainingRun, averaged_weights, state_path

SD15 = families()["sd15"]
STAGES = {"vae": 2, "unet": 3, "controlnet": 2}
"""And how many steps each is trained."""


def _stage(run: TrainingRun, name: str) -> Any:
    stage: Any = make_stage(name, run, lambda text: None)
    stage.batch = 4
    stage.learning_rate = 1e-2  # of which a few of the 200 steps of warming up leave little
    return stage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    made = TrainingRun(folder=tmp_path_factory.mktemp("state"), seed=0, device=torch.device("cpu"), samples=64)
    for name, steps in STAGES.items():
        Trainer(made, _stage(made, name), lambda text: None).train(Budget(steps=steps))
    return made


def test_chunks_are_the_same_whoever_makes_them() -> None:
    orders = [Order(seed=seed, count=3, strays=0.5, edges=seed != 2) for seed in range(4)]
    alone, together = list(make_chunks(orders, 1)), list(make_chunks(orders, 2))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.pictures, other.pictures)
        assert np.array_equal(one.edges, other.edges)
        assert one.sentences == other.sentences
    assert [chunk.edges.shape for chunk in alone] == [(3, 2048), (3, 2048), (3, 0), (3, 2048)]


def test_edges_are_unpacked_as_they_were_packed() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (2, 128, 128), np.uint8)
    found = unpack_edges(torch.from_numpy(np.stack([np.packbits(one) for one in bits])))
    assert found.shape == (2, 3, 128, 128)
    assert all(np.array_equal(found[:, channel].numpy(), bits) for channel in range(3))


def test_half_of_the_samples_are_noise_alone_as_sampling_begins() -> None:
    noiser, latents = Noiser(training_scheduler(), torch.device("cpu")), torch.full((1000, 4, 2, 2), 1000.0)
    noisy, velocity, steps = noiser(latents, torch.Generator().manual_seed(0))
    alone = noisy.abs().amax(dim=(1, 2, 3)) < 10  # at the last timestep there would be 68 of the picture
    assert 0.45 < alone.float().mean() < 0.55
    assert (int(steps[alone].min()) >= 750, int(steps.min()) < 20, int(steps.max())) == (True, True, 999)
    assert (velocity[alone] < -800).all(), "the picture is asked for all the same"


def test_larger_batches_take_larger_steps(run: TrainingRun) -> None:
    stage = make_stage("unet", replace(run, batch=256), lambda text: None)
    assert (stage.batch, stage.learning_rate) == (256, 2e-3)
    assert stage.average == pytest.approx(0.996)
    assert run.batch_size(64) == 64
    assert replace(run, device=torch.device("cuda")).batch_size(64) == 2048


def test_a_spoiled_state_is_not_kept(run: TrainingRun, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path, dirs_exist_ok=True)
    stage = _stage(replace(run, folder=tmp_path), "controlnet")
    before = state_path(stage.run, stage.name).read_bytes()
    stage.loss = lambda step, progress: (sum(p.sum() for p in stage.modules.parameters()) * math.nan, 1)
    with pytest.raises(FloatingPointError, match="the loss of controlnet is nan at step 3; the last state stays"):
        Trainer(stage.run, stage, lambda text: None).train(Budget(steps=3))
    assert state_path(stage.run, stage.name).read_bytes() == before


def test_training_goes_on_from_a_checkpoint_with_a_new_budget(run: TrainingRun, tmp_path: Path) -> None:
    export(run, tmp_path, lambda text: None, SD15)
    again = replace(run, folder=tmp_path / "state")
    restore(again, tmp_path, lambda text: None, SD15)
    trainer = Trainer(again, _stage(again, "controlnet"), lambda text: None)
    trainer.train(Budget(steps=2))
    assert (trainer.clock.step, trainer.clock.begun_step) == (4, 2)
    trainer = Trainer(again, _stage(again, "controlnet"), lambda text: None)
    trainer.train(Budget(steps=2))
    assert trainer.clock.step == 4, "nothing is left of it"


def test_an_export_has_the_averaged_weights_and_says_what_it_wants(run: TrainingRun, tmp_path: Path) -> None:
    export(run, tmp_path, lambda text: None, SD15)
    unet: Any = UNet2DConditionModel.from_pretrained(tmp_path / TEXT / "unet")
    state = unet.state_dict()
    averaged = averaged_weights(run, "unet")["unet"]
    assert all(torch.allclose(state[name], value.half().float()) for name, value in averaged.items())
    assert list(json.loads((tmp_path / TEXT / "training.json").read_text())) == ["vae", "unet"]
    assert json.loads((tmp_path / TEXT / "generation_config.json").read_text()) == {"guidance_scale": 2.0}
    assert ControlNetModel.from_pretrained(tmp_path / CONTROL).config.conditioning_channels == 3
