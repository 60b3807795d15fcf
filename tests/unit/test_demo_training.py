"""The training of the Stable Diffusion demo checkpoints: a few real steps of every stage, and what an export takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from exporters.demo.card import CONTROL, TEXT
from exporters.demo.export import export
from exporters.demo.train import make_stage
from exporters.demo.trainer import Budget, Run, Trainer, averaged_weights

STAGES = {"vae": 2, "unet": 3, "controlnet": 2}
"""And how many steps each is trained."""


def _stage(run: Run, name: str) -> Any:
    stage: Any = make_stage(name, run, lambda text: None)
    stage.batch = 4
    stage.learning_rate = 1e-2  # of which a few of the 200 steps of warming up leave little
    return stage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(folder=tmp_path_factory.mktemp("state"), seed=0, device=torch.device("cpu"), samples=64)
    for name, steps in STAGES.items():
        Trainer(made, _stage(made, name), lambda text: None).train(Budget(steps=steps))
    return made


def test_an_export_has_the_averaged_weights_and_says_what_it_wants(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path, lambda text: None)
    unet: Any = UNet2DConditionModel.from_pretrained(tmp_path / TEXT / "unet")
    state = unet.state_dict()
    averaged = averaged_weights(run, "unet")["unet"]
    assert all(torch.allclose(state[name], value.half().float()) for name, value in averaged.items())
    assert list(json.loads((tmp_path / TEXT / "training.json").read_text())) == ["vae", "unet"]
    assert json.loads((tmp_path / TEXT / "generation_config.json").read_text()) == {"guidance_scale": 2.0}
    assert ControlNetModel.from_pretrained(tmp_path / CONTROL).config.conditioning_channels == 3
