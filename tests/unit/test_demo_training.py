"""The training of the Stable Diffusion demo checkpoints: a few real steps of every stage, and what an export takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from exporters.demo.card import CONTROL, TEXT
from exporters.demo.export import export
from exporters.demo.guidance_stage import NAME as GUIDANCE
from exporters.demo.guidance_stage import TAUGHT, WANTED, guided
from exporters.demo.train import make_stage
from exporters.demo.trainer import Budget, Run, Trainer, averaged_weights

STAGES = {"vae": 2, "unet": 20, GUIDANCE: 3, "controlnet": 2}
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


def test_the_guided_prediction_is_that_of_diffusers() -> None:
    predicted = torch.randn(4, 4, 2, 2)
    ours = guided(predicted, 3.0)
    # StableDiffusionPipeline.__call__ of diffusers 0.42, which has the rows without a sentence first
    without, text = predicted[2:], predicted[:2]
    assert torch.equal(ours, without + 3.0 * (text - without))
    assert torch.allclose(guided(predicted, 1.0), predicted[:2])


def test_the_taught_guidance_is_learned(run: Run) -> None:
    """It begins far from it, as the network is its own teacher at another scale, and comes nearer."""
    stage = _stage(run, GUIDANCE)
    for unet in (stage.modules["unet"], stage.teacher["unet"]):  # which after so few steps hardly listens to sentences
        for name, weights in unet.named_parameters():
            if "attn2.to_out.0.weight" in name:
                weights.data *= 30
    before = _error(stage)
    difference = (WANTED - TAUGHT) ** 2
    assert before == pytest.approx(difference * _gap(stage), rel=0.1)
    optimizer = torch.optim.AdamW(stage.modules.parameters(), lr=1e-4)
    for _ in range(30):
        loss, count = stage.loss(0, 0.0)
        assert count == 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert _error(stage) < 0.5 * before


def _error(stage: Any) -> float:
    with torch.no_grad():
        return float(stage.loss(0, 0.0)[0])


def _gap(stage: Any) -> float:
    """How much a sentence changes, by the teacher, on the same samples."""
    seen: list[Tensor] = []
    teach = stage.teach

    def listening(*inputs: Any, **options: Any) -> Any:
        answer = teach(*inputs, **options)
        seen.append(answer[0].float())
        return answer

    stage.teach = listening
    _error(stage)
    stage.teach = teach
    with_sentence, without = seen[0].chunk(2)
    return float((with_sentence - without).square().mean())


def test_the_teacher_stays_as_it_was(run: Run) -> None:
    stage = _stage(run, GUIDANCE)
    Trainer(run, stage, lambda text: None).train(Budget(steps=STAGES[GUIDANCE] + 1))
    taught = averaged_weights(run, "unet")["unet"]
    assert all(torch.equal(value, taught[name]) for name, value in stage.teacher["unet"].state_dict().items())


def test_an_export_takes_what_was_trained_last(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path, lambda text: None)
    unet: Any = UNet2DConditionModel.from_pretrained(tmp_path / TEXT / "unet")
    last, before = averaged_weights(run, GUIDANCE)["unet"], averaged_weights(run, "unet")["unet"]
    state = unet.state_dict()
    assert all(torch.allclose(state[name], value.half().float()) for name, value in last.items())
    assert any(not torch.allclose(state[name], value.half().float()) for name, value in before.items())
    assert list(json.loads((tmp_path / TEXT / "training.json").read_text())) == ["vae", "unet", GUIDANCE]
    assert ControlNetModel.from_pretrained(tmp_path / CONTROL).config.conditioning_channels == 3
