"""A training of the demo that has only its VAE so far can be kept and continued."""

from __future__ import annotations

from pathlib import Path

import torch

from training.demo.qwen_edit.checkpoint import BEGUN, load, save_vae
from training.demo.qwen_edit.family import FAMILY
from training.demo.qwen_edit.models import make_vae
from training.demo.qwen_edit.stage import VAE_STAGE
from training.restore import restore
from training.trainer import TrainingRun, averaged_weights, write_state


def _weights(run: TrainingRun) -> dict[str, torch.Tensor]:
    return averaged_weights(run, VAE_STAGE)["vae"]


def test_a_vae_alone_is_kept_and_restored(tmp_path: Path) -> None:
    runs = [TrainingRun(folder=tmp_path / name, device=torch.device("cpu"), seed=0) for name in ("first", "second")]
    torch.manual_seed(1)
    vae = torch.nn.ModuleDict({"vae": make_vae()})
    write_state(runs[0], VAE_STAGE, vae.state_dict(), clock={"step": 7, "samples": 224, "seconds": 3.0, "seed": 0})
    save_vae(runs[0], tmp_path)
    restore(runs[1], tmp_path, lambda _: None, FAMILY)
    for name, weight in _weights(runs[0]).items():
        assert torch.equal(weight.half(), _weights(runs[1])[name].half()), name


def test_the_vae_that_is_kept_can_be_read() -> None:
    assert list(load(BEGUN)) == [VAE_STAGE]
